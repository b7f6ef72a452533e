"""DENSE: what its generator aims at, its student, BatchNorm's statistics, and what is refused."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.errors import RunError, SettingError
from fedkd.knowledge import Request, WeightsCohort
from fedkd.messages import ServerModels
from fedkd.runtime.seeding import torch_stream
from fedkd.settings.conditions import RunConditions
from fedkd.strategies.dense import (
    Dense,
    Ensemble,
    disagreement,
    new_generator,
    norms,
    softened_kl,
    statistics_apart,
)

CPU = torch.device("cpu")


def net(seed: int, *, norm: bool = False) -> nn.Module:
    stream = torch.Generator().manual_seed(seed)
    layers = [nn.Linear(4, 8), *([nn.BatchNorm1d(8)] if norm else []), nn.ReLU(), nn.Linear(8, 3)]
    model = nn.Sequential(*layers)
    for tensor in model.parameters():
        nn.init.normal_(tensor, generator=stream)
    return model.eval()


@dataclass
class Models(ServerModels):
    """A server whose architectures are one small network, measured by nothing."""

    norm: bool = False

    def module(self, architecture: str, state: Mapping[str, Tensor]) -> nn.Module:
        model = net(0, norm=self.norm)
        model.load_state_dict(dict(state))
        return model

    def example(self, architecture: str) -> Tensor:
        return torch.zeros(1, 4)

    def measured(self, model: nn.Module) -> float:
        return 0.5

    def accuracy(self, architecture: str, state: Mapping[str, Tensor]) -> float:
        return 0.25


def cohort_of(models: list[nn.Module], server: Any) -> WeightsCohort:
    return WeightsCohort(
        round=1,
        client_ids=tuple(range(len(models))),
        states=tuple(model.state_dict() for model in models),
        architectures=("net",) * len(models),
        train_sizes=(1, 3)[: len(models)],
        public_ids=torch.arange(0),
        server=server,
    )


def test_the_student_comes_nearer_to_the_ensemble_than_the_mean_of_weights_was():
    clients = [net(1), net(2)]
    cohort = cohort_of(clients, Models())
    strategy = Dense(epochs=5, generator_steps=2, batch=16, temperature=1.0)
    fusion = strategy.fuse(cohort, None)
    assert fusion.metrics == {
        "ensemble_accuracy": 0.5,
        "batch_norm_layers": 0.0,
        "average_accuracy_net": 0.25,
        "server_accuracy_net": 0.25,
    }
    mean = {
        name: (t + 3 * clients[1].state_dict()[name]) / 4
        for name, t in clients[0].state_dict().items()
    }
    inputs = torch.randn(200, 4, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        said = Ensemble(clients)(inputs)
        before, after = (
            softened_kl(Models().module("net", state)(inputs), said, 1.0).item()
            for state in (mean, fusion.teachers["net"])
        )
    assert after < 0.7 * before
    again = strategy.fuse(cohort, None)
    assert all(torch.equal(t, again.teachers["net"][n]) for n, t in fusion.teachers["net"].items())
    for client, seed in zip(clients, (1, 2), strict=True):  # clients stay as they are
        assert all(map(torch.equal, client.state_dict().values(), net(seed).state_dict().values()))


def test_a_generator_makes_inputs_that_the_ensemble_is_surer_of():
    ensemble, student = Ensemble([net(1), net(2)]).requires_grad_(False), net(3)

    def loss_after(steps: int) -> float:
        strategy = Dense(
            generator_steps=steps, batch=32, adversarial=0.0, generator_learning_rate=0.02
        )
        stream = torch_stream(0, "test")
        made = strategy.made(ensemble, student, (4,), stream, CPU)
        return ensemble(made).softmax(dim=-1).amax(dim=-1).log().neg().mean().item()

    assert loss_after(40) < 0.7 * loss_after(1)


def test_disagreement_is_the_divergence_where_choices_differ():
    stream = torch.Generator().manual_seed(0)
    teacher, student = (torch.randn(20, 3, generator=stream) for _ in range(2))
    expected = 0.0
    for p, q in zip(teacher.softmax(-1), student.softmax(-1), strict=True):
        if p.argmax() != q.argmax():
            expected += (p * (p / q).log()).sum().item() / 20
    assert disagreement(teacher, student).item() == pytest.approx(expected, rel=1e-5)
    same = softened_kl(student, teacher, 1.0)
    torch.testing.assert_close(
        same, F.kl_div(student.log_softmax(-1), teacher.softmax(-1), reduction="batchmean")
    )


def test_statistics_are_compared_with_those_of_the_layers_inputs():
    model = net(1, norm=True)
    layer = norms(model)[0]
    assert isinstance(layer, nn.BatchNorm1d)
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    given = model[0](x).detach()
    with statistics_apart(model) as apart:
        model(x)
    expected = given.mean(dim=0).norm() + (given.var(dim=0, correction=0) - 1).norm()
    torch.testing.assert_close(apart[0].detach(), expected)
    layer.running_mean, layer.running_var = given.mean(dim=0), given.var(dim=0, correction=0)
    with statistics_apart(model) as apart:
        model(x)
    assert apart[0].item() < 1e-5
    model(x)
    assert len(apart) == 1  # nothing is collected afterwards


def test_batch_norm_counts_in_the_loss_and_is_said():
    clients = [net(1, norm=True), net(2, norm=True)]
    fusion = Dense(epochs=1, generator_steps=2, batch=4).fuse(
        cohort_of(clients, Models(norm=True)), None
    )
    assert fusion.metrics["batch_norm_layers"] == 2
    ensemble, student = Ensemble(clients).requires_grad_(False), net(3)

    def apart_after(weight: float) -> float:
        strategy = Dense(
            generator_steps=40,
            batch=32,
            batch_norm=weight,
            adversarial=0.0,
            generator_learning_rate=0.02,
        )
        made = strategy.made(ensemble, student, (4,), torch_stream(0, "test"), CPU)
        with statistics_apart(ensemble) as found:
            ensemble(made)
        return sum(t.item() for t in found)

    assert apart_after(10.0) < apart_after(1e-6)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 7), (6,), (2, 9)])
def test_a_generator_gives_standardized_inputs_of_any_shape(shape: tuple[int, ...]):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    made = new_generator(shape, torch_stream(0, "test"))(
        torch.randn(16, 64, generator=torch_stream(1, "z"))
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert made.shape == (16, *shape)
    axes = (0, 2, 3) if len(shape) == 3 else 0
    torch.testing.assert_close(
        made.mean(dim=axes), torch.zeros(made.mean(dim=axes).shape), atol=1e-4, rtol=0
    )
    assert made.std().item() == pytest.approx(1, abs=0.1)


def test_what_cannot_be_is_refused():
    for changes, message in (
        ({"epochs": 0}, "epochs must be >= 1"),
        ({"generator_steps": 0}, "generator_steps must be >= 1"),
        ({"batch": 1}, "batch must be >= 2"),
        ({"batch_norm": 0.0}, "batch_norm must be > 0"),
        ({"adversarial": -1.0}, "adversarial must be >= 0"),
        ({"temperature": 0.0}, "temperature must be > 0"),
    ):
        with pytest.raises(SettingError, match=message):
            Dense(**changes)
    texts = RunConditions(strategy="dense", data_kind="labeled texts")
    assert "tokens have none" in (Dense().conflict(texts) or "")
    assert Dense().conflict(RunConditions(strategy="dense")) is None
    with pytest.raises(RunError, match="dense needs models of the server's own"):
        Dense().fuse(cohort_of([net(1)], None), None)
    request = Request(
        round=1,
        classes=3,
        public_ids=torch.arange(0),
        temperature=1.0,
        train_sizes={},
        architectures=("net",),
        shapes={"net": {n: tuple(t.shape) for n, t in net(1).state_dict().items()}},
    )
    assert Dense().knowledge.misfit(request) is None
    asks = Dense(batch_norm=1.0).knowledge.misfit(request)
    assert asks == "strategy.batch_norm=1 would do nothing: no model has BatchNorm"
    assert Dense().knowledge.reveals_model_only
