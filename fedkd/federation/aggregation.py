"""Aggregation: a round's accepted uploads become one fusion, by the strategy's rule.

Uploads are stacked once all are there, or handed on as they come where the strategy takes a stream.
A threat model and a trusted server's mechanism act here, between the uploads and the rule.
"""

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast

import numpy as np
from jaxtyping import Int
from torch import Tensor

from fedkd.errors import NotFinite, RunError
from fedkd.federation.public_sampling import PublicSampler
from fedkd.knowledge import KnowledgeType, Request, RowKnowledge, Teachers
from fedkd.messages import AcceptedUploads, Cohort, Fusion, StrategyState, Upload
from fedkd.privacy.enforcement import PrivacyEnforcer
from fedkd.privacy.ledger import Spending
from fedkd.robustness.threat_model import ThreatModel
from fedkd.settings.import_paths import attribute_errors_to
from fedkd.strategy import Declaration, SelectsQueries, Strategy, Stream, Streaming
from fedkd.training.losses import Scale


class StackedUploads:
    """The accepted uploads of a round, stored until all are there."""

    def __init__(self) -> None:
        self.accepted: dict[int, Upload] = {}

    @property
    def client_ids(self) -> tuple[int, ...]:
        """The clients whose uploads were accepted, in ascending order."""
        return tuple(sorted(self.accepted))

    def take(self, client_id: int, upload: Upload | None) -> None:
        """Take a client's upload, None where nothing usable came."""
        if upload is not None:
            self.accepted[client_id] = upload

    def discard_largest(self, kind: KnowledgeType | None) -> tuple[int, float]:
        """Discard the upload with the largest number, and return its client and that number."""
        assert kind is not None, "uploads are of a kind"
        largest = {i: _largest(kind.encode(u.knowledge)) for i, u in self.accepted.items()}
        client_id = max(sorted(largest), key=lambda i: largest[i])
        del self.accepted[client_id]
        return client_id, largest[client_id]


class StreamedUploads:
    """Accepted uploads, handed on to a stream by ascending client id as they come.

    Those that are early wait; the others are not stored.
    """

    def __init__(self, stream: Stream, kind: RowKnowledge, expected: Sequence[int]) -> None:
        """Begin with none; ``expected`` are the clients that were asked, in ascending order."""
        self._stream, self._kind, self._expected = stream, kind, list(reversed(expected))
        self._early: dict[int, Tensor | None] = {}
        self._added: list[int] = []

    @property
    def client_ids(self) -> tuple[int, ...]:
        """The clients whose uploads were handed on, in ascending order."""
        return tuple(self._added)

    def take(self, client_id: int, upload: Upload | None) -> None:
        """Take a client's upload, None where nothing usable came; hand on what is next."""
        usable = upload is not None and upload.knowledge is not None
        self._early[client_id] = self._kind.values(upload.knowledge) if usable and upload else None
        while self._expected and self._expected[-1] in self._early:
            following = self._expected.pop()
            values = self._early.pop(following)
            if values is not None:
                self._stream.add(following, values)
                self._added.append(following)

    def fuse(self) -> Fusion:
        """Return the strategy's fusion of the stream."""
        return self._stream.fuse()


@dataclass(frozen=True, kw_only=True)
class Aggregate:
    """One round's fusion, and who learns what from it."""

    fusion: Fusion
    client_ids: tuple[int, ...]
    """The clients of the fusion's rows."""
    teachers: Teachers
    spent: tuple[Spending, ...] = ()
    """What a trusted server's release costs every client."""
    left_out: Mapping[int, str] = field(default_factory=dict)
    """The clients whose accepted uploads were left out of the fusion, and why."""


DECLARED = {
    "public_labels": "public_labels=True",
    "label_counts": "label_counts=True",
    "server": "server_models=()",
}
"""What a cohort has only for a strategy that declares it, and how that is written."""


