"""The audit of one stored run: every attack that a named adversary's view allows, and what they say
of the claims.

Attacks read the view; the truth is read to score them. Verdicts rest on the one-run bound, which
holds however the canaries of a run interact; two-sample bounds are given beside it and take
canaries for independent. Every test made is paid for by Bonferroni. Not for: printing and writing
(``fedkd.cli.audit``).
"""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from fedkd.audit.audit_settings import check_shadows
from fedkd.audit.bounds import (
    Errors,
    bonferroni,
    clopper_pearson_bound,
    gaussian_bound,
    gaussian_mu,
)
from fedkd.audit.label_inference import LabelInference, infer_labels
from fedkd.audit.membership_inference import (
    co_op_lira,
    difficulty_calibrated,
    lira_offline,
    lira_online,
    loss_threshold,
)
from fedkd.audit.one_run import Guesses, guess, one_run_bound
from fedkd.audit.roc import (
    FEWEST,
    LEVELS,
    Rate,
    Roc,
    auc_interval,
    blind_scores,
    chance,
    random_halves,
    roc_of,
    tpr_at,
)
from fedkd.audit.scores import margin_of_logits
from fedkd.audit.shadows import ShadowModels
from fedkd.audit.surrogate import Surrogates, surrogate_margins
from fedkd.audit.verdicts import AuditedClaim, Verdict, judge
from fedkd.codecs import CODECS, Codec
from fedkd.errors import Damaged, SettingError, UploadRejected, unknown_name
from fedkd.federation.context import ClientContext
from fedkd.knowledge import KnowledgeType, ModelWeights
from fedkd.messages import Knowledge
from fedkd.runtime.devices import deterministic
from fedkd.runtime.seeding import numpy_stream
from fedkd.settings.import_paths import import_path, is_import_path
from fedkd.storage.transcript import GroundTruth, Transcript, read_ground_truth, read_transcript
from fedkd.training.loop import predict

GUESSED = (0.2, 0.8)
"""Shares of the canaries that are guessed, fixed beforehand: the surest fifth, and as many as coins
seldom miss.

Fair coins rarely fall half and half, so that guessing all, half of them as members, is wrong of
some for certain."""
DELTA = 1e-5
"""Where nothing is claimed, bounds are given at this delta."""
TESTS = len(GUESSED) + 2  # of each attack: one run at each share, and two bounds on two samples


@dataclass(frozen=True)
class AttackResult:
    """How one attack did. Bounds hold together with the study's confidence."""

    name: str
    auc: float
    auc_low: float
    auc_high: float
    """An interval of the AUC; the intervals of all attacks by one adversary hold together."""
    chance: float
    rates: tuple[Rate, ...]
    """True positive rates at ``LEVELS``."""
    one_run: float
    """Lower bound on epsilon that verdicts rest on."""
    clopper_pearson: float | None
    gaussian: float | None
    """Bounds as if the canaries were independent, at a threshold from a hold-out; None with too few
    of them."""


@dataclass(frozen=True)
class Judgment:
    """A claim beside the largest lower bound that was found."""

    claim: AuditedClaim
    lower_bound: float | None
    ceiling: float | None
    verdict: Verdict
    reason: str


@dataclass(frozen=True)
class AuditResult:
    """Everything that one audit found. ``skipped`` says what was not done, and why."""

    adversary: str
    confidence: float
    canaries: int
    ceiling: float
    """The largest lower bound that so many canaries could show."""
    attacks: tuple[AttackResult, ...]
    curves: Mapping[str, Roc]
    blind: AttackResult | None
    labels: Mapping[int, LabelInference]
    judgments: tuple[Judgment, ...]
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class Planned:
    """Who attacks a stored run, and how."""

    adversaries: tuple[str, ...]
    confidence: float
    seed: int
    shadows: int


def planned(
    run_dir: Path,
    adversaries: Sequence[str] | None = None,
    confidence: float | None = None,
    seed: int | None = None,
    shadows: int | None = None,
) -> Planned:
    """Return what the run's own audit did, but for what is given. Raises SettingError where no view
    is stored.
    """
    own = read_transcript(run_dir, "clients").about.get("audit", {})
    confidence = float(own.get("confidence", 0.95)) if confidence is None else confidence
    if not 0 < confidence < 1:
        raise SettingError(f"confidence must be above 0 and below 1, got {confidence}")
    if shadows is not None:
        check_shadows(shadows)
    return Planned(
        adversaries=tuple(dict.fromkeys(adversaries or own.get("adversaries", ("server",)))),
        confidence=confidence,
        seed=int(own.get("seed", 0)) if seed is None else seed,
        shadows=int(own.get("shadows", 0)) if shadows is None else shadows,
    )


