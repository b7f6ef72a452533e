"""The twenty lines of strategies/README.md are run as they stand there."""

import re

from paths import ROOT

README = ROOT / "strategies" / "README.md"


def test_every_strategy_has_a_card() -> None:
    from fedkd.scenario.registry import names

    cards = re.findall(r"^### (\w+)$", README.read_text(), re.M)
    assert sorted(cards) == names("strategy")


def test_the_table_is_what_the_classes_declare() -> None:
    from write_methods import document

    written = README.read_text()
    assert written == document(written), "python scripts/write_methods.py writes it anew"
    rows = re.findall(r"^\| \[`(\w+)`\].*\| (.+) \| (.+) \| \w+ \| [^|]*\|$", written, re.M)
    assert [(name, sends) for name, sends, _ in rows][:2] == [
        ("local_only", "nothing"),
        ("centralized", "nothing; all private data are in one place"),
    ]
