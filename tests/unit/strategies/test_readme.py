"""The twenty lines of strategies/README.md are run as they stand there."""

import re

from paths import ROOT

README = ROOT / "strategies" / "README.md"


def test_every_strategy_has_a_card() -> None:
    from fedkd.scenario.registry import names

    cards = re.findall(r"^### (\w+)$", README.read_text(), re.M)
    assert sorted(cards) == names("strategy")
