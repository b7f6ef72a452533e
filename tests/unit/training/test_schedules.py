"""Learning rates over a run against PyTorch's schedulers, and what no schedule can be."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from fedkd.errors import SettingError
from fedkd.settings.conditions import RunConditions
from fedkd.training.hyperparameters import DistillationSettings, Phase, TrainingSettings
from fedkd.training.loop import optimize
from fedkd.training.precision import in_precision, set_precision
from fedkd.training.schedules import RoundOfRun

ROUNDS, STEPS = 6, 5


def cosine(optimizer: torch.optim.Optimizer) -> Any:
    return lr_scheduler.CosineAnnealingLR(optimizer, ROUNDS * STEPS, eta_min=0.01)


def falls(optimizer: torch.optim.Optimizer) -> Any:
    return lr_scheduler.StepLR(optimizer, 2 * STEPS, gamma=0.5)


def warm_up(optimizer: torch.optim.Optimizer) -> Any:
    first = lr_scheduler.LinearLR(optimizer, 0.01, total_iters=2 * STEPS)
    second = lr_scheduler.CosineAnnealingLR(optimizer, (ROUNDS - 2) * STEPS)
    return lr_scheduler.SequentialLR(optimizer, [first, second], [2 * STEPS])


@pytest.mark.slow  # PyTorch's classes load its compiler
@pytest.mark.parametrize(
    ("phase", "theirs"),
    [
        (Phase(schedule="cosine", learning_rate=0.3, final_learning_rate=0.01), cosine),
        (
            Phase(schedule="step", learning_rate=0.3, decay_every=2, decay_factor=0.5),
            falls,
        ),
        (Phase(schedule="warmup_cosine", learning_rate=0.3, warm_up_rounds=2), warm_up),
    ],
)
def test_rates_are_those_of_pytorchs_schedulers(phase: Phase, theirs: Any) -> None:
    stepped = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler, rates, expected = theirs(stepped), [], []
    for round_number in range(1, ROUNDS + 1):
        at = RoundOfRun(round_number, ROUNDS)
        for step in range(STEPS):
            rates.append(at.learning_rate(phase, step, STEPS))
            expected.append(stepped.param_groups[0]["lr"])
            stepped.step()
            scheduler.step()
    np.testing.assert_allclose(rates, expected, rtol=1e-9)


def test_a_phase_takes_each_batch_at_its_own_rate() -> None:
    """A gradient of 1 by SGD moves a weight by its learning rate."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    phase = Phase(optimizer="sgd", learning_rate=1.0, schedule="cosine", batch_size=1)
    at, seen = RoundOfRun(2, 2), []

    def loss(batch: torch.Tensor) -> torch.Tensor:
        seen.append(model.weight.item())
        return -model.weight.sum()

    optimize(model, 4, loss, phase, np.random.default_rng(0), at=at)
    moved = np.diff([*seen, model.weight.item()])
    np.testing.assert_allclose(moved, [at.learning_rate(phase, i, 4) for i in range(4)], rtol=1e-5)
    assert moved[0] == 0.5  # half of the run is over


def test_a_long_gradient_is_shortened_and_a_short_one_is_not() -> None:
    for norm, moved in ((0.5, 0.5), (100.0, 6.0)):
        model = nn.Linear(2, 1, bias=False)
        nn.init.zeros_(model.weight)
        phase = Phase(optimizer="sgd", learning_rate=1.0, clip_grad_norm=norm)
        optimize(
            model,
            1,
            lambda _, model=model: model.weight.sum() * 18**0.5,
            phase,
            np.random.default_rng(0),
        )
        assert model.weight.norm().item() == pytest.approx(moved)


@pytest.mark.parametrize(
    ("phase", "sizes", "means"),
    [
        (Phase(batch_size=2, steps=4, epochs=9), [2, 2, 1, 2], 1),
        (Phase(batch_size=2, epochs=0.5), [2, 2], 2),
        (Phase(batch_size=2, epochs=1.3), [2, 2, 1, 2], 1),
    ],
)
def test_steps_and_fractions_of_an_epoch_take_so_many_batches(
    phase: Phase, sizes: list[int], means: int
) -> None:
    """The mean loss is that of the epoch that was cut short; batches are those of whole ones."""
    model, taken = nn.Linear(1, 1), []

    def loss(batch: torch.Tensor) -> torch.Tensor:
        taken.append(batch.tolist())
        return model.weight.sum() * 0 + len(taken)

    mean = optimize(model, 5, loss, phase, np.random.default_rng(0))
    drawn = np.random.default_rng(0)
    whole = np.concatenate([drawn.permutation(5), drawn.permutation(5)]).tolist()
    assert [len(batch) for batch in taken] == sizes
    assert [i for batch in taken for i in batch] == whole[: sum(sizes)]
    last = range(len(sizes) - means + 1, len(sizes) + 1)
    assert mean == pytest.approx(sum(last) / means)


