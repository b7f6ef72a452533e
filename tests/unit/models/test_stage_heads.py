"""Heads on stages: they help a model train, are taught by its last head, and change no
prediction."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fedkd.errors import SettingError
from fedkd.models.factory import ImageModelSpec
from fedkd.models.features import find_head
from fedkd.models.stage_heads import StageHeads, StageHeadsSettings, find_stages, layered_loss

SHAPE = (1, 8, 8)
INPUTS = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3, 0])
STAGES = {
    "mlp": ("1",),
    "cnn": ("0", "3", "7", "9"),
    "resnet": ("0", "3", "4", "5"),
    "vit": ("layers.0", "layers.1", "layers.2"),
}
every_model = pytest.mark.parametrize("name", STAGES)


def staged(name: str, **changes: Any) -> StageHeads:
    return StageHeads(
        ImageModelSpec(name, SHAPE, 4).build(0), INPUTS, StageHeadsSettings(**changes)
    )


@every_model
def test_stages_are_found_in_every_model_of_the_zoo(name: str):
    assert find_stages(ImageModelSpec(name, SHAPE, 4).build(0), INPUTS) == STAGES[name]


@every_model
def test_heads_change_no_prediction_and_each_stage_has_one(name: str):
    model = staged(name).eval()
    logits, stages = model.staged(INPUTS)
    alone = ImageModelSpec(name, SHAPE, 4).build(0).eval()(INPUTS)
    torch.testing.assert_close(model(INPUTS), alone)
    torch.testing.assert_close(logits, alone)
    assert [tuple(stage.shape) for stage in stages] == [(5, 4)] * len(STAGES[name])
    assert str(find_head(model, INPUTS)).startswith("model.")


def test_a_stage_is_averaged_over_its_positions():
    model = staged("cnn", stages=("0",)).eval()
    maps = model.model[0](INPUTS)
    torch.testing.assert_close(model.staged(INPUTS)[1][0], model.heads[0](maps.mean(dim=(2, 3))))
    tokens = staged("vit", stages=("layers.1",)).eval()
    collected: list[Tensor] = []
    tokens.model.get_submodule("layers.1").register_forward_hook(
        lambda _, __, output: collected.append(output)
    )
    found = tokens.staged(INPUTS)[1][0]
    torch.testing.assert_close(found, tokens.heads[0](collected[0].mean(dim=1)))


@given(
    seed=st.integers(0, 2**20),
    stages=st.integers(1, 3),
    temperature=st.floats(0.5, 5),
    weight=st.floats(0.1, 3),
)
def test_the_loss_is_that_of_a_loop_over_stages(
    seed: int, stages: int, temperature: float, weight: float
):
    stream = torch.Generator().manual_seed(seed)
    logits, *others = torch.randn(1 + stages, 5, 4, generator=stream, dtype=torch.float64)
    settings = StageHeadsSettings(
        stage_label_weight=0.5, stage_weight=weight, temperature=temperature
    )
    expected = F.cross_entropy(logits, LABELS)
    for other in others:
        target = torch.softmax(logits / temperature, dim=-1)
        apart = F.kl_div(F.log_softmax(other / temperature, dim=-1), target, reduction="batchmean")
        expected = (
            expected
            + (0.5 * F.cross_entropy(other, LABELS) + weight * temperature**2 * apart) / stages
        )
    torch.testing.assert_close(layered_loss(logits, others, LABELS, settings), expected)


def test_without_stages_it_is_cross_entropy_and_stages_that_agree_cost_their_labels_alone():
    logits = torch.randn(5, 4)
    plain = F.cross_entropy(logits, LABELS)
    assert torch.equal(layered_loss(logits, [], LABELS, StageHeadsSettings()), plain)
    settings = StageHeadsSettings(stage_label_weight=0.0)
    torch.testing.assert_close(layered_loss(logits, [logits, logits], LABELS, settings), plain)


def test_the_last_head_teaches_and_does_not_learn_from_stages():
    model = staged("mlp", stage_label_weight=0.0)
    logits, stages = model.staged(INPUTS)
    layered_loss(logits, stages, LABELS, model.settings).backward()
    alone = ImageModelSpec("mlp", SHAPE, 4).build(0)
    F.cross_entropy(alone(INPUTS), LABELS).backward()
    torch.testing.assert_close(model.model[3].weight.grad, alone[3].weight.grad)
    assert model.heads[0].weight.grad.abs().sum() > 0
    assert not torch.allclose(model.model[1][0].weight.grad, alone[1].weight.grad)


def test_training_with_heads_teaches_the_last_head_and_every_stage_and_leaves_no_hook():
    model = staged("cnn")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    def errors() -> list[float]:
        logits, stages = model.staged(INPUTS)
        return [F.cross_entropy(each, LABELS).item() for each in (logits, *stages)]

    before = errors()
    for _ in range(50):
        optimizer.zero_grad()
        layered_loss(*model.staged(INPUTS), LABELS, model.settings).backward()
        optimizer.step()
    assert all(now < then for now, then in zip(errors(), before, strict=True))
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("model", "changes", "reason"),
    [
        (
            nn.Sequential(nn.Flatten(), nn.Linear(64, 4)),
            {},
            "Sequential has no stages that could get a head",
        ),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(64, 4)),
            {"stages": ("7",)},
            "Sequential has no module 7",
        ),
        (
            nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (5, 64)), nn.Linear(64, 4)),
            {"stages": ("0",)},
            "must put out",
        ),
    ],
)
def test_a_model_without_such_stages_is_refused(
    model: nn.Module, changes: dict[str, Any], reason: str
):
    with pytest.raises(SettingError, match=reason):
        StageHeads(model, INPUTS, StageHeadsSettings(**changes))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"stage_label_weight": -1.0}, "stage_label_weight must be >= 0"),
        ({"stage_weight": 0.0}, "stage_weight must be > 0"),
        ({"temperature": 0.0}, "temperature must be > 0"),
        ({"stages": ()}, "stages must name at least one module"),
    ],
)
def test_settings_out_of_range_are_errors(changes: dict[str, Any], reason: str):
    with pytest.raises(SettingError, match=reason):
        StageHeadsSettings(**changes)
