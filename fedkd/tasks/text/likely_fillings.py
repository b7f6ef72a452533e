"""All fillings of a format that a model finds at most so perplexing, by a search.

Log-perplexity is a sum over tokens, each of them at least 0: once the beginning of a filling is
more perplexing than the bound, so is every filling that begins with it. Of a million fillings a
memorized secret's rank therefore takes a few hundred passes. Not for: ranks of secrets that a model
hardly knows, for which a sample does (``fedkd.tasks.text.exposure``).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedkd.tasks.text.exposure import TIE, log_perplexity
from fedkd.tasks.text.tokens import CausalModel, next_token_logits

MOST_ROWS = 50_000
"""Beginnings of fillings that a search keeps at a time."""


@dataclass(frozen=True)
class TokenSlots:
    """A format as tokens: the separator and the prefix, the tokens of each slot, the suffix."""

    start: tuple[int, ...]
    slots: tuple[tuple[int, ...], ...]
    end: tuple[int, ...] = ()


def likely_fillings(
    model: CausalModel,
    form: TokenSlots,
    most_bits: float,
    *,
    most_rows: int = MOST_ROWS,
    batch: int = 1024,
) -> tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n"]] | None:
    """Return the fillings of at most ``most_bits`` by index, and their log-perplexities.

    None where the search would keep more than ``most_rows`` beginnings. The last slot varies
    fastest in an index, as in ``CanaryFormat.text``. Two log-perplexities that tie are equal.

    Args:
        model: Is asked, in evaluation mode.
        form: The format.
        most_bits: The bound.
        most_rows: Where the search gives up.
        batch: Rows that the model sees at a time.
    """
    rows = torch.tensor([form.start])
    bits = torch.from_numpy(log_perplexity(model, rows))
    index = torch.zeros(1, dtype=torch.int64)
    for slot in form.slots:
        if not len(rows):  # a model need not take an empty batch
            break
        tokens = torch.tensor(slot)
        longer = bits[:, None] + _surprisal(model, rows, batch)[:, tokens]
        begun, letter = (longer <= most_bits + TIE).nonzero(as_tuple=True)
        if len(begun) > most_rows:
            return None
        bits, index = longer[begun, letter], index[begun] * len(slot) + letter
        rows = torch.cat([rows[begun], tokens[letter][:, None]], dim=1)
    if form.end and len(rows):
        rows = torch.cat([rows, torch.tensor([form.end]).expand(len(rows), -1)], dim=1)
        bits = torch.from_numpy(log_perplexity(model, rows, batch))
        index, bits = index[bits <= most_bits + TIE], bits[bits <= most_bits + TIE]
    return index.numpy(), bits.numpy()


def _surprisal(model: CausalModel, rows: Int[Tensor, "n L"], batch: int) -> Float[Tensor, "n V"]:
    """Return the bits of each token that may follow a row."""
    with torch.no_grad():
        logits = [next_token_logits(model, some)[:, -1] for some in torch.split(rows, batch)]
    log_probs = torch.log_softmax(torch.cat(logits).to(torch.float64), dim=-1).cpu()
    return -log_probs / math.log(2)
