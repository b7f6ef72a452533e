"""Texts with classes as a task: a public sample is a text, a class a label.

Texts become token ids once (``fedkd.tasks.text.encoded_texts``); vocabularies that are not a
model's own are made of public text alone. Not for: next tokens (``fedkd.tasks.text.text_task``).
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from fedkd.data.division import Public
from fedkd.data.texts import PreparedTexts
from fedkd.errors import SettingError
from fedkd.models.adapters import Adapters
from fedkd.models.factory import Factory
from fedkd.models.libraries import library
from fedkd.models.model_names import split_arguments
from fedkd.settings.conditions import RunConditions
from fedkd.settings.model_prefixes import split_prefix
from fedkd.tasks.asked_samples import AskedSamples
from fedkd.tasks.task import Examples, Task, TaskSetup
from fedkd.tasks.text.encoded_texts import TextEncoder, TokenColumns, VocabularyEncoder, encode_all
from fedkd.tasks.text.public_texts import PublicTexts, public_parts
from fedkd.tasks.text.text_specs import TextModelSpec, find_text_factory
from fedkd.tasks.text.tokens_section import Tokens, make_vocabulary


@dataclass(frozen=True, kw_only=True)
class LabeledTextTask(Task):
    """Texts with classes as token ids, with their public set."""

    prepared: PreparedTexts
    """The data set as it was loaded."""
    labels: np.ndarray
    """The class of each row, as it is trained on."""
    blocks: Mapping[str, TokenColumns]
    """By the model's name: its vocabulary and columns. Models may share a block."""
    parts: tuple[PublicTexts, ...]
    adapters: Adapters
    device: torch.device
    placed_public_inputs: Tensor | None = None
    """The public set as model inputs where another process of the machine has made it."""
    _lock: Any = field(default_factory=threading.Lock, repr=False, compare=False)

    data_kind: ClassVar[str] = "labeled texts"
    examples: ClassVar[str] = "texts"
    dealt: ClassVar[str] = "texts"
    record: ClassVar[str] = "text"
    audits_records: ClassVar[bool] = True

    @classmethod
    def conflict(cls, conditions: RunConditions) -> str | None:
        """Return the conflict with settings that are for images."""
        data = conditions.name_of("data")
        noise = conditions.components.get("public_data") == "noise"
        for name, is_given, why in (
            ("public.corruption", conditions.corruption is not None, "is for images"),
            ("public.augmented_views", conditions.augmented_views > 1, "is for images"),
            (
                "distill.student_augmentation",
                conditions.student_augmentation != "none",
                "is for images",
            ),
            ("public_data=noise", noise, "draws numbers, and texts are words"),
        ):
            if is_given:
                return f"{name} does not go with data={data}: it {why}; leave it out"
        return None

    @classmethod
    def factory(cls, name: str) -> Factory:
        """Return the function behind the name of a classifier of texts."""
        return find_text_factory(name)

    @classmethod
    def make(cls, setup: TaskSetup) -> "LabeledTextTask":
        """Return the task of a run. What an audit planted is in private labels alone."""
        prepared = setup.prepared
        if not isinstance(prepared, PreparedTexts):
            raise SettingError("this data set holds no texts, and its task is labeled_texts")
        return cls(
            prepared=prepared,
            labels=np.asarray(setup.trained_on.labels),
            blocks=_blocks(setup, prepared),
            parts=public_parts(setup, prepared),
            adapters=setup.adapters,
            device=setup.device,
            placed_public_inputs=setup.public_inputs,
        )

    @property
    def classes(self) -> int:
        """C."""
        return len(self.prepared.class_names)

    @property
    def public_size(self) -> int:
        """N."""
        return sum(len(part.rows) for part in self.parts)

    @cached_property
    def public_inputs(self) -> Int[Tensor, "N columns"]:
        """The public texts as token ids."""
        if self.placed_public_inputs is not None:
            return self.placed_public_inputs.to(self.device)
        found = [self._ids(part.prepared, part.rows) for part in self.parts]
        return torch.from_numpy(np.concatenate(found)).to(self.device)

    @cached_property
    def public_labels(self) -> Int[Tensor, "N"]:
        """The labels of the public texts; -1 unless all are of the clients' own data set."""
        known = all(part.prepared is self.prepared for part in self.parts)
        labels = [
            part.prepared.labels[part.rows] if known else np.full(len(part.rows), -1)
            for part in self.parts
        ]
        return torch.from_numpy(np.concatenate(labels).astype(np.int64)).to(self.device)

    @property
    def sendable(self) -> np.ndarray | None:
        """The public texts as token ids."""
        found: np.ndarray = self.public_inputs.numpy()
        return found

    def describe(self, public: Public, source: str) -> str:
        """Return the public set in words."""
        sizes = sorted({block.encoder.size for block in self.blocks.values()})
        tokens = " and ".join(f"{size:,}" for size in sizes)
        of = "" if source == "same" else f" of {source}"
        return f"{self.public_size} texts{of}; vocabularies of {tokens} tokens"

    def preprocessing(self) -> Mapping[str, object]:
        """Return by the model's name how texts become its token ids."""
        return {
            "texts": {
                model: {
                    **block.encoder.describe(),
                    "longest": block.end - block.start,
                    "padding": block.encoder.padding,
                }
                for model, block in self.blocks.items()
            }
        }

    def architecture(self, name: str, *, without_heads: bool = False) -> TextModelSpec:
        """Return the architecture for the vocabulary of a model and these classes."""
        if name not in self.blocks:
            raise SettingError(
                f"models: {name} reads texts by a vocabulary that no client's model has; take one"
                f" of {', '.join(self.blocks)}"
            )
        block, columns = self.blocks[name], self._columns
        return TextModelSpec(name, block, columns, self.classes, self.adapters)

    def training_set(self, rows: np.ndarray, owners: Sequence[int]) -> Examples:
        """Return rows as token ids and labels, whoever owns them."""
        return self.test_set(rows)

    def test_set(self, rows: np.ndarray) -> Examples:
        """Return rows as token ids and labels."""
        ids = torch.from_numpy(self._ids(self.prepared, rows)).to(self.device)
        labels = torch.from_numpy(self.labels[rows].astype(np.int64)).to(self.device)
        return ids, labels

    def training_size(self, rows: np.ndarray, owners: Sequence[int]) -> int:
        """Return how many rows there are."""
        return len(rows)

    def label_counts(self, rows: np.ndarray, owners: Sequence[int]) -> tuple[int, ...]:
        """Return how many rows each class has."""
        return tuple(np.bincount(self.labels[rows], minlength=self.classes).tolist())

    def ask(self, ids: Int[Tensor, "N"] | None = None) -> AskedSamples:
        """Return public texts by id."""
        x = self.public_inputs
        return AskedSamples(x if ids is None or len(ids) == len(x) else x[ids.to(self.device)])

    @property
    def _columns(self) -> int:
        return max(block.end for block in self.blocks.values())

    @cached_property
    def _encoded(self) -> dict[str, list[np.ndarray]]:
        return {}

    def _ids(self, prepared: PreparedTexts, rows: np.ndarray) -> Int[np.ndarray, "n columns"]:
        """Return rows of a data set as token ids, all blocks side by side."""
        with self._lock:
            if prepared.key not in self._encoded:
                blocks = {block.start: block for block in self.blocks.values()}
                self._encoded[prepared.key] = [
                    encode_all(prepared, blocks[start]) for start in sorted(blocks)
                ]
        found = np.concatenate([ids[rows] for ids in self._encoded[prepared.key]], axis=1)
        return found.astype(np.int64)


