"""Models of the server's own, trained and predicting on the public set.

For strategies that declare them.

Plain functions over states, so that a strategy's memory stays plain named tensors
(``fedkd.messages.ServerModels``). No private sample is seen here; the balanced test set only
measures.
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from fedkd.federation.context import ClientContext
from fedkd.messages import Predictions, ServerModels
from fedkd.models.factory import ModelInfo, ModelSpec, borrowed_global_generator
from fedkd.runtime.seeding import numpy_stream, torch_seed
from fedkd.tasks.task import batch_device
from fedkd.training.hyperparameters import DistillationSettings
from fedkd.training.loop import optimize
from fedkd.training.losses import LOSSES, distillation_target
from fedkd.training.model_parts import head_parameters, partly_frozen
from fedkd.training.optimizers import Optimizer
from fedkd.training.schedules import RoundOfRun

ModelState = Mapping[str, Tensor]


@dataclass(frozen=True)
class PublicSetModels(ServerModels):
    """The models of one run's server, on the data and device of its context.

    Training steps as the scenario's ``distill`` says (batch size, optimizer, learning rate,
    temperature), always with a fresh optimizer.
    """

    context: ClientContext
    extra: Mapping[str, tuple[ModelSpec, ModelInfo]] = field(default_factory=dict)
    """Architectures that no client has."""
    own: tuple[str, ...] = ()
    """Architectures that begin as the server's own, without what a client learned: they are trained
    whole. In others ``distill`` says what is frozen, and the rate of the head."""

    @property
    def architectures(self) -> tuple[str, ...]:
        """Every client's architecture, by client id."""
        return tuple(architecture.name for architecture in self.context.architectures)

    def initial(self, architecture: str) -> ModelState:
        """Return the state of a fresh model, the same in every round."""
        seed = torch_seed(self.context.seed, "server", "architecture", architecture, "weights")
        return self._architecture(architecture)[0].build(seed).state_dict()

    def predict(
        self, architecture: str, state: ModelState, ids: Int[Tensor, "N"] | None = None
    ) -> Float[Tensor, "N C"]:
        """Return a model's logits on public samples; on all of them by default."""
        return self.context.task.ask(ids).predict(self._model(architecture, state)).cpu()

    def distill(
        self,
        architecture: str,
        state: ModelState,
        teacher: Predictions,
        *,
        loss: str,
        purpose: str,
        round: int,
        epochs: int,
    ) -> ModelState:
        """Return the state after distilling a teacher on its public samples."""
        settings = self.context.distillation
        values = teacher.values.to(self.context.device)
        target = distillation_target(loss, values, teacher.scale, settings.temperature)

        def batch_loss(logits: Tensor, rows: Tensor) -> Tensor:
            return LOSSES[loss](logits, target[rows], settings.temperature)

        return self._train(architecture, state, teacher.ids, batch_loss, purpose, round, epochs)

    def fit(
        self,
        architecture: str,
        state: ModelState,
        ids: Int[Tensor, "N"],
        labels: Int[Tensor, "N"],
        *,
        purpose: str,
        round: int,
        epochs: int,
    ) -> ModelState:
        """Return the state after training on labels of public samples."""
        y = labels.to(self.context.device)

        def batch_loss(logits: Tensor, rows: Tensor) -> Tensor:
            return F.cross_entropy(logits, y[rows])

        return self._train(architecture, state, ids, batch_loss, purpose, round, epochs)

    def accuracy(self, architecture: str, state: ModelState) -> float:
        """Return a model's accuracy on the balanced test set."""
        return self.measured(self._model(architecture, state))

    def measured(self, model: nn.Module) -> float:
        """Return the accuracy of a module on the balanced test set."""
        return self.context.task.evaluate(model, self.context.global_test).accuracy

    def module(self, architecture: str, state: ModelState) -> nn.Module:
        """Return a new module with a state."""
        return self._model(architecture, state)

    def example(self, architecture: str) -> Tensor:
        """Return the simplest input of an architecture."""
        return self._architecture(architecture)[0].example(1)

    def _train(
        self,
        architecture: str,
        state: ModelState,
        ids: Tensor,
        batch_loss: Callable[[Tensor, Tensor], Tensor],
        purpose: str,
        round: int,
        epochs: int,
    ) -> ModelState:
        model, asked = self._model(architecture, state), self.context.task.ask(ids)
        path = ("server", "architecture", architecture, "round", round, purpose)
        parts: dict[str, Any] = {"freeze": (), "head_learning_rate": None}
        phase: DistillationSettings = replace(
            self.context.distillation,
            epochs=epochs,
            steps=None,
            optimizer_state="fresh",
            **(parts if architecture in self.own else {}),
        )
        rounds = self.context.last_round
        at = None if rounds is None else RoundOfRun(round, rounds)
        traits = self._architecture(architecture)[1]
        seed = torch_seed(self.context.seed, *path, "dropout")
        with (
            borrowed_global_generator(seed)
            if traits.draws_randomness
            else contextlib.nullcontext(),
            partly_frozen(model, phase, traits.head),
        ):
            stream = numpy_stream(self.context.seed, *path, "batches")
            head = head_parameters(model, phase, traits.head)
            optimize(
                model,
                asked.size,
                lambda batch: batch_loss(*asked.answers(model, batch)),
                phase,
                stream,
                optimizer=Optimizer(model.parameters(), phase, head),
                at=at,
                batches_on=batch_device(asked),
            )
        return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}

    def _model(self, architecture: str, state: ModelState) -> nn.Module:
        model = self.context.module(self._architecture(architecture)[0])
        model.load_state_dict(dict(state))
        return model

    def _architecture(self, name: str) -> tuple[ModelSpec, ModelInfo]:
        if name in self.extra:
            return self.extra[name]
        architecture = next(a for a in self.context.architectures if a.name == name)
        return architecture, self.context.traits[name]
