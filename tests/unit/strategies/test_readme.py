"""The twenty lines of strategies/README.md are run as they stand there."""

import re

from paths import ROOT

README = ROOT / "strategies" / "README.md"


def test_every_strategy_has_a_card() -> None:
    from fedkd.scenario.registry import names

    cards = re.findall(r"^### (\w+)$", README.read_text(), re.M)
    assert sorted(cards) == names("strategy")


def test_the_table_says_where_each_paper_evaluates() -> None:
    from fedkd.scenario.registry import create, names
    from fedkd.strategy import declaration

    rows = re.findall(r"^\| \[`(\w+)`\].*\| (\w+) \| [^|]*\|$", README.read_text(), re.M)
    declared = {
        name: declaration(create("strategy", {"name": name}).value, name).evaluated_after
        for name in names("strategy")
    }
    assert dict(rows) == declared
