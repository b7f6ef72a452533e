"""Tighter epsilons for a finished run, from the distribution of privacy loss: PRV and PLD.

PRV is Opacus' (Gopi et al. 2021, arXiv 2106.02848) and counts DP-SGD only. PLD is Google's
dp-accounting, the optional extra ``fedkd[pld]``, and counts all but data-dependent votes. Both are
slower than RDP, and about a tenth below it.
"""

import math
from collections.abc import Sequence
from typing import Any

from fedkd.privacy.gaussian_dp import check_delta
from fedkd.settings.optional_libraries import is_installed, require

LARGEST_PURE = 36.0
"""A pure epsilon of one release from which it is as good as open (e^-36 is below a double's
precision): the sum is then the whole answer, and the privacy loss of many would take minutes and
gigabytes to find it."""

LARGEST = 200.0
"""The epsilon by ``auto`` above which neither is asked: both then take minutes and gigabytes, and
PRV overflows."""

Triple = tuple[float, float, int]
"""Noise multiplier, sample rate, steps: what DP-SGD did, as Opacus' accountants write it."""


def has_pld() -> bool:
    """Return whether the extra ``fedkd[pld]`` is installed."""
    return is_installed("dp_accounting")


def prv_epsilon(history: Sequence[Triple], delta: float, error: float = 0.01) -> float:
    """Return an upper bound on DP-SGD's epsilon at ``delta``, by Opacus' PRV.

    It is at most ``error`` above the truth.
    """
    require("opacus", "accountant=prv")
    from opacus.accountants import PRVAccountant

    check_delta(delta)
    if not history:
        return 0.0
    accountant = PRVAccountant()
    accountant.history = list(history)
    return float(accountant.get_epsilon(delta, eps_error=error))


def pld_gaussian(
    noise_multiplier: float, sample_rate: float, times: int, *, replace_one: bool = False
) -> Any:
    """Return the privacy loss of ``times`` Gaussian releases on Poisson samples.

    At rate 1 everybody is in each sample.

    Args:
        noise_multiplier: Deviation of the noise over the sensitivity.
        sample_rate: Each record's chance to be in a release.
        times: Number of releases.
        replace_one: Whether a neighbor has another record, rather than none.
    """
    pld, relation = _pld(), _relation(replace_one)
    one = pld.from_gaussian_mechanism(
        noise_multiplier,
        sampling_prob=sample_rate,
        neighboring_relation=relation,
        value_discretization_interval=1e-4,
    )
    return one.self_compose(times) if times > 1 else one


def pld_mixture(noise_multiplier: float, weights: Sequence[float], times: int) -> Any:
    """Return the privacy loss of ``times`` releases that a record moves by a random whole number.

    Args:
        noise_multiplier: Deviation of the noise over the sensitivity to one example.
        weights: The chances that 0, 1, ... of the record's examples are in a release.
        times: Number of releases.
    """
    one = _pld().from_mixture_gaussian_mechanism(
        noise_multiplier,
        sensitivities=[float(j) for j in range(len(weights))],
        sampling_probs=weights,
        value_discretization_interval=1e-3,
    )
    return one.self_compose(times) if times > 1 else one


def pld_pure(epsilon: float, times: int) -> Any:
    """Return a privacy loss that dominates ``times`` releases of pure ``epsilon``."""
    from dp_accounting.pld.common import DifferentialPrivacyParameters

    one = _pld().from_privacy_parameters(DifferentialPrivacyParameters(epsilon, 0.0))
    return one.self_compose(times) if times > 1 else one


def pld_randomized_response(epsilon: float, classes: int, times: int) -> Any:
    """Return the privacy loss of ``times`` labels by k-ary randomized response.

    Each has pure ``epsilon``.
    """
    # dp-accounting's parameter is the probability to answer with a uniform label instead of the
    # own.
    one = _pld().from_randomized_response(classes / (math.exp(epsilon) + classes - 1), classes)
    return one.self_compose(times) if times > 1 else one


def pld_epsilon(losses: Sequence[Any], delta: float) -> float:
    """Return the epsilon at ``delta`` of privacy losses together; pessimistic by rounding up."""
    check_delta(delta)
    if not losses:
        return 0.0
    total = losses[0]
    for loss in losses[1:]:
        total = total.compose(loss)
    return float(total.get_epsilon_for_delta(delta))


def _pld() -> Any:
    require("dp_accounting", "accountant=pld")
    from dp_accounting.pld import privacy_loss_distribution

    return privacy_loss_distribution


def _relation(replace_one: bool) -> Any:
    from dp_accounting.privacy_accountant import NeighboringRelation

    return NeighboringRelation.REPLACE_ONE if replace_one else NeighboringRelation.ADD_OR_REMOVE_ONE
