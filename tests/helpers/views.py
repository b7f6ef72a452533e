"""A client as a kind of knowledge finds it, without a federation around it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedkd.runtime.seeding import numpy_stream


@dataclass
class View:
    """What a test says of a client; what it leaves out is empty. Predictions are given, not
    computed."""

    logits: Tensor = field(default_factory=lambda: torch.zeros(0, 3))
    ids: Tensor = field(default_factory=lambda: torch.arange(0))
    temperature: float = 1.0
    inputs: Tensor = field(default_factory=lambda: torch.zeros(0, 1, 2, 2))
    own_logits: Tensor = field(default_factory=lambda: torch.zeros(0, 3))
    own_features: Tensor = field(default_factory=lambda: torch.zeros(0, 2))
    features: Tensor = field(default_factory=lambda: torch.zeros(0, 2))
    own_inputs: Tensor = field(default_factory=lambda: torch.zeros(0, 1, 2, 2))
    own_labels: Tensor = field(default_factory=lambda: torch.arange(0))
    classes: int = 3
    model: nn.Module = field(default_factory=lambda: nn.Linear(2, 3))
    head: str | None = None
    pair: Any = None
    beside: nn.Module | None = None
    client_id: int = 0
    teacher: Any = None
    round: int = 1
    memory: dict[str, Tensor] = field(default_factory=dict)
    public: Tensor = field(default_factory=lambda: torch.zeros(0, 1, 2, 2))

    def public_ids(self) -> Tensor:
        return self.ids

    def public_inputs(self) -> Tensor:
        return self.inputs

    def private_inputs(self) -> Tensor:
        return self.own_inputs

    def private_labels(self) -> Tensor:
        return self.own_labels

    def public_logits(self) -> Tensor:
        return self.logits

    def private_logits(self) -> Tensor:
        return self.own_logits

    def private_features(self) -> Tensor:
        return self.own_features

    def features_of(self, inputs: Tensor) -> Tensor:
        return inputs.flatten(1)

    def public_features(self) -> Tensor:
        return self.features

    def lasting_stream(self, purpose: str) -> np.random.Generator:
        return numpy_stream(0, "client", self.client_id, purpose)

    def all_public_inputs(self) -> Tensor:
        return self.public

    def features_with_gradient(self, ids: Tensor) -> Tensor:
        found: Tensor = self.model(self.public[ids])
        return found

    @property
    def records(self) -> int:
        return len(self.own_inputs)

    def fitted(self, inputs: Tensor, labels: Tensor, purpose: str, epochs: int) -> Any:
        """A model that gives each input the class of the nearest that it was fitted to."""

        def logits(of: Tensor) -> Tensor:
            apart = torch.cdist(of.flatten(1), inputs.flatten(1))
            return torch.nn.functional.one_hot(labels[apart.argmin(dim=1)], self.classes).float()

        return logits

    def stream(self, purpose: str) -> np.random.Generator:
        return numpy_stream(0, "client", self.client_id, "round", self.round, purpose)
