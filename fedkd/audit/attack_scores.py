"""Scores of the candidates by every membership inference attack that a transcript allows.

An adversary scores candidates by margins under clients' models: models that it can query (``lab``),
weights that clients sent, or surrogates distilled from what was sent. Not for: the success of an
attack (``fedkd.audit.audit_run``).
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from fedkd.audit.decoding import Direction, SoftLabels, codec_of, mean_teacher
from fedkd.audit.membership_inference import (
    co_op_lira,
    difficulty_calibrated,
    lira_offline,
    lira_online,
    loss_threshold,
)
from fedkd.audit.scores import margin_of_logits
from fedkd.audit.shadows import ShadowModels
from fedkd.audit.surrogate import Surrogates, surrogate_margins
from fedkd.errors import UploadRejected
from fedkd.federation.context import ClientContext
from fedkd.knowledge import KnowledgeType, narrowed
from fedkd.runtime.devices import deterministic
from fedkd.storage.transcript import GroundTruth, Transcript
from fedkd.training.loop import predict

ALL_CLIENTS = -1
"""Key of the margins under the teacher of all clients, where an adversary has no client's own."""

Scores = dict[str, np.ndarray]
"""Scores [n] by attack."""


@dataclass(frozen=True)
class AuditorModels:
    """Models that an auditor has in addition to a transcript."""

    context: ClientContext | None = None
    """The run's clients: their architectures and settings."""
    shadows: ShadowModels | None = None


@dataclass(frozen=True)
class Margins:
    """Margins of n candidates under clients' models and under shadow models."""

    source: str
    """How the adversary has models: "query", "weights" or "surrogate"."""
    by_client: Mapping[int, np.ndarray]
    """[n] by client id, or under ``ALL_CLIENTS`` alone."""
    of_shadows: np.ndarray | None = None
    """[M, n], under the shadow models of each candidate's owner; None without comparable ones."""


def attack_scores(
    transcript: Transcript,
    truth: GroundTruth,
    uploads: Mapping[int, SoftLabels],
    models: AuditorModels,
    seed: int,
) -> tuple[Scores, list[str]]:
    """Return the scores of every possible attack, and the reasons for attacks left out.

    Args:
        transcript: The adversary's.
        truth: The candidates. The attacks do not read the inclusion bits.
        uploads: The soft labels in the transcript's uploads, by client id.
        models: What else the auditor has.
        seed: Of surrogates.
    """
    if len(truth.included) == 0 or truth.included.all() or not truth.included.any():
        return {}, ["membership inference: there are no candidates both included and left out"]
    margins = _margins(transcript, truth, uploads, models, seed)
    if ALL_CLIENTS in margins.by_client:
        scores = {"loss threshold": loss_threshold(margins.by_client[ALL_CLIENTS])}
        skipped = ["LiRA: the teacher of all clients has no shadow models"]
        return _prefixed(margins.source, scores), skipped
    missing = sorted(set(truth.client_ids.tolist()) - set(margins.by_client))
    if missing:
        kind = transcript.about.get("kind") or "a message"
        return {}, [
            f"membership inference: of the clients {missing[:5]} {transcript.adversary} has"
            f" {kind}, which no attack here reads, or nothing"
        ]
    scores, skipped = _scores_across_clients(margins, truth.client_ids)
    lira, lira_skipped = _lira_scores(margins, truth.client_ids, models.shadows)
    return _prefixed(margins.source, scores | lira), [*skipped, *lira_skipped]


def _prefixed(source: str, scores: Scores) -> Scores:
    return {f"{source}: {name}": values for name, values in scores.items()}


def _own_margins(margins: Margins, client_ids: np.ndarray) -> np.ndarray:
    """Return each candidate's margin [n] under its owner's model."""
    return np.array([margins.by_client[owner][i] for i, owner in enumerate(client_ids.tolist())])


def _scores_across_clients(margins: Margins, client_ids: np.ndarray) -> tuple[Scores, list[str]]:
    """Return the scores of attacks that compare a client's model with other clients' models."""
    clients = sorted(margins.by_client)
    values = np.stack([margins.by_client[c] for c in clients])
    owner_rows = np.searchsorted(clients, client_ids), np.arange(len(client_ids))
    scores = {"loss threshold": loss_threshold(values[owner_rows])}
    skipped: list[str] = []
    if len(clients) >= 2:
        rows = np.arange(len(clients))
        calibrated = [difficulty_calibrated(values[k], values[rows != k]) for k in rows]
        scores["difficulty calibrated"] = np.stack(calibrated)[owner_rows]
    else:
        skipped.append("difficulty calibrated: it needs other clients' models")
    if len(clients) >= 3:
        scores["co-op LiRA"] = co_op_lira(values)[owner_rows]
    else:
        skipped.append(f"co-op LiRA: it needs 3 clients, there are {len(clients)}")
    return scores, skipped


def _lira_scores(
    margins: Margins, client_ids: np.ndarray, shadows: ShadowModels | None
) -> tuple[Scores, list[str]]:
    """Return the scores of LiRA with shadow models, where there are comparable ones."""
    if shadows is None:
        return {}, [
            "LiRA offline and online: no shadow models were trained; set audit.shadows=16, or"
            " --shadows 16"
        ]
    if margins.of_shadows is None:
        return {}, [
            "LiRA offline and online: shadow models are not comparable with what this adversary has"
        ]
    own, included = _own_margins(margins, client_ids), shadows.included
    return {
        "LiRA offline": lira_offline(own, margins.of_shadows, included),
        "LiRA online": lira_online(own, margins.of_shadows, included),
    }, []


