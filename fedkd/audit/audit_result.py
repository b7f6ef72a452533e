"""Results of an audit: each attack's success, and the verdict on each claim."""

from collections.abc import Mapping
from dataclasses import dataclass

from fedkd.audit.audited_claims import AuditedClaim
from fedkd.audit.label_inference import LabelInference
from fedkd.audit.roc import Rate, Roc
from fedkd.audit.verdicts import Verdict


@dataclass(frozen=True)
class AttackResult:
    """The success of one attack. Its bounds hold jointly with the audit's confidence."""

    name: str
    auc: float
    auc_low: float
    auc_high: float
    """An interval of the AUC; the intervals of all attacks by one adversary hold jointly."""
    chance: float
    """The probability of an AUC this far from 1/2 by chance."""
    rates: tuple[Rate, ...]
    """True positive rates at ``LEVELS``."""
    one_run: float
    """Lower bound on epsilon that verdicts rest on."""
    clopper_pearson: float | None
    gaussian: float | None
    """Two-sample bounds on epsilon, which take the candidates for independent, at a threshold from
    a hold-out; None with too few candidates."""


@dataclass(frozen=True)
class Judgment:
    """The verdict on one claim."""

    claim: AuditedClaim
    lower_bound: float | None
    """The largest lower bound on epsilon of all attacks."""
    ceiling: float | None
    """The largest lower bound that so many candidates could show."""
    power: float | None
    """The largest lower bound of the same attacks on the same run without its noise: a claim above
    it would have passed with none. None where that was not measured."""
    verdict: Verdict
    reason: str


@dataclass(frozen=True)
class AuditResult:
    """The results of one adversary's audit of a run."""

    adversary: str
    confidence: float
    canaries: int
    """Candidates, included or not."""
    ceiling: float
    """The largest lower bound that so many candidates could show."""
    attacks: tuple[AttackResult, ...]
    curves: Mapping[str, Roc]
    blind: AttackResult | None
    """The blind baseline, an attack that sees no model; None with too few candidates."""
    labels: Mapping[int, LabelInference]
    """Label inference by client id."""
    judgments: tuple[Judgment, ...]
    skipped: tuple[str, ...]
    """Attacks that were not made, each with the reason."""
