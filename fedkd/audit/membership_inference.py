"""Membership inference attacks: one score per record, larger for likelier members.

They score margins (``fedkd.audit.scores``) of n records under M models other than the attacked one,
or under the models of K clients. Which margins an adversary has depends on its transcript: a server
that cannot query clients' models distils surrogates first (``fedkd.audit.surrogate``). Not for: the
success of an attack (``fedkd.audit.roc``).
"""

import numpy as np
from jaxtyping import Bool, Float

from fedkd.audit.scores import log_probs_of
from fedkd.errors import SettingError

SMALLEST_SPREAD = 1e-6
"""The smallest standard deviation: shadow models with equal margins would make scores infinite."""
ENOUGH_MODELS = 64
"""The fewest models for which LiRA estimates a standard deviation per record. With fewer, all
records share one (Carlini et al. 2022)."""

Margins = Float[np.ndarray, "n"]
ManyMargins = Float[np.ndarray, "M n"]


def loss_threshold(margins: Margins) -> Margins:
    """Return ``ln p_y``: members have smaller losses (Yeom et al. 2018, arXiv 1709.01604)."""
    return log_probs_of(margins)


def difficulty_calibrated(margins: Margins, references: ManyMargins) -> Margins:
    """Return ``ln p_y`` minus its mean over reference models (Watson et al. 2022).

    It corrects for records that every model finds easy (arXiv 2111.08440). References should not
    have trained on the candidates.

    >>> difficulty_calibrated(np.array([1.0, 2.0]), np.array([[1.0, 2.0], [1.0, 2.0]])).tolist()
    [0.0, 0.0]
    """
    _require_models(references, 1)
    return np.asarray(log_probs_of(margins) - log_probs_of(references).mean(axis=0))


def lira_offline(
    margins: Margins, without: ManyMargins, included: Bool[np.ndarray, "M n"] | None = None
) -> Margins:
    """Return the z-scores of margins among models trained without the record (offline LiRA).

    The paper (arXiv 2112.03570) takes ``Phi`` of it, which ranks records equally but rounds to 1.
    ``without`` are margins under at least two models that were not trained on the candidates. If
    some were, ``included`` says which; each record is then compared with the models that were not
    trained on it. Raises SettingError if there is none.

    >>> lira_offline(np.array([3.0]), np.array([[-1.0], [1.0]])).round(6).tolist()
    [2.12132]
    """
    _require_models(without, 2)
    mask = np.ones(without.shape, bool) if included is None else ~included
    if mask.size and mask.sum(axis=0).min() == 0:
        raise SettingError("lira_offline needs, for every record, a model trained without it")
    mean, spread = _normal(without, mask)
    return np.asarray((margins - mean) / spread)


def lira_online(
    margins: Margins, shadows: ManyMargins, included: Bool[np.ndarray, "M n"]
) -> Margins:
    """Return the log-likelihood ratios of member to non-member under two normals (online LiRA).

    ``included`` says which shadow model was trained on which record (arXiv 2112.03570). Every
    record needs a model trained with it and one trained without it, and there must be three models
    or more. Raises SettingError otherwise.
    """
    _require_models(shadows, 3)
    counts = included.sum(axis=0)
    if counts.size and (counts.min() == 0 or counts.max() == len(included)):
        raise SettingError(
            "lira_online needs, for every record, a shadow model trained with it and one without it"
        )
    mean_in, spread_in = _normal(shadows, included)
    mean_out, spread_out = _normal(shadows, ~included)
    distance_in, distance_out = (margins - mean_in) / spread_in, (margins - mean_out) / spread_out
    return np.asarray(
        (distance_out**2 - distance_in**2) / 2 + np.log(spread_out) - np.log(spread_in)
    )


def co_op_lira(margins: Float[np.ndarray, "K n"]) -> Float[np.ndarray, "K n"]:
    """Return each client's offline LiRA scores, with the other clients as its shadow models.

    Row k is ``lira_offline`` of client k against all others, which assumes that they do not hold
    the record (Shi et al. 2025, arXiv 2502.08001). Needs three clients. Label skew makes other
    clients poor shadows: a record of a class that they never saw looks like a member.
    """
    if len(margins) < 3:
        raise SettingError(
            f"co_op_lira needs 3 clients or more, got {len(margins)}: the other clients are the"
            " shadow models"
        )
    everyone = np.arange(len(margins))
    return np.stack([lira_offline(margins[k], margins[everyone != k]) for k in everyone])


def _normal(values: ManyMargins, mask: Bool[np.ndarray, "M n"]) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and standard deviation of each record's masked values.

    With few models all records share one standard deviation, which pools their variances: each
    record loses one degree of freedom to its mean.
    """
    counts = mask.sum(axis=0)
    mean = np.where(mask, values, 0).sum(axis=0) / counts
    squares = np.where(mask, (values - mean) ** 2, 0).sum(axis=0)
    if counts.size and counts.min() >= ENOUGH_MODELS:
        variance = squares / (counts - 1)
    else:
        variance = np.full(mean.shape, squares.sum() / max(int((counts - 1).sum()), 1))
    return mean, np.maximum(np.sqrt(variance), SMALLEST_SPREAD)


def _require_models(models: np.ndarray, least: int) -> None:
    if len(models) < least:
        raise SettingError(
            f"this attack needs margins of {least} other models or more, got {len(models)}"
        )
