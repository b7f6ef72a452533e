"""What the unit tier forbids: a whole run."""

from typing import NoReturn

import pytest


def refused(*_: object, **__: object) -> NoReturn:
    """Fail the test that begins a run."""
    pytest.fail("tests/unit holds no whole run; move this test to tests/runs or tests/slow")


@pytest.fixture(autouse=True)
def no_whole_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse what the rounds of every run go through, on whatever engine and however begun.

    For each test, since tests of the other tiers may follow in the same process. fedkd is imported
    here and not above: shapes are enforced in what is imported once pytest is configured, and this
    file is read before.
    """
    from fedkd.flower.strategy_adapter import FederatedDistillation

    monkeypatch.setattr(FederatedDistillation, "start", refused)
