"""How good an attack was: ROC curve, AUC, true positive rates at small false positive rates with
their intervals.

Members and others must be random halves of one pool (``random_halves``): training against test
measures how the two sets differ, which ``blind_scores`` shows. Not for: what the rates prove about
epsilon (``fedkd.audit.bounds``).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import beta, mannwhitneyu, norm, rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fedkd.errors import SettingError

LEVELS = (0.01, 0.001)
"""False positive rates at which an attack is judged."""
FEWEST = 5
"""Members, and others, without which there is no blind baseline."""

Values = Float[np.ndarray, "n"]
Members = Bool[np.ndarray, "n"]


@dataclass(frozen=True)
class Rate:
    """A measured rate with its interval; all None, with the reason, where it cannot be measured."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Roc:
    """An attack's ROC curve: both rates rise together from (0, 0) to (1, 1)."""

    false_positive_rates: Float[np.ndarray, "points"]
    true_positive_rates: Float[np.ndarray, "points"]
    auc: float
    members: int
    others: int


def random_halves(size: int, stream: np.random.Generator) -> Members:
    """Return which of ``size`` records are in: a random half, exactly (the smaller half where
    ``size`` is odd).
    """
    included = np.zeros(size, bool)
    included[stream.permutation(size)[: size // 2]] = True
    return included


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the two-sided interval of a rate (Clopper and Pearson 1934): it covers at least
    ``confidence``.

    Each side is exceeded with probability ``(1 - confidence) / 2`` at most; 0 successes have no
    lower bound but 0.

    >>> [round(x, 6) for x in clopper_pearson(0, 100, 0.90)]
    [0.0, 0.029513]
    """
    tail = (1 - confidence) / 2
    return lower_rate(successes, trials, tail), upper_rate(successes, trials, tail)


def lower_rate(successes: int, trials: int, tail: float = 0.05) -> float:
    """Return the rate that is exceeded by the truth except with probability ``tail``; 0 without a
    success.

    >>> round(lower_rate(95, 100), 6)
    0.897747
    """
    _counts(successes, trials)
    return 0.0 if successes == 0 else float(beta.ppf(tail, successes, trials - successes + 1))


def upper_rate(successes: int, trials: int, tail: float = 0.05) -> float:
    """Return the rate that the truth exceeds with probability ``tail`` at most; 1 without a
    failure.
    """
    _counts(successes, trials)
    return (
        1.0 if successes == trials else float(beta.ppf(1 - tail, successes + 1, trials - successes))
    )


def roc_of(scores: Values, included: Members) -> Roc:
    """Return an attack's ROC curve with every point; ties count half in the AUC.

    Raises SettingError unless there are members and others, and every score is finite.
    """
    _two_sorts(scores, included)
    false, true, _ = roc_curve(included, scores, drop_intermediate=False)
    auc = float(roc_auc_score(included, scores))
    members = int(included.sum())
    return Roc(np.asarray(false), np.asarray(true), auc, members, len(included) - members)


def auc_interval(
    scores: Values, included: Members, confidence: float = 0.95
) -> tuple[float, float]:
    """Return an interval of the AUC by DeLong, DeLong and Clarke-Pearson (1988), within [0, 1].

    Records are taken for independent, and the estimate for normal: with few records, or an AUC near
    0 or 1, it is too narrow. A perfect separation has an interval of no width.

    >>> scores = np.array([1.0, 2.0, 3.0, 4.0])
    >>> auc_interval(scores, np.array([False, True, False, True])) # placements 1/2, 1 and 1, 1/2: variance 1/8
    (0.05704..., 1.0)
    """
    _two_sorts(scores, included)
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

    Null with the reason where fewer than ``1 / level`` others make the level unreachable. The
    interval is of the members' rate at the threshold found on the same records: it does not cover
    the error in that threshold.
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
    """Return the scores of an attacker who sees no model at all, and which of the scored records
    are members.

    Logistic regression from a record's features to membership, fitted on a random half of the
    records and scored on the other: scores out of several folds depend on one another, and their
    AUC strays from 1/2 farther than its interval says. An AUC above 1/2 says that members and
    others differ: then no membership attack on them measures a model (Das et al. 2024, arXiv
    2406.16201). Needs 5 of each.
    """
    members = int(included.sum())
    if min(members, len(included) - members) < FEWEST:
        raise SettingError(
            f"a blind baseline needs {FEWEST} members and others each, got {members} of"
            f" {len(included)}"
        )
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200))
    fitted, scored = train_test_split(
        np.arange(len(included)), test_size=0.5, random_state=seed, stratify=included
    )
    found = model.fit(features[fitted], included[fitted]).decision_function(features[scored])
    return np.asarray(found, np.float64), included[scored]


def chance(scores: Values, included: Members) -> float:
    """Return the probability of an AUC this far from 1/2, either way, by chance (Mann and Whitney
    1947).
    """
    _two_sorts(scores, included)
    return float(mannwhitneyu(scores[included], scores[~included], method="asymptotic").pvalue)


def _counts(successes: int, trials: int) -> None:
    if not 0 <= successes <= trials or trials == 0:
        raise SettingError(
            f"a rate needs trials and 0 to as many successes, got {successes} of {trials}"
        )


def _two_sorts(scores: np.ndarray, included: np.ndarray) -> None:
    members = int(included.sum())
    if members in (0, len(included)):
        raise SettingError(
            f"an attack is judged on members and others, got {members} members of {len(included)}"
        )
    broken = int((~np.isfinite(scores)).sum())
    if broken:
        raise SettingError(
            f"{broken} of {len(scores)} scores are NaN or infinite; every record needs a finite"
            " score"
        )
