"""What a kind of knowledge finds at a client: ``fedkd.knowledge.ClientView`` of a local update.

Getters alone: nothing is measured or stored here.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fedkd.federation.context import REMEMBERED
from fedkd.federation.fresh_models import fitted
from fedkd.federation.local_update import LocalUpdate
from fedkd.knowledge import ModelPair
from fedkd.messages import Knowledge
from fedkd.models.features import forward_with_features
from fedkd.runtime.seeding import numpy_stream
from fedkd.training.loop import predict, prediction_batches


def public_ids(update: LocalUpdate) -> Int[Tensor, "N"]:
    """Return the public samples that a client is asked about."""
    ids = update.download.public_ids
    assert ids is not None, "knowledge was asked for without saying on what"
    return ids


def public_logits(update: LocalUpdate) -> Float[Tensor, "N C"]:
    """Return the model's logits on the public samples asked about, on the CPU."""
    if update.ahead is not None and update.ahead.logits is not None:
        return update.ahead.logits
    return update.context.task.ask(public_ids(update)).predict(update.model).cpu()


def feature_layer(update: LocalUpdate) -> str:
    """Return the name of the model's last linear layer, whose input are its features."""
    head = update.info.head
    assert head is not None, "declared in needs"
    return head


class KnowledgeView:
    """A client's model and data for a kind of knowledge. See ``fedkd.knowledge.ClientView``."""

    def __init__(self, update: LocalUpdate, logits: Float[Tensor, "N C"] | None = None) -> None:
        """Look at an update; ``logits`` are the model's on public samples, if known already."""
        self.client_id, self.round = update.client_id, update.round
        self.classes = update.context.task.classes
        self.temperature = update.context.distillation.temperature
        self.head = update.info.head
        self.teacher: Knowledge | None = update.teacher
        self._update, self._logits = update, logits

    @property
    def model(self) -> nn.Module:
        """The client's model."""
        return self._update.model

    @property
    def pair(self) -> ModelPair | None:
        """The model and its companion; None without one."""
        update, plan = self._update, self._update.context.companion
        if update.companion is None or plan is None or plan.shared is None:
            return None
        task = update.context.task
        return ModelPair(self.model, update.companion, self.head, plan.head, task.logits)

    @property
    def beside(self) -> nn.Module | None:
        """The client's own modules beside its model; None without any."""
        companion = self._update.companion
        return None if companion is None else companion.beside

    def public_ids(self) -> Int[Tensor, "N"]:
        """Return the public samples asked about."""
        return public_ids(self._update)

    def public_inputs(self) -> Tensor:
        """Return their inputs."""
        return self._update.context.public_inputs_of(self.public_ids())

    def all_public_inputs(self) -> Tensor:
        """Return the inputs of the whole public set."""
        return self._update.context.public_inputs

    def private_inputs(self) -> Tensor:
        """Return the inputs that the client trains on."""
        return self._update.private_examples[0]

    def private_labels(self) -> Int[Tensor, "n"]:
        """Return the labels that the client trains on."""
        return self._update.private_examples[1]

    def public_logits(self) -> Float[Tensor, "N C"]:
        """Return the model's logits on public samples."""
        return public_logits(self._update) if self._logits is None else self._logits

    def private_logits(self) -> Float[Tensor, "n C"]:
        """Return the model's logits on private samples."""
        return predict(self.model, self.private_inputs()).cpu()

    def private_features(self) -> Float[Tensor, "n d"]:
        """Return the model's features of private samples."""
        return self.features_of(self.private_inputs())

    def public_features(self) -> Float[Tensor, "N d"]:
        """Return the model's features of public samples."""
        return self.features_of(self.public_inputs())

    def stream(self, purpose: str) -> np.random.Generator:
        """Return the client's random stream of this round for a purpose."""
        return self._update.stream(purpose)

    def lasting_stream(self, purpose: str) -> np.random.Generator:
        """Return the client's random stream for a purpose, the same in all rounds."""
        return numpy_stream(self._update.context.seed, "client", self.client_id, purpose)

    @property
    def memory(self) -> Mapping[str, Tensor]:
        """What the kind had the client remember, by name."""
        return self._update.memory.section(REMEMBERED)

    @property
    def records(self) -> int:
        """How many private examples anybody may know that the client has."""
        return self._update.context.public_sizes[self.client_id]

    def features_with_gradient(self, ids: Int[Tensor, "N"]) -> Float[Tensor, "N d"]:
        """Return the model's features of public samples as it is now; gradients flow."""
        inputs = self._update.context.public_inputs_of(ids)
        return forward_with_features(self.model, feature_layer(self._update), inputs)[1]

    def fitted(
        self, inputs: Tensor, labels: Int[Tensor, "n"], purpose: str, epochs: int
    ) -> Callable[[Tensor], Float[Tensor, "N C"]]:
        """Return the logits of a fresh model that is trained on labeled samples.

        Args:
            inputs: The samples.
            labels: Their labels.
            purpose: Names its random streams.
            epochs: Passes over the samples.
        """
        return fitted(self._update, inputs, labels, purpose, epochs)

    def features_of(self, inputs: Tensor) -> Float[Tensor, "n d"]:
        """Return the model's features of inputs."""
        head = feature_layer(self._update)
        self.model.eval()
        with torch.no_grad():
            parts = [
                forward_with_features(self.model, head, batch)[1]
                for batch in prediction_batches(inputs)
            ]
        return torch.cat(parts).cpu()
