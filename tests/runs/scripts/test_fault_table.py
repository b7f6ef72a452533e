"""The table of faults in the documents is the one that the script carries out; so are a few of its
cells."""

import fault_table
import pytest
from fault_table import ENGINES, TABLE, WORDS, observe, stored, table
from faulty_client import DEEDS, LASTING
from paths import ROOT


def test_the_table_in_the_documents_is_the_scripts() -> None:
    assert stored((ROOT / "docs" / "deploy.md").read_text()) == table()


def test_every_fault_can_be_committed_and_every_outcome_is_in_words() -> None:
    assert set(TABLE) == {*DEEDS, LASTING}
    for row in TABLE.values():
        assert set(row) <= set(ENGINES)
        assert set(row.values()) <= set(WORDS)


def test_what_is_no_engine_or_no_fault_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for given in (["--engines", "loca"], ["--engines", "local", "--faults", "sings"]):
        with pytest.raises(SystemExit) as refused:
            fault_table.main(given)
        assert refused.value.code == 2
    assert "--engines takes local,ray" in capsys.readouterr().err


@pytest.mark.slow
def test_faults_on_the_local_engine_end_as_the_table_says() -> None:
    faults = ["raises KeyboardInterrupt", "lies", "ends its process"]
    assert observe("local", faults) == {fault: TABLE[fault]["local"] for fault in faults}
