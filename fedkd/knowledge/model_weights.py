"""Model weights, which clients of federated averaging upload and adopt."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fedkd.errors import NotFinite, RunError, UploadRejected
from fedkd.fusion import uniform_weights
from fedkd.knowledge.companions import JointLearning, ModelPair
from fedkd.knowledge.knowledge_type import (
    ClientView,
    KnowledgeType,
    Penalty,
    Request,
    Teachers,
)
from fedkd.knowledge.nearest import OwnPrediction, own_predictor
from fedkd.knowledge.predictions import check_weights
from fedkd.knowledge.weight_parts import WHOLE, ModelState, WeightsPart
from fedkd.messages import AcceptedUploads, Fusion, Knowledge, ServerModels, Upload
from fedkd.settings.conditions import LearnedBy


@dataclass(frozen=True, kw_only=True)
class WeightsCohort(AcceptedUploads):
    """The accepted models of one round, sorted by client id.

    ``states[k]`` is what client ``client_ids[k]`` sent of its weights. ``server`` is None unless
    the strategy declares that it needs models of the server's own. ``start`` is what companions
    began with; None where clients have none.
    """

    states: tuple[ModelState, ...]
    architectures: tuple[str, ...]
    public_ids: Int[Tensor, "N"]
    temperature: float = 1.0
    server: ServerModels | None = None
    start: ModelState | None = None

    @property
    def size_shares(self) -> Float[Tensor, "K"]:
        """Each client's share of all training samples; shares sum to 1."""
        sizes = torch.tensor(self.train_sizes, dtype=torch.float32)
        return sizes / sizes.sum()

    def shares_by(self, mean: Literal["weighted", "plain"]) -> Float[Tensor, "K"]:
        """Return each client's share of a mean: of all training samples, or the same for all."""
        return self.size_shares if mean == "weighted" else uniform_weights(self.size)[0]

    def members(self) -> dict[str, list[int]]:
        """Return the rows of the cohort by architecture, ascending."""
        found: dict[str, list[int]] = {}
        for row, name in enumerate(self.architectures):
            found.setdefault(name, []).append(row)
        return found


@dataclass(frozen=True, kw_only=True)
class ModelWeights(KnowledgeType):
    """The knowledge of FedAvg and FedDF: model states, buffers included, whole or a part of them.

    McMahan et al. 2017, arXiv 1602.05629. A fusion's ``teachers`` are a mapping from an
    architecture's name to a state; every client of that architecture, whether it took part or not,
    takes it over. Where ``part`` is common to all architectures, they are one such state for all
    clients. ``proximal`` is FedProx's mu:
    above 0 the private training's loss has the term ``mu / 2 * ||w - w_g||^2``, where w_g are the
    weights that training starts from.
    """

    proximal: float = 0.0
    part: WeightsPart = WHOLE
    prediction: OwnPrediction = "head"
    """What clients predict by: ``nearest`` asks for models with features."""
    joint: JointLearning | None = None
    """How a client's model and its companion learn together; None where it has none."""
    learned_by: ClassVar[LearnedBy] = "adopt"
    uses_features: ClassVar[bool] = False

    @property
    def in_words(self) -> str:
        """What clients send, after "clients send"."""
        return self.part.in_words

    @property
    def predicts_alone(self) -> bool:
        """Whether neither mean features nor a companion predict."""
        return self.prediction == "head" and (self.joint is None or self.joint.predicts_alone)

    @property
    def sends_models(self) -> bool:
        """Whether whole models travel."""
        return self.part.is_whole

    @property
    def reveals_model_only(self) -> bool:
        """Whether there is no proximal term, which is not of single samples.

        Of this class alone: one derived from it may upload more, and says itself if it does not.
        """
        return type(self) is ModelWeights and self.proximal == 0 and self.part.is_own

    def misfit(self, request: Request) -> str | None:
        """Return why clients' models have no such part in common."""
        return self.part.misfit(request)

    @property
    def adds_penalty(self) -> bool:
        """Whether there is a proximal term, or a companion to learn from."""
        return self.proximal > 0 or self.joint is not None

    def most_values(self, request: Request, client_id: int) -> int:
        """Return how many numbers the weights of the client's architecture are."""
        shapes = self.part.shapes(request, request.architectures[client_id])
        return sum(math.prod(shape) for shape in shapes.values())

    def extract(self, view: ClientView) -> ModelState:
        """Return a copy of the weights that travel."""
        taken = self.part.taken(view)
        return {name: tensor.detach().cpu().clone() for name, tensor in taken.items()}

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
        expected = self.part.shapes(request, architecture)
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
            start=None if request.companion is None else request.companion.start,
        )

    def check_fusion(
        self, fusion: Fusion, client_ids: Sequence[int], request: Request, scale: str
    ) -> None:
        """Raise RunError unless each teacher is a finite state of an architecture in the run."""
        check_weights(fusion.weights, len(client_ids))
        for name, state in self._by_architecture(fusion.teachers, request).items():
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
        if self.part.is_common:
            return Teachers(common=_state(fusion.teachers))
        teachers = self._by_architecture(fusion.teachers, request)
        return Teachers(
            personal={i: teachers[n] for i, n in enumerate(request.architectures) if n in teachers}
        )

    def adopt(self, view: ClientView, teacher: Knowledge) -> None:
        """Load the teacher's weights into what they are of."""
        self.part.put(view, _state(teacher))

    def predictor(self, view: ClientView, teacher: Knowledge | None) -> nn.Module | None:
        """Return what predicts in place of the model alone, where something does."""
        if self.joint is not None and isinstance(view.pair, ModelPair):
            return self.joint.predictor(view.pair)
        return own_predictor(view, self.prediction)

    def _by_architecture(self, teachers: object, request: Request) -> Mapping[str, ModelState]:
        """Return a fusion's teachers by architecture; RunError where they are none."""
        if self.part.is_common:
            return {request.architectures[0]: _fused(teachers, "a state")}
        return _fused(teachers, "a mapping from an architecture's name to a model state")

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


def _fused(teachers: object, expected: str) -> Mapping[str, Any]:
    """Return a fusion's teachers; RunError where they are no mapping."""
    if not isinstance(teachers, Mapping):
        raise RunError(f"fuse must return teachers as {expected}")
    return teachers
