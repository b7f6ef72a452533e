"""Two heads on one model: each learns from its own source, and a prediction is their mixture."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedkd.errors import SettingError
from fedkd.models.dual_head import DualHead, DualHeadSettings, label_term, mix_heads, taught_term
from fedkd.models.factory import ImageModelSpec
from fedkd.training.losses import kl

SHAPE = (1, 8, 8)
INPUTS = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3, 0])
ZOO = ("mlp", "cnn", "resnet", "vit")


def dual(name: str = "mlp", **changes: Any) -> DualHead:
    return DualHead(ImageModelSpec(name, SHAPE, 4).build(0), INPUTS, DualHeadSettings(**changes))


@given(
    seed=st.integers(0, 2**20),
    share=st.floats(0, 1),
    sharpening=st.floats(0.1, 10),
    size=st.sampled_from([1.0, 50.0]),
)
def test_a_prediction_is_the_mixture_of_both_heads_and_its_own_softmax(
    seed: int, share: float, sharpening: float, size: float
):
    first, second = size * torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(seed))
    settings = DualHeadSettings(label_share=share, sharpening=1.0 if share == 1 else sharpening)
    mixed = mix_heads(first, second, settings)
    expected = share * first.softmax(dim=-1) + (1 - share) * (second / settings.sharpening).softmax(
        dim=-1
    )
    torch.testing.assert_close(mixed.exp(), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(mixed.softmax(dim=-1), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ZOO)
def test_every_model_of_the_zoo_takes_a_second_head_and_still_makes_logits(name: str):
    model = dual(name).eval()
    first, second = model.both(INPUTS)
    torch.testing.assert_close(first, model.model(INPUTS))
    assert model(INPUTS).shape == second.shape == (5, 4)
    torch.testing.assert_close(
        dual(name, label_share=1.0).eval()(INPUTS).softmax(dim=-1), first.softmax(dim=-1)
    )


def test_each_term_moves_its_own_head_and_both_move_the_features():
    model = dual()
    label_logits, taught_logits = model.both(INPUTS)
    label_term(label_logits, LABELS, model.settings).backward(retain_graph=True)
    assert model.taught.weight.grad is None
    assert model.model[1].weight.grad.abs().sum() > 0
    model.zero_grad()
    taught_term(kl(taught_logits, torch.full((5, 4), 0.25)), model.settings).backward()
    assert model.model[3].weight.grad is None
    assert model.taught.weight.grad.abs().sum() > 0
    assert model.model[1].weight.grad.abs().sum() > 0


def test_the_terms_are_those_of_torch():
    settings = DualHeadSettings(label_weight=0.3)
    logits, target = torch.randn(5, 4), torch.softmax(torch.randn(5, 4), dim=-1)
    torch.testing.assert_close(
        label_term(logits, LABELS, settings), 0.3 * F.cross_entropy(logits, LABELS)
    )
    divergence = F.kl_div(F.log_softmax(logits / 2, dim=-1), target, reduction="batchmean")
    torch.testing.assert_close(taught_term(kl(logits, target, 2.0), settings), 0.7 * 4 * divergence)


def test_a_state_travels_and_the_second_head_is_in_it():
    model, other = dual(), dual()
    assert {"taught.weight", "taught.bias", "model.3.weight"} <= set(model.state_dict())
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(INPUTS), model.eval()(INPUTS))


@pytest.mark.parametrize("training", [True, False])
def test_looking_for_the_head_leaves_the_mode_as_it_was(training: bool):
    model = ImageModelSpec("mlp", SHAPE, 4).build(0).train(training)
    assert DualHead(model, INPUTS, DualHeadSettings()).model.training == training


@pytest.mark.parametrize(
    "model", [nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Tanh()), nn.Linear(8, 4)]
)
def test_a_model_without_a_head_inside_it_is_refused(model: nn.Module):
    with pytest.raises(
        SettingError, match="needs a model whose logits are the output of a linear layer inside it"
    ):
        DualHead(
            model,
            INPUTS if isinstance(model, nn.Sequential) else torch.zeros(2, 8),
            DualHeadSettings(),
        )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"label_weight": 0.0}, "label_weight must be above 0"),
        ({"label_weight": 1.0}, "label_weight must be above 0 and below 1"),
        ({"sharpening": -1.0}, "sharpening must be > 0"),
        ({"label_share": 1.1}, "label_share must be in"),
        ({"label_share": 1.0, "sharpening": 0.5}, "sharpening=0.5 would do nothing"),
    ],
)
def test_settings_out_of_range_are_errors(changes: dict[str, Any], reason: str):
    with pytest.raises(SettingError, match=reason):
        DualHeadSettings(**changes)