def _margins(
    transcript: Transcript,
    truth: GroundTruth,
    uploads: Mapping[int, SoftLabels],
    models: AuditorModels,
    seed: int,
) -> Margins:
    """Return the candidates' margins under the best models that the adversary has.

    Args:
        transcript: The adversary's.
        truth: The candidates.
        uploads: The soft labels in the transcript's uploads, by client id.
        models: What else the auditor has.
        seed: Of surrogates.
    """
    if transcript.adversary == "lab":
        return _query_margins(transcript, truth, models)
    direction: Direction = "upload" if transcript.adversary == "server" else "teacher"
    context = models.context
    if context is not None and context.kind is not None and context.kind.sends_models:
        by_client = _weight_margins(transcript, truth, direction, context, context.kind)
        if models.shadows is None or direction == "teacher":
            return Margins("weights", by_client)
        of_shadows = margin_of_logits(models.shadows.sent_logits, truth.labels)
        return Margins("weights", by_client, of_shadows)
    if direction == "upload":
        return _surrogate_margins(transcript, truth, uploads, models.shadows, seed)
    return _surrogate_margins(
        transcript, truth, {ALL_CLIENTS: mean_teacher(transcript)}, None, seed
    )


def _query_margins(transcript: Transcript, truth: GroundTruth, models: AuditorModels) -> Margins:
    """Return margins under the clients' final models, which the adversary can query."""
    by_client = {}
    for client in transcript.clients("query"):
        _, last = list(transcript.of("query", client))[-1]
        by_client[client] = margin_of_logits(last["logits"], truth.labels)
    kind = None if models.context is None else models.context.kind
    if models.shadows is None or (kind is not None and kind.learned_by == "adopt"):
        # A client that adopts the teacher ends with the teacher, and so would its shadow models.
        return Margins("query", by_client)
    return Margins("query", by_client, margin_of_logits(models.shadows.logits, truth.labels))


def _weight_margins(
    transcript: Transcript,
    truth: GroundTruth,
    direction: Direction,
    context: ClientContext,
    kind: KnowledgeType,
) -> dict[int, np.ndarray]:
    """Return margins under the last weights that each client uploaded, or that were sent to all.

    Args:
        transcript: The adversary's.
        truth: The candidates.
        direction: Whether to read uploads (a key per client) or teachers (``ALL_CLIENTS``).
        context: The run's clients.
        kind: Decodes weights.
    """
    by_client = {}
    candidates = torch.from_numpy(truth.inputs.astype(np.float32)).to(context.device)
    for client in transcript.clients(direction):
        codec, memory, weights = codec_of(transcript.about, direction, client), None, None
        for _, sent in transcript.of(direction, client):
            with contextlib.suppress(UploadRejected):
                arrays, memory = codec.decode(sent, memory)
                weights = kind.decode(arrays)
        if weights is None:
            continue
        model = context.architectures[client].build(0).to(context.device)
        try:
            model.load_state_dict(narrowed(weights, dict))
        except RuntimeError:  # weights of another shape, which the server rejects too
            continue
        with deterministic(context.device):
            logits = predict(model, candidates).cpu().numpy()
        key = client if direction == "upload" else ALL_CLIENTS
        by_client[key] = margin_of_logits(logits, truth.labels)
    return by_client


def _surrogate_margins(
    transcript: Transcript,
    truth: GroundTruth,
    sent: Mapping[int, SoftLabels],
    shadows: ShadowModels | None,
    seed: int,
) -> Margins:
    """Return margins under surrogates distilled from soft labels, and from the shadows' uploads.

    Args:
        transcript: The adversary's, for the public set.
        truth: The candidates.
        sent: Soft labels by client id, or of ``ALL_CLIENTS``.
        shadows: Shadow models, or None.
        seed: Of surrogates.
    """
    public = next((arrays["inputs"] for _, arrays in transcript.of("public")), None)
    common = sorted(set.intersection(*(set(labels) for labels in sent.values()))) if sent else []
    if public is None or not common:
        return Margins("surrogate", {})
    inputs = torch.from_numpy(public[common].astype(np.float32))
    probs = np.stack([np.stack([labels[i] for i in common]) for labels in sent.values()])
    margins = _distilled_margins(inputs, probs, truth.inputs, truth.labels, seed)
    by_client = dict(zip(sent, margins, strict=True))
    if shadows is None or not set(truth.client_ids.tolist()) <= set(shadows.uploads):
        return Margins("surrogate", by_client)
    of_shadows = np.zeros(shadows.included.shape)
    for client, uploads in shadows.uploads.items():
        own = truth.client_ids == client
        of_shadows[:, own] = _distilled_margins(
            inputs, uploads[:, common], truth.inputs[own], truth.labels[own], seed
        )
    return Margins("surrogate", by_client, of_shadows)


def _distilled_margins(
    inputs: torch.Tensor, probs: np.ndarray, candidates: np.ndarray, labels: np.ndarray, seed: int
) -> np.ndarray:
    """Return margins [K, n] of candidates under K surrogates, distilled from ``probs`` [K, N, C].

    Args:
        inputs: The N public samples.
        probs: Soft labels of them, for each surrogate.
        candidates: The n candidates' inputs.
        labels: The candidates' labels.
        seed: Of the surrogates.
    """
    targets = torch.from_numpy(probs.astype(np.float32))
    queried = torch.from_numpy(candidates.astype(np.float32))
    with deterministic(inputs.device):  # so that figures do not depend on the machine's cores
        return surrogate_margins(inputs, targets, queried, labels, Surrogates(seed=seed))
