"""The companions of a run's clients: their architecture, and the state that each begins with.

Not for: how they learn (``fedkd.knowledge.companions``), when they are stored
(``fedkd.federation.local_update``).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedkd.knowledge import JointLearning, SharedCompanion
from fedkd.models.companion import Companion
from fedkd.models.factory import ModelInfo, ModelSpec, borrowed_global_generator
from fedkd.runtime.seeding import torch_seed


@dataclass(frozen=True)
class CompanionPlan:
    """What companions of a run are made of."""

    spec: ModelSpec
    info: ModelInfo
    joint: JointLearning
    seed: int

    def module(self, own: ModelInfo, seed: int = 0, own_seed: int = 0) -> Companion:
        """Return a new companion of a model: its shared weights by ``seed``, the others not.

        Args:
            own: What is known of the client's own model.
            seed: Of the weights that all clients begin with.
            own_seed: Of the weights of the client's own modules.
        """
        shared = self.spec.build(seed)
        with borrowed_global_generator(own_seed):
            return Companion(shared, self.joint.beside(own.features, self.info.features))

    def initial(self, own: ModelInfo, client_id: int) -> Companion:
        """Return the companion that a client begins with."""
        seed = torch_seed(self.seed, "client", client_id, "beside the companion")
        return self.module(own, torch_seed(self.seed, "companion", "weights"), seed)

    def as_shared(self) -> SharedCompanion:
        """Return what the server knows of companions."""
        state = self.spec.build(torch_seed(self.seed, "companion", "weights")).state_dict()
        return SharedCompanion(start=state, features=self.info.features)

    def misfit(self, name: str, own: ModelInfo) -> str | None:
        """Return why an architecture called ``name`` cannot have such a companion."""
        found = self.joint.misfit(own.features, self.info.features)
        return None if found is None else f"{name} beside {self.spec.name}: {found}"


def floats(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a copy of the floating point tensors of a state, on the CPU."""
    return {
        name: tensor.detach().to("cpu", copy=True)
        for name, tensor in state.items()
        if torch.is_floating_point(tensor)
    }
