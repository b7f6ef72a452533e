"""What a run's clients have beside their models: its architecture, and how each begins.

Not for: how they learn (``fedkd.knowledge.companions``), when they are stored
(``fedkd.federation.local_update``).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from fedkd.knowledge import SharedCompanion
from fedkd.models.companion import Companion
from fedkd.models.factory import ModelInfo, ModelSpec, borrowed_global_generator
from fedkd.runtime.seeding import torch_seed


class ModuleMaker(Protocol):
    """Makes what a client has beside its model and is never sent."""

    def beside(self, own_width: int | None, companion_width: int | None) -> nn.Module | None:
        """Return new modules for features of such widths; None for none."""


@dataclass(frozen=True)
class SecondModel:
    """The second model of every client: its architecture, and what is known of it."""

    spec: ModelSpec
    info: ModelInfo


@dataclass(frozen=True)
class CompanionPlan:
    """What clients of a run have beside their models: a second one, modules of their own, or both.

    ``shared`` is None where there is no second model.
    """

    shared: SecondModel | None
    maker: ModuleMaker
    seed: int

    @property
    def draws_randomness(self) -> bool:
        """Whether training the second model draws from the global generator."""
        return self.shared is not None and self.shared.info.draws_randomness

    @property
    def head(self) -> str | None:
        """The name of the second model's last linear layer; None where nobody asked for it."""
        return None if self.shared is None else self.shared.info.head

    def module(self, own: ModelInfo, seed: int = 0, own_seed: int = 0) -> Companion:
        """Return a new companion of a model: its shared weights by ``seed``, the others not.

        Args:
            own: What is known of the client's own model.
            seed: Of the weights that all clients begin with.
            own_seed: Of the weights of the client's own modules.
        """
        second = self.shared
        shared = nn.Identity() if second is None else second.spec.build(seed)
        width = None if second is None else second.info.features
        with borrowed_global_generator(own_seed):
            return Companion(shared, self.maker.beside(own.features, width))

    def initial(self, own: ModelInfo, client_id: int) -> Companion:
        """Return the companion that a client begins with."""
        seed = torch_seed(self.seed, "client", client_id, "beside the companion")
        return self.module(own, torch_seed(self.seed, "companion", "weights"), seed)

    def as_shared(self) -> SharedCompanion | None:
        """Return what the server knows of companions; None where clients have no second model."""
        if self.shared is None:
            return None
        seed = torch_seed(self.seed, "companion", "weights")
        state = self.shared.spec.build(seed).state_dict()
        return SharedCompanion(start=state, features=self.shared.info.features)


def floats(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a copy of the floating point tensors of a state, on the CPU."""
    return {
        name: tensor.detach().to("cpu", copy=True)
        for name, tensor in state.items()
        if torch.is_floating_point(tensor)
    }
