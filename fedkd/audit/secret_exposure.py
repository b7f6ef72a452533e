"""How far secrets in clients' texts come out of a run, by adversary: measured in its last round,
for the researcher.

    own_model       each client's model on its own secrets when it has trained and not yet distilled: the reference;
                    near the ceiling or the run is void, since a secret that was not learned cannot leak
    server_uploads  a student that the server distills from one client's last upload alone, on that client's secrets
    server_student  a student that it distills from the mean of the last teachers, on everybody's
    peers           each client's model at the end of the round, on the others' secrets

Clients measure themselves (``Upload.exposures``, no part of the protocol); what the server sees is
trained on here. The same models are asked for secrets that nobody held: chance, 1.443 bits. No
figure here is a guarantee.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fedkd.errors import Interrupted
from fedkd.federation.context import ClientContext
from fedkd.fusion import soften
from fedkd.messages import Fusion, Knowledge, Predictions, Upload
from fedkd.runtime.seeding import numpy_stream, torch_seed
from fedkd.tasks.text.exposure import CHANCE_BITS
from fedkd.tasks.text.secrets import Secrets, median
from fedkd.tasks.text.text_task import TextTask
from fedkd.training.loop import optimize
from fedkd.training.losses import kl

ADVERSARIES = ("own_model", "server_uploads", "server_student", "peers")
NEAR = 0.9
"""Share of the ceiling that the own model's mean exposure must reach: below, the run is void."""


@dataclass
class Exposures:
    """What the last round of one run showed. An observer of its server
    (``fedkd.federation.server.Observer``).
    """

    context: ClientContext
    task: TextTask
    secrets: Secrets
    teaches: str
    _uploads: dict[int, Predictions] = field(default_factory=dict, repr=False)
    _metrics: dict[int, dict[str, Any]] = field(default_factory=dict, repr=False)
    _exposures: dict[int, dict[str, Sequence[float]]] = field(default_factory=dict, repr=False)
    _teacher: tuple[Tensor, Tensor] | None = field(default=None, repr=False)

    def received(self, round_number: int, upload: Upload) -> None:
        """Take note of what a client measured."""
        if round_number == self.context.last_round:
            self._metrics.setdefault(upload.client_id, {}).update(upload.metrics)
            self._exposures.setdefault(upload.client_id, {}).update(upload.exposures)

    def accepted(self, round_number: int, client_id: int, knowledge: Knowledge) -> None:
        """Take note of what the server got from a client."""
        if round_number == self.context.last_round and isinstance(knowledge, Predictions):
            self._uploads[client_id] = knowledge

    def fused(self, round_number: int, fusion: Fusion, public_ids: Tensor) -> None:
        """Take note of the mean of the teachers, on the rows that all are taught."""
        if round_number != self.context.last_round or not isinstance(fusion.teachers, Tensor):
            return
        ids = public_ids if fusion.public_ids is None else fusion.public_ids
        values = fusion.teachers.to(torch.float32)
        probs = (
            soften(values, self.context.distillation.temperature)
            if self.teaches == "logits"
            else values
        )
        mean = probs if probs.ndim == 2 else probs.mean(dim=0)
        kept = (
            fusion.taught_rows
            if fusion.taught_rows is None or fusion.taught_rows.ndim == 1
            else fusion.taught_rows.all(dim=0)
        )
        self._teacher = (ids, mean) if kept is None else (ids[kept], mean[kept])

    def result(self) -> dict[str, Any]:
        """Return exposures by adversary, the ceiling, whether the run is void, and how well
        detectors found them.
        """
        found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in ADVERSARIES}
        for _, measured in sorted(self._exposures.items()):
            for name in ("own_model", "peers"):
                if name in measured:
                    mine, controls = _split(measured[name], len(self.secrets.controls))
                    found[name][0].extend(mine)
                    found[name][1].extend(controls)
        bits: dict[str, float] = {}
        for client_id, upload in sorted(self._uploads.items()):
            student = self._student(upload.ids, self._probs(upload), f"uploads of {client_id}")
            self._ask(student, self.secrets.of(client_id), found["server_uploads"])
        if self._teacher is not None:
            student = self._student(*self._teacher, "student")
            self._ask(student, self.secrets.inserted, found["server_student"])
            bits["server_student"] = self.task.evaluate(
                student, self.context.global_test
            ).nll / math.log(2)
        return {
            "ceiling": self.secrets.ceiling,
            "chance": CHANCE_BITS,
            "void": void_because(found["own_model"][0], self.secrets.ceiling),
            "by_adversary": {
                name: summarized(*found[name]) for name in ADVERSARIES if found[name][0]
            },
            "server_student_bits_per_token": bits.get("server_student"),
            "detector": self._detector(),
        }

    def _detector(self) -> dict[str, float | None] | None:
        shares: dict[str, float | None] = {}
        for name in ("recall", "precision"):
            values = [
                m[f"detector {name}"] for m in self._metrics.values() if f"detector {name}" in m
            ]
            if not values:
                return None
            known = [value for value in values if value >= 0]
            shares[name] = statistics.fmean(known) if known else None
        return shares

    def _probs(self, upload: Predictions) -> Tensor:
        values = upload.values.to(torch.float32)
        return (
            soften(values, self.context.distillation.temperature)
            if upload.scale == "logits"
            else values
        )

    def _student(self, ids: Tensor, probs: Tensor, name: str) -> nn.Module:
        """Return a fresh model of the first architecture, distilled as the clients distill, with
        forward KL.
        """
        context, settings = self.context, self.context.distillation
        seed = torch_seed(context.seed, "exposure", "weights")
        model = self.task.architecture(context.architectures[0].name).build(seed).to(context.device)
        asked, target = self.task.ask(ids), probs.to(context.device)

        def compare(logits: Tensor, rows: Tensor) -> Tensor:
            return kl(logits, target[rows], settings.temperature)

        def check_interrupt() -> None:
            if context.stopped():
                raise Interrupted

        stream = numpy_stream(context.seed, "exposure", name, "batches")
        optimize(
            model,
            asked.size,
            lambda b: asked.taught_loss(model, b, compare),
            settings,
            stream,
            check_interrupt=check_interrupt,
        )
        return model

    def _ask(
        self, model: nn.Module, canaries: Sequence[Any], into: tuple[list[float], list[float]]
    ) -> None:
        mine, controls = self.secrets.exposures(model, [canaries, self.secrets.controls])
        into[0].extend(mine)
        into[1].extend(controls)


