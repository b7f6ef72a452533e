"""DENSE (Zhang et al. 2022, arXiv 2112.12371): one shot, distilled on inputs made by the server."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fedkd.errors import RunError
from fedkd.fusion import average_states
from fedkd.knowledge import KnowledgeType, ModelWeights, Request, WeightsCohort
from fedkd.messages import Fusion, ServerModels
from fedkd.runtime.seeding import torch_stream
from fedkd.settings.conditions import RunConditions
from fedkd.settings.validators import at_least, positive
from fedkd.strategy import Needs

NOISE = 64
"""Dimensions of the generator's noise."""


@dataclass(frozen=True, kw_only=True)
class Dense:
    """Make inputs that the clients' ensemble is sure of, and distil the ensemble on them.

        f(x)    = mean_j f_j(x), the logits of all clients' models
        G       anew each epoch; with its noise z it takes Adam's steps on, for random classes y,
                  CE(f(G(z)), y) + batch_norm * mean_j sum_layers (|mean - mean_j| + |var - var_j|)
                  - adversarial * mean(KL(f || f_a) [argmax f != argmax f_a])
        pool    gets the batch of least loss
        f_a     SGD with momentum 0.9 on T^2 KL(f / T || f_a / T) over the pool, T = 20

    f_a begins as the mean of the models of an architecture, weighed by training-set sizes, and
    replaces these. Meant for one round (``rounds=1``) and long local training.

    Only BatchNorm layers know statistics of private inputs: models without any leave that term
    out, and ``strategy/batch_norm_layers`` says 0. Departures: the last layer of the generator is
    standardized by channel, as private inputs are, and not squashed; no random crops and mirrors
    in the pool; each architecture has a pool and a student; fewer and shorter epochs.
    """

    evaluated_after: ClassVar[str] = "distillation"
    needs: ClassVar[Needs] = Needs(public_set=False, shared_initialization=True, server_models=())

    epochs: int = 20
    """Batches that are made, and passes of the student over the pool, >= 1; the paper's are 200."""
    generator_steps: int = 30
    """Steps in which a batch is made, >= 1."""
    generator_learning_rate: float = 1e-3
    """Learning rate of Adam for the generator and its noise, > 0."""
    batch: int = 64
    """Inputs in a batch that is made, and in a step of the student, >= 2; the paper's are 256."""
    batch_norm: float | None = None
    """Weight of the distance from BatchNorm statistics, > 0; null is 1 where models have any."""
    adversarial: float = 1.0
    """Weight of the disagreement with the student, >= 0."""
    temperature: float = 20.0
    """T, at which the student learns, > 0."""
    student_learning_rate: float = 0.01
    """Learning rate of the student, > 0."""

    def __post_init__(self) -> None:
        at_least(1, epochs=self.epochs, generator_steps=self.generator_steps)
        at_least(2, batch=self.batch)
        at_least(0, adversarial=self.adversarial)
        positive(temperature=self.temperature, student_learning_rate=self.student_learning_rate)
        positive(generator_learning_rate=self.generator_learning_rate)
        if self.batch_norm is not None:
            positive(batch_norm=self.batch_norm)

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return the conflict with texts, which no generator of numbers makes."""
        if "text" not in conditions.data_kind:
            return None
        return (
            f"strategy={conditions.strategy} makes inputs by gradients, and tokens have none; use"
            " images, tables or series"
        )

    @property
    def knowledge(self) -> KnowledgeType:
        """The weights of whole models."""
        return ModelsWithStatistics(asks=self.batch_norm)

    def fuse(self, cohort: WeightsCohort, state: None) -> Fusion:
        """Return the student of each architecture; all clients weigh the same."""
        server = cohort.server
        if server is None:
            raise RunError("dense needs models of the server's own to distil into")
        pairs = zip(cohort.architectures, cohort.states, strict=True)
        clients = [server.module(name, weights).requires_grad_(False) for name, weights in pairs]
        ensemble = Ensemble(clients)
        metrics = {
            "ensemble_accuracy": server.measured(ensemble),
            "batch_norm_layers": float(sum(len(norms(model)) for model in clients)),
        }
        students: dict[str, Mapping[str, Tensor]] = {}
        for name, rows in cohort.members().items():
            sizes = torch.tensor([cohort.train_sizes[row] for row in rows], dtype=torch.float32)
            average = average_states([cohort.states[row] for row in rows], sizes / sizes.sum())
            stream = torch_stream(0, "strategy", "dense", "round", cohort.round, name)
            student = self._distilled(server, name, average, ensemble, stream)
            students[name] = {n: t.detach().cpu().clone() for n, t in student.state_dict().items()}
            metrics[f"average_accuracy_{name}"] = server.accuracy(name, average)
            metrics[f"server_accuracy_{name}"] = server.accuracy(name, students[name])
        weights = torch.full((cohort.size, cohort.size), 1 / cohort.size)
        return Fusion(weights=weights, teachers=students, metrics=metrics)

    def _distilled(
        self,
        server: ServerModels,
        name: str,
        start: Mapping[str, Tensor],
        ensemble: "Ensemble",
        stream: torch.Generator,
    ) -> nn.Module:
        """Return an architecture's student after all epochs.

        Args:
            server: The server's models.
            name: The architecture.
            start: The student's weights before.
            ensemble: The clients' models.
            stream: The random stream.
        """
        student = server.module(name, start)
        shape, device = server.example(name).shape[1:], next(student.parameters()).device
        moving = torch.optim.SGD(student.parameters(), lr=self.student_learning_rate, momentum=0.9)
        inputs, logits = list[Tensor](), list[Tensor]()
        with torch.enable_grad():
            for _ in range(self.epochs):
                inputs.append(self.made(ensemble, student, shape, stream, device))
                with torch.no_grad():
                    logits.append(ensemble.eval()(inputs[-1]))
                pool, taught = torch.cat(inputs), torch.cat(logits)
                student.train()
                for rows in torch.randperm(len(pool), generator=stream).split(self.batch):
                    if len(rows) < 2:
                        continue
                    rows = rows.to(device)
                    loss = softened_kl(student(pool[rows]), taught[rows], self.temperature)
                    moving.zero_grad()
                    loss.backward()
                    moving.step()
        return student.eval()

    def made(
        self,
        ensemble: "Ensemble",
        student: nn.Module,
        shape: Sequence[int],
        stream: torch.Generator,
        device: torch.device,
    ) -> Float[Tensor, "batch *shape"]:
        """Return the batch of least loss of a new generator.

        Args:
            ensemble: The clients' models.
            student: The model to disagree with; it is not changed.
            shape: The shape of an input.
            stream: The random stream.
            device: Where models compute.
        """
        ensemble.eval()
        student.eval()
        generator = new_generator(shape, stream).to(device).train()
        noise = torch.randn(self.batch, NOISE, generator=stream).to(device).requires_grad_()
        classes = ensemble.classes(student, generator(noise))
        labels = torch.randint(classes, (self.batch,), generator=stream).to(device)
        optimizer = torch.optim.Adam(
            [*generator.parameters(), noise], lr=self.generator_learning_rate, betas=(0.5, 0.999)
        )
        best, least = torch.empty(0), torch.inf
        for _ in range(self.generator_steps):
            x = generator(noise)
            with statistics_apart(ensemble) as apart:
                logits = ensemble(x)
            loss = F.cross_entropy(logits, labels)
            if apart:
                loss = loss + (self.batch_norm or 1.0) * sum(apart) / len(ensemble.models)
            if self.adversarial:
                loss = loss - self.adversarial * disagreement(logits, student(x))
            if loss.item() < least:
                best, least = x.detach(), loss.item()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if len(best) == 0:
            raise RunError("dense made no input with a finite loss; lower the learning rates")
        return best


@dataclass(frozen=True, kw_only=True)
class ModelsWithStatistics(ModelWeights):
    """Whole models, which must have BatchNorm where a weight of its statistics is given."""

    asks: float | None = None
    """The weight; None takes models as they are."""

    @property
    def reveals_model_only(self) -> bool:
        """Yes: what is uploaded is the model."""
        return True

    def misfit(self, request: Request) -> str | None:
        """Return that no model has statistics, where they were asked for."""
        states = request.shapes.values()
        if self.asks is None or any(n.endswith("running_mean") for s in states for n in s):
            return super().misfit(request)
        return f"strategy.batch_norm={self.asks:g} would do nothing: no model has BatchNorm"


class Ensemble(nn.Module):
    """The mean of the logits of many models."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        """Hold the models."""
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, inputs: Float[Tensor, "n *shape"]) -> Float[Tensor, "n C"]:
        """Return the mean logits."""
        return torch.stack([model(inputs) for model in self.models]).mean(dim=0)

    @torch.no_grad()
    def classes(self, student: nn.Module, inputs: Float[Tensor, "n *shape"]) -> int:
        """Return the number of classes."""
        found: Tensor = student(inputs[:1])
        return found.shape[-1]


def norms(model: nn.Module) -> list[nn.Module]:
    """Return a model's BatchNorm layers that keep statistics."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    return [m for m in model.modules() if isinstance(m, kinds) and m.track_running_stats]


