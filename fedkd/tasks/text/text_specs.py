"""What a classifier of texts is built from, and a trial of one before any training.

Not for: models of next tokens (``fedkd.tasks.text.language_models``).
"""

from dataclasses import dataclass, field
from functools import partial
from typing import cast

import torch
from jaxtyping import Int
from torch import Tensor, nn

from fedkd.errors import SettingError, unexpected
from fedkd.models.adapters import Adapters, NoAdapters, SharedModel
from fedkd.models.factory import (
    Factory,
    ModelInfo,
    borrowed_global_generator,
    named_factory,
    sums_to_one,
)
from fedkd.models.features import find_head
from fedkd.models.libraries import library
from fedkd.models.model_names import split_arguments, with_arguments
from fedkd.models.zoo import BUILT_IN
from fedkd.settings.model_prefixes import split_prefix
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
    path, arguments = split_arguments(name)
    prefixed = split_prefix(path)
    if prefixed is not None:
        prefix, inside = prefixed
        factory = library(prefix).find_classifier(inside)
        return cast(Factory, with_arguments(factory, arguments, path))
    return cast(Factory, named_factory(name, TEXT_ZOO, "classifier of texts"))


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
        """Return a trial's result (``probe_text``)."""
        return probe_text(self, features=features)


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


def probe_text(architecture: TextModelSpec, *, features: bool) -> ModelInfo:
    """Build a model, run two rows through it, and return its size and traits.

    Raises SettingError where it cannot be built, fails, or returns no logits [n, C].
    """
    where, ids = f"models: {architecture.name}", architecture.example(2)
    try:
        model = architecture.build(seed=0)
    except SettingError:
        raise
    except Exception as error:
        said = f"{where} could not be built: {type(error).__name__}: {error}"
        raise unexpected(SettingError(said)) from error
    with borrowed_global_generator(0):
        before = torch.get_rng_state()
        try:
            logits = model.train()(ids)
        except Exception as error:
            said = (
                f"{where} fails on token ids of shape {list(ids.shape)}: {type(error).__name__}:"
                f" {error}"
            )
            raise unexpected(SettingError(said)) from error
        draws_randomness = not torch.equal(before, torch.get_rng_state())
    shape = tuple(getattr(logits, "shape", ())) or type(logits).__name__
    if shape != (2, architecture.classes):
        raise SettingError(
            f"{where} must map token ids [n, L] to logits [n, C] with C = {architecture.classes};"
            f" for n = 2 it returned {shape}"
        )
    if not any(p.requires_grad for p in model.parameters()):
        raise SettingError(f"{where} has no trainable parameter")
    head = None
    if features:
        with borrowed_global_generator(0), torch.no_grad():
            head = find_head(model.eval(), ids)
    layer = model.get_submodule(head) if head is not None else None
    return ModelInfo(
        parameters=sum(p.numel() for p in model.parameters()),
        draws_randomness=draws_randomness,
        head=head,
        features=layer.in_features if isinstance(layer, nn.Linear) else None,
        sums_to_one=sums_to_one(logits),
    )