def _blocks(setup: TaskSetup, prepared: PreparedTexts) -> dict[str, TokenColumns]:
    """Return the vocabulary and columns of each model of a run; equal vocabularies are one."""
    tokens: Tokens = setup.tokens
    shared: list[TextEncoder] = []
    blocks: dict[str, TokenColumns] = {}
    known: dict[str, TokenColumns] = {}
    for model in setup.models:
        encoder = _encoder(model, setup, prepared, shared)
        if encoder.key not in known:
            start = tokens.context * len(known)
            known[encoder.key] = TokenColumns(encoder, start, start + tokens.context)
        blocks[model] = known[encoder.key]
    return blocks


def _encoder(
    model: str, setup: TaskSetup, prepared: PreparedTexts, shared: list[TextEncoder]
) -> TextEncoder:
    """Return what makes token ids for a model: its own tokenizer, or the run's vocabulary.

    Args:
        model: The model's name.
        setup: The task's.
        prepared: The data set.
        shared: Keeps the run's vocabulary, which is made for the first model that has none.
    """
    prefixed = split_prefix(split_arguments(model)[0])
    if prefixed is not None:
        own: TextEncoder = library(prefixed[0]).tokenizer(prefixed[1])
        return own
    if not shared:
        texts = prepared.texts(setup.division.held_back)
        shared.append(VocabularyEncoder(make_vocabulary(setup.tokens, "words", texts)))
    return shared[0]
