"""The table of faults in the documents is the one that the script carries out; so are a few of its
cells."""

from pathlib import Path

import fault_table
import node_faults
import pytest
from fault_table import ENGINES, LIES, TABLE, TABLES, WORDS, command_stage, observe, stored
from faulty_client import DEEDS, LASTING
from paths import ROOT


def test_the_tables_in_the_documents_are_the_scripts() -> None:
    page = (ROOT / "docs" / "deploy.md").read_text()
    assert {name: stored(page, name) for name in TABLES} == {
        name: t() for name, t in TABLES.items()
    }


def test_every_fault_can_be_committed_and_every_outcome_is_in_words() -> None:
    assert set(TABLE) == {*DEEDS, LASTING, *LIES}
    assert set(node_faults.TABLE.values()) == set(node_faults.WORDS)
    for row in TABLE.values():
        assert set(row) <= set(ENGINES)
        assert set(row.values()) <= set(WORDS)


def test_what_is_no_engine_or_no_fault_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for given in (["--engines", "loca"], ["--engines", "local", "--faults", "raises,sings"]):
        with pytest.raises(SystemExit) as refused:
            fault_table.main(given)
        assert refused.value.code == 2
    assert "loca: --engines takes local,ray" in (said := capsys.readouterr().err)
    assert "sings: --engines" in said


@pytest.mark.daily(0)
@pytest.mark.slow
def test_faults_on_the_local_engine_end_as_the_table_says() -> None:
    faults = ["raises KeyboardInterrupt", "lies"]
    assert observe("local", faults) == {fault: TABLE[fault]["local"] for fault in faults}


@pytest.mark.daily(0)
@pytest.mark.slow
def test_a_run_that_a_client_ended_goes_on_and_is_told_of_ray(tmp_path: Path) -> None:
    with command_stage("local", tmp_path) as stage:
        assert stage.carry_out("ends its process") == "ends"  # and it goes on, or this raises
    said = " ".join((tmp_path / "log").read_text().split())
    assert "or a client ended it; add engine=ray, where such a client fails alone" in said
