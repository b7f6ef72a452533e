"""Parts of a client that travel as weights: which tensors, under which names, and who takes them.

Not for: encoding, stacking and checking them (``fedkd.knowledge.model_weights``).
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from fedkd.knowledge.knowledge_type import ClientView, Request
from fedkd.models.last_layers import last_layers

ModelState = Mapping[str, Tensor]
Shapes = Mapping[str, tuple[int, ...]]


@runtime_checkable
class WeightsPart(Protocol):
    """A part of a client's weights. Derive from it."""

    in_words: ClassVar[str]
    """What clients send."""
    is_whole: ClassVar[bool] = False
    """Whether it is a client's whole model."""
    is_common: ClassVar[bool] = False
    """Whether one teacher is for all clients, whatever their architectures."""
    is_own: ClassVar[bool] = True
    """Whether it is of the client's own model, which the task's loss alone trains."""

    @abstractmethod
    def shapes(self, request: Request, architecture: str) -> Shapes:
        """Return the shapes that a client of an architecture sends, by name."""

    @abstractmethod
    def taken(self, view: ClientView) -> ModelState:
        """Return a client's tensors of this part, by the names under which they travel."""

    @abstractmethod
    def put(self, view: ClientView, state: ModelState) -> None:
        """Make tensors the client's own, in place."""

    def misfit(self, request: Request) -> str | None:
        """Return why clients' models have no such part in common; None if they have."""
        return None


@dataclass(frozen=True)
class WholeModel(WeightsPart):
    """A whole model, buffers included: one teacher for each architecture."""

    in_words: ClassVar[str] = "their models' weights"
    is_whole: ClassVar[bool] = True

    def shapes(self, request: Request, architecture: str) -> Shapes:
        """Return the shapes of the architecture's state."""
        return request.shapes[architecture]

    def taken(self, view: ClientView) -> ModelState:
        """Return the model's state."""
        state: ModelState = view.model.state_dict()
        return state

    def put(self, view: ClientView, state: ModelState) -> None:
        """Load the state into the model."""
        view.model.load_state_dict(dict(state))


WHOLE = WholeModel()


@dataclass(frozen=True)
class LastLayers(WeightsPart):
    """The last layers of a model: the same teacher for all architectures, which share their shapes.

    A layer is a module with tensors of its own. Its tensors travel under its place counted from the
    end: ``1.weight`` is the weight of the last linear layer, which puts out the logits.
    """

    count: int
    """Number of layers, >= 1."""
    in_words: ClassVar[str] = "the weights of their models' last layers"
    is_common: ClassVar[bool] = True

    def shapes(self, request: Request, architecture: str) -> Shapes:
        """Return the shapes of the last layers, by the names under which they travel."""
        own = request.shapes[architecture]
        names = last_layers(list(own), request.heads[architecture], self.count)
        return {sent: own[name] for sent, name in names.items()}

    def taken(self, view: ClientView) -> ModelState:
        """Return the tensors of the model's last layers."""
        state = view.model.state_dict()
        return {sent: state[name] for sent, name in self._names(view.model, view.head).items()}

    def put(self, view: ClientView, state: ModelState) -> None:
        """Replace the model's last layers; RuntimeError for tensors of other shapes."""
        names = self._names(view.model, view.head)
        if set(state) != set(names):
            raise RuntimeError(f"expected the tensors {', '.join(names)}")
        own = view.model.state_dict()
        view.model.load_state_dict({**own, **{names[sent]: t for sent, t in state.items()}})

    def misfit(self, request: Request) -> str | None:
        """Return which architectures' last layers differ, or have too few of them."""
        found = {name: self.shapes(request, name) for name in dict.fromkeys(request.architectures)}
        first = next(iter(found))
        for name, shapes in found.items():
            layers = len({sent.partition(".")[0] for sent in shapes})
            if layers < self.count:
                return f"{name} has {layers} layers up to its last linear one, not {self.count}"
            if shapes != found[first]:
                there, here = (
                    ", ".join(f"{sent} {list(shape)}" for sent, shape in found[one].items())
                    for one in (first, name)
                )
                return f"the last layers of {first} are {there}, those of {name} {here}"
        return None

    def _names(self, model: nn.Module, head: str | None) -> dict[str, str]:
        assert head is not None, "declared in needs"
        return last_layers(list(model.state_dict()), head, self.count)
