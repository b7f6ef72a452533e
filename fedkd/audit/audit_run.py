"""The audit of one stored run against one adversary: attacks, bounds on epsilon, verdicts.

Attacks read the adversary's transcript; the ground truth is read only to score them. Verdicts rest
on the one-run bound, which holds however the canaries of a run interact. Two-sample bounds are
given as well, and take canaries for independent. All tests of an audit are corrected by Bonferroni.
Not for: printing and writing (``fedkd.audit.report``).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fedkd.audit.attack_scores import AuditorModels, Scores, attack_scores
from fedkd.audit.audit_result import AttackResult, AuditResult, Judgment
from fedkd.audit.audit_settings import check_shadows
from fedkd.audit.audited_claims import AuditedClaim, covers, read_claims
from fedkd.audit.bounds import (
    Errors,
    bonferroni,
    clopper_pearson_bound,
    gaussian_bound,
    gaussian_mu,
)
from fedkd.audit.decoding import upload_probs
from fedkd.audit.label_inference import infer_labels
from fedkd.audit.one_run import Guesses, guess, one_run_bound
from fedkd.audit.roc import (
    FEWEST,
    LEVELS,
    Roc,
    auc_interval,
    blind_scores,
    chance,
    random_halves,
    roc_of,
    tpr_at,
)
from fedkd.audit.verdicts import in_words, judge
from fedkd.errors import SettingError
from fedkd.runtime.seeding import numpy_stream
from fedkd.storage.transcript import GroundTruth, read_ground_truth, read_transcript

GUESSED_SHARES = (0.2, 0.8)
"""Shares of the canaries that are guessed, fixed beforehand.

The smaller share takes the most certain guesses. The larger one stays below 1 because fair coins
rarely fall half and half: guessing all canaries, half of them as members, makes some wrong guesses
for certain."""
DEFAULT_DELTA = 1e-5
"""The delta of bounds where nothing is claimed."""
TESTS_PER_ATTACK = len(GUESSED_SHARES) + 2
"""One-run bounds at each share, and two two-sample bounds."""


@dataclass(frozen=True)
class AuditPlan:
    """Settings of the audit of a stored run."""

    adversaries: tuple[str, ...]
    confidence: float
    """Of all bounds by one adversary jointly."""
    seed: int
    shadows: int
    """Shadow models per client."""


def plan_audit(
    run_dir: Path,
    adversaries: Sequence[str] | None = None,
    confidence: float | None = None,
    seed: int | None = None,
    shadows: int | None = None,
) -> AuditPlan:
    """Return the settings of the run's own audit, with those replaced that are given.

    Raises SettingError for a run without a transcript, or a setting out of range.

    Args:
        run_dir: The run's folder.
        adversaries: Names of adversaries.
        confidence: Of all bounds by one adversary jointly, above 0 and below 1.
        seed: Of surrogates, shadow models and hold-outs.
        shadows: Shadow models per client, an even number or 0.
    """
    own = read_transcript(run_dir, "clients").about.get("audit", {})
    confidence = float(own.get("confidence", 0.95)) if confidence is None else confidence
    if not 0 < confidence < 1:
        raise SettingError(f"confidence must be above 0 and below 1, got {confidence}")
    if shadows is not None:
        check_shadows(shadows)
    return AuditPlan(
        adversaries=tuple(dict.fromkeys(adversaries or own.get("adversaries", ("server",)))),
        confidence=confidence,
        seed=int(own.get("seed", 0)) if seed is None else seed,
        shadows=int(own.get("shadows", 0)) if shadows is None else shadows,
    )


@dataclass(frozen=True)
class _Tests:
    """Levels of the statistical tests of one adversary's audit."""

    delta: float
    """Of all bounds on epsilon."""
    bound_confidence: float
    """Of each bound on epsilon."""
    interval_confidence: float
    """Of each attack's AUC interval."""
    seed: int
    """Of hold-outs."""


