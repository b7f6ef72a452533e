"""Rows with one class each whose inputs an encoder makes: tables and series as tasks.

A public sample is a row, a class a label. Not for: images (``fedkd.tasks.images``) and texts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fedkd.data.division import Division, Public
from fedkd.data.public import describe
from fedkd.data.public_rows import PublicRows, choose_public_rows
from fedkd.errors import SettingError
from fedkd.models.factory import ImageModelSpec
from fedkd.models.heads import Heads, label_loss
from fedkd.runtime.devices import sent
from fedkd.settings.conditions import RunConditions
from fedkd.tasks.asked_samples import AskedSamples
from fedkd.tasks.encoders import Encoder, EncoderMaker
from fedkd.tasks.task import Examples, Task, TaskSetup


class AskedRows(AskedSamples):
    """Public rows in the order of their ids."""

    def moved(self, stream: np.random.Generator) -> "AskedSamples":
        """Raise: a row cannot be moved; checked before the run."""
        raise SettingError("distill.student_augmentation=shift is for images")


@dataclass(frozen=True, kw_only=True)
class EncodedRowsTask(Task):
    """A prepared data set whose rows become inputs by an encoder that was fitted to public rows."""

    prepared: Any
    public: PublicRows[Any]
    encoder: Encoder
    heads: Heads
    device: torch.device
    fitted_to: str
    """What the encoder was fitted to, in words."""
    fitted_apart: Mapping[int, Encoder]
    """Each client's own encoder, where they are fitted to private rows."""
    used: np.ndarray
    """The rows that clients and tests have; each client's training rows are in one piece."""
    is_view: bool = False
    """Whether this is the task as one client sees it."""
    _views: dict[int, "EncodedRowsTask"] = field(default_factory=dict, repr=False)
    """The task as a client sees it, by client."""
    _inputs: dict[bytes, Tensor] = field(default_factory=dict, repr=False)
    """A client's rows as it sees them."""

    takes_heads: ClassVar[bool] = True
    audits_records: ClassVar[bool] = True
    prepared_form: ClassVar[type]
    """The prepared form of the kind's data."""

    fit: ClassVar[EncoderMaker]
    """Makes an encoder that is fitted to some rows."""

    @classmethod
    def conflict(cls, conditions: RunConditions) -> str | None:
        """Return the conflict with settings that are for images."""
        for name, is_given in (
            ("public.corruption", conditions.corruption is not None),
            ("public.augmented_views", conditions.augmented_views > 1),
            ("distill.student_augmentation", conditions.student_augmentation != "none"),
        ):
            if is_given:
                return (
                    f"{name} does not go with data={conditions.name_of('data')}: it is for images,"
                    f" and these are {cls.data_kind}; leave it out"
                )
        return None

    @classmethod
    def make(cls, setup: TaskSetup) -> "EncodedRowsTask":
        """Return the task of a run. What an audit planted is in private samples alone."""
        held_back = setup.division.held_back
        if not isinstance(setup.prepared, cls.prepared_form):
            raise SettingError(
                f"data: its task is {cls.data_kind}, and what it loaded is none (docs/extending.md)"
            )
        prepared: Any = setup.prepared
        if len(prepared.class_names) < 2:
            raise SettingError(
                "data.target must name the column of classes; without it the rows can only be a"
                " public set"
            )
        if not len(held_back):
            raise SettingError(
                f"{cls.data_kind} are scaled by public rows of the clients' data set, and"
                " public.reserved=0; give public.reserved=N, or public.size=N with N >= 1"
            )
        public = choose_public_rows(
            setup.public, setup.public_source, prepared, held_back, setup.seed
        )
        train = setup.division.train if setup.preprocessing.fit == "own" else ()
        return cls(
            prepared=setup.trained_on,
            public=public,
            encoder=cls.fit(prepared, held_back, held_back, setup.preprocessing),
            heads=setup.heads,
            device=setup.device,
            used=rows_of(setup.division),
            fitted_to=f"{len(held_back)} public rows",
            fitted_apart={
                client: cls.fit(prepared, rows, held_back, setup.preprocessing)
                for client, rows in enumerate(train)
            },
        )

    def for_client(self, client_id: int) -> "EncodedRowsTask":
        """Return the task with the client's own encoder, where clients have their own."""
        if client_id not in self.fitted_apart:
            return self
        if client_id not in self._views:
            self._views[client_id] = replace(
                self,
                encoder=self.fitted_apart[client_id],
                fitted_to="the client's own training rows",
                fitted_apart={},
                is_view=True,
                _views={},
                _inputs={},
            )
        return self._views[client_id]

    @property
    def classes(self) -> int:
        """C."""
        return len(self.prepared.class_names)

    @property
    def public_size(self) -> int:
        """N."""
        return self.public.size

    @cached_property
    def public_inputs(self) -> Tensor:
        """The public set as model inputs, made once."""
        return self._public_inputs(self.encoder)

    def _public_inputs(self, encoder: Encoder) -> Tensor:
        parts = [encoder.encode(self.prepared, self.public.own)] if len(self.public.own) else []
        foreign = self.public.foreign
        if foreign is not None:
            parts.append(encoder.encode(foreign, np.arange(len(foreign.labels))))
        found = np.concatenate(parts) if parts else np.zeros((0, *encoder.input_shape), np.float32)
        return torch.from_numpy(found).to(self.device)

    @cached_property
    def public_labels(self) -> Tensor:
        """The labels of the public set; -1 unless all of it is of the clients' own data set."""
        labels = self.public.labels
        known = np.full(self.public_size, -1) if labels is None else labels
        return torch.from_numpy(known).to(self.device)

    @cached_property
    def encoded(self) -> Tensor:
        """The used rows of the data set as model inputs, made once."""
        return self._encode(self.used)

    @cached_property
    def _positions(self) -> np.ndarray:
        """By row, where it is in ``encoded``; -1 for one that is not used."""
        positions = np.full(len(self.prepared.labels), -1)
        positions[self.used] = np.arange(len(self.used))
        return positions

    def _encode(self, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(self.encoder.encode(self.prepared, rows)).to(self.device)

    @cached_property
    def labels(self) -> Tensor:
        """The labels of all rows."""
        return torch.from_numpy(np.array(self.prepared.labels, dtype=np.int64)).to(self.device)

    def preprocessing(self) -> Mapping[str, object]:
        """Return the shape of inputs and what was fitted to how many public rows."""
        return {
            "input_shape": list(self.encoder.input_shape),
            "fitted_to": self.fitted_to,
            **self.encoder.facts(),
        }

    def architecture(self, name: str, *, without_heads: bool = False) -> ImageModelSpec:
        """Return the architecture for inputs of this shape and these classes."""
        found = ImageModelSpec(name, self.encoder.input_shape, self.classes, self.heads)
        return found.without_heads if without_heads else found

    def reason_unbatched(self) -> str | None:
        """Return that clients see rows differently, where each has its own encoder."""
        return "each client scales its inputs in its own way" if self.fitted_apart else None

    def describe(self, public: Public, source: str) -> str:
        """Return the public set in words, such as ``60 samples``."""
        return describe(public, source)

    def training_set(self, rows: np.ndarray, owners: Sequence[int]) -> Examples:
        """Return rows as model inputs and labels, whoever owns them.

        A client's own are a view of all: nothing is copied, and nobody may write into them.
        """
        positions = self._positions[rows]
        first, last = (int(positions[0]), int(positions[-1]) + 1) if len(positions) else (-1, -1)
        if self.is_view or first < 0 or not np.array_equal(positions, np.arange(first, last)):
            return self.test_set(rows)
        labels = self.labels[sent(torch.from_numpy(np.asarray(rows)), self.device)]
        return self.encoded[first:last], labels

    def test_set(self, rows: np.ndarray) -> Examples:
        """Return rows as model inputs and labels."""
        rows = np.asarray(rows)
        labels = self.labels[sent(torch.from_numpy(rows), self.device)]
        if self.is_view:  # few of the rows are this client's
            key = rows.tobytes()
            if key not in self._inputs:
                self._inputs[key] = self._encode(rows)
            return self._inputs[key], labels
        positions = self._positions[rows]
        if len(positions) and positions.min() < 0:  # an audit asks about others
            return self._encode(rows), labels
        return self.encoded.index_select(0, sent(torch.from_numpy(positions), self.device)), labels

    def training_size(self, rows: np.ndarray, owners: Sequence[int]) -> int:
        """Return how many rows there are."""
        return len(rows)

    def label_counts(self, rows: np.ndarray, owners: Sequence[int]) -> tuple[int, ...]:
        """Return how many rows each class has."""
        return tuple(np.bincount(self.prepared.labels[rows], minlength=self.classes).tolist())

    def training_loss(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Float[Tensor, ""]:
        """Return the cross-entropy, or the losses of further heads."""
        return label_loss(model, inputs, targets)

    def ask(self, ids: Int[Tensor, "N"] | None = None) -> AskedRows:
        """Return public rows by id."""
        x = self.public_inputs
        return AskedRows(x if ids is None or len(ids) == len(x) else x[sent(ids, self.device)])


def rows_of(division: Division) -> np.ndarray:
    """Return the rows that clients train on, one client after the other, and those of tests."""
    return np.concatenate(
        [*division.train, *division.test, *division.validation, division.global_test]
    )
