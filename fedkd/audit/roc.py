"""Success of an attack: ROC curve, AUC, and true positive rates at small false positive rates.

Members and non-members must be random halves of one pool (``random_halves``): an attack on training
against test records measures the difference of the two sets, as ``blind_scores`` shows. Not for:
bounds on epsilon (``fedkd.audit.bounds``). scikit-learn and SciPy's statistics take a second to
import: a run without an audit does without them.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from fedkd.errors import SettingError

LEVELS = (0.01, 0.001)
"""False positive rates at which true positive rates are reported."""
FEWEST = 5
"""The fewest members, and the fewest non-members, for a blind baseline."""

Values = Float[np.ndarray, "n"]
Members = Bool[np.ndarray, "n"]


@dataclass(frozen=True)
class Rate:
    """A measured rate with its interval; all None, with the reason, if it cannot be measured."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Roc:
    """An attack's ROC curve, from rates (0, 0) to (1, 1)."""

    false_positive_rates: Float[np.ndarray, "points"]
    true_positive_rates: Float[np.ndarray, "points"]
    auc: float
    members: int
    others: int


def random_halves(size: int, stream: np.random.Generator) -> Members:
    """Return inclusion bits of a random half of ``size`` records, rounded down."""
    included = np.zeros(size, bool)
    included[stream.permutation(size)[: size // 2]] = True
    return included


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the two-sided interval of a rate (Clopper and Pearson 1934), both ends within [0, 1].

    The true rate is outside each end with probability ``(1 - confidence) / 2`` at most.

    >>> [round(x, 6) for x in clopper_pearson(0, 100, 0.90)]
    [0.0, 0.029513]
    """
    tail = (1 - confidence) / 2
    return lower_rate(successes, trials, tail), upper_rate(successes, trials, tail)


def lower_rate(successes: int, trials: int, tail: float = 0.05) -> float:
    """Return the lower limit of a rate; the true rate is below it with probability <= ``tail``.

    It is 0 without a success.

    >>> round(lower_rate(95, 100), 6)
    0.897747
    """
    from scipy.stats import beta

    _check_counts(successes, trials)
    return 0.0 if successes == 0 else float(beta.ppf(tail, successes, trials - successes + 1))


def upper_rate(successes: int, trials: int, tail: float = 0.05) -> float:
    """Return the upper limit of a rate; the true rate is above it with probability <= ``tail``.

    It is 1 without a failure.
    """
    from scipy.stats import beta

    _check_counts(successes, trials)
    return (
        1.0 if successes == trials else float(beta.ppf(1 - tail, successes + 1, trials - successes))
    )


def roc_of(scores: Values, included: Members) -> Roc:
    """Return an attack's ROC curve with every point; ties count half in the AUC.

    Raises SettingError unless there are members and non-members, and every score is finite.
    """
    from sklearn.metrics import roc_auc_score, roc_curve

    _check_scores(scores, included)
    false, true, _ = roc_curve(included, scores, drop_intermediate=False)
    auc = float(roc_auc_score(included, scores))
    members = int(included.sum())
    return Roc(np.asarray(false), np.asarray(true), auc, members, len(included) - members)


def auc_interval(
    scores: Values, included: Members, confidence: float = 0.95
) -> tuple[float, float]:
    """Return an interval of the AUC by DeLong, DeLong and Clarke-Pearson (1988), within [0, 1].

    It takes records for independent and the estimate for normal: with few records, or an AUC near
    0 or 1, it is too narrow. A perfect separation has an interval of width 0.

    >>> scores = np.array([1.0, 2.0, 3.0, 4.0])
    >>> included = np.array([False, True, False, True])  # placements 1/2, 1 and 1, 1/2
    >>> auc_interval(scores, included)  # their variance is 1/8
    (0.05704..., 1.0)
    """
    from scipy.stats import norm, rankdata

    _check_scores(scores, included)
    members, others = scores[included], scores[~included]
    ranks, own, theirs = rankdata(scores), rankdata(members), rankdata(others)
    above = (ranks[included] - own) / len(others)  # of each member: the share of others below it
    below = 1 - (ranks[~included] - theirs) / len(members)
    variance = sum(float(part.var(ddof=1)) / len(part) for part in (above, below) if len(part) > 1)
    reach = float(norm.ppf((1 + confidence) / 2)) * variance**0.5
    auc = float(above.mean())
    return max(auc - reach, 0.0), min(auc + reach, 1.0)


def tpr_at(roc: Roc, level: float, confidence: float = 0.95) -> Rate:
    """Return the largest true positive rate at a false positive rate of at most ``level``.

    None with the reason if there are fewer than ``1 / level`` non-members, which cannot resolve the
    level. The interval is of the members' rate at the threshold found on the same records: it does
    not cover the error in that threshold.
    """
    needed = round(1 / level)
    if roc.others < needed:
        return Rate(None, reason=f"{level:.1%} needs {needed} non-members, there are {roc.others}")
    reached = roc.false_positive_rates <= level + 1e-12
    value = float(roc.true_positive_rates[reached].max())
    low, high = clopper_pearson(round(value * roc.members), roc.members, confidence)
    return Rate(value, low, high)


def blind_scores(
    features: Float[np.ndarray, "n d"], included: Members, seed: int = 0
) -> tuple[Float[np.ndarray, "h"], Bool[np.ndarray, "h"]]:
    """Return scores of a blind baseline, which sees no model, and the scored records' membership.

    The baseline is logistic regression from a record's features to membership, fitted on a random
    half of the records and scored on the other. (Scores from several folds depend on one another,
    and their AUC strays from 1/2 farther than its interval says.) An AUC above 1/2 means that
    members and non-members differ: then no membership attack on them measures a model (Das et al.
    2024, arXiv 2406.16201). Raises SettingError with fewer than ``FEWEST`` of either.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    members = int(included.sum())
    if min(members, len(included) - members) < FEWEST:
        raise SettingError(
            f"a blind baseline needs {FEWEST} members and {FEWEST} non-members, got {members} and"
            f" {len(included) - members}"
        )
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200))
    fitted, scored = train_test_split(
        np.arange(len(included)), test_size=0.5, random_state=seed, stratify=included
    )
    found = model.fit(features[fitted], included[fitted]).decision_function(features[scored])
    return np.asarray(found, np.float64), included[scored]


def chance(scores: Values, included: Members) -> float:
    """Return the two-sided p-value of the AUC against 1/2 (Mann and Whitney 1947)."""
    from scipy.stats import mannwhitneyu

    _check_scores(scores, included)
    return float(mannwhitneyu(scores[included], scores[~included], method="asymptotic").pvalue)


def _check_counts(successes: int, trials: int) -> None:
    if not 0 <= successes <= trials or trials == 0:
        raise SettingError(
            f"a rate needs at least 1 trial and 0 to trials successes, got {successes} of {trials}"
        )


def _check_scores(scores: np.ndarray, included: np.ndarray) -> None:
    members = int(included.sum())
    if members in (0, len(included)):
        raise SettingError(
            f"an attack needs members and non-members, got {members} members of {len(included)}"
        )
    broken = int((~np.isfinite(scores)).sum())
    if broken:
        raise SettingError(
            f"{broken} of {len(scores)} scores are NaN or infinite; every record needs a finite"
            " score"
        )