def _split(values: Sequence[float], controls: int) -> tuple[Sequence[float], Sequence[float]]:
    return values[: len(values) - controls], values[len(values) - controls :]


def summarized(inserted: Sequence[float], held_out: Sequence[float]) -> Mapping[str, Any]:
    """Return mean and median exposure in bits of inserted and of held-out secrets, and the mean's
    excess over chance.

    >>> found = summarized([10.0, 12.0], [1.0, 2.0])
    >>> found["inserted"], round(found["excess"], 2)
    ({'mean': 11.0, 'median': 11.0, 'count': 2}, 9.56)
    """
    return {
        "inserted": _of(inserted),
        "held_out": _of(held_out),
        "excess": statistics.fmean(inserted) - CHANCE_BITS,
    }


def _of(values: Sequence[float]) -> Mapping[str, float]:
    return {"mean": statistics.fmean(values), "median": median(values), "count": len(values)}


def void_because(own: Sequence[float], ceiling: float) -> str | None:
    """Return why nothing follows from a run's exposures; None where clients did learn their
    secrets.

    >>> void_because([15.0, 16.0], 16.6) is None
    True
    """
    if not own:
        return "no client took part in the last round, so that nobody's secrets were measured"
    mean = statistics.fmean(own)
    if mean >= NEAR * ceiling:
        return None
    return (
        f"the clients' own models expose {mean:.1f} of {ceiling:.1f} bits: what was not learned"
        " cannot leak, and no"
        " protection is shown to work; train longer, or repeat secrets more often"
    )
