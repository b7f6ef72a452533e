"""Token sequences of different lengths as one tensor, and a causal model's logits of them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from fedkd.errors import SettingError

PAD = -1
"""Fills a row of ``stack_sequences`` behind its last token. No token has this id."""

CausalModel = Callable[[Tensor], Any]
"""Maps token ids [n, L] to logits [n, L, V] of each next token, as a tensor or in the ``logits`` of
an object."""


def stack_sequences(sequences: Sequence[Sequence[int]]) -> Int[Tensor, "n L"]:
    """Return sequences as rows, the shorter ones filled with ``PAD`` at the end.

    >>> stack_sequences([[7, 8], [9]]).tolist()
    [[7, 8], [9, -1]]
    """
    if not sequences or not all(sequences):
        raise SettingError("sequences of tokens must not be empty")
    longest = max(map(len, sequences))
    return torch.tensor([[*sequence, *[PAD] * (longest - len(sequence))] for sequence in sequences])


def next_token_logits(model: CausalModel, ids: Int[Tensor, "n L"]) -> Tensor:
    """Return a causal model's logits [n, L, V] of each next token.

    A model may wrap them in an object with ``logits``.
    Shapes are not enforced here: ``probe_language`` has the words for a model of another shape.
    """
    output = model(ids)
    logits: Tensor = output if isinstance(output, Tensor) else output.logits
    return logits
