"""Private training against a slow second implementation, and what it leaves behind: a history, and
no hooks."""

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fedkd.errors import SettingError
from fedkd.models.factory import ImageModelSpec
from fedkd.models.zoo import ZOO
from fedkd.privacy.calibration import largest_below
from fedkd.privacy.composition import epsilon_of
from fedkd.privacy.dp_sgd_history import StepHistory
from fedkd.privacy.events import DpSgdSteps
from fedkd.privacy.mechanisms import DpSgd, Schedule
from fedkd.privacy.private_training import (
    check_sample_gradients,
    optimize_privately,
    poisson_sample,
    poisson_samples,
    refuse_shared_statistics,
)
from fedkd.privacy.release_plan import ReleasePlan
from fedkd.privacy.stream_optimizer import drop_overflowing, normal_like
from fedkd.privacy.vouching import planned_claims
from fedkd.runtime.seeding import numpy_stream
from fedkd.settings.schema import parse
from fedkd.training.loop import predict

DELTA = 1e-5
SIZE = 24
MODELS = list(ZOO)


def samples(classes: int = 3, shape: tuple[int, int, int] = (1, 8, 8)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(SIZE, *shape, generator=generator), torch.arange(SIZE) % classes


def build(name: str = "mlp", shape: tuple[int, int, int] = (1, 8, 8)) -> nn.Module:
    return ImageModelSpec(name, shape, 3).build(seed=0)


def train(
    model: nn.Module,
    *,
    schedule: Schedule | None = None,
    sigma: float = 1.0,
    clip: float = 1.0,
    optimizer: torch.optim.Optimizer | None = None,
    history: StepHistory | None = None,
    names: tuple[str | int, ...] = ("client", 0, "round", 1),
    before_step: Callable[[int], None] = lambda step: None,
) -> float | None:
    x, y = samples()
    return optimize_privately(
        model,
        SIZE,
        lambda batch: F.cross_entropy(model(x[batch]), y[batch]),
        optimizer or torch.optim.SGD(model.parameters(), lr=0.1),
        schedule or Schedule.of(SIZE, 8, 2),
        noise_multiplier=sigma,
        clip_norm=clip,
        batches=numpy_stream(0, *names, "train batches"),
        noise=numpy_stream(0, *names, "dp noise"),
        history=history if history is not None else StepHistory(),
        before_step=before_step,
    )


def naive(model: nn.Module, schedule: Schedule, sigma: float, clip: float) -> None:
    """DP-SGD by its definition: sample by sample, by plain autograd, with the same streams."""
    x, y = samples()
    batches = numpy_stream(0, "client", 0, "round", 1, "train batches")
    noise = numpy_stream(0, "client", 0, "round", 1, "dp noise")
    parameters = list(model.parameters())
    model.train()
    for _ in range(schedule.steps):
        total = [torch.zeros_like(p) for p in parameters]
        for index in np.flatnonzero(batches.random(SIZE) < schedule.sample_rate):
            loss = F.cross_entropy(model(x[index : index + 1]), y[index : index + 1])
            gradients = torch.autograd.grad(loss, parameters)
            norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))
            total = [t + g * min(1.0, clip / norm) for t, g in zip(total, gradients, strict=True)]
        with torch.no_grad():
            for p, t in zip(parameters, total, strict=True):
                drawn = sigma * clip * torch.from_numpy(noise.standard_normal(t.shape)).float()
                p -= 0.1 * (t + drawn) / schedule.expected_batch_size


def states_agree(one: nn.Module, other: nn.Module, tolerance: float) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(
        k == other_k and torch.allclose(a, b, atol=tolerance, rtol=tolerance)
        for (k, a), (other_k, b) in pairs
    )


