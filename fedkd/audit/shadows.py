"""Shadow models for LiRA: each client's training done again, on coins that the auditor tossed
itself.

The auditor is *informed*: it knows all of a client's records but the coins, which is what
differential privacy grants an adversary, and the teachers that the client was sent, which its view
holds. Shadow s of client k trains as the client did (settings, mechanism, rounds, the same
teachers), from initial weights, batches and noise of its own, on the client's certain records and
on the half of its candidates that fell in. Every candidate is in half of the shadows (Carlini et
al. 2022, arXiv 2112.03570). Departure from a run: a shadow takes part in every round, whoever was
absent. Not for: what is concluded from their answers (``fedkd.audit.membership_inference``).
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fedkd.audit.record_canaries import Coins
from fedkd.codecs import Codecs
from fedkd.federation.client import take_part
from fedkd.federation.context import ClientContext
from fedkd.fusion import soften
from fedkd.knowledge import KnowledgeType, PublicPredictions
from fedkd.messages import Download, Knowledge, Predictions, Step
from fedkd.runtime.devices import deterministic
from fedkd.runtime.seeding import derive, numpy_stream
from fedkd.storage.client_states import ClientState
from fedkd.training.loop import predict

Teachers = Mapping[int, Mapping[int, Knowledge]]
"""By client, then round: what the client was taught in it."""


@dataclass(frozen=True)
class ShadowModels:
    """M shadows of every client. For each candidate they are those of its owner.

    ``logits`` are their answers to candidates after the last round, ``sent_logits`` when they
    uploaded last, before they learned from the last teacher. ``uploads`` [M, N, C] by client are
    their soft labels on all public samples as they would have left it, the mean over rounds; there
    are none for kinds of knowledge other than predictions.
    """

    included: Bool[np.ndarray, "M n"]
    logits: Float[np.ndarray, "M n C"]
    sent_logits: Float[np.ndarray, "M n C"]
    uploads: Mapping[int, Float[np.ndarray, "M N C"]]


def train_shadows(
    context: ClientContext,
    coins: Coins,
    teachers: Teachers,
    *,
    rounds: int,
    distills_first: bool,
    count: int,
    seed: int,
) -> ShadowModels:
    """Return ``count`` shadows (an even number) of every client that candidates were tossed for."""
    inputs, _ = context.task.test_set(coins.rows)
    included = np.zeros((count, len(coins.rows)), bool)
    logits, at_upload = np.zeros((2, count, len(coins.rows), context.task.classes), np.float32)
    uploads = {}
    for client in np.unique(coins.client_ids).tolist():
        own = np.flatnonzero(coins.client_ids == client)
        included[:, own] = _halves(
            count, len(own), numpy_stream(seed, "audit", "shadows", client, "coins")
        )
        certain = np.setdiff1d(context.division.train[client], coins.rows)
        sent = []
        for shadow in range(count):
            rows = np.sort(np.concatenate([certain, coins.rows[own][included[shadow, own]]]))
            there = _apart(context, client, rows, derive(seed, "audit", "shadows", shadow))
            asked = inputs[own]
            with deterministic(context.device):
                probs, at_upload[shadow, own] = _follow(
                    there,
                    client,
                    teachers.get(client, {}),
                    rounds,
                    distills_first,
                    context.codecs,
                    asked,
                )
                logits[shadow, own] = _answers(there, client, asked)
            sent.append(probs)
        if sent[0] is not None:
            uploads[client] = np.stack([probs for probs in sent if probs is not None])
    return ShadowModels(included, logits, at_upload, uploads)


def _halves(count: int, candidates: int, stream: np.random.Generator) -> Bool[np.ndarray, "M n"]:
    """Return coins of which every candidate's fall in for exactly half of the shadows."""
    half = np.arange(count)[:, None] < count // 2
    return stream.permuted(np.repeat(half, candidates, axis=1), axis=0)


def _apart(context: ClientContext, client: int, rows: np.ndarray, seed: int) -> ClientContext:
    """Return a workplace in which one client has other rows, and streams of its own; what it does
    leaves no trace.
    """
    train = tuple(rows if i == client else own for i, own in enumerate(context.division.train))
    return replace(
        context,
        division=replace(context.division, train=train),
        enforcer=replace(context.enforcer, seed=seed),
        codecs=None,  # each upload is coded and decoded alone, below
        store=_OneState(),
        seed=seed,
        deadline=None,
        batch_clients=frozenset(),
        precomputed={},
        _threads=threading.local(),
    )


def _follow(
    context: ClientContext,
    client: int,
    teachers: Mapping[int, Knowledge],
    rounds: int,
    distills_first: bool,
    codecs: Codecs | None,
    asked: Tensor,
) -> tuple[Float[np.ndarray, "N C"] | None, Float[np.ndarray, "n C"]]:
    """Let a client take part in all rounds; return the mean of its soft labels, and its answers at
    its last upload.

    None where it sends something else than predictions.
    """
    kind = context.kind
    assert kind is not None, "checked before the run"
    predicts = isinstance(kind, PublicPredictions) and kind.chooser is None
    ids = torch.arange(context.task.public_size)
    sent: list[Tensor] = []
    for round_number in range(1, rounds + 1):
        teacher = teachers.get(round_number)
        before: list[Step] = (
            ["pretrain"] if round_number == 1 and context.training.public_epochs else []
        )
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
            sent.append(_probs_of(_received(kind, upload.knowledge, codecs)))
        if round_number == rounds:
            answers = _answers(context, client, asked)
        if teacher is not None and not distills_first:
            learn: Step = "adopt" if kind.learned_by == "adopt" else "distill"
            take_part(
                context, client, Download(round=round_number, steps=(learn,), teacher=teacher)
            )
    return (torch.stack(sent).mean(dim=0).numpy() if sent else None), answers


def _answers(context: ClientContext, client: int, asked: Tensor) -> Float[np.ndarray, "n C"]:
    model, _ = context.model(client)
    return predict(model, asked).cpu().numpy()


def _received(kind: KnowledgeType, knowledge: Predictions, codecs: Codecs | None) -> Predictions:
    """Return what the server has of an upload after the codec, as of a first message."""
    if codecs is None:
        return knowledge
    arrays, _ = codecs.up.decode(codecs.up.encode(kind.encode(knowledge), None)[0], None)
    received: Predictions = kind.decode(arrays)
    return received


def _probs_of(knowledge: Predictions) -> Float[Tensor, "N C"]:
    """Return soft labels in float64; logits are softened at temperature 1."""
    values = knowledge.values.to(torch.float64)
    return soften(values) if knowledge.scale == "logits" else values


class _OneState:
    """A store for one client."""

    def __init__(self) -> None:
        self._state: ClientState | None = None

    def get(self, client_id: int) -> ClientState | None:
        """Return the state put last."""
        return self._state

    def put(self, client_id: int, round_number: int, state: ClientState) -> None:
        """Keep a copy of a state."""
        self._state = {name: tensor.detach().clone() for name, tensor in state.items()}