def audit_run(
    run_dir: Path,
    adversary: str,
    confidence: float = 0.95,
    seed: int = 0,
    models: AuditorModels | None = None,
    power: float | None = None,
) -> AuditResult:
    """Attack a stored run as one adversary, and judge the run's claims against it.

    Raises SettingError if the run stored no transcript or no ground truth.

    Args:
        run_dir: The run's folder.
        adversary: Whose transcript is read.
        confidence: Of all bounds jointly.
        seed: Of surrogates and hold-outs.
        models: Models for attacks that need more than surrogates, or None.
        power: What the same attacks show without the run's noise; None where that is not known.
    """
    transcript, truth = read_transcript(run_dir, adversary), read_ground_truth(run_dir)
    claims = read_claims(run_dir)
    uploads = upload_probs(transcript) if adversary == "server" else {}
    labels = {
        client: infer_labels(np.stack(list(rows.values())), truth.label_counts[client])
        for client, rows in uploads.items()
    }
    no_labels = [] if labels else [f"label inference: {adversary} sees no upload of soft labels"]
    scores, skipped = attack_scores(transcript, truth, uploads, models or AuditorModels(), seed)
    tests = _tests(claims, confidence, len(scores), seed)
    attacks = tuple(_attack_result(n, s, truth.included, tests) for n, s in scores.items())
    curves = {name: roc_of(found, truth.included) for name, found in scores.items()}
    blind, blind_curve = _blind_baseline(scores, truth, confidence, tests)
    if blind_curve is not None:
        curves["blind"] = blind_curve
    relevant = [claim for claim in claims if covers(claim, adversary)] or claims[:1]
    canaries = len(truth.included)
    return AuditResult(
        adversary=adversary,
        confidence=confidence,
        canaries=canaries,
        ceiling=_run_ceiling(canaries, tests) if scores else 0.0,
        attacks=attacks,
        curves=curves,
        blind=blind,
        labels=labels,
        judgments=tuple(_judgment(c, adversary, attacks, canaries, tests, power) for c in relevant),
        skipped=(*no_labels, *skipped),
    )


def shown_bound(
    view_dir: Path,
    run_dir: Path,
    adversary: str,
    confidence: float,
    seed: int,
    models: AuditorModels,
) -> float:
    """Return the largest lower bound on epsilon that an adversary's attacks show; 0 without any.

    Args:
        view_dir: The folder of what travelled, with its ground truth.
        run_dir: The folder of the run whose claims fix delta.
        adversary: Whose transcript is read.
        confidence: Of all bounds jointly.
        seed: Of surrogates and hold-outs.
        models: The auditor's.
    """
    transcript, truth = read_transcript(view_dir, adversary), read_ground_truth(view_dir)
    uploads = upload_probs(transcript) if adversary == "server" else {}
    scores, _ = attack_scores(transcript, truth, uploads, models, seed)
    tests = _tests(read_claims(run_dir), confidence, len(scores), seed)
    found = (_attack_result(n, s, truth.included, tests).one_run for n, s in scores.items())
    return max(found, default=0.0)


def _tests(claims: Sequence[AuditedClaim], confidence: float, attacks: int, seed: int) -> _Tests:
    """Return the levels of the tests of so many attacks.

    Args:
        claims: The run's claims.
        confidence: Of all bounds jointly.
        attacks: Their number.
        seed: Of hold-outs.
    """
    return _Tests(
        delta=_bound_delta(claims),
        bound_confidence=bonferroni(confidence, max(1, TESTS_PER_ATTACK * attacks)),
        interval_confidence=bonferroni(confidence, max(1, attacks)),
        seed=seed,
    )


def _bound_delta(claims: Sequence[AuditedClaim]) -> float:
    """Return the largest delta of the claims.

    A claim at a smaller delta holds at a larger one too: one bound at the largest refutes any.
    """
    deltas = [c.delta for c in claims if c.epsilon is not None and c.delta is not None]
    return max(deltas, default=0.0) or DEFAULT_DELTA


def _attack_result(
    name: str, scores: np.ndarray, included: np.ndarray, tests: _Tests
) -> AttackResult:
    """Return an attack's success from its scores [n].

    Args:
        name: The attack's name.
        scores: Larger for likelier members.
        included: The inclusion bits [n].
        tests: Levels of the tests.
    """
    roc = roc_of(scores, included)
    low, high = auc_interval(scores, included, tests.interval_confidence)
    two_sample = _two_sample_bounds(scores, included, tests)
    one_run = [
        one_run_bound(guess(scores, included, count), tests.delta, tests.bound_confidence)
        for count in _guess_counts(len(scores))
    ]
    return AttackResult(
        name=name,
        auc=roc.auc,
        auc_low=low,
        auc_high=high,
        chance=chance(scores, included),
        rates=tuple(tpr_at(roc, level) for level in LEVELS),
        one_run=max(one_run),
        clopper_pearson=None if two_sample is None else two_sample[0],
        gaussian=None if two_sample is None else two_sample[1],
    )


