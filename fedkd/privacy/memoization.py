"""Memoized answers: a sample that is asked about again gets the same noisy row.

That costs nothing.

What must be kept is the *answer*. To keep the noise alone and add it to a newer prediction would be
a disaster: the difference of two such answers is free of noise.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Answers:
    """The rows ``values`` [M, C] told for public samples ``ids`` [M], which ascend."""

    ids: Int[Tensor, "M"]
    values: Float[Tensor, "M C"]

    def state(self) -> dict[str, Tensor]:
        """Return the answers as named tensors, to be stored with the client."""
        return {"ids": self.ids, "values": self.values}

    @classmethod
    def restore(cls, state: Mapping[str, Tensor]) -> "Answers":
        """Return what ``state`` described."""
        return cls(state["ids"], state["values"])


def answer_once(
    ids: Int[Tensor, "N"],
    values: Float[Tensor, "N C"],
    known: Answers | None,
    release: Callable[[Float[Tensor, "M C"]], Float[Tensor, "M C"]],
) -> tuple[Float[Tensor, "N C"], Answers, int]:
    """Return the rows to tell, all answers so far, and how many rows are new.

    The new ones are what was spent.

    ``release`` makes noisy rows of the new samples' ``values``; what was told before is told again
    to the bit, whatever the model says now. Which samples are new is decided by their public ids
    alone. Ids are distinct.

    Args:
        ids: Public ids of the samples asked about, distinct.
        values: The client's predictions on them.
        known: The answers so far; None before the first.
        release: Makes noisy rows of new ones.
    """
    old = known or Answers(ids[:0], values[:0])
    new = ~torch.isin(ids, old.ids)
    fresh = release(values[new]) if bool(new.any()) else values[:0]
    all_ids, permutation = torch.cat([old.ids, ids[new]]).sort()
    answers = Answers(all_ids, torch.cat([old.values, fresh])[permutation])
    return answers.values[torch.searchsorted(answers.ids, ids)], answers, int(new.sum())
