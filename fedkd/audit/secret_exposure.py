"""Exposure of secrets in clients' texts, by adversary, measured in a run's last round.

    own_model       each client's model on its own secrets, when it has trained and not yet
                    distilled: the reference; near the ceiling or the run is void, since a secret
                    that was not learned cannot leak
    server_uploads  a student that the server distills from one client's last upload alone, on
                    that client's secrets; left out where that is what server_student learns from
    server_history  the same, from the mean of the logarithms of that client's uploads of all
                    rounds, in which noise that is fresh each round averages out; with
                    text_canaries.upload_history=true alone
    server_student  a student that it distills from the mean of the last teachers, on all secrets
    peers           each client's model at the end of the round, on the others' secrets

Clients measure themselves (``Upload.exposures``, no part of the protocol); the students are trained
here, of the first client's architecture or of ``text_canaries.student``. The same models are asked
for secrets that nobody held, the controls. No figure here is a guarantee.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fedkd.audit.roc import upper_rate
from fedkd.errors import Interrupted, SettingError, UploadRejected
from fedkd.federation.context import ClientContext
from fedkd.fusion import soften
from fedkd.messages import Fusion, Knowledge, Predictions, Upload
from fedkd.runtime.seeding import numpy_stream, torch_seed
from fedkd.tasks.task import PlantedSecrets, batch_device
from fedkd.tasks.text.secrets import median
from fedkd.training.loop import optimize
from fedkd.training.losses import kl

ADVERSARIES = ("own_model", "server_uploads", "server_history", "server_student", "peers")
NEAR = 0.9
"""Share of the ceiling that the own model's mean exposure must reach: below, the run is void."""


class UploadHistory:
    """A client's uploads of all rounds: by public id the sum of logarithms, and how many came."""

    def __init__(self, public_size: int, classes: int) -> None:
        self.logs = torch.zeros(public_size, classes)
        self.times = torch.zeros(public_size)

    def add(self, ids: Int[Tensor, "M"], probs: Float[Tensor, "M V"]) -> None:
        """Add a round's soft labels."""
        self.logs[ids] += probs.clamp(min=1e-12).log()
        self.times[ids] += 1

    def mean(self) -> tuple[Int[Tensor, "M"], Float[Tensor, "M V"]]:
        """Return the ids that ever came, and the soft labels of their mean logarithms.

        Noise on logits is noise on logarithms, but for a part that is equal in a whole row: if it
        is fresh each round, it averages out.
        """
        ids = self.times.nonzero().squeeze(1)
        return ids, soften(self.logs[ids] / self.times[ids, None])