@contextmanager
def statistics_apart(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect, in a block, how far the inputs of each BatchNorm layer are from its statistics."""
    found: list[Tensor] = []

    def compare(layer: nn.Module, given: tuple[Tensor, ...], put_out: Tensor) -> None:
        x = given[0].transpose(0, 1).flatten(1)
        mean, var = x.mean(dim=1), x.var(dim=1, correction=0)
        known, spread = layer.get_buffer("running_mean"), layer.get_buffer("running_var")
        found.append((mean - known).norm() + (var - spread).norm())

    hooks = [layer.register_forward_hook(compare) for layer in norms(model)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def softened_kl(
    student: Float[Tensor, "n C"], teacher: Float[Tensor, "n C"], temperature: float
) -> Float[Tensor, ""]:
    """Return ``T^2 KL(teacher / T || student / T)``, the mean over rows.

    Args:
        student: Logits that learn.
        teacher: Logits that are learned.
        temperature: T.
    """
    target = (teacher / temperature).log_softmax(dim=-1)
    own = (student / temperature).log_softmax(dim=-1)
    return temperature**2 * F.kl_div(own, target, reduction="batchmean", log_target=True)


def disagreement(
    ensemble: Float[Tensor, "n C"], student: Float[Tensor, "n C"]
) -> Float[Tensor, ""]:
    """Return the mean of ``KL(ensemble || student)`` where both choose other classes, else 0.

    >>> same, other = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    >>> disagreement(same, same * 3).item(), round(disagreement(same, other).item(), 4)
    (0.0, 1.5232)
    """
    target, own = ensemble.log_softmax(dim=-1), student.log_softmax(dim=-1)
    each = F.kl_div(own, target, reduction="none", log_target=True).sum(dim=-1)
    return (each * (ensemble.argmax(dim=-1) != student.argmax(dim=-1))).mean()


def new_generator(shape: Sequence[int], stream: torch.Generator) -> nn.Module:
    """Return a network from noise to inputs of a shape, standardized by channel.

    Args:
        shape: Channels, height and width of images, or any other shape of an input.
        stream: The random stream of its weights.
    """
    if len(shape) == 3:
        (channels, height, width), wide = shape, 32
        low = (-(-height // 4), -(-width // 4))
        layers: list[nn.Module] = [
            blank(nn.Linear, NOISE, wide * low[0] * low[1]),
            nn.Unflatten(1, (wide, *low)),
            nn.BatchNorm2d(wide),
            nn.Upsample((-(-height // 2), -(-width // 2))),
            blank(nn.Conv2d, wide, wide, 3, padding=1),
            nn.BatchNorm2d(wide),
            nn.LeakyReLU(0.2),
            nn.Upsample((height, width)),
            blank(nn.Conv2d, wide, channels, 3, padding=1),
            nn.BatchNorm2d(channels, affine=False),
        ]
    else:
        values = int(torch.Size(shape).numel())
        layers = [
            blank(nn.Linear, NOISE, 128),
            nn.BatchNorm1d(128),
            nn.LeakyReLU(0.2),
            blank(nn.Linear, 128, values),
            nn.BatchNorm1d(values, affine=False),
            nn.Unflatten(1, tuple(shape)),
        ]
    for layer in layers:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            fan_in = layer.weight[0].numel()
            nn.init.normal_(layer.weight, std=(2 / fan_in) ** 0.5, generator=stream)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def blank(kind: type[nn.Module], *sizes: int, **more: int) -> nn.Module:
    """Return a layer whose weights are still to be drawn, which takes no global randomness."""
    layer: nn.Module = nn.utils.skip_init(kind, *sizes, **more)
    return layer
