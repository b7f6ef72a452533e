"""FedGen: its loss against loops, what its generator learns, and what heads learn of it."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from views import View

from fedkd.errors import RunError, SettingError, UploadRejected
from fedkd.knowledge import Request
from fedkd.knowledge.generated_features import GeneratedFeatures, HeadCohort, LabeledFeatures
from fedkd.strategies.fedgen import FedGen, class_shares, heads_loss, sameness

STREAM = torch.Generator().manual_seed(0)
COHORT = HeadCohort(
    round=1,
    client_ids=(0, 3),
    weight=torch.randn(2, 3, 5, generator=STREAM),
    bias=torch.randn(2, 3, generator=STREAM),
    label_counts=torch.tensor([[4.0, 0.0, 1.0], [2.0, 0.0, 3.0]]),
)
REQUEST = Request(
    round=1,
    classes=3,
    public_ids=torch.arange(0),
    temperature=1.0,
    train_sizes={0: 5, 3: 5},
    architectures=("net", "net", "net", "net"),
    features={"net": 5},
    label_counts={0: (4, 0, 1), 3: (2, 0, 3)},
)


def test_the_heads_loss_equals_a_loop_over_clients_and_draws():
    features, labels = torch.randn(6, 5, generator=STREAM), torch.tensor([0, 2, 2, 0, 2, 0])
    shares, present = class_shares(COHORT.label_counts)
    assert present.tolist() == [0, 2]
    expected = 0.0
    for z, y in zip(features, labels.tolist(), strict=True):
        for k in range(2):
            weight = COHORT.label_counts[k, y] / COHORT.label_counts[:, y].sum()
            logits = COHORT.weight[k] @ z + COHORT.bias[k]
            expected += weight.item() * F.cross_entropy(logits, torch.tensor(y)).item() / 6
    assert heads_loss(COHORT, shares, features, labels).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_a_generator_learns_features_that_heads_classify_and_keeps_what_it_learned():
    strategy = FedGen(samples=4, server_steps=10, diversity=0.0)
    first = strategy.fuse(COHORT, None)
    assert first.teachers["labels"].tolist() == [0] * 4 + [2] * 4  # nobody has class 1
    assert first.teachers["features"].min() >= 0
    again = strategy.fuse(replace(COHORT, round=2), first.state)
    anew = strategy.fuse(replace(COHORT, round=2), None)
    assert again.metrics["generator_loss"] < 0.9 * anew.metrics["generator_loss"]
    untrained = FedGen(samples=4, server_steps=1, diversity=0.0).fuse(COHORT, None)
    assert first.metrics["generator_loss"] < 0.9 * untrained.metrics["generator_loss"]
    free = FedGen(rectified=False).fuse(COHORT, None)
    assert free.teachers["features"].min() < 0
    mine = (4 / 6 + 1 / 4) / 2  # mean share of the classes that anybody has
    torch.testing.assert_close(first.weights[0], torch.tensor([mine, 1 - mine]))
    kind = strategy.knowledge
    kind.check_fusion(first, COHORT.client_ids, REQUEST, "probs")
    narrow = {**first.teachers, "features": first.teachers["features"][:, 1:]}
    with pytest.raises(RunError, match=r"expected \[8, 5\]"):
        kind.check_fusion(replace(first, teachers=narrow), COHORT.client_ids, REQUEST, "probs")


@pytest.mark.slow
def test_diversity_keeps_features_of_one_class_apart():
    def spread(diversity: float) -> float:
        made = FedGen(samples=16, diversity=diversity, rectified=False).fuse(COHORT, None).teachers
        return made["features"][:16].std(dim=0).mean().item()

    assert spread(5.0) > 2 * spread(0.0)
    assert sameness(torch.zeros(3, 2), torch.rand(3, 2)) == 1


def test_the_term_is_the_heads_cross_entropy_and_trains_the_head_alone():
    model = nn.Sequential(nn.Linear(2, 5), nn.Linear(5, 3))
    view: Any = View(model=model, head="1", own_labels=torch.zeros(4).long())
    features = torch.randn(1, 5, generator=STREAM)
    teacher = LabeledFeatures(features=features, labels=torch.tensor([2]))
    kind = GeneratedFeatures(weight=3.0)
    term = kind.penalty(view, teacher)
    assert term is not None
    loss = term(torch.arange(4), torch.zeros(4, 3), None)
    expected = 3 * F.cross_entropy(model[1](features), torch.tensor([2]))
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert model[0].weight.grad is None
    assert model[1].weight.grad is not None
    assert kind.penalty(view, None) is None


def test_an_upload_is_the_last_layer_and_survives_the_trip():
    model = nn.Sequential(nn.Linear(2, 5), nn.Linear(5, 3))
    kind = FedGen().knowledge
    sent = kind.encode(kind.extract(View(model=model, head="1")))
    assert {name: a.shape for name, a in sent.items()} == {"weight": (3, 5), "bias": (3,)}
    back = kind.decode(sent)
    kind.check(back, REQUEST, 0)
    assert torch.equal(back.weight, model[1].weight)
    teacher = LabeledFeatures(features=torch.rand(2, 5), labels=torch.tensor([1, 2]))
    again = kind.decode(kind.encode(teacher))
    assert isinstance(again, LabeledFeatures)
    assert torch.equal(again.features, teacher.features)
    with pytest.raises(UploadRejected, match="expected a last layer"):
        kind.check(again, REQUEST, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": torch.zeros(3, 4)}, r"expected weight \[3, 5\]"),
        ({"bias": torch.full((3,), float("nan"))}, "bias contains NaN"),
        ({"weight": torch.full((3, 5), 1e9)}, "weight is as large as"),
    ],
)
def test_a_bad_layer_is_rejected(changes: dict[str, Tensor], message: str):
    kind = FedGen().knowledge
    model = nn.Sequential(nn.Linear(2, 5), nn.Linear(5, 3))
    good = kind.extract(View(model=model, head="1"))
    with pytest.raises(UploadRejected, match=message):
        kind.check(replace(good, **changes), REQUEST, 0)


def test_settings_out_of_range_are_refused():
    for name in ("samples", "noise", "width", "server_steps", "server_batch"):
        with pytest.raises(SettingError, match=f"{name} must be >= 1"):
            FedGen(**{name: 0})
    for name in ("generated_weight", "server_learning_rate"):
        with pytest.raises(SettingError, match=f"{name} must be > 0"):
            FedGen(**{name: 0.0})
    with pytest.raises(SettingError, match="diversity must be >= 0"):
        FedGen(diversity=-1.0)
