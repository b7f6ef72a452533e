"""Causal language models: token ids [N, L] -> logits [N, L, V] of each next token.

A small zoo by name, built from scratch, each under two million parameters for vocabularies of a few
thousand tokens; and any factory by import path, also one whose model returns an object with
``logits``, as Hugging Face models do. A factory is called with ``(vocabulary_size, context)``. Not
for: image models (``fedkd.models``), training (``fedkd.training.loop``).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fedkd.errors import SettingError
from fedkd.models.adapters import Adapters, NoAdapters, SharedModel
from fedkd.models.factory import (
    ModelInfo,
    borrowed_global_generator,
    named_factory,
    sums_to_one,
)
from fedkd.models.model_names import split_arguments
from fedkd.models.zoo import BUILT_IN
from fedkd.tasks.text.tokens import next_token_logits

LanguageFactory = Callable[[int, int], nn.Module]


class Gru(nn.Module):
    """Embedding, gated recurrent units and a linear layer over the vocabulary.

    The units are those of Cho et al. 2014 (arXiv 1406.1078).
    """

    def __init__(self, vocabulary_size: int, width: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, width)
        self.recurrent = nn.GRU(width, hidden, num_layers=layers, batch_first=True)
        self.head = nn.Linear(hidden, vocabulary_size)

    def forward(self, ids: Int[Tensor, "N L"]) -> Float[Tensor, "N L V"]:
        """Return the logits of each next token."""
        logits: Tensor = self.head(self.recurrent(self.embedding(ids))[0])
        return logits


class Block(nn.Module):
    """Self-attention, then two linear layers of ``widening`` times the width.

    Each part stands behind a layer norm and is added to its input.
    """

    def __init__(self, width: int, heads: int, widening: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project_in, self.project_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, widening * width), nn.GELU(), nn.Linear(widening * width, width)
        )

    def forward(
        self, states: Float[Tensor, "N L D"], seen: Bool[Tensor, "N 1 1 L"] | None = None
    ) -> Float[Tensor, "N L D"]:
        """Return the next layer's states.

        A position sees those that ``seen`` has; by default itself and those before it.
        """
        rows, length, width = states.shape
        query, key, value = (
            self.project_in(self.before_attention(states))
            .view(rows, length, 3, self.heads, width // self.heads)
            .permute(2, 0, 3, 1, 4)
        )
        found = F.scaled_dot_product_attention(
            query, key, value, attn_mask=seen, is_causal=seen is None
        )
        states = states + self.project_out(found.transpose(1, 2).reshape(rows, length, width))
        result: Tensor = states + self.mlp(self.before_mlp(states))
        return result


class Decoder(nn.Module):
    """A transformer decoder with learned positions and norms first.

    After Vaswani et al. 2017 (arXiv 1706.03762).
    """

    def __init__(
        self, vocabulary_size: int, context: int, width: int, heads: int, layers: int
    ) -> None:
        super().__init__()
        self.context = context
        self.embedding, self.position = (
            nn.Embedding(vocabulary_size, width),
            nn.Embedding(context, width),
        )
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary_size)
        # Of norm 1 a vector, so that at first positions and tokens matter alike and neither drowns
        # a layer's output.
        for table in (self.embedding, self.position):
            nn.init.normal_(table.weight, std=width**-0.5)

    def forward(self, ids: Int[Tensor, "N L"]) -> Float[Tensor, "N L V"]:
        """Return the logits of each next token; ValueError for rows longer than the context."""
        length = ids.shape[1]
        if length > self.context:
            raise ValueError(
                f"{length} tokens are more than the decoder's context of {self.context}"
            )
        # Looked up row by row, so that the gradient of a single row can be found (DP-SGD).
        positions = torch.arange(length, device=ids.device).expand_as(ids)
        states = self.embedding(ids) + self.position(positions)
        logits: Tensor = self.head(self.norm(self.blocks(states)))
        return logits


LANGUAGE_ZOO: dict[str, LanguageFactory] = {
    "gru_small": lambda vocabulary, context: Gru(vocabulary, width=32, hidden=96, layers=1),
    "gru": lambda vocabulary, context: Gru(vocabulary, width=96, hidden=192, layers=1),
    "gru_wide": lambda vocabulary, context: Gru(vocabulary, width=96, hidden=320, layers=1),
    "gru_deep": lambda vocabulary, context: Gru(vocabulary, width=96, hidden=192, layers=2),
    "decoder_tiny": lambda vocabulary, context: Decoder(
        vocabulary, context, width=32, heads=4, layers=1
    ),
    "decoder_small": lambda vocabulary, context: Decoder(
        vocabulary, context, width=48, heads=4, layers=2
    ),
    "decoder": lambda vocabulary, context: Decoder(
        vocabulary, context, width=96, heads=4, layers=2
    ),
    "decoder_wide": lambda vocabulary, context: Decoder(
        vocabulary, context, width=160, heads=4, layers=2
    ),
    "decoder_deep": lambda vocabulary, context: Decoder(
        vocabulary, context, width=96, heads=4, layers=4
    ),
}
"""They have 43, 179, 418, 401, 17, 64, 238, 642 and 461 thousand parameters, with 40 tokens and
a context of 64."""


def find_language_factory(name: str) -> LanguageFactory:
    """Return the factory called ``name`` in the zoo, or at ``package.module:factory``."""
    if split_arguments(name)[0] in BUILT_IN:
        raise SettingError(
            f"models: {name} is a model of images, and this data set holds texts; take models="
            f" of {', '.join(LANGUAGE_ZOO)}, as in models=[decoder_small]"
        )
    found = named_factory(name, LANGUAGE_ZOO, "language model", lambda of: of.find_language_model)
    return cast(LanguageFactory, found)


@dataclass(frozen=True)
class LanguageModelSpec:
    """A factory with the vocabulary's size and the context: what a language model is built from."""

    name: str
    vocabulary_size: int
    context: int
    adapters: Adapters = field(default_factory=NoAdapters)
    shared: SharedModel = field(default_factory=SharedModel, repr=False, compare=False)

    @property
    def arguments(self) -> tuple[object, ...]:
        """What the factory is called with."""
        return self.vocabulary_size, self.context

    @property
    def is_bare(self) -> bool:
        """Whether the factory's module is the model: there are no adapters in it."""
        return self.adapters == NoAdapters()

    def build(self, seed: int) -> nn.Module:
        """Return a fresh module whose initial weights depend on ``seed`` alone."""
        return self.adapters.build(self._make, seed, self.shared)

    def _make(self) -> nn.Module:
        """Return a module without adapters, drawn by the global generator."""
        model: object = find_language_factory(self.name)(self.vocabulary_size, self.context)
        if not isinstance(model, nn.Module):
            raise SettingError(
                f"models: {self.name} must return a torch.nn.Module, got {type(model).__name__}"
            )
        return model

    def example(
        self, count: int, generator: torch.Generator | None = None
    ) -> Int[Tensor, "{count} L"]:
        """Return ``count`` rows of the first token, or of random ones."""
        shape = (count, self.context)
        if generator is None:
            return torch.zeros(shape, dtype=torch.int64)
        return torch.randint(self.vocabulary_size, shape, generator=generator)

    def probe(self, *, features: bool) -> ModelInfo:
        """Return the model's traits; SettingError where it is no causal model of these tokens."""
        return language_traits(self)


