"""What the unit tier forbids: a whole run."""

from collections.abc import Iterator
from typing import NoReturn

import pytest


@pytest.fixture(scope="session", autouse=True)
def no_whole_run() -> Iterator[None]:
    """Refuse what the rounds of every run go through, on whatever engine and however begun.

    fedkd is imported here and not above: shapes are enforced in what is imported once pytest is
    configured, and this file is read before.
    """
    from fedkd.flower.strategy_adapter import FederatedDistillation

    def refused(*_: object, **__: object) -> NoReturn:
        pytest.fail("tests/unit holds no whole run; move this test to tests/runs or tests/slow")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FederatedDistillation, "start", refused)
        yield