@dataclass(frozen=True)
class Help:
    """What an auditor has beside a stored view: the run's models as a workplace, and shadow models
    of its clients.
    """

    context: ClientContext | None = None
    shadows: ShadowModels | None = None


def audit_run(
    run_dir: Path,
    adversary: str,
    confidence: float = 0.95,
    seed: int = 0,
    helped: Help | None = None,
) -> AuditResult:
    """Return what ``adversary`` could find in a stored run. Raises SettingError where no view or no
    truth is stored.

    Without ``helped`` attacks that need models other than surrogates are left out.
    """
    view, truth, claims = (
        read_transcript(run_dir, adversary),
        read_ground_truth(run_dir),
        read_claims(run_dir),
    )
    skipped: list[str] = []
    uploads = upload_probs(view) if adversary == "server" else {}
    labels = {
        k: infer_labels(np.stack(list(rows.values())), truth.label_counts[k])
        for k, rows in uploads.items()
    }
    if not labels:
        skipped.append(f"label inference: {adversary} sees no upload of soft labels")
    scores = _scores(view, truth, uploads, seed, helped or Help(), skipped)
    # A claim at a smaller delta holds at a larger one too: one bound at the largest refutes any of
    # them.
    delta = (
        max((c.delta for c in claims if c.epsilon is not None and c.delta is not None), default=0.0)
        or DELTA
    )
    level = bonferroni(confidence, max(1, TESTS * len(scores)))
    apart = bonferroni(confidence, max(1, len(scores)))
    attacks = tuple(
        _judged(name, found, truth.included, delta, level, apart, seed)
        for name, found in scores.items()
    )
    curves = {name: roc_of(found, truth.included) for name, found in scores.items()}
    blind = None
    if scores and min(truth.included.sum(), (~truth.included).sum()) >= FEWEST:
        features = truth.inputs.reshape(len(truth.inputs), -1).astype(np.float64)
        found, members = blind_scores(features, truth.included, seed)
        blind = _judged("blind", found, members, delta, level, confidence, seed)
        curves["blind"] = roc_of(found, members)
    concerned = [claim for claim in claims if covers(claim, adversary)] or claims[:1]
    judgments = tuple(
        _judgment(claim, adversary, attacks, len(truth.included), delta, level)
        for claim in concerned
    )
    return AuditResult(
        adversary=adversary,
        confidence=confidence,
        canaries=len(truth.included),
        ceiling=run_ceiling(len(truth.included), delta, level) if scores else 0.0,
        attacks=attacks,
        curves=curves,
        blind=blind,
        labels=labels,
        judgments=judgments,
        skipped=tuple(skipped),
    )


def read_claims(run_dir: Path) -> tuple[AuditedClaim, ...]:
    """Return the claims in a run's ``summary.json``: its ``privacy``, with the ``claims`` in it
    that say more.

    A mapping without an epsilon is no claim. Raises SettingError where there is no summary, Damaged
    for another form.
    """
    path = run_dir / "summary.json"
    try:
        summary = json.loads(path.read_text())
        if summary.get("status") == "running":
            raise SettingError(
                f"{run_dir} holds a run that has not ended (status running); wait, or go on with"
                " resume="
            )
        stored = summary.get("privacy") or {}
        mechanism = str(stored.get("mechanism", "none"))
        each = [
            AuditedClaim(
                mechanism=mechanism,
                unit=str(claim.get("unit") or "none"),
                neighbors=str(claim.get("neighbors") or "none"),
                adversary=str(claim.get("adversary") or "none"),
                epsilon=None if claim.get("epsilon") is None else float(claim["epsilon"]),
                delta=None if claim.get("delta") is None else float(claim["delta"]),
            )
            for claim in (stored, *stored.get("claims", ()))
        ]
        return tuple(dict.fromkeys(each))
    except FileNotFoundError as error:
        raise SettingError(
            f"{run_dir} has no summary.json: it is no finished run's folder"
        ) from error
    except (json.JSONDecodeError, AttributeError, TypeError) as error:
        raise Damaged(f"{path} is damaged: {error}") from error


