"""Model weights, which clients of federated averaging upload and adopt."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fedkd.errors import NotFinite, RunError, UploadRejected
from fedkd.knowledge.knowledge_type import (
    ClientView,
    KnowledgeType,
    Penalty,
    Request,
    Teachers,
)
from fedkd.knowledge.predictions import check_weights
from fedkd.messages import AcceptedUploads, Fusion, Knowledge, ServerModels, Upload
from fedkd.settings.conditions import LearnedBy

ModelState = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class WeightsCohort(AcceptedUploads):
    """The accepted models of one round, sorted by client id.

    ``states[k]`` is the model state of client ``client_ids[k]``. ``server`` is None unless the
    strategy declares that it needs models of the server's own.
    """

    states: tuple[ModelState, ...]
    architectures: tuple[str, ...]
    public_ids: Int[Tensor, "N"]
    temperature: float = 1.0
    server: ServerModels | None = None

    @property
    def size_shares(self) -> Float[Tensor, "K"]:
        """Each client's share of all training samples; shares sum to 1."""
        sizes = torch.tensor(self.train_sizes, dtype=torch.float32)
        return sizes / sizes.sum()

    def members(self) -> dict[str, list[int]]:
        """Return the rows of the cohort by architecture, ascending."""
        found: dict[str, list[int]] = {}
        for row, name in enumerate(self.architectures):
            found.setdefault(name, []).append(row)
        return found


@dataclass(frozen=True, kw_only=True)
class ModelWeights(KnowledgeType):
    """The knowledge of FedAvg and FedDF: whole model states, buffers included.

    McMahan et al. 2017, arXiv 1602.05629. A fusion's ``teachers`` are a mapping from an
    architecture's name to a state; every client of that architecture, whether it took part or not,
    takes it over. ``proximal`` is FedProx's mu:
    above 0 the private training's loss has the term ``mu / 2 * ||w - w_g||^2``, where w_g are the
    weights that training starts from.
    """

    proximal: float = 0.0
    learned_by: ClassVar[LearnedBy] = "adopt"
    in_words: ClassVar[str] = "their models' weights"
    uses_features: ClassVar[bool] = False

    @property
    def reveals_model_only(self) -> bool:
        """Whether there is no proximal term, which is not of single samples.

        Of this class alone: one derived from it may upload more, and says itself if it does not.
        """
        return type(self) is ModelWeights and self.proximal == 0

    @property
    def adds_penalty(self) -> bool:
        """Whether there is a proximal term."""
        return self.proximal > 0

    def most_values(self, request: Request, client_id: int) -> int:
        """Return how many numbers a model of the client's architecture is made of."""
        shapes = request.shapes[request.architectures[client_id]]
        return sum(math.prod(shape) for shape in shapes.values())

    def extract(self, view: ClientView) -> ModelState:
        """Return a copy of the model's state."""
        return {
            name: tensor.detach().cpu().clone() for name, tensor in view.model.state_dict().items()
        }

    def encode(self, knowledge: Knowledge) -> dict[str, np.ndarray]:
        """Return each tensor as an array under its name."""
        return {name: tensor.numpy() for name, tensor in _state(knowledge).items()}

    def decode(self, arrays: Mapping[str, np.ndarray]) -> ModelState:
        """Return the state in the arrays; UploadRejected for types that no tensor has."""
        try:
            return {name: torch.tensor(array) for name, array in arrays.items()}
        except TypeError as error:
            raise UploadRejected(f"weights cannot be read: {error}") from error

    def check(self, knowledge: Knowledge, request: Request, client_id: int) -> None:
        """Raise UploadRejected on weights that are not finite, or of another architecture."""
        state = _state(knowledge)
        architecture = request.architectures[client_id]
        expected = request.shapes[architecture]
        came = {name: tuple(tensor.shape) for name, tensor in state.items()}
        if came != expected:
            wrong = sorted(
                name for name in {*came, *expected} if came.get(name) != expected.get(name)
            )
            raise UploadRejected(
                f"not the weights of a {architecture}: {', '.join(wrong[:3])} missing or of wrong"
                " shape"
            )
        for name, tensor in state.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise UploadRejected(f"weight {name} is not finite")

    def stack(self, uploads: Sequence[Upload], request: Request) -> WeightsCohort:
        """Return the cohort of states that passed ``check``, sorted by client id."""
        ordered = sorted(uploads, key=lambda upload: upload.client_id)
        ids = tuple(upload.client_id for upload in ordered)
        return WeightsCohort(
            round=request.round,
            client_ids=ids,
            states=tuple(_state(upload.knowledge) for upload in ordered),
            architectures=tuple(request.architectures[i] for i in ids),
            train_sizes=tuple(request.train_sizes[i] for i in ids),
            public_ids=request.public_ids,
            temperature=request.temperature,
            server=request.server,
        )

    def check_fusion(
        self, fusion: Fusion, client_ids: Sequence[int], request: Request, scale: str
    ) -> None:
        """Raise RunError unless each teacher is a finite state of an architecture in the run."""
        check_weights(fusion.weights, len(client_ids))
        for name, state in _fused_states(fusion.teachers).items():
            if name not in request.architectures:
                raise RunError(
                    f"fuse returned weights for {name!r}; the clients have"
                    f" {set(request.architectures)}"
                )
            if any(t.is_floating_point() and not torch.isfinite(t).all() for t in state.values()):
                raise NotFinite(f"fuse returned weights for {name} that are not finite")

    def teachers(
        self, fusion: Fusion, client_ids: Sequence[int], request: Request, scale: str
    ) -> Teachers:
        """Return the state of each client's architecture, if there is one."""
        teachers = _fused_states(fusion.teachers)
        return Teachers(
            personal={i: teachers[n] for i, n in enumerate(request.architectures) if n in teachers}
        )

    def adopt(self, model: nn.Module, teacher: Knowledge) -> None:
        """Load the teacher's weights into the model."""
        model.load_state_dict(dict(_state(teacher)))

    def penalty(self, view: ClientView, teacher: Knowledge | None) -> Penalty | None:
        """Return FedProx's proximal term around the model's present weights; None without mu."""
        if self.proximal == 0:
            return None
        parameters = [parameter for parameter in view.model.parameters() if parameter.requires_grad]
        start = [parameter.detach().clone() for parameter in parameters]
        half = self.proximal / 2

        def term(
            batch: Int[Tensor, "batch"], logits: Float[Tensor, "batch *rows C"], features: object
        ) -> Float[Tensor, ""]:
            moved = [
                (now - then).square().sum() for now, then in zip(parameters, start, strict=True)
            ]
            return half * torch.stack(moved).sum()

        return term


def _state(knowledge: Knowledge) -> ModelState:
    """Return knowledge as the state of a model; TypeError where it is no mapping."""
    if not isinstance(knowledge, Mapping):
        raise TypeError(f"expected a model's state, got a {type(knowledge).__name__}")
    return knowledge


def _fused_states(teachers: object) -> Mapping[str, ModelState]:
    """Return a fusion's teachers by architecture; RunError where they are no mapping."""
    if not isinstance(teachers, Mapping):
        raise RunError(
            "fuse must return teachers as a mapping from an architecture's name to a model state"
        )
    return teachers