def _blind_baseline(
    scores: Scores, truth: GroundTruth, confidence: float, tests: _Tests
) -> tuple[AttackResult | None, Roc | None]:
    """Return the result and curve of an attack that sees the candidates' inputs and no model.

    Both are None where there are no attacks to compare with, or too few candidates.

    Args:
        scores: The scores of the attacks.
        truth: The candidates.
        confidence: Of the AUC interval.
        tests: Levels of the other tests.
    """
    members = int(truth.included.sum())
    if not scores or min(members, len(truth.included) - members) < FEWEST:
        return None, None
    features = truth.inputs.reshape(len(truth.inputs), -1).astype(np.float64)
    found, included = blind_scores(features, truth.included, tests.seed)
    alone = replace(tests, interval_confidence=confidence)
    return _attack_result("blind", found, included, alone), roc_of(found, included)


def _guess_counts(canaries: int) -> list[int]:
    """Return the numbers of guesses to make: an even number for each share."""
    return sorted({max(2, int(share * canaries) // 2 * 2) for share in GUESSED_SHARES})


def _run_ceiling(canaries: int, tests: _Tests) -> float:
    """Return the largest bound that so many canaries could show, with every guess right."""
    return max(
        one_run_bound(Guesses(canaries, count, count), tests.delta, tests.bound_confidence)
        for count in _guess_counts(canaries)
    )


def _two_sample_bounds(
    scores: np.ndarray, included: np.ndarray, tests: _Tests
) -> tuple[float, float] | None:
    """Return the Clopper-Pearson and Gaussian bounds, or None with too few candidates.

    The threshold is the best on a random half of the candidates; the bounds are of the other half.
    """
    held_out = random_halves(len(scores), numpy_stream(tests.seed, "audit", "hold-out"))
    halves = held_out, ~held_out
    members = [int(included[half].sum()) for half in halves]
    others = [int((~included[half]).sum()) for half in halves]
    if min(*members, *others) < 2:
        return None

    def errors(threshold: float, half: np.ndarray) -> Errors:
        guessed, member = scores[half] >= threshold, included[half]
        return Errors(
            false_positives=int((guessed & ~member).sum()),
            negatives=int((~member).sum()),
            false_negatives=int((~guessed & member).sum()),
            positives=int(member.sum()),
        )

    best = max(scores[held_out].tolist(), key=lambda t: gaussian_mu(errors(t, held_out)))
    measured = errors(best, ~held_out)
    return (
        clopper_pearson_bound(measured, tests.delta, tests.bound_confidence),
        gaussian_bound(measured, tests.delta, tests.bound_confidence),
    )


def _judgment(
    claim: AuditedClaim,
    adversary: str,
    attacks: Sequence[AttackResult],
    canaries: int,
    tests: _Tests,
    power: float | None,
) -> Judgment:
    """Return the verdict on a claim, with the reason.

    Args:
        claim: The claim.
        adversary: Who attacked.
        attacks: The results of its attacks.
        canaries: The number of candidates.
        tests: Levels of the tests.
        power: What the attacks show without the run's noise, where that is known.
    """
    bound = max((attack.one_run for attack in attacks), default=None)
    if claim.epsilon is None or not covers(claim, adversary):
        why = (
            "no epsilon is claimed"
            if claim.epsilon is None
            else f"the claim is against {claim.adversary}"
        )
        return Judgment(
            claim, bound, None, power, "no claim", f"{why}; this audit is of {adversary}"
        )
    if bound is None:
        return Judgment(claim, None, 0.0, power, "uninformative", "no attack could be made")
    ceiling = _run_ceiling(canaries, tests)
    verdict = judge(claim.epsilon, bound, ceiling, power)
    reason = f"{canaries} canaries can show epsilon {ceiling:.2f} at most; {in_words(power)}"
    return Judgment(claim, bound, ceiling, power, verdict, reason)
