"""Membership inference: from margins of models to one score a record, larger where it is likelier a
member.

Records are n, models other than the attacked one M, clients K. Which margins an adversary can have
depends on its view: a server that cannot query candidates distils a surrogate first
(``fedkd.audit.surrogate``). Not for: how good an attack was (``fedkd.audit.roc``).
"""

import numpy as np
from jaxtyping import Bool, Float

from fedkd.audit.scores import log_probs_of
from fedkd.errors import SettingError

SMALLEST_SPREAD = 1e-6
"""Standard deviations are at least this: shadow models that agree to the bit would make any
difference infinite."""
ENOUGH_MODELS = 64
"""From as many models on LiRA takes a standard deviation for every record; below, one for all
(Carlini et al. 2022)."""

Margins = Float[np.ndarray, "n"]
ManyMargins = Float[np.ndarray, "M n"]


def loss_threshold(margins: Margins) -> Margins:
    """Return ``ln p_y``: members have smaller losses (Yeom et al. 2018, arXiv 1709.01604)."""
    return log_probs_of(margins)


def difficulty_calibrated(margins: Margins, references: ManyMargins) -> Margins:
    """Return ``ln p_y`` less its mean over reference models (Watson et al. 2022, arXiv 2111.08440).

    A record that every model finds easy says nothing by being easy. References should not have seen
    the candidates.

    >>> difficulty_calibrated(np.array([1.0, 2.0]), np.array([[1.0, 2.0], [1.0, 2.0]])).tolist()
    [0.0, 0.0]
    """
    _enough(references, 1)
    return np.asarray(log_probs_of(margins) - log_probs_of(references).mean(axis=0))


def lira_offline(
    margins: Margins, without: ManyMargins, included: Bool[np.ndarray, "M n"] | None = None
) -> Margins:
    """Return how many standard deviations a record is above models trained without it (arXiv
    2112.03570).

    The paper's one-sided test gives ``Phi`` of this, which orders records alike but rounds to 1.
    ``without`` are the margins of at least two models that did not see the candidates. Where some
    saw some, ``included`` says so, and for each record those that did not see it count, one at
    least.

    >>> lira_offline(np.array([3.0]), np.array([[-1.0], [1.0]])).round(6).tolist()
    [2.12132]
    """
    _enough(without, 2)
    mask = np.ones(without.shape, bool) if included is None else ~included
    if mask.size and mask.sum(axis=0).min() == 0:
        raise SettingError("lira_offline needs, for every record, a model that did not see it")
    mean, spread = _normal(without, mask)
    return np.asarray((margins - mean) / spread)


def lira_online(
    margins: Margins, shadows: ManyMargins, included: Bool[np.ndarray, "M n"]
) -> Margins:
    """Return the log-likelihood ratio of "member" to "not a member" under two normals (arXiv
    2112.03570).

    ``included`` says which shadow model saw which record; every record needs a model with it and
    one without it, and there must be three models or more. Raises SettingError otherwise.
    """
    _enough(shadows, 3)
    counts = included.sum(axis=0)
    if counts.size and (counts.min() == 0 or counts.max() == len(included)):
        raise SettingError(
            "lira_online needs, for every record, a shadow model that saw it and one that did not"
        )
    mean_in, spread_in = _normal(shadows, included)
    mean_out, spread_out = _normal(shadows, ~included)
    distance_in, distance_out = (margins - mean_in) / spread_in, (margins - mean_out) / spread_out
    return np.asarray(
        (distance_out**2 - distance_in**2) / 2 + np.log(spread_out) - np.log(spread_in)
    )


def co_op_lira(margins: Float[np.ndarray, "K n"]) -> Float[np.ndarray, "K n"]:
    """Return every client's scores, the other clients being its shadow models (Shi et al. 2025,
    arXiv 2502.08001).

    Row k is ``lira_offline`` of client k against all others, which takes it that they do not hold
    the record. Needs three clients. Label skew makes other clients poor shadows: a record of a
    class that they never saw looks like a member.
    """
    if len(margins) < 3:
        raise SettingError(
            f"co_op_lira needs 3 clients or more, got {len(margins)}; the others are the shadow"
            " models"
        )
    everyone = np.arange(len(margins))
    return np.stack([lira_offline(margins[k], margins[everyone != k]) for k in everyone])


def _normal(values: ManyMargins, mask: Bool[np.ndarray, "M n"]) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of the masked values by record; few models share one
    standard deviation.

    The shared one pools the records' own variances: each lost one degree of freedom to its mean.
    """
    counts = mask.sum(axis=0)
    mean = np.where(mask, values, 0).sum(axis=0) / counts
    squares = np.where(mask, (values - mean) ** 2, 0).sum(axis=0)
    if counts.size and counts.min() >= ENOUGH_MODELS:
        variance = squares / (counts - 1)
    else:
        variance = np.full(mean.shape, squares.sum() / max(int((counts - 1).sum()), 1))
    return mean, np.maximum(np.sqrt(variance), SMALLEST_SPREAD)


def _enough(models: np.ndarray, least: int) -> None:
    if len(models) < least:
        raise SettingError(
            f"this attack needs margins of {least} other models or more, got {len(models)}"
        )
