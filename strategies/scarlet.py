"""SCARLET (Azuma et al. 2025, arXiv 2504.19602): sharpened mean soft labels, kept in a cache."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedkd.codecs import Cached, Codec, Full
from fedkd.fusion import mean_over_clients, uniform_weights
from fedkd.messages import Cohort, Fusion
from fedkd.settings.validators import at_least, at_most, positive


@dataclass(frozen=True, kw_only=True)
class Scarlet:
    """Teach all clients a power of the mean soft label, and ask only for samples not in a cache.

        q(x) = (mean_j p_j(x))^beta / sum_c (mean_j p_j(c | x))^beta

    beta = 1 is the unweighted mean, above 1 sharpens. A cached teacher of a sample serves
    ``duration`` rounds; then clients predict on the sample again. Teachers are of all the round's
    samples; on the way down a row that a client was sent lately is not sent again
    (``codec=cached``), so that both directions are counted as they are. ``state`` is the cache:
    ids, soft labels, rounds. Departures: no server model; a client that was absent may be served
    its copy a few rounds longer, since the codec counts messages and not rounds.
    """

    evaluated_after: ClassVar[str] = "training"
    knowledge: ClassVar[str] = "probs"

    beta: float = 1.5
    """Exponent, > 0 and at most 100; the paper tunes it to the data (about 1 to 2), our default is
    between; the released code's is 2."""
    duration: int = 50
    """Rounds for which a cached teacher serves, >= 1; 1 asks for all samples in every round."""

    def __post_init__(self) -> None:
        positive(beta=self.beta)
        at_most(100, beta=self.beta)
        at_least(1, duration=self.duration)

    @property
    def codec(self) -> tuple[Codec, Codec]:
        """Full uploads; teachers without the rows that were sent lately."""
        return Full(), Cached(duration=self.duration) if self.duration > 1 else Full()

    def select_queries(
        self, round_number: int, public_ids: Int[Tensor, "M"], state: Mapping[str, Tensor] | None
    ) -> Int[Tensor, "N"]:
        """Return the public samples that are not in the cache, or whose entry has expired."""
        if state is None:
            return public_ids
        fresh = state["ids"][round_number - state["rounds"] < self.duration]
        return public_ids[~torch.isin(public_ids, fresh)]

    def fuse(self, cohort: Cohort, state: Mapping[str, Tensor] | None) -> Fusion:
        """Return the teachers of all samples of the round, new and cached."""
        asked = cohort.public_ids
        round_ids = cohort.round_ids if cohort.round_ids is not None else asked
        ids, rounds = asked, torch.full_like(asked, cohort.round)
        probs = sharpen(mean_over_clients(cohort.probs), self.beta)
        if state is not None:
            older = ~torch.isin(state["ids"], asked)
            ids = torch.cat([state["ids"][older], ids])
            probs = torch.cat([state["probs"][older], probs])
            rounds = torch.cat([state["rounds"][older], rounds])
        by_id = ids.argsort()
        cache = {"ids": ids[by_id], "probs": probs[by_id], "rounds": rounds[by_id]}
        return Fusion(
            weights=uniform_weights(cohort.size),
            teachers=cache["probs"][torch.searchsorted(cache["ids"], round_ids)],
            public_ids=round_ids,
            state=cache,
            metrics={"asked": float(len(asked))},
        )


def sharpen(probs: Float[Tensor, "N C"], beta: float) -> Float[Tensor, "N C"]:
    """Return ``p^beta`` with rows that sum to 1, the paper's enhanced entropy reduction.

    beta = 1 is the identity.

    >>> sharpen(torch.tensor([[0.75, 0.25]]), 2.0)
    tensor([[0.9000, 0.1000]])
    """
    if beta == 1:
        return probs
    powers = (probs / probs.amax(dim=-1, keepdim=True)) ** beta
    return powers / powers.sum(dim=-1, keepdim=True)
