"""Which models can be trained in a batch of clients, and whether it pays."""

import re

import pytest
import torch
from torch import nn

from fedkd.federation import batch_trials
from fedkd.federation.batch_trials import Tried, pays, reason_against
from fedkd.models.factory import ImageModelSpec, ModelInfo, probe
from fedkd.models.zoo import ZOO
from fedkd.training.hyperparameters import Phase

CLASSES = 3
PLAIN = ModelInfo(parameters=0, draws_randomness=False)


def tried(sizes: list[int]) -> Tried:
    spec = ImageModelSpec("mlp", (1, 8, 8), CLASSES)
    return Tried(spec, sizes, Phase(batch_size=8), torch.device("cpu"))


# What cannot be trained together.


def batch_norm(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, classes))


def batch_norm_without_statistics(shape, classes):
    return nn.Sequential(
        nn.Flatten(), nn.BatchNorm1d(64, track_running_stats=False), nn.Linear(64, classes)
    )


def tied(shape, classes):
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, classes)
    )
    model[2].weight = model[1].weight
    return model


class Branching(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.linear = nn.Linear(64, classes)

    def forward(self, x):
        logits = self.linear(x.flatten(1))
        return logits if logits.sum() > 0 else 2 * logits


REASONS = {
    batch_norm: r"training changes its buffer 1\.(running_mean|num_batches_tracked)",
    batch_norm_without_statistics: "depends on the rest of the batch",
    tied: "one parameter under two names",
    Branching: "vmap fails on it|depends on the rest",
}


@pytest.mark.parametrize("factory", REASONS, ids=lambda factory: factory.__name__)
def test_a_model_that_cannot_be_trained_together_is_told_why(factory):
    reason = reason_against(
        ImageModelSpec(f"{__name__}:{factory.__name__}", (1, 8, 8), CLASSES), PLAIN
    )
    assert reason is not None
    assert re.search(REASONS[factory], reason)


def test_a_model_that_draws_randomness_is_refused():
    reason = reason_against(
        ImageModelSpec("mlp", (1, 8, 8), CLASSES), ModelInfo(0, draws_randomness=True)
    )
    assert reason == "it draws random numbers in training"


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", ZOO)
def test_nothing_speaks_against_the_zoo(name: str):
    architecture = ImageModelSpec(name, (1, 8, 8), CLASSES)
    assert reason_against(architecture, probe(architecture)) is None


# What it saves.


@pytest.mark.parametrize("sizes", [[], [40], [40, 0, 0]], ids=str)
def test_a_single_client_is_left_to_the_loop(sizes: list[int]):
    assert not pays(tried(sizes))


def test_whether_it_pays_is_a_matter_of_the_share_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(batch_trials, "REPEATS", 1)
    for share, found in ((100.0, True), (0.0, False)):
        monkeypatch.setattr(batch_trials, "MOST_SHARE", share)
        assert pays(tried([16] * 8)) == found
