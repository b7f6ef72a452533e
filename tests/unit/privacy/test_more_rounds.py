"""Which mechanisms let a run go on with more rounds than it was begun with."""

from dataclasses import dataclass, replace

import pytest

from fedkd.privacy.mechanisms import DpSgd, Gaussian, Mechanism, Swing
from fedkd.privacy.release_plan import ReleasePlan

BEFORE = ReleasePlan(
    clients=4, rounds=10, rows=20, public_size=40, classes=3, scale="probs", records=50
)
NOW = replace(BEFORE, rounds=20)


@dataclass(frozen=True, kw_only=True)
class Own(Mechanism):
    pass


@dataclass(frozen=True, kw_only=True)
class Checked(Mechanism):
    def reason_against_rounds(self, before: ReleasePlan, now: ReleasePlan) -> None:
        return None


@dataclass(frozen=True, kw_only=True)
class ByRounds(Gaussian):
    def noise_in(self, plan: ReleasePlan) -> tuple[float, str]:
        return plan.rounds / 10, "of the rounds"


ByRounds.__module__ = "fedkd.privacy.mechanisms.by_rounds"


@pytest.mark.parametrize(
    ("mechanism", "said"),
    [
        (Gaussian(sigma=2.0), None),
        (DpSgd(noise_multiplier=1.0), None),
        (Swing(), None),
        (Checked(), None),
        (Gaussian(epsilon=4.0), "solved for epsilon=4 over 10 rounds"),
        (DpSgd(epsilon=4.0), "solved for epsilon=4 over 10 rounds"),
        (Own(), "Own does not say"),
        (ByRounds(sigma=2.0), "its noise was chosen for 10 rounds"),
    ],
)
def test_a_budget_or_noise_that_knows_the_rounds_is_a_reason(
    mechanism: Mechanism, said: str | None
) -> None:
    found = mechanism.reason_against_rounds(BEFORE, NOW)
    assert found is None if said is None else said in (found or "")