@dataclass
class Exposures:
    """What the rounds of one run gave away. It observes the run's server.

    ``fedkd.federation.server.Observer`` says when it is told of what.
    """

    context: ClientContext
    secrets: PlantedSecrets
    teaches: str
    _uploads: dict[int, Predictions] = field(default_factory=dict, repr=False)
    _history: dict[int, UploadHistory] = field(default_factory=dict, repr=False)
    _metrics: dict[int, dict[str, Any]] = field(default_factory=dict, repr=False)
    _own: dict[int, dict[str, tuple[float, ...]]] = field(default_factory=dict, repr=False)
    _teacher: tuple[Tensor, Tensor] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.secrets.upload_history and self.context.last_round == 1:
            raise SettingError(
                "text_canaries.upload_history=true would do nothing: rounds=1, and the last upload"
                " is all that there is"
            )
        task, student = self.context.task, self.secrets.student
        if student is not None:
            if student == self.context.architectures[0].name:
                raise SettingError(
                    f"text_canaries.student={student} would do nothing: it is the first client's"
                    " model; leave it out"
                )
            try:
                task.probe(task.architecture(student), features=False)
            except SettingError as error:
                raise SettingError(f"text_canaries.student={student}: {error}") from error

    def check(self, upload: Upload) -> None:
        """Raise UploadRejected where exposures are not of the secrets that a client looks for."""
        own = len(self.secrets.of(upload.client_id))
        looked_for = {"own_model": own, "peers": len(self.secrets.inserted) - own}
        for name, values in upload.exposures.items():
            expected = looked_for.get(name, 0) + len(self.secrets.controls)
            if name not in looked_for or len(values) != expected:
                raise UploadRejected(f"exposures of {len(values)} secrets came as {name}")
            if not all(math.isfinite(value) for value in values):
                raise UploadRejected(f"exposures that came as {name} are not finite")

    def received(self, round_number: int, upload: Upload) -> None:
        """Take note of what a client measured."""
        if round_number == self.context.last_round:
            self._metrics.setdefault(upload.client_id, {}).update(upload.metrics)
            self._own.setdefault(upload.client_id, {}).update(upload.exposures)

    def accepted(self, round_number: int, client_id: int, knowledge: Knowledge) -> None:
        """Take note of what the server got from a client."""
        if not isinstance(knowledge, Predictions):
            return
        if round_number == self.context.last_round:
            self._uploads[client_id] = knowledge
        if self.secrets.upload_history:
            history = self._history.get(client_id)
            if history is None:
                history = UploadHistory(self.context.task.public_size, self.context.task.classes)
                self._history[client_id] = history
            history.add(knowledge.ids, self._probs(knowledge.values, knowledge.scale))

    def fused(self, round_number: int, fusion: Fusion, public_ids: Tensor) -> None:
        """Take note of the mean of the teachers, on the rows that all are taught."""
        if round_number != self.context.last_round or not isinstance(fusion.teachers, Tensor):
            return
        ids = public_ids if fusion.public_ids is None else fusion.public_ids
        probs = self._probs(fusion.teachers, self.teaches)
        mean = probs if probs.ndim == 2 else probs.mean(dim=0)
        taught = (
            fusion.taught_rows
            if fusion.taught_rows is None or fusion.taught_rows.ndim == 1
            else fusion.taught_rows.all(dim=0)
        )
        self._teacher = (ids, mean) if taught is None else (ids[taught], mean[taught])

    def state(self) -> dict[str, Mapping[str, Tensor]]:
        """Return the uploads of all rounds so far, for a checkpoint."""
        return {
            str(client_id): {"logs": history.logs, "times": history.times}
            for client_id, history in self._history.items()
        }

    def restore(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take back what ``state`` returned."""
        for client_id, tensors in state.items():
            history = UploadHistory(self.context.task.public_size, self.context.task.classes)
            history.logs, history.times = tensors["logs"], tensors["times"]
            self._history[int(client_id)] = history

    def result(self) -> dict[str, Any]:
        """Return exposures by adversary, the ceiling, and how good detectors were.

        ``void`` says why nothing follows from them, None where something does.
        """
        found = {name: _Found() for name in ADVERSARIES}
        for _, exposures in sorted(self._own.items()):
            for name, values in exposures.items():
                inserted = len(values) - len(self.secrets.controls)
                found[name].add(values[:inserted], values[inserted:])
        for client_id, upload in sorted(self._uploads.items()):
            probs = self._probs(upload.values, upload.scale)
            if self._is_teacher(upload.ids, probs):
                continue
            student = self._student(upload.ids, probs, f"uploads of {client_id}")
            self._ask(student, self.secrets.of(client_id), found["server_uploads"])
        for client_id, history in sorted(self._history.items()):
            student = self._student(*history.mean(), f"uploads of {client_id}")
            self._ask(student, self.secrets.of(client_id), found["server_history"])
        bits = None
        if self._teacher is not None:
            student = self._student(*self._teacher, "student")
            self._ask(student, self.secrets.inserted, found["server_student"])
            bits = self.context.task.evaluate(student, self.context.global_test).nll / math.log(2)
        ceiling, chance = self.secrets.ceiling, self.secrets.chance
        return {
            "ceiling": ceiling,
            "chance": chance,
            "void": void_because(found["own_model"].inserted, ceiling),
            "by_adversary": {
                name: {
                    **summarized(one.inserted, one.held_out, chance),
                    **self._sampled(one.inserted),
                }
                for name, one in found.items()
                if one.inserted
            },
            "server_student_bits_per_token": bits,
            "detector": self._detector(),
        }

    def _is_teacher(self, ids: Tensor, probs: Tensor) -> bool:
        """Return whether one upload, as it came, is all that the last teacher was made of."""
        return (
            len(self._uploads) == 1
            and self._teacher is not None
            and torch.equal(ids, self._teacher[0])
            and torch.equal(probs, self._teacher[1])
        )

    def _sampled(self, exposures: Sequence[float]) -> Mapping[str, Any]:
        """Return how far the mean may be from what all fillings would say, if some were drawn."""
        references = self.secrets.references
        if references is None:
            return {}
        low, high = sampling_bounds(exposures, references, self.secrets.ceiling)
        return {"sampling": {"low": low, "high": high}}

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

    def _probs(self, values: Tensor, scale: str) -> Tensor:
        values = values.to(torch.float32)
        if scale == "logits":
            return soften(values, self.context.distillation.temperature)
        return values

    def _student(self, ids: Tensor, probs: Tensor, name: str) -> nn.Module:
        """Return a fresh model, distilled by forward KL."""
        context, settings = self.context, self.context.distillation
        seed = torch_seed(context.seed, "exposure", "weights")
        architecture = self.secrets.student or context.architectures[0].name
        model = context.task.architecture(architecture).build(seed)
        model = model.to(context.device)
        asked, target = context.task.ask(ids), probs.to(context.device)

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
            batches_on=batch_device(asked),
        )
        return model

    def _ask(self, model: nn.Module, canaries: Sequence[Any], into: "_Found") -> None:
        into.add(*self.secrets.exposures(model, [canaries, self.secrets.controls]))


@dataclass
class _Found:
    """Exposures in bits to one adversary: of inserted secrets, and of controls."""

    inserted: list[float] = field(default_factory=list)
    held_out: list[float] = field(default_factory=list)

    def add(self, inserted: Sequence[float], held_out: Sequence[float]) -> None:
        self.inserted.extend(inserted)
        self.held_out.extend(held_out)


def summarized(
    inserted: Sequence[float], held_out: Sequence[float], chance: float
) -> Mapping[str, Any]:
    """Return exposures in bits: means and medians, the excess over chance, and each secret's.

    ``each`` are the inserted secrets', client by client; ``server_student``, who has one model for
    all, has them form by form.

    >>> found = summarized([10.0, 12.0], [1.0, 2.0], chance=1.5)
    >>> found["inserted"], found["excess"], found["each"]
    ({'mean': 11.0, 'median': 11.0, 'count': 2}, 9.5, [10.0, 12.0])
    """
    return {
        "inserted": _of(inserted),
        "held_out": _of(held_out),
        "excess": statistics.fmean(inserted) - chance,
        "each": list(inserted),
    }


def _of(values: Sequence[float]) -> Mapping[str, float]:
    return {"mean": statistics.fmean(values), "median": median(values), "count": len(values)}


def sampling_bounds(
    exposures: Sequence[float], references: int, ceiling: float
) -> tuple[float, float]:
    """Return bounds of the mean exposure that all fillings would give, from a sample of them.

    They are the means of each secret's 95 % bounds by Clopper and Pearson (1934): of m references
    ``k = m * 2^-exposure - 1`` were preferred to it. An exposure that no k gives was counted among
    all fillings, and is its own bounds; none is above ``ceiling`` bits.

    >>> low, high = sampling_bounds([math.log2(1000 / 11)], references=1000, ceiling=16.6)
    >>> round(low, 2), round(high, 2)
    (5.77, 7.7)
    """
    lows, highs, tail = [], [], 0.025
    for exposure in exposures:
        rank = references * 2**-exposure
        count = round(rank) - 1
        if abs(rank - count - 1) > 1e-6 or count < 0:
            lows.append(exposure)
            highs.append(exposure)
            continue
        largest = upper_rate(count, references, tail)
        smallest = 1 - upper_rate(references - count, references, tail)
        lows.append(max(0.0, -math.log2(largest)))
        highs.append(ceiling if smallest <= 0 else min(ceiling, -math.log2(smallest)))
    return statistics.fmean(lows), statistics.fmean(highs)


def void_because(own: Sequence[float], ceiling: float) -> str | None:
    """Return why nothing follows from a run's exposures, None where something does.

    Nothing follows where clients did not learn their own secrets.

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
        " cannot leak, and no protection is shown to work; train longer, or repeat secrets more"
        " often"
    )
