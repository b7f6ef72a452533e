"""Heads by name: what each phase minimizes and steps with them, and what they leave as it was."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.errors import SettingError
from fedkd.models.dual_head import DualHead, DualHeadSettings
from fedkd.models.factory import ImageModelSpec, ModelInfo, probe
from fedkd.models.heads import (
    HEADS,
    Heads,
    OneHead,
    OwnTraining,
    label_logits,
    label_loss,
    phase_parameters,
    taught_loss,
)
from fedkd.models.stage_heads import StageHeads, StageHeadsSettings, layered_loss
from fedkd.training.hyperparameters import Phase
from fedkd.training.losses import kl
from fedkd.training.optimizers import Optimizer

SHAPE = (1, 8, 8)
INPUTS = torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3, 0, 1])
TEACHER = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)).softmax(dim=-1)
ZOO = ("mlp", "cnn", "resnet", "vit")
with_further_heads = pytest.mark.parametrize("name", ["dual", "self_distillation"])


def architecture(heads: str = "none", model: str = "mlp", **changes: Any) -> ImageModelSpec:
    return ImageModelSpec(model, SHAPE, 4, HEADS[heads](**changes))


def built(heads: str = "none", model: str = "mlp", **changes: Any) -> nn.Module:
    return architecture(heads, model, **changes).build(0)


def by_teacher(logits: Tensor) -> Tensor:
    return kl(logits, TEACHER, 2.0)


@pytest.mark.parametrize("name", HEADS)
def test_heads_are_frozen_values_with_the_methods_that_are_asked_of_them(name: str):
    heads = HEADS[name]()
    assert isinstance(heads, Heads)
    assert {heads: 1}[HEADS[name]()] == 1
    assert isinstance(heads.alone(), HEADS[name])
    assert isinstance(heads.for_classes(["a", "b"]), Heads)
    assert isinstance(built(name), OwnTraining) == (name in ("dual", "self_distillation"))


def test_a_plain_model_learns_by_the_plain_losses_to_the_bit():
    model = built()
    logits = model(INPUTS)
    assert torch.equal(label_loss(model, INPUTS, LABELS), F.cross_entropy(logits, LABELS))
    assert torch.equal(taught_loss(model, INPUTS, by_teacher), by_teacher(logits))
    assert torch.equal(label_logits(model, INPUTS), logits)
    assert [id(p) for p in phase_parameters(model, distills=True)] == [
        id(p) for p in model.parameters()
    ]
    assert OneHead().put_on(model, INPUTS) is model


@with_further_heads
@pytest.mark.parametrize("model", ZOO)
def test_a_model_below_its_heads_starts_as_it_would_without_them(name: str, model: str):
    plain, headed = built(model=model), built(name, model)
    assert isinstance(headed, DualHead | StageHeads)
    assert all(
        torch.equal(a, b)
        for a, b in zip(plain.parameters(), headed.model.parameters(), strict=True)
    )
    again = built(name, model)
    assert all(
        torch.equal(a, b) for a, b in zip(headed.parameters(), again.parameters(), strict=True)
    )


@with_further_heads
@pytest.mark.parametrize("model", ZOO)
def test_every_model_of_the_zoo_can_be_tried_with_heads(name: str, model: str):
    found, plain = (probe(architecture(heads, model), features=True) for heads in (name, "none"))
    assert found.parameters > plain.parameters
    if name == "dual":  # the mixture is no linear layer's output
        assert found.head is None
    else:
        assert (found.head, found.features) == (f"model.{plain.head}", plain.features)


def test_two_heads_minimize_their_own_share_of_the_loss():
    model = built("dual", label_weight=0.3)
    assert isinstance(model, DualHead)
    first, second = model.both(INPUTS)
    torch.testing.assert_close(
        label_loss(model, INPUTS, LABELS), 0.3 * F.cross_entropy(first, LABELS)
    )
    torch.testing.assert_close(taught_loss(model, INPUTS, by_teacher), 0.7 * by_teacher(second))
    assert torch.equal(label_logits(model, INPUTS), first)


def test_stages_minimize_the_layered_loss_on_labels_and_leave_distillation_alone():
    model = built("self_distillation", "cnn", stage_weight=0.5)
    assert isinstance(model, StageHeads)
    logits, stages = model.staged(INPUTS)
    expected = layered_loss(logits, stages, LABELS, StageHeadsSettings(stage_weight=0.5))
    assert torch.equal(label_loss(model, INPUTS, LABELS), expected)
    assert torch.equal(taught_loss(model, INPUTS, by_teacher), by_teacher(model(INPUTS)))
    assert torch.equal(label_logits(model, INPUTS), torch.cat([logits, *stages], dim=1))


@pytest.mark.parametrize(
    ("heads", "distills", "idle"),
    [
        ("dual", False, "taught."),
        ("dual", True, "model.3."),
        ("self_distillation", True, "heads."),
        ("self_distillation", False, "nothing"),
    ],
)
def test_a_phase_steps_all_but_the_heads_that_have_no_part_in_it(
    heads: str, distills: bool, idle: str
):
    """With weight decay, which would shrink whatever an optimizer was given by mistake and had a
    gradient of zero."""
    model = built(heads)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    parameters = phase_parameters(model, distills=distills)
    optimizer = Optimizer(parameters, Phase(optimizer="adamw", weight_decay=0.5, learning_rate=0.1))
    for p in parameters:
        p.grad = torch.zeros_like(p)
    loss = taught_loss(model, INPUTS, by_teacher) if distills else label_loss(model, INPUTS, LABELS)
    loss.backward()
    optimizer.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if not name.startswith(idle)}


@pytest.mark.parametrize(
    ("heads", "alone"),
    [
        (
            DualHeadSettings(label_weight=0.3, label_share=0.2, sharpening=0.5),
            {"label_weight": 0.3, "label_share": 1.0},
        ),
        (DualHeadSettings(label_share=0.0), {"label_share": 1.0}),
    ],
)
def test_a_client_whom_nobody_teaches_predicts_by_the_head_for_labels(
    heads: DualHeadSettings, alone: dict[str, float]
):
    assert heads.alone() == DualHeadSettings(**alone)
    model = heads.alone().put_on(built(), INPUTS)
    torch.testing.assert_close(model(INPUTS), model.label_logits(INPUTS).log_softmax(dim=-1))


def without_a_linear_end(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes), nn.Tanh())


def one_class_too_many(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes + 1))


@pytest.mark.parametrize(
    ("heads", "factory", "reason"),
    [
        (
            "dual",
            without_a_linear_end,
            "needs a model whose logits are the output of a linear layer",
        ),
        ("dual", one_class_too_many, "C = 4; for N = 2 it returned"),
        ("self_distillation", one_class_too_many, "C = 4; for N = 2 it returned"),
    ],
)
def test_what_is_wrong_with_a_model_is_said_before_its_heads_are_blamed(
    heads: str, factory: Any, reason: str
):
    with pytest.raises(SettingError, match=reason):
        probe(architecture(heads, f"{__name__}:{factory.__name__}"))


def test_without_heads_an_architecture_is_what_it_was():
    assert architecture() == ImageModelSpec("mlp", SHAPE, 4) == architecture("dual").without_heads
    assert probe(architecture()) == ModelInfo(
        parameters=sum(p.numel() for p in built().parameters()), draws_randomness=False
    )