@pytest.mark.fast(4)
@pytest.mark.parametrize("clip", [0.05, 1e6])
@pytest.mark.parametrize("name", MODELS)
def test_every_architecture_is_trained_as_the_definition_says(name: str, clip: float):
    sigma = 0.5 if clip < 1 else 1e-9
    ours, plain = build(name), build(name)
    schedule = Schedule(sample_rate=0.3, steps=3, expected_batch_size=7.2)
    train(ours, schedule=schedule, sigma=sigma, clip=clip)
    naive(plain, schedule, sigma, clip)
    assert states_agree(ours, plain, 1e-4)
    assert not states_agree(ours, build(name), 1e-4)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 7)])
@pytest.mark.parametrize("name", MODELS)
def test_single_samples_gradients_are_found_in_every_architecture(
    name: str, shape: tuple[int, int, int]
):
    model = build(name, shape)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    check_sample_gradients(
        model, torch.randn(3, *shape, generator=torch.Generator().manual_seed(1)), name
    )
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert traces(model) == []


def traces(model: nn.Module) -> list[str]:
    """What Opacus may have left on a model."""
    fresh = nn.Sequential(nn.Linear(1, 1))
    extra = [
        f"{name}.{key}"
        for name, module in model.named_modules()
        for key in vars(module)
        if key
        in ("activations", "max_batch_len", "autograd_grad_sample_hooks", "ft_compute_sample_grad")
    ]
    extra += [f"{name}.{key}" for name, p in model.named_parameters() for key in vars(p)]
    hooks = [
        name
        for name, module in model.named_modules()
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
        if vars(module).get(kind)
    ]
    assert not vars(next(fresh.parameters()))
    return extra + hooks


@pytest.mark.parametrize("name", MODELS)
def test_nothing_of_opacus_is_left_on_the_model(name: str):
    model = build(name)
    train(model)
    assert traces(model) == []
    assert list(model.state_dict()) == list(build(name).state_dict())
    assert all(p.grad is None for p in model.parameters())
    x, y = samples()
    F.cross_entropy(
        model(x), y
    ).backward()  # an ordinary phase, such as distillation, goes on as ever
    assert all(p.grad is not None and not vars(p) for p in model.parameters())