def probe_language(architecture: LanguageModelSpec) -> int:
    """Build a model, run two rows of tokens through it, and return its number of parameters.

    Raises SettingError where the factory or the model fails, the logits are not [N, L, V], or a
    model is not causal: a token later in the row changes the logits before it.
    """
    where, length = f"models: {architecture.name}", architecture.context
    model = architecture.build(seed=0).eval()
    ids = torch.arange(2 * length).view(2, length) % architecture.vocabulary_size
    changed = ids.clone()
    changed[:, -1] = (changed[:, -1] + 1) % architecture.vocabulary_size
    try:
        with torch.no_grad():
            logits, after = next_token_logits(model, ids), next_token_logits(model, changed)
        shape = tuple(logits.shape)
    except Exception as error:
        raise SettingError(
            f"{where} fails on ids of shape [2, {length}]: {type(error).__name__}: {error}"
        ) from error
    expected = (2, length, architecture.vocabulary_size)
    if shape != expected:
        raise SettingError(
            f"{where} must map ids [N, L] to logits [N, L, V] with V = {expected[2]}; for N = 2, L"
            f" = {length} it returned {shape}"
        )
    if not torch.allclose(logits[:, :-1], after[:, :-1], rtol=1e-4, atol=1e-5):
        raise SettingError(
            f"{where} is not causal: the last token of a row changes the logits before it"
        )
    return sum(p.numel() for p in model.parameters())


def language_traits(architecture: LanguageModelSpec) -> ModelInfo:
    """Return a model's traits, without features, once it was tried by ``probe_language``."""
    parameters = probe_language(architecture)
    model = architecture.build(seed=0).train()
    with borrowed_global_generator(0):
        before = torch.get_rng_state()
        logits = next_token_logits(model, architecture.example(2))
        draws_randomness = not torch.equal(before, torch.get_rng_state())
    if not any(p.requires_grad for p in model.parameters()):
        raise SettingError(f"models: {architecture.name} has no trainable parameter")
    return ModelInfo(
        parameters=parameters,
        draws_randomness=draws_randomness,
        sums_to_one=sums_to_one(logits),
    )
