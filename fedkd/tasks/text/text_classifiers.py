"""Classifiers of texts: rows of token ids, filled up with a padding token -> logits of classes.

A small zoo by name, built from scratch. A factory is called with ``(tokens, classes)``, where
``tokens`` are the vocabulary's size, the longest text in tokens, and the padding token. Not for:
models of next tokens (``fedkd.tasks.text.language_models``), and networks of Hugging Face
(``fedkd.models.hugging_face``).
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fedkd.errors import SettingError
from fedkd.models.factory import Factory
from fedkd.tasks.text.language_models import Block

TokenShape = tuple[int, int, int]
"""The number of tokens, the longest text in tokens, and the token that fills a row up."""


def without_padding(ids: Int[Tensor, "n L"], padding: int) -> Int[Tensor, "n l"]:
    """Return rows without the columns at the end that are padding in all of them; one is left.

    >>> without_padding(torch.tensor([[5, 9, 9], [5, 6, 9]]), padding=9).tolist()
    [[5, 9], [5, 6]]
    """
    used = (ids != padding).any(dim=0).nonzero()
    return ids[:, : max(1, int(used[-1]) + 1 if len(used) else 1)]


def mean_of_tokens(
    states: Float[Tensor, "n L d"], real: Bool[Tensor, "n L"]
) -> Float[Tensor, "n d"]:
    """Return the mean of each row's states where it has a token; zeros where it has none."""
    weights = real.to(states.dtype)[..., None]
    mean: Tensor = (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
    return mean


class Bag(nn.Module):
    """The mean of a text's token embeddings and two linear layers (Joulin et al. 2017)."""

    def __init__(self, tokens: TokenShape, classes: int, width: int = 64) -> None:
        super().__init__()
        size, _, self.padding = tokens
        self.embedding = nn.Embedding(size, width)
        self.hidden, self.head = nn.Linear(width, width), nn.Linear(width, classes)

    def forward(self, ids: Int[Tensor, "n L"]) -> Float[Tensor, "n C"]:
        """Return the logits of the classes."""
        ids = without_padding(ids, self.padding)
        mean = mean_of_tokens(self.embedding(ids), ids != self.padding)
        logits: Tensor = self.head(torch.relu(self.hidden(mean)))
        return logits


class TextCnn(nn.Module):
    """Convolutions over three and five tokens, and the largest answer of each (Kim 2014)."""

    def __init__(
        self, tokens: TokenShape, classes: int, width: int = 64, filters: int = 64
    ) -> None:
        super().__init__()
        size, _, self.padding = tokens
        self.embedding = nn.Embedding(size, width)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width, filters, kernel, padding=kernel // 2) for kernel in (3, 5)
        )
        self.head = nn.Linear(2 * filters, classes)

    def forward(self, ids: Int[Tensor, "n L"]) -> Float[Tensor, "n C"]:
        """Return the logits of the classes."""
        ids = without_padding(ids, self.padding)
        real = (ids != self.padding)[:, None]
        states = self.embedding(ids).transpose(1, 2) * real
        # Answers are 0 or more: those at padding, which are set to 0, are never the largest.
        answers = [(torch.relu(layer(states)) * real).amax(dim=2) for layer in self.convolutions]
        logits: Tensor = self.head(torch.cat(answers, dim=1))
        return logits


class TextTransformer(nn.Module):
    """A small transformer encoder with learned positions, and the mean of its states."""

    def __init__(
        self, tokens: TokenShape, classes: int, width: int = 64, heads: int = 4, layers: int = 2
    ) -> None:
        super().__init__()
        if width % heads:
            raise SettingError(
                f"models: text_transformer(width={width}, heads={heads}): heads must divide width"
            )
        size, context, self.padding = tokens
        self.embedding, self.position = nn.Embedding(size, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads, widening=2) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)
        for table in (self.embedding, self.position):
            nn.init.normal_(table.weight, std=width**-0.5)

    def forward(self, ids: Int[Tensor, "n L"]) -> Float[Tensor, "n C"]:
        """Return the logits of the classes."""
        ids = without_padding(ids, self.padding)
        real = ids != self.padding
        # Looked up row by row, so that the gradient of a single row can be found (DP-SGD).
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        states = self.embedding(ids) + self.position(positions)
        # A text without tokens sees its padding: attention to nothing would be no number.
        seen = (real | ~real.any(dim=1, keepdim=True))[:, None, None]
        for block in self.blocks:
            states = block(states, seen)
        logits: Tensor = self.head(mean_of_tokens(self.norm(states), real))
        return logits


TEXT_ZOO: dict[str, Factory] = {
    "bag": Bag,
    "text_cnn": TextCnn,
    "text_transformer": TextTransformer,
}
"""They have 68, 97 and 135 thousand parameters, with 1,000 tokens, texts of 64 and 6 classes."""
