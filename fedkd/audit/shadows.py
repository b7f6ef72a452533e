"""Shadow models for LiRA: each client's training repeated on inclusion bits that the auditor draws.

The auditor is *informed*: it knows all of a client's records except the inclusion bits, as
differential privacy grants an adversary, and the teachers sent to the client, from its transcript.
Shadow s of client k trains as the client did (settings, mechanism, rounds, the same teachers), with
initial weights, batches and noise of its own, on the client's other records and on half of its
candidates. Every candidate is in half of the shadows (Carlini et al. 2022, arXiv 2112.03570).
Departure from a run: a shadow takes part in every round, even if the client was absent.
Not for: conclusions from their logits (``fedkd.audit.membership_inference``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fedkd.audit.record_canaries import Candidates
from fedkd.codecs import Codecs
from fedkd.federation.batching import Batching
from fedkd.federation.client import take_part
from fedkd.federation.context import ClientContext, ClientWorkspace
from fedkd.federation.local_steps import preparation
from fedkd.fusion import soften
from fedkd.knowledge import KnowledgeType, narrowed
from fedkd.messages import Download, Knowledge, Predictions, Step, Upload
from fedkd.runtime.devices import deterministic
from fedkd.runtime.seeding import derive, numpy_stream
from fedkd.storage.client_states import ClientState
from fedkd.training.loop import predict

Teachers = Mapping[int, Mapping[int, Knowledge]]
"""The teacher sent to a client in a round, by client id, then round."""


@dataclass(frozen=True)
class ShadowModels:
    """The predictions of M shadow models per client.

    Where a candidate has a column, it is that of its owner's shadows.
    """

    included: Bool[np.ndarray, "M n"]
    """Whether the shadow trained on the candidate."""
    logits: Float[np.ndarray, "M n C"]
    """Of candidates, after the last round."""
    sent_logits: Float[np.ndarray, "M n C"]
    """Of candidates, at the last upload, before learning from the last teacher."""
    uploads: Mapping[int, Float[np.ndarray, "M N C"]]
    """Soft labels of all public samples as uploaded, the mean over rounds, by client id; empty for
    knowledge other than predictions."""


def train_shadows(
    context: ClientContext,
    candidates: Candidates,
    teachers: Teachers,
    *,
    rounds: int,
    distills_first: bool,
    count: int,
    seed: int,
) -> ShadowModels:
    """Train shadow models of every client that has candidates, and return their predictions.

    Args:
        context: The run's clients.
        candidates: The candidates of the audit. Their inclusion bits are not used.
        teachers: What the clients were sent.
        rounds: Rounds to train for.
        distills_first: Whether clients distill before they train on their own records.
        count: Shadow models per client, an even number.
        seed: Of the shadows' inclusion bits, weights, batches and noise.
    """
    inputs, _ = context.task.test_set(candidates.rows)
    included = np.zeros((count, len(candidates.rows)), bool)
    logits, at_upload = np.zeros((2, count, len(candidates.rows), context.task.classes), np.float32)
    uploads = {}
    for client in np.unique(candidates.client_ids).tolist():
        own = np.flatnonzero(candidates.client_ids == client)
        included[:, own] = _half_of_shadows(
            count, len(own), numpy_stream(seed, "audit", "shadows", client, "coins")
        )
        other_rows = np.setdiff1d(context.division.train[client], candidates.rows)
        sent = []
        for shadow in range(count):
            rows = np.sort(
                np.concatenate([other_rows, candidates.rows[own][included[shadow, own]]])
            )
            shadow_seed = derive(seed, "audit", "shadows", shadow)
            shadow_context = _shadow_context(context, client, rows, shadow_seed)
            with deterministic(context.device):
                probs, at_upload[shadow, own] = _train_shadow(
                    shadow_context,
                    client,
                    teachers.get(client, {}),
                    inputs[own],
                    rounds=rounds,
                    distills_first=distills_first,
                    codecs=context.codecs,
                )
                logits[shadow, own] = _logits_of(shadow_context, client, inputs[own])
            sent.append(probs)
        if sent[0] is not None:
            uploads[client] = np.stack([probs for probs in sent if probs is not None])
    return ShadowModels(included, logits, at_upload, uploads)


def _half_of_shadows(
    count: int, candidates: int, stream: np.random.Generator
) -> Bool[np.ndarray, "M n"]:
    """Return random inclusion bits that include each candidate in exactly half of the shadows."""
    half = np.arange(count)[:, None] < count // 2
    return stream.permuted(np.repeat(half, candidates, axis=1), axis=0)


def _shadow_context(
    context: ClientContext, client: int, rows: np.ndarray, seed: int
) -> ClientContext:
    """Return a context for a shadow of one client: other rows, seed and state store.

    Args:
        context: The run's clients, which the shadow does not affect.
        client: The client's id.
        rows: The rows that the shadow trains on.
        seed: The seed of all its random streams.
    """
    train = tuple(rows if i == client else own for i, own in enumerate(context.division.train))
    return replace(
        context,
        division=replace(context.division, train=train),
        enforcer=replace(context.enforcer, seed=seed),
        codecs=None,  # _received encodes and decodes each upload
        store=_SingleClientStore(),
        seed=seed,
        deadline=None,
        batching=Batching(),
        workspace=ClientWorkspace(),
    )


def _train_shadow(
    context: ClientContext,
    client: int,
    teachers: Mapping[int, Knowledge],
    inputs: Tensor,
    *,
    rounds: int,
    distills_first: bool,
    codecs: Codecs | None,
) -> tuple[Float[np.ndarray, "N C"] | None, Float[np.ndarray, "n C"]]:
    """Train one shadow for all rounds, and return its mean upload and its logits of candidates.

    The mean upload is over rounds, None for knowledge other than predictions. The logits are those
    of the model at its last upload.

    Args:
        context: The shadow's context.
        client: The client's id.
        teachers: What the client was sent, by round.
        inputs: The client's candidates.
        rounds: Rounds to train for.
        distills_first: Whether the client distills before it trains on its own records.
        codecs: The codecs that uploads pass through.
    """
    kind = context.kind
    assert kind is not None, "checked before the run"
    predicts = kind.all_answer
    ids = torch.arange(context.task.public_size)
    sent: list[Tensor] = []
    for round_number in range(1, rounds + 1):
        teacher = teachers.get(round_number)
        before: list[Step] = [*preparation(context.training)] if round_number == 1 else []
        if teacher is not None and distills_first and kind.learned_by == "distill":
            before.append("distill")
        after: list[Step] = ["share"] if predicts else []
        first = Download(
            round=round_number,
            steps=(*before, "train", *after),
            public_ids=ids,
            teacher=teacher if distills_first else None,
        )
        upload = take_part(context, client, first)
        if isinstance(upload.knowledge, Predictions):
            sent.append(_probs_of(_received(kind, upload, codecs)))
        if round_number == rounds:
            logits = _logits_of(context, client, inputs)
        if teacher is not None and not distills_first:
            learn: Step = "adopt" if kind.learned_by == "adopt" else "distill"
            take_part(
                context, client, Download(round=round_number, steps=(learn,), teacher=teacher)
            )
    return (torch.stack(sent).mean(dim=0).numpy() if sent else None), logits


def _logits_of(context: ClientContext, client: int, inputs: Tensor) -> Float[np.ndarray, "n C"]:
    model, _ = context.borrow_model(client)
    return predict(model, inputs).cpu().numpy()


def _received(kind: KnowledgeType, upload: Upload, codecs: Codecs | None) -> Predictions:
    """Return an upload as the server decodes it, coded as a client's first message."""
    knowledge = narrowed(upload.knowledge, Predictions)
    if codecs is None:
        return knowledge
    codec = codecs.up.of_client(upload.client_id)
    arrays, _ = codec.decode(codec.encode(kind.encode(knowledge), None)[0], None)
    return narrowed(kind.decode(arrays), Predictions)


def _probs_of(knowledge: Predictions) -> Float[Tensor, "N C"]:
    """Return an upload's soft labels in float64, softening logits at temperature 1."""
    values = knowledge.values.to(torch.float64)
    return soften(values) if knowledge.scale == "logits" else values


class _SingleClientStore:
    """The state of one client, in memory."""

    def __init__(self) -> None:
        self._state: ClientState | None = None

    def get(self, client_id: int) -> ClientState | None:
        """Return the state that was put last, or None."""
        return self._state

    def put(self, client_id: int, round_number: int, state: ClientState) -> None:
        """Store a copy of a state."""
        self._state = {name: tensor.detach().clone() for name, tensor in state.items()}
