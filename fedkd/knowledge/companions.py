"""A companion's weights as knowledge, and how it and a client's own model learn from each other.

A companion is a small second model at every client, of one architecture for all; its weights are
averaged, and the client's own model stays. Not for: building and storing companions
(``fedkd.federation.companion_plan``).
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from jaxtyping import Float, Num
from torch import Tensor, nn

from fedkd.knowledge.knowledge_type import ClientView, KnowledgeType, Request
from fedkd.knowledge.weight_parts import ModelState, Shapes, WeightsPart
from fedkd.models.companion import Companion
from fedkd.models.features import forward_with_features

LabelLoss = Callable[[Tensor, Tensor], Tensor]
"""The mean loss of logits and labels."""


@dataclass(frozen=True)
class ModelPair:
    """A client's own model and its companion."""

    own: nn.Module
    companion: Companion
    own_head: str | None
    """The name of the own model's last linear layer; None where nobody asked for features."""
    companion_head: str | None
    """That of the companion's."""
    logits_of: Callable[[nn.Module, Tensor], Tensor]
    """What the loss on labels is made of: the logits of a model for a batch of inputs."""

    def logits(self, inputs: Num[Tensor, "n *shape"]) -> tuple[Tensor, Tensor]:
        """Return the logits of both for a batch, the own model's first."""
        return self.logits_of(self.own, inputs), self.logits_of(self.companion.shared, inputs)

    def own_features(
        self, inputs: Num[Tensor, "n *shape"]
    ) -> tuple[Float[Tensor, "n C"], Float[Tensor, "n d"]]:
        """Return the own model's logits and features of a batch."""
        assert self.own_head is not None, "declared in needs"
        return forward_with_features(self.own, self.own_head, inputs)

    def companion_features(
        self, inputs: Num[Tensor, "n *shape"]
    ) -> tuple[Float[Tensor, "n C"], Float[Tensor, "n d"]]:
        """Return the companion's logits and features of a batch."""
        assert self.companion_head is not None, "declared in needs"
        return forward_with_features(self.companion.shared, self.companion_head, inputs)

    def own_layer(self) -> nn.Module:
        """Return the own model's last linear layer."""
        assert self.own_head is not None, "declared in needs"
        return self.own.get_submodule(self.own_head)

    def companion_layer(self) -> nn.Module:
        """Return the companion's last linear layer."""
        assert self.companion_head is not None, "declared in needs"
        return self.companion.shared.get_submodule(self.companion_head)


@runtime_checkable
class JointLearning(Protocol):
    """How a client's model and its companion learn from a private batch. Derive from it.

    A frozen value, made by the strategy. Both models take the steps of the run's optimizer, with
    one state each parameter.
    """

    @property
    def needs_features(self) -> bool:
        """Whether it looks at the features of both models."""
        return False

    @property
    def predicts_alone(self) -> bool:
        """Whether clients predict by their own model alone."""
        return True

    def beside(self, own_width: int | None, companion_width: int | None) -> nn.Module | None:
        """Return a new module of the client's own, such as a projection; None for none.

        It is stored with the client, and never sent. Widths are those of features, None where
        nobody asked for them.
        """
        return None

    def misfit(self, own_width: int | None, companion_width: int | None) -> str | None:
        """Return why models of such widths cannot learn together; None if they can."""
        return None

    @abstractmethod
    def loss(
        self,
        pair: ModelPair,
        inputs: Num[Tensor, "n *shape"],
        labels: Tensor,
        label_loss: LabelLoss,
    ) -> Float[Tensor, ""]:
        """Return the loss of a private batch, whose gradient moves all of the pair.

        Args:
            pair: Both models, in training mode.
            inputs: The batch.
            labels: Its targets.
            label_loss: The run's loss on labels.
        """

    def predictor(self, pair: ModelPair) -> nn.Module | None:
        """Return what the client predicts by; None where that is its own model alone."""
        return None


@runtime_checkable
class JointKnowledge(KnowledgeType, Protocol):
    """A kind whose clients may train a companion beside their model."""

    @property
    def joint(self) -> JointLearning | None:
        """How both learn together; None where there is no companion."""


@dataclass(frozen=True)
class CompanionModel(WeightsPart):
    """The companion's weights: one architecture, and so one teacher, for all clients."""

    sends_changes: bool = False
    """Whether uploads are what a round's training changed, rather than the weights."""
    in_words: ClassVar[str] = "the weights of a small second model"
    is_common: ClassVar[bool] = True
    is_own: ClassVar[bool] = False

    def shapes(self, request: Request, architecture: str) -> Shapes:
        """Return the shapes of the companion's state, the same for all architectures."""
        assert request.companion is not None, "declared in needs"
        return request.companion.shapes

    def taken(self, view: ClientView) -> ModelState:
        """Return the companion's state, or what it changed by since training began."""
        companion = _pair(view).companion
        now: ModelState = companion.shared.state_dict()
        if not self.sends_changes:
            return now
        before = companion.before
        return {
            name: tensor - before[name].to(tensor.device)
            if tensor.is_floating_point() and name in before
            else tensor
            for name, tensor in now.items()
        }

    def put(self, view: ClientView, state: ModelState) -> None:
        """Load the state into the companion."""
        _pair(view).companion.shared.load_state_dict(dict(state))


def _pair(view: ClientView) -> ModelPair:
    pair = view.pair
    assert isinstance(pair, ModelPair), "declared in needs"
    return pair
