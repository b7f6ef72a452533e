"""What a classifier of texts is built from, and a trial of one before any training.

Not for: models of next tokens (``fedkd.tasks.text.language_models``).
"""

from dataclasses import dataclass, field
from functools import partial
from typing import cast

import torch
from jaxtyping import Int
from torch import Tensor, nn

from fedkd.errors import SettingError
from fedkd.models.adapters import Adapters, NoAdapters, SharedModel
from fedkd.models.factory import (
    Factory,
    ModelInfo,
    built_on_trial,
    named_factory,
    traits_of,
)
from fedkd.models.model_names import split_arguments
from fedkd.models.zoo import BUILT_IN
from fedkd.tasks.text.encoded_texts import TokenColumns
from fedkd.tasks.text.language_models import LANGUAGE_ZOO
from fedkd.tasks.text.text_classifiers import TEXT_ZOO


def find_text_factory(name: str) -> Factory:
    """Return the factory of a classifier of texts by its name or import path.

    Raises SettingError for an unknown one, and for a model of something else.
    """
    bare_name = split_arguments(name)[0]
    for zoo, of in ((BUILT_IN, "images"), (LANGUAGE_ZOO, "next tokens")):
        if bare_name in zoo:
            raise SettingError(
                f"models: {name} is a model of {of}, and this data set holds texts with classes;"
                f" take models of {', '.join(TEXT_ZOO)}, as in models=[text_cnn]"
            )
    found = named_factory(name, TEXT_ZOO, "classifier of texts", lambda of: of.find_classifier)
    return cast(Factory, found)


@dataclass(frozen=True)
class TextModelSpec:
    """A factory with the block of token ids that its models read, and the number of classes."""

    name: str
    block: TokenColumns
    columns: int
    """Of a whole row, in which other models have blocks of their own."""
    classes: int
    adapters: Adapters = field(default_factory=NoAdapters)
    shared: SharedModel = field(default_factory=SharedModel, repr=False, compare=False)

    @property
    def arguments(self) -> tuple[object, ...]:
        """What the factory is called with."""
        return self.block.shape, self.classes

    @property
    def is_bare(self) -> bool:
        """Whether the factory's module is the model: there are no adapters in it."""
        return self.adapters == NoAdapters()

    def build(self, seed: int) -> nn.Module:
        """Return a fresh module whose initial weights depend on ``seed`` alone."""
        model = self.adapters.build(self._make, seed, self.shared)
        start, end = self.block.start, self.block.end
        if end - start < self.columns:
            model.register_forward_pre_hook(partial(_take_columns, start, end))
        return model

    def _make(self) -> nn.Module:
        """Return a module without adapters, drawn by the global generator."""
        model: object = find_text_factory(self.name)(self.block.shape, self.classes)
        if not isinstance(model, nn.Module):
            raise SettingError(
                f"models: {self.name} must return a torch.nn.Module, got {type(model).__name__}"
            )
        return model

    def example(
        self, count: int, generator: torch.Generator | None = None
    ) -> Int[Tensor, "{count} columns"]:
        """Return rows of the first token, or of random ones without padding."""
        shape = (count, self.columns)
        if generator is None:
            return torch.zeros(shape, dtype=torch.int64)
        size, _, padding = self.block.shape
        ids = torch.randint(size - 1, shape, generator=generator)
        return ids + (ids >= padding)

    def probe(self, *, features: bool) -> ModelInfo:
        """Build a model, run two rows through it, and return its size and traits.

        Raises SettingError where it cannot be built, fails, or returns no logits [n, C].
        """
        return traits_of(
            built_on_trial(self),
            self.example(2),
            (2, self.classes),
            where=f"models: {self.name}",
            takes="token ids",
            maps=f"token ids [n, L] to logits [n, C] with C = {self.classes}; for n = 2",
            features=features,
        )


def _take_columns(
    start: int, end: int, model: nn.Module, arguments: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Return a model's own block of the columns of its inputs.

    Args:
        start: The block's first column.
        end: The first one behind it.
        model: The model.
        arguments: What its forward was called with.
    """
    return (arguments[0][:, start:end], *arguments[1:])