def test_a_phase_ended_between_two_steps_leaves_no_trace_and_has_spent_what_it_drew():
    model, history = build(), StepHistory()
    calls = iter(range(100))

    def before_step(step: int) -> None:
        if next(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(model, history=history, before_step=before_step)
    assert history.state() == [[1.0, 8 / SIZE, 2.0]]
    assert traces(model) == []
    train(model, history=history)
    assert history.steps == 2 + 6


def test_a_phase_ended_inside_a_step_leaves_no_trace():
    model, history = build("vit"), StepHistory()
    x, _ = samples()

    def failing(batch: Tensor) -> Tensor:
        model(x[batch])
        raise RuntimeError("no loss")

    with pytest.raises(RuntimeError, match="no loss"):
        optimize_privately(
            model,
            SIZE,
            failing,
            torch.optim.SGD(model.parameters(), lr=0.1),
            Schedule.of(SIZE, 8, 1),
            noise_multiplier=1.0,
            clip_norm=1.0,
            batches=numpy_stream(0, "b"),
            noise=numpy_stream(0, "n"),
            history=history,
        )
    assert history.steps == 0
    assert traces(model) == []
    train(model)


def test_the_same_streams_give_the_same_model_and_other_names_other_noise():
    models = {}
    for names in [("client", 0, "round", 1), ("client", 0, "round", 2), ("client", 1, "round", 1)]:
        models[names] = build()
        train(models[names], names=names)
    again = build()
    train(again)
    assert states_agree(again, models["client", 0, "round", 1], 0.0)
    one, other, third = models.values()
    assert not states_agree(one, other, 1e-3)
    assert not states_agree(one, third, 1e-3)


def test_empty_samples_are_steps_of_noise_and_are_counted():
    model, history = build(), StepHistory()
    nobody = Schedule(sample_rate=1e-9, steps=4, expected_batch_size=1.0)
    before = build()
    assert train(model, schedule=nobody, history=history) is None
    assert history.state() == [[1.0, 1e-9, 4.0]]
    difference = torch.cat(
        [(a - b).flatten() for a, b in zip(model.parameters(), before.parameters(), strict=True)]
    )
    assert difference.std().item() == pytest.approx(0.1 * math.sqrt(4), rel=0.03)


class Exploding(nn.Module):
    """Has a gradient that is not finite for samples whose first number is 7."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(64, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(1)
        overflows = (rows[:, :1] == 7).float()
        return self.head(self.body(rows)) * torch.exp(1e4 * overflows)


def trained_on(model: nn.Module, x: Tensor, chosen: list[int]) -> Tensor:
    """The weights after one step on all of ``chosen`` without noise worth speaking of."""
    y = torch.zeros(len(x), dtype=torch.int64)
    optimize_privately(
        model,
        len(chosen),
        lambda batch: F.cross_entropy(model(x[chosen][batch]), y[chosen][batch]),
        torch.optim.SGD(model.parameters(), lr=1.0),
        Schedule(sample_rate=1.0, steps=1, expected_batch_size=1.0),
        noise_multiplier=1e-9,
        clip_norm=1.0,
        batches=numpy_stream(0, "b"),
        noise=numpy_stream(0, "n"),
        history=StepHistory(),
    )
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_a_sample_whose_gradient_overflows_counts_as_zero():
    x, _ = samples()
    x[2, 0, 0, 0] = 7
    found = {}
    for name, chosen in {"with": [0, 1, 2, 3], "without": [0, 1, 3], "start": []}.items():
        torch.manual_seed(0)
        found[name] = trained_on(Exploding(), x, chosen)
    assert torch.isfinite(found["with"]).all()
    assert torch.allclose(found["with"], found["without"], atol=1e-6)
    assert not torch.allclose(found["with"], found["start"], atol=1e-2)


@pytest.mark.parametrize("rate", [1e18, 1e30])
def test_weights_that_overflow_tell_nothing_of_who_was_sampled(rate: float):
    finite = []
    for size in (SIZE, SIZE - 1):
        x, y = samples()
        model = build()
        optimize_privately(
            model,
            size,
            lambda batch, model=model, x=x, y=y: F.cross_entropy(model(x[batch]), y[batch]),
            torch.optim.SGD(model.parameters(), lr=rate),
            Schedule(sample_rate=1.0, steps=4, expected_batch_size=1.0),
            noise_multiplier=1.0,
            clip_norm=1.0,
            batches=numpy_stream(0, "b"),
            noise=numpy_stream(0, "n"),
            history=StepHistory(),
        )
        finite.append([bool(torch.isfinite(p).all()) for p in model.parameters()])
    assert finite[0] == finite[1]
    assert all(finite[0])


def test_some_empty_samples_leave_the_loss_a_number():
    rare = Schedule(sample_rate=0.02, steps=30, expected_batch_size=0.5)
    drawn = numpy_stream(0, "client", 0, "round", 1, "train batches")
    assert any(len(poisson_sample(SIZE, 0.02, drawn)) == 0 for _ in range(30))
    loss = train(build(), schedule=rare)
    assert loss is not None
    assert math.isfinite(loss)


@pytest.mark.parametrize("factor", [1.0, 2 / 3, 3 / 2])
def test_noise_has_its_deviation_and_no_other(factor: float):
    model, before = build(), build()
    one = Schedule(sample_rate=1e-9, steps=1, expected_batch_size=5.0)
    train(model, schedule=one, sigma=0.8 * factor, clip=2.0)
    moved = torch.cat(
        [(a - b).flatten() for a, b in zip(model.parameters(), before.parameters(), strict=True)]
    )
    expected = 0.1 * 0.8 * 2.0 / 5.0
    assert (abs(moved.std().item() / expected - 1) < 4 / math.sqrt(2 * len(moved))) == (
        factor == 1.0
    )


@pytest.mark.parametrize("kinds", [(torch.float32,) * 4, (torch.float32, torch.float64) * 2])
def test_noise_that_is_drawn_at_once_is_that_of_tensor_after_tensor(kinds: tuple[torch.dtype, ...]):
    shapes = [(3, 5), (), (7,), (2, 1, 4)]
    tensors = [torch.zeros(shape, dtype=kind) for shape, kind in zip(shapes, kinds, strict=True)]
    one_by_one = numpy_stream(0, "noise")
    found = normal_like(tensors, 0.7, numpy_stream(0, "noise"))
    for tensor, noise in zip(tensors, found, strict=True):
        expected = (0.7 * torch.from_numpy(one_by_one.standard_normal([*tensor.shape]))).to(tensor)
        assert noise.dtype == tensor.dtype
        assert torch.equal(noise, expected)


def test_where_reads_wait_gradients_that_overflow_are_dropped_to_the_same_bits(
    monkeypatch: pytest.MonkeyPatch,
):
    def dropped(*overflowing: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        parameters = [nn.Parameter(torch.zeros(shape)) for shape in ((3, 2), (4,))]
        for parameter in parameters:
            grads: Any = torch.randn(5, *parameter.shape, generator=generator)
            vars(parameter)["grad_sample"] = grads
        for sample in overflowing:
            vars(parameters[sample % 2])["grad_sample"][sample].view(-1)[1] = math.inf
        drop_overflowing(parameters)
        return [vars(parameter)["grad_sample"] for parameter in parameters]

    for overflowing in ((), (1, 4)):
        read = dropped(*overflowing)
        with monkeypatch.context() as there:
            there.setattr("fedkd.privacy.stream_optimizer.reads_wait", lambda _: True)
            unread = dropped(*overflowing)
        assert all(torch.equal(a, b) for a, b in zip(read, unread, strict=True))
        assert all((grads[list(overflowing)] == 0).all() for grads in read)


def test_samples_of_all_steps_are_those_of_step_after_step():
    schedule = Schedule(sample_rate=0.1, steps=6, expected_batch_size=1.0)
    one_by_one = numpy_stream(0, "coins")
    found = poisson_samples(12, schedule, numpy_stream(0, "coins"), torch.device("cpu"))
    expected = [poisson_sample(12, 0.1, one_by_one).tolist() for _ in range(6)]
    assert [chosen.tolist() for chosen in found] == expected
    assert [] in expected


def test_every_sample_has_its_own_coin():
    stream = numpy_stream(0, "coins")
    sizes = [len(poisson_sample(200, 0.3, stream)) for _ in range(2000)]
    assert np.mean(sizes) == pytest.approx(60, abs=4 * math.sqrt(42 / 2000))
    assert np.var(sizes) == pytest.approx(42, rel=0.2)
    assert poisson_sample(5, 1.0, stream).tolist() == [0, 1, 2, 3, 4]


def test_momentum_and_adam_keep_their_state_in_the_plain_optimizer():
    model = build()
    for optimizer in (
        torch.optim.Adam(model.parameters()),
        torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
    ):
        train(model, optimizer=optimizer)
        assert len(optimizer.state_dict()["state"]) == len(list(model.parameters()))


@pytest.mark.slow
def test_private_training_learns_where_there_is_little_noise():
    model = build()
    x, y = samples()
    train(model, schedule=Schedule.of(SIZE, SIZE, 200), sigma=1e-4, clip=10.0)
    assert (predict(model, x).argmax(dim=-1) == y).float().mean() > 0.9


def test_frozen_and_unused_parameters_do_no_harm():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused, self.frozen = (
                nn.Linear(64, 3),
                nn.Linear(2, 2),
                nn.Linear(64, 64),
            )
            self.frozen.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(self.frozen(x.flatten(1)))

    model = Odd()
    kept = model.frozen.weight.clone()
    check_sample_gradients(model, torch.randn(3, 1, 8, 8))
    train(model)
    assert torch.equal(model.frozen.weight, kept)
    assert traces(model) == []


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(64, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu_(self.layer(x.flatten(1))))


class Coupled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(1)
        return self.head(rows - rows.mean(dim=0))


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 3)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += x.mean().detach()
        return self.head(x.flatten(1))


class WithoutBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.position = nn.Linear(64, 3), nn.Embedding(64, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1) + self.position(torch.arange(64)).squeeze(1))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 3)),
            r"BatchNorm \(1\)",
        ),
        (
            nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64, affine=False), nn.Linear(64, 3)),
            "use GroupNorm",
        ),
        (
            nn.Sequential(
                nn.InstanceNorm2d(1, track_running_stats=True), nn.Flatten(), nn.Linear(64, 3)
            ),
            "InstanceNorm with running statistics",
        ),
        (InPlace(), "changes in place"),
        (Coupled(), "gradients of single samples"),
        (Counting(), "changes its buffer seen in training|trainable layer with buffers"),
        (WithoutBatch(), "gradients of single samples"),
    ],
    ids=[
        "batch norm",
        "batch norm without weights",
        "instance norm",
        "in place",
        "coupled",
        "buffer",
        "no batch",
    ],
)
def test_models_that_cannot_be_trained_privately_are_refused(model: nn.Module, message: str):
    with pytest.raises(SettingError, match=message):
        check_sample_gradients(
            model, torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), "odd"
        )
    assert traces(model) == []


def test_batch_norm_is_refused_in_training_too():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 3))
    history = StepHistory()
    with pytest.raises(SettingError, match="BatchNorm"):
        train(model, history=history)
    assert history.steps == 0
    refuse_shared_statistics(nn.InstanceNorm2d(3))


def test_dropout_and_functional_layers_are_fine():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(64))
            self.rest = nn.Sequential(nn.Dropout(0.5), nn.Linear(64, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.rest(x.flatten(1) * self.scale)

    # Opacus takes a module with parameters of its own as one layer.
    check_sample_gradients(
        nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 3)), torch.randn(3, 1, 8, 8)
    )
    model = Scaled()
    model.rest[0].p = 0.0
    check_sample_gradients(model, torch.randn(3, 1, 8, 8))


@pytest.mark.parametrize("shape", [(64,), (8,), (8, 8)])
@pytest.mark.parametrize("bias", [True, False])
def test_layer_norms_with_and_without_a_bias_are_fine(shape: tuple[int, ...], bias: bool):
    """Each sample's gradient is compared with those of samples one by one."""
    images = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(
        nn.Flatten() if shape == (64,) else nn.Identity(),
        nn.LayerNorm(shape, bias=bias),
        nn.Flatten(),
        nn.Linear(64, 3),
    )
    check_sample_gradients(model, images)
    assert traces(model) == []
    model[1].requires_grad_(False)
    check_sample_gradients(model, images)


@given(st.integers(1, 500), st.integers(1, 500), st.integers(1, 5))
def test_a_schedule_visits_each_sample_as_often_as_epochs_do(size: int, batch: int, epochs: int):
    schedule = Schedule.of(size, batch, epochs)
    assert 0 < schedule.sample_rate <= 1
    assert schedule.expected_batch_size == pytest.approx(schedule.sample_rate * size)
    assert (
        epochs <= schedule.steps * schedule.sample_rate < epochs * (1 + schedule.sample_rate) + 1e-9
    )


# n 100 in batches of 64 is q = .64, and n 49 in batches of 64 the whole set: not 1/2, and not an
# empty batch.
@pytest.mark.parametrize(("size", "rate", "steps"), [(100, 0.64, 2), (49, 1.0, 1)])
def test_the_sample_rate_is_what_was_asked(size: int, rate: float, steps: int):
    assert Schedule.of(size, 64, 1) == Schedule(
        sample_rate=rate, steps=steps, expected_batch_size=min(64, size)
    )


def test_a_schedule_for_nobody_is_refused():
    with pytest.raises(SettingError, match="size must be >= 1, got 0"):
        Schedule.of(0, 32, 1)


@pytest.mark.slow
@given(
    st.lists(
        st.tuples(st.sampled_from([0.8, 1.1]), st.sampled_from([0.1, 0.5]), st.integers(1, 9)),
        max_size=5,
    )
)
def test_a_history_that_rested_on_disk_says_the_same(runs: list[tuple[float, float, int]]):
    whole, resumed = StepHistory(), StepHistory()
    for sigma, rate, steps in runs:
        for _ in range(steps):
            whole.add(sigma, rate)
        resumed = StepHistory(json.loads(json.dumps(resumed.state())))
        resumed.add(sigma, rate, steps)
    assert resumed.state() == whole.state()
    assert (
        StepHistory(torch.tensor(whole.state(), dtype=torch.float64).tolist()).state()
        == whole.state()
    )
    assert resumed.epsilon(DELTA) == whole.epsilon(DELTA)
    assert whole.steps == sum(steps for _, _, steps in runs)


@pytest.mark.parametrize(
    ("steps", "epsilon"), [(8, 3.7934), (16, 4.6965), (24, 5.4109), (400, 20.508)]
)
def test_a_history_counts_all_rounds_and_not_the_last(steps: int, epsilon: float):
    history = StepHistory()
    for _ in range(steps // 8):
        history = StepHistory(history.state())
        history.add(1.0, 1 / 8, 8)
    assert history.epsilon(DELTA) == pytest.approx(epsilon, abs=6e-4)


@pytest.mark.slow
def test_mixed_settings_add_up():
    history = StepHistory([[1.0, 0.1, 10], [2.0, 0.1, 5]])
    assert history.epsilon(DELTA) == pytest.approx(3.47648, abs=6e-6)
    assert history.epsilon(DELTA, "prv") == pytest.approx(2.90045, abs=6e-6)


@pytest.mark.fast(1)
@pytest.mark.parametrize("epsilon", [8.0, 0.5])
def test_the_noise_for_a_run_spends_its_budget_and_then_the_client_is_silent(epsilon: float):
    settings, schedule, rounds = DpSgd(epsilon=epsilon), Schedule.of(100, 32, 2), 5
    sigma = settings.noise_multiplier_in(schedule, rounds, 1)
    history = StepHistory()
    done = 0
    while history.affords(
        sigma, schedule.sample_rate, schedule.steps, epsilon=epsilon, delta=DELTA
    ):
        history.add(sigma, schedule.sample_rate, schedule.steps)
        done += 1
        assert done <= rounds
    assert done == rounds
    assert 0.98 * epsilon < history.epsilon(DELTA) <= epsilon


@pytest.mark.slow
def test_budgets_down_to_the_least_that_can_be_counted_are_solved():
    whole, samples = Schedule.of(100, 100, 1), Schedule.of(100, 32, 4)
    for epsilon, schedule in [(0.0036, samples), (0.0001, whole)]:
        sigma = DpSgd(epsilon=epsilon).noise_multiplier_in(schedule, 5, 1)
        event = DpSgdSteps(
            noise_multiplier=sigma, sample_rate=schedule.sample_rate, steps=5 * schedule.steps
        )
        assert 0.98 * epsilon < epsilon_of([(event, 1)], DELTA)[0] <= epsilon
    with pytest.raises(
        SettingError, match=r"noise_multiplier=1e\+08 on samples of rate 0\.1 is beyond"
    ):
        planned_claims(DpSgd(noise_multiplier=1e8), plan(batch_size=40))


@pytest.mark.slow
def test_a_client_with_fewer_records_needs_more_noise_and_a_longer_run_too():
    settings = DpSgd(epsilon=8.0)
    sigmas = [
        settings.noise_multiplier_in(Schedule.of(size, 32, 1), rounds, 1)
        for size, rounds in [(400, 5), (100, 5), (100, 20)]
    ]
    assert sigmas == sorted(sigmas)
    assert DpSgd(noise_multiplier=1.3).noise_multiplier_in(Schedule.of(9, 3, 1), 7, 1) == 1.3


def plan(**changes: Any) -> ReleasePlan:
    base = {
        "clients": 5,
        "rounds": 5,
        "rows": 100,
        "public_size": 100,
        "classes": 3,
        "scale": "probs",
        "records": 400,
    }
    return ReleasePlan(**{**base, **changes})


def test_the_claim_is_for_records_against_everybody():
    claims = planned_claims(DpSgd(epsilon=8.0), plan(fewest_records=100))
    assert {claim.unit for claim in claims} == {"record"}
    for claim in claims:
        assert claim.epsilon is not None
        assert 7.8 < claim.epsilon <= 8.0
        assert claim.neighbors == "zero-out"
        assert claim.sampling == "Poisson samples of records (q = 0.32)"
        assert claim.accountant == "rdp"


def test_the_smallest_client_decides_what_a_given_noise_claims():
    both = [
        planned_claims(DpSgd(noise_multiplier=1.0), plan(fewest_records=n))[0].epsilon
        for n in (400, 50)
    ]
    assert both[0] < both[1]


@pytest.mark.slow
def test_hopeless_noise_is_named():
    assert (
        "it will learn nothing"
        in DpSgd(epsilon=0.1).warnings(plan(fewest_records=10, rounds=50))[0]
    )
    assert "so small that epsilon says little" in DpSgd(noise_multiplier=0.1).warnings(plan())[0]
    assert DpSgd(epsilon=8.0).warnings(plan()) == ()


@pytest.mark.slow
def test_a_delta_that_gives_a_record_of_the_system_away_is_named():
    """Five clients: 400 records the largest of them, 900 in all."""
    few = plan(all_records=900)
    DpSgd(epsilon=8.0, delta=0.002).check(few)
    (warning,) = DpSgd(epsilon=8.0, delta=0.002).warnings(few)
    assert "delta=0.002 is not below 1/900, one over the records of all clients" in warning
    assert DpSgd(epsilon=8.0, delta=0.001).warnings(few) == ()
    assert "1/2000" in DpSgd(epsilon=8.0, delta=0.001).warnings(plan())[0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "privacy: give either epsilon or noise_multiplier"),
        (
            {"epsilon": 1.0, "noise_multiplier": 1.0},
            "privacy: give either epsilon or noise_multiplier",
        ),
        ({"epsilon": 0.0}, "privacy.epsilon must be > 0"),
        ({"noise_multiplier": 0.0}, "privacy.noise_multiplier must be > 0"),
        ({"epsilon": 1.0, "clip_norm": 0.0}, "privacy.clip_norm must be > 0"),
        ({"epsilon": 1.0, "delta": 1.0}, "privacy.delta must be above 0 and below 1"),
        (
            {"epsilon": 1.0, "sigma": 1.0},
            "no setting 'privacy.sigma': DP-SGD's noise is noise_multiplier",
        ),
        ({"epsilon": 1.0, "sensitivity": 1.0}, "no setting 'privacy.sensitivity': it is derived"),
    ],
)
def test_settings_that_make_no_sense_are_refused(fields: dict[str, Any], message: str):
    with pytest.raises(SettingError, match=message):
        parse(DpSgd, fields, "privacy")


def test_settings_that_do_not_fit_the_run_are_refused():
    with pytest.raises(
        SettingError, match=r"delta must be below 1/400, .* records of the largest private set"
    ):
        DpSgd(epsilon=1.0, delta=0.01).check(plan())
    with pytest.raises(
        SettingError, match=r"epsilon=0\.003 at .* RDP shows none below 0\.003502; ask for more"
    ):
        DpSgd(epsilon=0.003).check(plan(records=100))
    with pytest.raises(SettingError, match=r"train\.epochs=0"):
        DpSgd(epsilon=1.0).check(plan(epochs=0))
    DpSgd(epsilon=1.0).check(plan(chooses=True))


@pytest.mark.parametrize(
    "state", [[[1.0, 0.5]], [[1.0, 0.5, 1.5]], [[0.0, 0.5, 1.0]], [[1.0, 2.0, 1.0]]]
)
def test_what_is_no_history_is_refused(state: list[list[float]]):
    with pytest.raises(SettingError):
        StepHistory(state)


def test_solving_stays_within_the_budget():
    assert largest_below(0.01, lambda x: x**3) ** 3 <= 0.01
    assert epsilon_of([], DELTA)[0] == 0
