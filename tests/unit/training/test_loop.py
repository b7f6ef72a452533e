"""One optimization phase against the plain PyTorch loop, and prediction."""

import copy
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.errors import Interrupted, SettingError
from fedkd.training.hyperparameters import DistillationSettings, Phase, TrainingSettings
from fedkd.training.loop import ROWS_AT_ONCE, accuracy, optimize, predict
from fedkd.training.optimizers import Optimizer

SIZE, FEATURES, CLASSES = 23, 5, 3


def data() -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(0)
    return torch.randn(SIZE, FEATURES, generator=stream), torch.randint(
        CLASSES, (SIZE,), generator=stream
    )


def model_of(seed: int = 0) -> nn.Module:
    stream = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, CLASSES))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=stream))
    return model


def classification(model: nn.Module):
    x, y = data()
    return lambda batch: F.cross_entropy(model(x[batch]), y[batch])


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def assert_equal_weights(one: nn.Module, other: nn.Module) -> None:
    assert all(map(torch.equal, weights(one), weights(other)))


# The loop.

OPTIMIZERS = [
    ({"optimizer": "adam", "learning_rate": 0.01}, lambda p: torch.optim.Adam(p, lr=0.01)),
    (
        {"optimizer": "adam", "learning_rate": 0.01, "weight_decay": 0.1},
        lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
    ),
    (
        {"optimizer": "adamw", "learning_rate": 0.01, "weight_decay": 0.1},
        lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    ),
    (
        {"optimizer": "adamw", "learning_rate": 0.01},
        lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.0),
    ),
    ({"optimizer": "sgd", "learning_rate": 0.1}, lambda p: torch.optim.SGD(p, lr=0.1)),
    (
        {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.01},
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    ),
]


