"""Adapters: what of a model is frozen is shared, and is no part of its state."""

import pytest
import torch
from torch import nn

from fedkd.errors import SettingError
from fedkd.models.adapters import (
    Lora,
    NoAdapters,
    SharedModel,
    _copy_sharing,
    _leave_out_frozen,
    _miss_no_frozen,
)
from fedkd.settings.conditions import RunConditions


def frozen_below() -> nn.Sequential:
    """Return two layers of which the first is frozen, with the hooks of adapted models."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    model.register_state_dict_post_hook(_leave_out_frozen)
    model.register_load_state_dict_post_hook(_miss_no_frozen)
    return model


def test_copies_share_what_is_frozen_and_nothing_else():
    model = frozen_below()
    copy = _copy_sharing(model)
    assert copy[0].weight.data_ptr() == model[0].weight.data_ptr()
    assert copy[2].weight.data_ptr() != model[2].weight.data_ptr()
    assert not copy[0].weight.requires_grad
    x = torch.randn(5, 3)
    assert torch.equal(copy.eval()(x), model.eval()(x))


def test_a_state_has_what_is_trained_and_buffers_and_loads_into_another_copy():
    model, other = frozen_below(), frozen_below()
    state = model.state_dict()
    assert {name.split(".")[0] for name in state} == {"1", "2"}
    assert "1.running_mean" in state
    before = other[0].weight.clone()
    other.load_state_dict(state)
    assert torch.equal(other[2].weight, model[2].weight)
    assert torch.equal(other[0].weight, before)
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict({"2.weight": state["2.weight"]})


def test_without_adapters_a_model_is_what_its_factory_makes():
    made = NoAdapters().build(lambda: nn.Linear(4, 2), 7, SharedModel())
    torch.manual_seed(7)
    assert torch.equal(made.weight, nn.Linear(4, 2).weight)
    assert NoAdapters().conflict(RunConditions()) is None
    with pytest.raises(SettingError, match=r"for pre-trained models, models=\[hf:FOLDER_OR_ID\]"):
        Lora().build(lambda: nn.Linear(4, 2), 0, SharedModel())


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(SettingError, match="rank must be >= 1"):
        Lora(rank=0)
    with pytest.raises(SettingError, match="dropout must be below 1"):
        Lora(dropout=1.0)
    said = Lora().conflict(RunConditions(components={"data": "digits"}))
    assert "adapters=lora does not go with data=digits" in str(said)
