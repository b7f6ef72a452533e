"""A global head: clients upload prototypes, and adopt a last layer that the server made of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from fedkd.errors import NotFinite, RunError, UploadRejected
from fedkd.knowledge.knowledge_type import (
    ClientView,
    KnowledgeType,
    Request,
    Teachers,
    conflict_with_estimators,
    narrowed,
)
from fedkd.knowledge.nearest import OwnPrediction, own_predictor
from fedkd.knowledge.predictions import check_weights
from fedkd.knowledge.prototypes import ClassPrototypes, PrototypeCohort, Prototypes
from fedkd.messages import Fusion, Knowledge, Upload
from fedkd.settings.conditions import LearnedBy, RunConditions


@dataclass(frozen=True, kw_only=True)
class LastLinear:
    """A last linear layer: ``weight`` [C, d] and ``bias`` [C]."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True, kw_only=True)
class GlobalHead(KnowledgeType):
    """The knowledge of FedGH: mean features by class go up, a last linear layer comes down.

    Yi et al. 2023, arXiv 2303.13137. A fusion's ``teachers`` are a mapping of ``weight`` [C, d] and
    ``bias`` [C], which every client takes over. Features are as wide for all clients.
    """

    prediction: OwnPrediction = "head"
    """What clients predict by: the layer, or the nearest of their own mean features by class."""
    prototypes: ClassPrototypes = field(default_factory=lambda: ClassPrototypes(weight=1.0))
    """What an upload is; its term of a loss is not used."""
    learned_by: ClassVar[LearnedBy] = "adopt"
    in_words: ClassVar[str] = "the mean features of each class of their private set"

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return the conflict with data without classes, or with models without weights."""
        return self.prototypes.conflict(conditions) or conflict_with_estimators(self, conditions)

    def misfit(self, request: Request) -> str | None:
        """Return which architecture's last layer has no bias, which the server's has."""
        for name, head in request.heads.items():
            if f"{head}.bias" not in request.shapes.get(name, {f"{head}.bias": ()}):
                return f"the last layer of {name}, {head}, has no bias"
        return None

    @property
    def predicts_alone(self) -> bool:
        """Whether the last layer predicts."""
        return self.prediction == "head"

    def most_values(self, request: Request, client_id: int) -> int:
        """Return the values of a prototype of each class."""
        return self.prototypes.most_values(request, client_id)

    def extract(self, view: ClientView) -> Prototypes:
        """Return the mean features, in evaluation mode, of each class of the private set."""
        return self.prototypes.extract(view)

    def encode(self, knowledge: Knowledge) -> dict[str, np.ndarray]:
        """Return the arrays of prototypes, or ``weight`` and ``bias`` of the layer."""
        if isinstance(knowledge, Prototypes):
            return self.prototypes.encode(knowledge)
        layer = narrowed(knowledge, LastLinear)
        return {"weight": layer.weight.numpy(), "bias": layer.bias.numpy()}

    def decode(self, arrays: Mapping[str, np.ndarray]) -> Prototypes | LastLinear:
        """Return the prototypes or the layer in the arrays; UploadRejected for neither."""
        if set(arrays) != {"weight", "bias"}:
            return self.prototypes.decode(arrays)
        weight, bias = arrays["weight"], arrays["bias"]
        if weight.dtype.kind != "f" or bias.dtype.kind != "f":
            raise UploadRejected("expected weight and bias to be numbers")
        if weight.ndim != 2 or bias.shape != weight.shape[:1]:
            raise UploadRejected("expected weight [C, d] and bias [C]")
        return LastLinear(
            weight=torch.tensor(weight, dtype=torch.float32),
            bias=torch.tensor(bias, dtype=torch.float32),
        )

    def check(self, knowledge: Knowledge, request: Request, client_id: int) -> None:
        """Raise UploadRejected unless these are the client's prototypes."""
        if not isinstance(knowledge, Prototypes):
            raise UploadRejected("expected prototypes, got a last layer")
        self.prototypes.check(knowledge, request, client_id)

    def stack(self, uploads: Sequence[Upload], request: Request) -> PrototypeCohort:
        """Return the cohort of prototypes that passed ``check``, sorted by client id."""
        return self.prototypes.stack(uploads, request)

    def check_fusion(
        self, fusion: Fusion, client_ids: Sequence[int], request: Request, scale: str
    ) -> None:
        """Raise RunError unless the layer has the shape of the clients' own, and is finite."""
        check_weights(fusion.weights, len(client_ids))
        layer = _fused_layer(fusion.teachers)
        wide = request.features[request.architectures[0]]
        found = [list(layer.weight.shape), list(layer.bias.shape)]
        if found != [[request.classes, wide], [request.classes]]:
            raise RunError(
                f"fuse returned weight {found[0]} and bias {found[1]}, expected"
                f" {[request.classes, wide]} and {[request.classes]}"
            )
        if not (torch.isfinite(layer.weight).all() and torch.isfinite(layer.bias).all()):
            raise NotFinite("fuse returned a last layer that is not finite")

    def teachers(
        self, fusion: Fusion, client_ids: Sequence[int], request: Request, scale: str
    ) -> Teachers:
        """Return the layer as the teacher of all clients, absent ones included."""
        return Teachers(common=_fused_layer(fusion.teachers))

    def adopt(self, view: ClientView, teacher: Knowledge) -> None:
        """Copy the layer into the model's last linear layer."""
        layer = narrowed(teacher, LastLinear)
        assert view.head is not None, "declared in needs"
        own = view.model.get_submodule(view.head)
        own.load_state_dict({"weight": layer.weight, "bias": layer.bias})

    def predictor(self, view: ClientView, teacher: Knowledge | None) -> nn.Module | None:
        """Return what predicts by the client's own mean features, where that is asked for."""
        return own_predictor(view, self.prediction)


def _fused_layer(teachers: object) -> LastLinear:
    """Return the layer of a fusion; RunError where there is none."""
    if not isinstance(teachers, Mapping) or set(teachers) != {"weight", "bias"}:
        raise RunError("fuse must return teachers as a mapping of weight [C, d] and bias [C]")
    return LastLinear(weight=teachers["weight"], bias=teachers["bias"])
