"""The seam between the protocol and what travels in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from fedkd.messages import Cohort, Fusion, Predictions, Upload


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the server asked for this round, and so what it accepts.

    ``label_counts`` by client id and ``public_labels`` [N] are None unless the strategy declared that it needs them.
    """

    round: int
    classes: int
    public_ids: Int[Tensor, "N"]
    temperature: float
    train_sizes: Mapping[int, int]
    label_counts: Mapping[int, tuple[int, ...]] | None = None
    public_labels: Int[Tensor, "N"] | None = None


@runtime_checkable
class Kind(Protocol):
    """One kind of knowledge."""

    def extract(self, logits: Float[Tensor, "N C"], ids: Int[Tensor, "N"], temperature: float) -> Predictions:
        """Return a client's knowledge from its logits on the public samples asked for."""

    def arrays(self, knowledge: Predictions) -> dict[str, np.ndarray]:
        """Return the named arrays that travel."""

    def knowledge(self, arrays: Mapping[str, np.ndarray]) -> Predictions:
        """Return the knowledge that ``arrays`` made; UploadRejected where they are not of this kind."""

    def check(self, knowledge: Predictions, request: Request) -> None:
        """Raise UploadRejected unless this is what the server asked for."""

    def stack(self, uploads: Sequence[Upload], request: Request) -> Cohort:
        """Return accepted uploads, sorted by client id, as one cohort."""

    def values(self, knowledge: Predictions) -> Tensor:
        """Return accepted knowledge as the values that a stream takes, as ``stack`` would stack them."""

    def check_fusion(self, fusion: Fusion, shape: tuple[int, int, int], scale: str) -> None:
        """Raise FedkdError unless a strategy returned weights and teachers of the right shape and range.

        ``shape`` is that of the cohort's values, [K, N, C].
        """