@pytest.mark.parametrize(("settings", "optimizer_of"), OPTIMIZERS)
def test_a_phase_equals_the_plain_pytorch_loop_to_the_bit(settings: dict[str, Any], optimizer_of):
    x, y = data()
    plain = model_of()
    plain.train()
    optimizer, stream = optimizer_of(plain.parameters()), np.random.default_rng(9)
    for _ in range(3):
        total, order = 0.0, stream.permutation(SIZE)
        for start in range(0, SIZE, 4):
            batch = order[start : start + 4]
            loss = F.cross_entropy(plain(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)

    model = model_of()
    phase = Phase(epochs=3, batch_size=4, **settings)
    mean = optimize(model, SIZE, classification(model), phase, np.random.default_rng(9))
    assert_equal_weights(model, plain)
    assert mean == pytest.approx(total / SIZE, rel=1e-6)


def test_the_same_stream_repeats_and_another_does_not():
    models = [model_of() for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        optimize(
            model, SIZE, classification(model), Phase(batch_size=4), np.random.default_rng(seed)
        )
    assert_equal_weights(models[0], models[1])
    assert not torch.equal(weights(models[0])[0], weights(models[2])[0])


@pytest.mark.parametrize(
    ("size", "batch_size", "sizes"), [(23, 5, [5, 5, 5, 5, 3]), (20, 5, [5] * 4), (3, 32, [3])]
)
def test_every_epoch_visits_all_samples_in_a_fresh_order(
    size: int, batch_size: int, sizes: list[int]
):
    model, visited = model_of(), []

    def batch_loss(batch: Tensor) -> Tensor:
        visited.append(batch.tolist())
        return model(torch.ones(1, FEATURES)).sum()

    optimize(
        model, size, batch_loss, Phase(epochs=3, batch_size=batch_size), np.random.default_rng(0)
    )
    per_epoch = len(sizes)
    epochs = [visited[i : i + per_epoch] for i in range(0, len(visited), per_epoch)]
    assert len(epochs) == 3
    orders = [list(itertools.chain(*batches)) for batches in epochs]
    assert [[len(batch) for batch in batches] for batches in epochs] == [sizes] * 3
    assert [sorted(order) for order in orders] == [list(range(size))] * 3
    assert orders[0] != orders[1] != orders[2]


def test_the_mean_loss_is_that_of_the_last_epoch_by_sample():
    """The loss of a batch is its mean index; the mean over samples 0..4 is 2 however they are
    batched.

    A mean over batches of 2, 2 and 1 would be another number for most orders. The second epoch
    counts 10 more.
    """
    model, calls = model_of(), []

    def batch_loss(batch: Tensor) -> Tensor:
        calls.append(len(batch))
        later = 10.0 if len(calls) > 3 else 0.0
        return 0 * model(torch.ones(1, FEATURES)).sum() + batch.float().mean() + later

    assert (
        optimize(model, 5, batch_loss, Phase(epochs=2, batch_size=2), np.random.default_rng(0))
        == 12.0
    )


def test_the_number_of_epochs_may_be_given_apart_from_the_phase():
    one, other = model_of(), model_of()
    optimize(one, SIZE, classification(one), Phase(epochs=1), np.random.default_rng(0), epochs=3)
    optimize(other, SIZE, classification(other), Phase(epochs=3), np.random.default_rng(0))
    assert_equal_weights(one, other)


@pytest.mark.parametrize(("size", "epochs"), [(SIZE, 0), (0, 2)])
def test_nothing_to_do_returns_none_and_leaves_model_and_stream(size: int, epochs: int):
    model, stream = model_of(), np.random.default_rng(3)
    assert optimize(model, size, classification(model), Phase(epochs=epochs), stream) is None
    assert_equal_weights(model, model_of())
    assert stream.random() == np.random.default_rng(3).random()


def test_zero_epochs_may_override_the_phase():
    model = model_of()
    assert (
        optimize(model, SIZE, classification(model), Phase(), np.random.default_rng(0), epochs=0)
        is None
    )


def test_training_takes_place_in_training_mode():
    model, modes = nn.Sequential(nn.Linear(FEATURES, CLASSES), nn.Dropout(0.5)).eval(), []

    def batch_loss(batch: Tensor) -> Tensor:
        modes.append(model.training)
        return model(torch.ones(1, FEATURES)).sum()

    optimize(model, 4, batch_loss, Phase(batch_size=2), np.random.default_rng(0))
    assert modes == [True, True]


def stop(due: bool) -> None:
    if due:
        raise Interrupted


def test_a_stopped_phase_raises_between_two_batches():
    model, visited = model_of(), []

    def batch_loss(batch: Tensor) -> Tensor:
        visited.append(batch)
        return model(torch.ones(1, FEATURES)).sum()

    with pytest.raises(Interrupted):
        optimize(
            model,
            20,
            batch_loss,
            Phase(batch_size=5),
            np.random.default_rng(0),
            check_interrupt=lambda: stop(len(visited) == 2),
        )
    assert len(visited) == 2


def test_a_phase_stopped_before_it_starts_changes_nothing():
    model = model_of()
    with pytest.raises(Interrupted):
        optimize(
            model,
            SIZE,
            classification(model),
            Phase(),
            np.random.default_rng(0),
            check_interrupt=lambda: stop(True),
        )
    assert_equal_weights(model, model_of())


def test_a_phase_touches_no_global_generator():
    model = model_of()
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    optimize(model, SIZE, classification(model), Phase(), np.random.default_rng(0))
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


def test_training_lowers_the_loss():
    model = model_of()
    phase = Phase(epochs=1, batch_size=4, learning_rate=0.05)
    first = optimize(model, SIZE, classification(model), phase, np.random.default_rng(0))
    last = optimize(model, SIZE, classification(model), phase, np.random.default_rng(1), epochs=40)
    assert last < 0.5 * first


def test_frozen_parameters_stay_as_they_are():
    model = model_of()
    model[0].weight.requires_grad_(False)
    optimizer = Optimizer(model.parameters(), Phase())
    assert len(optimizer.parameters) == 3
    optimize(model, SIZE, classification(model), Phase(), np.random.default_rng(0))
    assert torch.equal(model[0].weight, model_of()[0].weight)
    assert not torch.equal(model[2].weight, model_of()[2].weight)


def test_the_optimizer_starts_afresh_in_every_phase():
    """Two phases of one epoch differ from one phase of two epochs by what momentum remembers."""
    one, two = model_of(), model_of()
    phase = Phase(optimizer="sgd", learning_rate=0.1, momentum=0.9, batch_size=4)
    stream = np.random.default_rng(0)
    for _ in range(2):
        optimize(two, SIZE, classification(two), phase, stream)
    optimize(one, SIZE, classification(one), phase, np.random.default_rng(0), epochs=2)
    assert not torch.equal(weights(one)[0], weights(two)[0])


# Prediction.


AT_ONCE = ROWS_AT_ONCE


@pytest.mark.parametrize("size", [1, AT_ONCE, AT_ONCE + 1, 3 * AT_ONCE - 7])
def test_predictions_in_batches_equal_one_call(size: int):
    model = model_of()
    x = torch.randn(size, FEATURES, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(predict(model, x), model(x).detach(), rtol=1e-6, atol=1e-6)


def test_predicting_nothing_gives_no_rows():
    assert predict(model_of(), torch.zeros(0, FEATURES)).shape == (0, CLASSES)


def test_prediction_leaves_no_gradient_and_no_graph():
    model = model_of()
    logits = predict(model, data()[0])
    assert not logits.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_prediction_takes_place_in_evaluation_mode():
    """Dropout would change them from call to call, batch norm with the batch."""
    model = nn.Sequential(
        nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, CLASSES)
    ).train()
    before = copy.deepcopy(model.state_dict())
    x = data()[0]
    assert torch.equal(predict(model, x), predict(model, x))
    torch.testing.assert_close(predict(model, x)[:1], predict(model, x[:1]))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# Accuracy.


def test_accuracy_by_hand():
    """First choices 0, 1, 1, 0 against labels 0, 1, 0, 1: two of four."""
    logits = torch.tensor([[2.0, 1.0], [0.0, 5.0], [-3.0, -1.0], [0.5, 0.4]])
    assert accuracy(logits, torch.tensor([0, 1, 0, 1])) == 0.5
    assert accuracy(logits, torch.tensor([0, 1, 1, 0])) == 1.0
    assert accuracy(logits, torch.tensor([1, 0, 0, 1])) == 0.0


@pytest.mark.parametrize("label", [0, 1, 2])
def test_a_model_that_says_nan_is_never_right(label: int):
    """Neither for class 0, which an argmax over equal values would choose."""
    assert accuracy(torch.full((4, 3), torch.nan), torch.full((4,), label)) == 0.0


def test_a_nan_is_never_the_largest_logit():
    assert accuracy(torch.tensor([[torch.nan, 1.0, 2.0]]), torch.tensor([2])) == 1.0


def test_an_infinite_logit_is_the_largest():
    assert (
        accuracy(torch.tensor([[torch.inf, 1.0], [-torch.inf, -5.0]]), torch.tensor([0, 1])) == 1.0
    )


# Settings.


@pytest.mark.parametrize("phase", [Phase, TrainingSettings, DistillationSettings])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": -1}, r"epochs must be >= 0, got -1"),
        ({"batch_size": 0}, r"batch_size must be >= 1, got 0"),
        ({"learning_rate": 0.0}, r"learning_rate must be > 0, got 0\.0"),
        ({"learning_rate": -0.1}, r"learning_rate must be > 0, got -0\.1"),
        ({"learning_rate": math.nan}, "learning_rate must be a finite number, got nan"),
        ({"learning_rate": math.inf}, "learning_rate must be a finite number, got inf"),
        ({"weight_decay": -1.0}, r"weight_decay must be >= 0, got -1\.0"),
        ({"weight_decay": math.nan}, "weight_decay must be a finite number, got nan"),
        ({"momentum": 0.9}, r"momentum=0\.9 would do nothing: optimizer=adam has none"),
        (
            {"momentum": 0.9, "optimizer": "adamw"},
            r"momentum=0\.9 would do nothing: optimizer=adamw has none",
        ),
        ({"momentum": 1.0, "optimizer": "sgd"}, r"momentum must be in \[0, 1\), got 1\.0"),
        ({"momentum": -0.1, "optimizer": "sgd"}, r"momentum must be in \[0, 1\), got -0\.1"),
        ({"momentum": math.nan, "optimizer": "sgd"}, r"momentum must be in \[0, 1\), got nan"),
    ],
)
def test_phases_that_make_no_sense_are_refused(phase: type, settings: dict[str, Any], message: str):
    with pytest.raises(SettingError, match=message):
        phase(**settings)