def covers(claim: AuditedClaim, adversary: str) -> bool:
    """Return whether a claim speaks of an adversary: one against the server holds against other
    clients too.

    Nothing is claimed against the lab, which has what the protocol gives nobody.
    """
    named = claim.adversary.lower()
    return adversary != "lab" and (
        "server" in named or (adversary == "clients" and "client" in named)
    )


def upload_probs(view: Transcript) -> dict[int, dict[int, np.ndarray]]:
    """Return every client's soft labels by public id: the mean over rounds of what it uploaded,
    decoded.

    ``view.about`` names the codec (``codec_of``). Uploads of other kinds (weights, tables) are left
    out, and what cannot be decoded, as the server rejects it. Logits are softened at temperature 1.
    """
    found = {}
    for client in view.clients("upload"):
        rows = _decoded(view, "upload", client)
        if rows:
            found[client] = {row: np.mean(each, axis=0) for row, each in rows.items()}
    return found


def _decoded(
    view: Transcript, what: Literal["upload", "teacher"], client: int | None
) -> dict[int, list[np.ndarray]]:
    """Return all soft labels of one client's messages by public id, in the order of rounds."""
    codec, memory = codec_of(view.about, what), None
    gathered: dict[int, list[np.ndarray]] = {}
    for _, sent in view.of(what, client):
        try:
            arrays, memory = codec.decode(sent, memory)
        except UploadRejected:
            continue
        for row, probs in zip(*_soft_labels(arrays), strict=True):
            gathered.setdefault(int(row), []).append(probs)
    return gathered


def codec_of(about: Mapping[str, Any], what: Literal["upload", "teacher"]) -> Codec:
    """Return the codec that ``about`` names for uploads or teachers, with its settings; Full where
    it names none.
    """
    values = dict(about.get("codecs", {}).get(what) or {"name": "full"})
    name = str(values.pop("name", "full"))
    if name not in CODECS and not is_import_path(name):
        raise unknown_name("codec", name, CODECS)
    cls: Any = import_path(name, what="codec") if is_import_path(name) else CODECS[name]
    codec: Codec = cls(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})
    return codec