def test_a_phase_of_a_whole_run_is_as_long_as_all_rounds() -> None:
    assert Phase(epochs=2, schedule="step", decay_every=1).repeated(5) == Phase(epochs=10)
    assert TrainingSettings(steps=3).repeated(5).step_count(100) == 15


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be >= 1, got 0"),
        ({"epochs": -0.5}, "epochs must be >= 0"),
        ({"schedule": "step"}, "schedule=step needs decay_every=N"),
        ({"decay_every": 3}, "decay_every=3 would do nothing: it is a setting of schedule=step"),
        ({"final_learning_rate": 0.0}, "would do nothing: it is .*=cosine and warmup_cosine, and"),
        ({"schedule": "cosine", "final_learning_rate": 1.0}, "must be at least 0 and below learn"),
        ({"schedule": "step", "decay_every": 1, "decay_factor": 1.0}, "above 0 and below 1, got 1"),
        ({"schedule": "linear"}, "schedule must be one of constant, cosine, step, warmup_cosine"),
        ({"clip_grad_norm": 0.0}, "clip_grad_norm must be > 0"),
        ({"label_smoothing": 1.0}, "label_smoothing must be at least 0 and below 1, got 1"),
    ],
)
def test_settings_that_are_wrong_or_do_nothing_are_told(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        TrainingSettings(**settings)


def test_a_schedule_longer_than_the_run_is_told() -> None:
    ten = RunConditions(rounds=10)
    falling: dict[str, Any] = {"schedule": "step", "decay_every": 10}
    assert "train.decay_every=10 would do nothing" in str(TrainingSettings(**falling).conflict(ten))
    rising: dict[str, Any] = {"schedule": "warmup_cosine", "warm_up_rounds": 10.0}
    for settings in (rising, {**rising, "confidence_gate": True}):
        said = DistillationSettings(**settings).conflict(ten)
        assert said == "distill.warm_up_rounds=10.0 must be below rounds=10"
    assert DistillationSettings(schedule="warmup_cosine").conflict(ten) is None


def test_smoothed_labels_need_labels_and_one_head() -> None:
    smoothed = TrainingSettings(label_smoothing=0.1)
    assert smoothed.conflict(RunConditions()) is None
    dual = RunConditions(components={"heads": "dual"})
    assert "is not defined beside heads=dual" in str(smoothed.conflict(dual))
    assert "no labels of classes" in str(smoothed.conflict(RunConditions(has_classes=False)))


def test_symmetric_cross_entropy_needs_labels_and_the_plain_loss() -> None:
    settings = TrainingSettings(reverse_weight=10.0)
    assert settings.conflict(RunConditions()) is None
    dual = RunConditions(components={"heads": "dual"})
    assert "reverse_weight=10 and heads both change" in str(settings.conflict(dual))
    assert "has none" in str(settings.conflict(RunConditions(has_classes=False)))
    smoothed = TrainingSettings(reverse_weight=10.0, label_smoothing=0.1)
    assert "train.label_smoothing both change" in str(smoothed.conflict(RunConditions()))
    weighed = DistillationSettings(margin_weights=True)
    of_batch = RunConditions(loss="cross_correlation")
    assert "of a batch together" in str(weighed.conflict(of_batch))
    single = DistillationSettings(batch_size=1)
    assert "would teach nothing" in str(single.conflict(of_batch))


def test_bfloat16_rounds_what_a_model_computes_and_puts_out_whole_floats() -> None:
    cpu, x = torch.device("cpu"), torch.randn(3, 8)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    exact = model(x)
    rounded = in_precision(model, "bf16", cpu)(x)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 0.1
    rounded.sum().backward()
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}


def test_a_precision_that_a_device_does_not_have_is_told() -> None:
    with pytest.raises(SettingError, match="precision=tf32 would do nothing on device=cpu"):
        set_precision("tf32", torch.device("cpu"))
