"""Every shipped mechanism that claims is audited by itself, right and with less noise.

Each draw is one whole release through ``PrivacyEnforcer``. Gaussian noise is judged by the bound
for it, other noise by Clopper-Pearson. At epsilon 2 mu is 0.50, and either error of the best guess
0.40. With a third of the noise it is 0.23, with half of it 0.31; an interval from 120 draws adds
0.09, from 400 draws 0.06.
"""

from typing import Any

import numpy as np
import pytest
from audited_mechanisms import audit_mechanism
from shipped_mechanisms import DELTA, EPSILON, ShippedMechanism, claiming, shipped

from fedkd.errors import SettingError
from fedkd.privacy.mechanisms import MECHANISMS
from fedkd.privacy.noise_streams import ScaledNoise

CASES = {name: (kind, settings) for name, kind, settings in claiming()}


def shown(case: ShippedMechanism, draws: int) -> tuple[float, float]:
    """The lower bound on epsilon that the releases show, and what the ledger claims."""
    claim = case.claim
    assert claim.epsilon is not None
    found = audit_mechanism(
        case.release,
        case.first,
        case.second,
        claimed_epsilon=claim.epsilon,
        delta=DELTA,
        draws=draws,
        held_out=40,
    )
    is_gaussian = claim.accountant in ("exact", "rdp")
    return found.gaussian if is_gaussian else found.clopper_pearson, claim.epsilon


def test_all_mechanisms_that_claim_are_audited() -> None:
    claims = {name for name, kind in MECHANISMS.items() if kind.protects_from}
    assert {name.split()[0] for name in CASES} == claims
    assert claims >= {"dp_sgd", "gaussian", "laplace", "krr", "central_gaussian", "gnmax"}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_shipped_mechanism_keeps_its_claim_and_a_third_of_its_noise_does_not(name: str) -> None:
    kind, settings = CASES[name]
    draws = 400 if name.split(maxsplit=1)[0] in ("laplace", "krr") else 150
    right, claimed = shown(shipped(kind, settings), draws)
    assert right <= claimed
    assert claimed == pytest.approx(EPSILON, abs=0.01)
    wrong, _ = shown(shipped(kind, settings, noise_factor=1 / 3), draws)
    assert wrong > claimed


@pytest.mark.daily(0)
@pytest.mark.slow
def test_half_of_gaussian_noise_is_caught_too() -> None:
    kind, settings = CASES["gaussian"]
    right, claimed = shown(shipped(kind, settings), 400)
    assert right <= claimed
    wrong, _ = shown(shipped(kind, settings, noise_factor=1 / 2), 400)
    assert wrong > claimed


@pytest.mark.parametrize("name", CASES)
def test_without_noise_every_release_is_the_same(name: str) -> None:
    kind, settings = CASES[name]
    case = shipped(kind, settings, noise_factor=0.0)
    released = case.release(case.second, 5)
    np.testing.assert_array_equal(released, np.broadcast_to(released[0], released.shape))
    assert not np.array_equal(released[0], case.release(case.first, 1)[0])


def test_a_scaled_stream_draws_as_before_and_refuses_what_it_cannot_scale() -> None:
    plain, scaled = np.random.default_rng(0), ScaledNoise(np.random.default_rng(0), 0.25)
    for draw in ("standard_normal", "laplace", "random", "normal"):
        arguments: dict[str, Any] = {"size": 3}
        np.testing.assert_allclose(
            getattr(scaled, draw)(**arguments), 0.25 * getattr(plain, draw)(**arguments)
        )
    assert scaled.integers(1, 100) == plain.integers(1, 100)
    with pytest.raises(SettingError, match="gumbel, which an audit cannot scale"):
        scaled.gumbel()