def _soft_labels(arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return public ids and soft labels of one message; none where it is of another kind."""
    if "ids" not in arrays or not ({"probs", "logits"} & set(arrays)):
        return np.zeros(0, np.int64), np.zeros((0, 1))
    if "probs" in arrays:
        return arrays["ids"], arrays["probs"].astype(np.float64)
    return arrays["ids"], torch.softmax(
        torch.from_numpy(arrays["logits"].astype(np.float64)), dim=-1
    ).numpy()


def _scores(
    view: Transcript,
    truth: GroundTruth,
    uploads: Mapping[int, Mapping[int, np.ndarray]],
    seed: int,
    helped: Help,
    skipped: list[str],
) -> dict[str, np.ndarray]:
    """Return each attack's scores [n] that the view allows."""
    if len(truth.included) == 0 or truth.included.all() or not truth.included.any():
        skipped.append("membership inference: there are no candidates whose coins fell both ways")
        return {}
    prefix, margins, of_shadows = _margins(view, truth, uploads, seed, helped)
    if -1 in margins:
        skipped.append("LiRA: what all clients were taught together has no shadow models")
        return {f"{prefix}: loss threshold": loss_threshold(margins[-1])}
    owners = set(truth.client_ids.tolist())
    if not owners <= set(margins):
        missing = sorted(owners - set(margins))
        what = (
            f"{view.about.get('kind') or 'what was sent'}, which no attack here reads, or nothing"
        )
        skipped.append(
            f"membership inference: {view.adversary} has {what} of the clients {missing[:5]}"
        )
        return {}
    clients = sorted(margins)
    values = np.stack([margins[c] for c in clients])
    at = np.searchsorted(clients, truth.client_ids), np.arange(len(truth.labels))
    found = {f"{prefix}: loss threshold": loss_threshold(values[at])}
    if len(clients) >= 2:
        others = np.arange(len(clients))
        calibrated = np.stack(
            [difficulty_calibrated(values[k], values[others != k]) for k in others]
        )
        found[f"{prefix}: difficulty calibrated"] = calibrated[at]
    else:
        skipped.append("difficulty calibrated: it needs other clients' models")
    if len(clients) >= 3:
        found[f"{prefix}: co-op LiRA"] = co_op_lira(values)[at]
    else:
        skipped.append(f"co-op LiRA: it needs 3 clients, there are {len(clients)}")
    if of_shadows is not None and helped.shadows is not None:
        included = helped.shadows.included
        found[f"{prefix}: LiRA offline"] = lira_offline(values[at], of_shadows, included)
        found[f"{prefix}: LiRA online"] = lira_online(values[at], of_shadows, included)
    elif helped.shadows is None:
        skipped.append(
            "LiRA offline and online: no shadow models were trained; say audit.shadows=16, or"
            " --shadows 16"
        )
    else:
        skipped.append(
            "LiRA offline and online: shadow models have nothing to set beside what this adversary"
            " has"
        )
    return found


def _margins(
    view: Transcript,
    truth: GroundTruth,
    uploads: Mapping[int, Mapping[int, np.ndarray]],
    seed: int,
    helped: Help,
) -> tuple[str, dict[int, np.ndarray], np.ndarray | None]:
    """Return how models were come by, every client's candidates' margins, and those of its owner's
    shadows [M, n].

    Key -1 is of what all clients were taught together.
    """
    shadows, context = helped.shadows, helped.context
    takes_over = (
        context is not None and context.kind is not None and context.kind.learned_by == "adopt"
    )
    if view.adversary == "lab":
        asked = {c: list(view.of("query", c))[-1][1]["logits"] for c in view.clients("query")}
        # Where models end with what all were taught, shadows that were taught the same are no
        # others.
        answers = (
            None
            if shadows is None or takes_over
            else margin_of_logits(shadows.logits, truth.labels)
        )
        return (
            "query",
            {c: margin_of_logits(logits, truth.labels) for c, logits in asked.items()},
            answers,
        )
    what: Literal["upload", "teacher"] = "upload" if view.adversary == "server" else "teacher"
    if context is not None and isinstance(context.kind, ModelWeights):
        margins = _of_weights(view, truth, what, context, context.kind)
        if shadows is None or what == "teacher":
            return "weights", margins, None
        return "weights", margins, margin_of_logits(shadows.sent_logits, truth.labels)
    rows = uploads if what == "upload" else {-1: _teacher(view)}
    public = next((arrays["inputs"] for _, arrays in view.of("public")), None)
    common = sorted(set.intersection(*(set(r) for r in rows.values()))) if rows else []
    if public is None or not common:
        return "surrogate", {}, None
    inputs = torch.from_numpy(public[common].astype(np.float32))
    probs = np.stack([np.stack([of[row] for row in common]) for of in rows.values()])
    margins = dict(
        zip(rows, _distilled(inputs, probs, truth.inputs, truth.labels, seed), strict=True)
    )
    if (
        shadows is None
        or what == "teacher"
        or not set(truth.client_ids.tolist()) <= set(shadows.uploads)
    ):
        return "surrogate", margins, None
    of_shadows = np.zeros(shadows.included.shape)
    for client, sent in shadows.uploads.items():
        own = truth.client_ids == client
        of_shadows[:, own] = _distilled(
            inputs, sent[:, common], truth.inputs[own], truth.labels[own], seed
        )
    return "surrogate", margins, of_shadows


def _distilled(
    inputs: torch.Tensor, probs: np.ndarray, candidates: np.ndarray, labels: np.ndarray, seed: int
) -> np.ndarray:
    """Return candidates' margins under a surrogate of each of ``probs`` [K, N, C] on public
    ``inputs``.
    """
    taught, asked = (
        torch.from_numpy(probs.astype(np.float32)),
        torch.from_numpy(candidates.astype(np.float32)),
    )
    with deterministic(
        inputs.device
    ):  # the sums, and so the figures, do not depend on the machine's cores
        return surrogate_margins(inputs, taught, asked, labels, Surrogates(seed=seed))


def _of_weights(
    view: Transcript,
    truth: GroundTruth,
    what: Literal["upload", "teacher"],
    context: ClientContext,
    kind: ModelWeights,
) -> dict[int, np.ndarray]:
    """Return candidates' margins under the weights that each client sent last, or (key -1) was sent
    last.
    """
    found = {}
    candidates = torch.from_numpy(truth.inputs.astype(np.float32)).to(context.device)
    for client in view.clients(what):
        codec, memory, state = codec_of(view.about, what), None, None
        for _, sent in view.of(what, client):
            with contextlib.suppress(UploadRejected):
                arrays, memory = codec.decode(sent, memory)
                state = kind.decode(arrays)
        if state is None:
            continue
        model = context.architectures[client].build(0).to(context.device)
        try:
            kind.adopt(model, state)
        except (
            RuntimeError
        ):  # torch's word for weights of another shape, which the server rejected too
            continue
        with deterministic(context.device):
            logits = predict(model, candidates).cpu().numpy()
        found[client if what == "upload" else -1] = margin_of_logits(logits, truth.labels)
    return found


def taught(view: Transcript, kind: KnowledgeType) -> dict[int, dict[int, Knowledge]]:
    """Return what each client was taught, by round: the last in each, decoded."""
    found: dict[int, dict[int, Knowledge]] = {}
    for client in view.clients("teacher"):
        codec, memory = codec_of(view.about, "teacher"), None
        for entry, sent in view.of("teacher", client):
            arrays, memory = codec.decode(sent, memory)
            found.setdefault(client, {})[entry.round] = kind.decode(arrays)
    return found


def _teacher(view: Transcript) -> dict[int, np.ndarray]:
    """Return the mean of all teachers by public id; what other clients saw together."""
    gathered: dict[int, list[np.ndarray]] = {}
    recipients: Sequence[int | None] = view.clients("teacher") or [None]
    for client in recipients:
        for row, each in _decoded(view, "teacher", client).items():
            gathered.setdefault(row, []).extend(each)
    return {row: np.mean(rows, axis=0) for row, rows in gathered.items()}


def _judged(
    name: str,
    scores: np.ndarray,
    included: np.ndarray,
    delta: float,
    level: float,
    apart: float,
    seed: int,
) -> AttackResult:
    roc = roc_of(scores, included)
    low, high = auc_interval(scores, included, apart)
    pair = _two_samples(scores, included, delta, level, numpy_stream(seed, "audit", "hold-out"))
    return AttackResult(
        name=name,
        auc=roc.auc,
        auc_low=low,
        auc_high=high,
        chance=chance(scores, included),
        rates=tuple(tpr_at(roc, at) for at in LEVELS),
        one_run=max(
            one_run_bound(guess(scores, included, m), delta, level) for m in _made(len(scores))
        ),
        clopper_pearson=None if pair is None else pair[0],
        gaussian=None if pair is None else pair[1],
    )


def _made(canaries: int) -> list[int]:
    """Return how many coins are guessed: an even number for each share."""
    return sorted({max(2, int(share * canaries) // 2 * 2) for share in GUESSED})


def run_ceiling(canaries: int, delta: float, confidence: float) -> float:
    """Return the largest bound that so many canaries could show here, every guess being right."""
    return max(
        one_run_bound(Guesses(canaries, made, made), delta, confidence) for made in _made(canaries)
    )


def _two_samples(
    scores: np.ndarray,
    included: np.ndarray,
    delta: float,
    level: float,
    stream: np.random.Generator,
) -> tuple[float, float] | None:
    """Return both bounds on one half of the canaries, at the threshold that is best on the
    other.
    """
    held_out = random_halves(len(scores), stream)
    if min(int(included[half].sum()) for half in (held_out, ~held_out)) < 2 or min(
        int((~included[half]).sum()) for half in (held_out, ~held_out)
    ) < 2:  # fmt: skip
        return None

    def errors(threshold: float, half: np.ndarray) -> Errors:
        found, members = scores[half] >= threshold, included[half]
        others = ~members
        return Errors(
            int((found & others).sum()),
            int(others.sum()),
            int((~found & members).sum()),
            int(members.sum()),
        )

    best = max(
        scores[held_out].tolist(), key=lambda threshold: gaussian_mu(errors(threshold, held_out))
    )
    counted = errors(best, ~held_out)
    return clopper_pearson_bound(counted, delta, level), gaussian_bound(counted, delta, level)


def _judgment(
    claim: AuditedClaim,
    adversary: str,
    attacks: Sequence[AttackResult],
    canaries: int,
    delta: float,
    level: float,
) -> Judgment:
    if claim.epsilon is None or not covers(claim, adversary):
        why = (
            "no epsilon is claimed"
            if claim.epsilon is None
            else f"the claim is against {claim.adversary}"
        )
        bound = max((a.one_run for a in attacks), default=None)
        return Judgment(claim, bound, None, "no claim", f"{why}; this audit is of {adversary}")
    if not attacks:
        return Judgment(claim, None, 0.0, "uninformative", "no attack could be made")
    bound, ceiling = max(a.one_run for a in attacks), run_ceiling(canaries, delta, level)
    return Judgment(
        claim, bound, ceiling, judge(claim.epsilon, bound, ceiling),
        f"{canaries} canaries can show epsilon {ceiling:.2f} at most",
    )  # fmt: skip
