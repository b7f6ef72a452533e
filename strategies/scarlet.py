"""SCARLET (arXiv 2504.19602): enhanced entropy reduction, and a cache so that few public samples
are asked about.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedkd.codecs import Cached, Codec, Full
from fedkd.fusion import mean_over_clients, uniform_weights
from fedkd.messages import Cohort, Fusion
from fedkd.settings.validators import at_least, at_most, positive


@dataclass(frozen=True, kw_only=True)
class Scarlet:
    """Upload soft labels of samples that the server has no answer to; the teacher is ``q(x) ~
    (mean_j p_j(x))^beta``.

    beta = 1 is the plain mean, above 1 sharpens. An answer serves ``duration`` rounds; then it is
    asked for again. Teachers are of all the round's samples; on the way down a row that a client
    was sent lately is not sent again (``codec=cached``), so that both directions are counted as
    they are. ``state`` is the cache: ids, answers, rounds. Departures: no server model; a client
    that was absent may be served its copy a few rounds longer, since the codec counts messages and
    not rounds.
    """

    knowledge: ClassVar[str] = "probs"

    beta: float = 1.5
    """Exponent, > 0 and at most 100; the paper tunes it to the data (about 1 to 2), our default is
    between."""
    duration: int = 50
    """Rounds for which an answer serves, >= 1; 1 asks for everything in every round."""

    def __post_init__(self) -> None:
        positive(beta=self.beta)
        at_most(100, beta=self.beta)
        at_least(1, duration=self.duration)

    @property
    def codec(self) -> tuple[Codec, Codec]:
        """Uploads in full; teachers without the rows that were sent lately."""
        return Full(), Cached(duration=self.duration) if self.duration > 1 else Full()

    def select_queries(
        self, round_number: int, public_ids: Int[Tensor, "M"], state: Any
    ) -> Int[Tensor, "N"]:
        """Return the samples without an answer, or with one that has expired."""
        if state is None:
            return public_ids
        fresh = state["ids"][round_number - state["rounds"] < self.duration]
        return public_ids[~torch.isin(public_ids, fresh)]

    def fuse(self, cohort: Cohort, state: Any) -> Fusion:
        """Return the answers to all samples of the round, new and cached."""
        asked, everything = (
            cohort.public_ids,
            cohort.round_ids if cohort.round_ids is not None else cohort.public_ids,
        )
        answers = sharpen(mean_over_clients(cohort.probs), self.beta)
        ids, probs, rounds = asked, answers, torch.full_like(asked, cohort.round)
        if state is not None:
            older = ~torch.isin(state["ids"], asked)
            ids = torch.cat([state["ids"][older], ids])
            probs = torch.cat([state["probs"][older], probs])
            rounds = torch.cat([state["rounds"][older], rounds])
        order = ids.argsort()
        cache = {"ids": ids[order], "probs": probs[order], "rounds": rounds[order]}
        return Fusion(
            weights=uniform_weights(cohort.size),
            teachers=cache["probs"][torch.searchsorted(cache["ids"], everything)],
            public_ids=everything,
            state=cache,
            metrics={"asked": float(len(asked))},
        )


def sharpen(probs: Float[Tensor, "N C"], beta: float) -> Float[Tensor, "N C"]:
    """Return ``p^beta`` with rows that sum to 1: enhanced entropy reduction. beta = 1 is the
    identity.

    >>> sharpen(torch.tensor([[0.75, 0.25]]), 2.0)
    tensor([[0.9000, 0.1000]])
    """
    if beta == 1:
        return probs
    powers = (probs / probs.amax(dim=-1, keepdim=True)) ** beta
    return powers / powers.sum(dim=-1, keepdim=True)