class Aggregator:
    """Fuses each round's uploads, and keeps the strategy's state between rounds."""

    def __init__(
        self,
        strategy: Strategy,
        declared: Declaration,
        sampler: PublicSampler,
        enforcer: PrivacyEnforcer | None = None,
        threat_model: ThreatModel | None = None,
    ) -> None:
        """Begin without a state.

        Args:
            strategy: The rule.
            declared: What it declares of itself.
            sampler: Chooses public samples, perhaps by the fusions of earlier rounds.
            enforcer: The privacy mechanism; None is without protection.
            threat_model: Attacks and robust means; None is without either.
        """
        self.strategy, self.declared, self.kind = strategy, declared, declared.kind
        self.sampler = sampler
        self.enforcer = enforcer or PrivacyEnforcer(seed=0)
        self.threat_model = threat_model or ThreatModel()
        self.state: StrategyState = None

    def select_queries(self, round_number: int, public_ids: Int[Tensor, "M"]) -> Int[Tensor, "N"]:
        """Return those of the round's public samples that clients predict on."""
        if not self.declared.selects_queries:
            return public_ids
        strategy = cast(SelectsQueries, self.strategy)
        with attribute_errors_to(strategy, "strategy", RunError):
            return strategy.select_queries(round_number, public_ids, self.state)

    def gather(self, trainers: Sequence[int]) -> "StackedUploads | StreamedUploads":
        """Return where the uploads of a round are taken in; ``trainers`` are asked for one each."""
        stacked = (
            self.threat_model.acts
            or self.sampler.looks_at_predictions
            or self.enforcer.central is not None
        )
        if stacked or not self.declared.streams or not isinstance(self.kind, RowKnowledge):
            return StackedUploads()
        with attribute_errors_to(self.strategy, "strategy", RunError):
            stream = cast(Streaming, self.strategy).accumulator(self.state)
            return StreamedUploads(stream, self.kind, trainers)

    def take(
        self, uploads: "StackedUploads | StreamedUploads", client_id: int, upload: Upload | None
    ) -> None:
        """Add a client's accepted upload, or note that it has none."""
        with attribute_errors_to(self.strategy, "strategy", RunError):
            uploads.take(client_id, upload)

    def fuse(
        self, uploads: "StackedUploads | StreamedUploads", request: Request, asked: int
    ) -> Aggregate | None:
        """Fuse the uploads of a round, where necessary without some. Raises RunError.

        While the result is not finite, the upload with the largest number is left out, up to half
        of them: one client's upload may be finite and make all others' worthless.
        """
        left_out: dict[int, str] = {}
        stacked = isinstance(uploads, StackedUploads) and self.enforcer.central is None
        most = len(uploads.client_ids) // 2 if stacked else 0
        while True:
            try:
                found = self._fuse(uploads, request, asked)
            except NotFinite as error:
                if len(left_out) == most or not isinstance(uploads, StackedUploads):
                    raise
                client_id, largest = uploads.discard_largest(self.kind)
                left_out[client_id] = f"{error} with its numbers up to {largest:.3g}"
                continue
            return None if found is None else replace(found, left_out=left_out)

    def _fuse(
        self, uploads: "StackedUploads | StreamedUploads", request: Request, asked: int
    ) -> Aggregate | None:
        """Fuse the uploads of a round, and keep the strategy's new state. Raises RunError.

        Returns None where there is nothing to fuse. A trusted server releases noise even where no
        upload is usable: its silence would depend on private data. ``asked`` clients were asked.
        """
        kind, client_ids = self.kind, uploads.client_ids
        releases = client_ids or (self.enforcer.central is not None and asked)
        if kind is None or not releases:
            return None
        spent: tuple[Spending, ...] = ()
        cohort: AcceptedUploads | None = None
        hint = partial(undeclared_use, self.strategy, request)
        with attribute_errors_to(self.strategy, "strategy", RunError, hint):
            if isinstance(uploads, StreamedUploads):
                fusion = uploads.fuse()
            else:
                cohort = kind.stack(list(uploads.accepted.values()), request)
                cohort = self.threat_model.poisoned(cohort)
                mark = cohort.marked() if isinstance(cohort, Cohort) else 0
                fusion, spent = self._fused(cohort, asked)
                _check_untouched(self.strategy, cohort, mark)
            _check_parts(fusion)
            kind.check_fusion(fusion, client_ids, request, self.declared.teaches)
        if self.sampler.looks_at_predictions:
            assert isinstance(cohort, Cohort), "checked before the run"
            scale = cast(Scale, self.declared.teaches)
            fusion = self.sampler.record_fusion(fusion, cohort, scale)
        self.state = fusion.state
        teachers = kind.teachers(fusion, client_ids, request, self.declared.teaches)
        return Aggregate(fusion=fusion, client_ids=client_ids, teachers=teachers, spent=spent)

    def _fused(self, cohort: AcceptedUploads, asked: int) -> tuple[Fusion, tuple[Spending, ...]]:
        if self.enforcer.central is not None:
            return self.enforcer.fuse(self.strategy, cohort, self.state, asked)
        return self.threat_model.fuse(self.strategy, cohort, self.state), ()


def undeclared_use(strategy: object, request: Request) -> str:
    """Return what a strategy's class reads of cohorts without declaring it, in words.

    Empty where there is nothing, or no source to read. Asked once it has failed: a class may have
    a use for what is not there.
    """
    try:
        source = inspect.getsource(type(strategy))
    except (OSError, TypeError):
        return ""
    read = [
        (field, need)
        for field, need in DECLARED.items()
        if getattr(request, field) is None and re.search(rf"\.{field}\b", source)
    ]
    if not read:
        return ""
    names = " and ".join(f"cohort.{field}" for field, _ in read)
    needs = ", ".join(need for _, need in read)
    return f"; {names} is None without needs = Needs({needs}), from fedkd.strategy"


def _check_untouched(strategy: object, cohort: AcceptedUploads, mark: int) -> None:
    """Raise RunError where a strategy wrote into what it was given since ``mark``."""
    if isinstance(cohort, Cohort) and (name := cohort.written_into(mark)):
        raise RunError(
            f"strategy {type(strategy).__name__} wrote into cohort.{name}, which is not its own;"
            f" take cohort.{name}.clone() first"
        )


def _largest(arrays: Mapping[str, np.ndarray]) -> float:
    """Return the largest magnitude of the floating point numbers in arrays."""
    floats = [array for array in arrays.values() if array.dtype.kind == "f" and array.size]
    return max((float(np.abs(array).max()) for array in floats), default=0.0)


def _check_parts(fusion: object) -> None:
    """Raise RunError unless a strategy returned a Fusion whose metrics are numbers.

    The kind of knowledge checks the rest.
    """
    if not isinstance(fusion, Fusion):
        what = "None" if fusion is None else f"a {type(fusion).__name__}"
        raise RunError(
            f"fuse returned {what}, expected a fedkd.messages.Fusion(weights=..., teachers=...)"
        )
    for name, value in fusion.metrics.items():
        if not (isinstance(name, str) and name and isinstance(value, int | float)):
            raise RunError(f"fuse returned metrics with {name}={value!r}, expected numbers by name")