@pytest.mark.parametrize("name", ["rmsprop", "SGD"])
def test_an_unknown_optimizer_is_refused_not_replaced(name: str):
    """A scenario's file is checked against the annotation; a phase that is made in Python must be
    as safe."""
    with pytest.raises(SettingError, match="optimizer must be one of"):
        Phase(optimizer=name)


def test_public_epochs_below_zero_are_refused():
    with pytest.raises(SettingError, match="public_epochs must be >= 0, got -1"):
        TrainingSettings(public_epochs=-1)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_that_is_not_above_zero_is_refused(temperature: float):
    with pytest.raises(SettingError, match="temperature must be"):
        DistillationSettings(temperature=temperature)


def test_distillation_without_an_epoch_is_refused():
    with pytest.raises(
        SettingError,
        match="epochs must be >= 1, got 0; strategy=local_only leaves distillation out",
    ):
        DistillationSettings(epochs=0)


def test_training_without_an_epoch_is_possible():
    assert TrainingSettings(epochs=0).epochs == 0


@pytest.mark.parametrize(("normalizes", "sizes"), [(True, [4, 5] * 2), (False, [4, 4, 1] * 2)])
def test_a_last_sample_joins_the_batch_before_it_where_batches_are_normalized(
    normalizes: bool, sizes: list[int]
):
    model = nn.BatchNorm1d(2) if normalizes else nn.Linear(2, 2)
    taken, x = [], torch.randn(9, 2)

    def loss(batch: Tensor) -> Tensor:
        taken.append(len(batch))
        return model(x[batch]).square().mean()

    optimize(model, 9, loss, Phase(batch_size=4, epochs=2), np.random.default_rng(0))
    assert taken == sizes
