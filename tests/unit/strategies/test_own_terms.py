"""FCCL's old selves and FedHeNN's kernels: the terms they add to private training."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from views import View

from fedkd.errors import SettingError
from fedkd.knowledge import PublicPredictions, Request
from fedkd.knowledge.gram_matrices import Gram, GramCohort, GramMatrices, kernel_alignment
from fedkd.settings.conditions import RunConditions
from fedkd.strategies.fccl import FCCL, OldSelves
from fedkd.strategies.fedhenn import FedHeNN

STREAM = torch.Generator().manual_seed(0)


def test_old_selves_are_the_last_round_and_the_first():
    view: Any = View(
        own_logits=torch.randn(5, 3, generator=STREAM), own_labels=torch.zeros(5).long()
    )
    term = OldSelves(previous=2.0, pretrained=0.5)
    assert term.penalty(view, None) is None
    assert term.remember(view, "before training") is None
    first = view.own_logits.softmax(dim=-1)
    view.memory = dict(term.remember(view, "after training") or {})
    view.own_logits = torch.randn(5, 3, generator=STREAM)
    view.memory = dict(term.remember(view, "after training") or {})
    torch.testing.assert_close(view.memory["pretrained"], first)
    torch.testing.assert_close(view.memory["previous"], view.own_logits.softmax(dim=-1))
    batch, logits = torch.tensor([3, 1]), torch.randn(2, 3, generator=STREAM)
    penalty = term.penalty(view, None)
    assert penalty is not None
    expected = 0.0
    for weight, probs in ((2.0, view.memory["previous"]), (0.5, first)):
        for row, now in zip(probs[batch], logits.softmax(dim=-1), strict=True):
            expected += weight * (row * (row / now).log()).sum().item() / 2
    assert penalty(batch, logits, None).item() == pytest.approx(expected, rel=1e-5)


def test_without_weights_there_is_no_term_and_claims_are_possible():
    assert FCCL(previous_weight=0, pretrained_weight=0).knowledge == PublicPredictions("logits")
    kind = FCCL().knowledge
    assert kind.adds_penalty
    assert not kind.reveals_model_only
    estimators = RunConditions(fitted_models=("sklearn:GaussianNB",))
    assert "adds a term" in (kind.conflict(estimators) or "")
    with pytest.raises(SettingError, match="previous_weight must be >= 0"):
        FCCL(previous_weight=-1)


@given(seed=st.integers(0, 1000), width=st.integers(1, 5))
def test_alignment_of_kernels_equals_linear_cka_of_features(seed: int, width: int):
    """Kornblith et al.'s form for features: |Y'X|^2 / (|X'X| |Y'Y|) of centred columns."""
    stream = torch.Generator().manual_seed(seed)
    x = torch.randn(6, 3, generator=stream, dtype=torch.float64)
    y = torch.randn(6, width, generator=stream, dtype=torch.float64)
    found = kernel_alignment(x @ x.T, y @ y.T)
    x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    expected = (y.T @ x).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())
    torch.testing.assert_close(found, expected)
    assert 0 <= found <= 1 + 1e-9
    turned = torch.linalg.qr(torch.randn(3, 3, generator=stream, dtype=torch.float64))[0]
    same = kernel_alignment(x @ x.T, 9 * (x @ turned) @ (x @ turned).T)
    torch.testing.assert_close(same, torch.ones((), dtype=torch.float64))


def test_training_by_the_term_brings_kernels_together_and_not_apart():
    model, public = nn.Linear(3, 2), torch.randn(8, 3, generator=STREAM)
    nn.init.eye_(model.weight)
    goal = torch.randn(8, 4, generator=STREAM)
    kind = GramMatrices(weight=2.0, rises=True)
    view: Any = View(model=model, public=public, own_labels=torch.zeros(2).long(), round=2)
    term = kind.penalty(view, Gram(ids=torch.arange(8), kernel=goal @ goal.T))
    assert term is not None
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.05), []
    for _ in range(30):
        loss = term(torch.tensor([0]), torch.zeros(1, 3), None)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    own = model(public)
    expected = 4 * (1 - kernel_alignment(own @ own.T, goal @ goal.T))
    torch.testing.assert_close(term(torch.tensor([0]), torch.zeros(1, 3), None), expected)
    kept = GramMatrices(weight=2.0).penalty(view, Gram(ids=torch.arange(8), kernel=goal @ goal.T))
    assert kept is not None
    torch.testing.assert_close(kept(torch.tensor([0]), torch.zeros(1, 3), None), expected / 2)
    assert kind.penalty(view, None) is None


def test_the_mean_kernel_is_taught_to_all_and_travels_by_its_half():
    features = torch.randn(3, 5, 4, generator=STREAM)
    kernels = features @ features.mT
    cohort = GramCohort(round=1, client_ids=(0, 1, 2), public_ids=torch.arange(5), kernels=kernels)
    strategy = FedHeNN()
    fusion, kind = strategy.fuse(cohort, None), strategy.knowledge
    torch.testing.assert_close(fusion.teachers, (kernels[0] + kernels[1] + kernels[2]) / 3)
    request = Request(
        round=1, classes=3, public_ids=torch.arange(5), temperature=1.0, train_sizes={}
    )
    kind.check_fusion(fusion, cohort.client_ids, request, "probs")
    teacher = kind.teachers(fusion, cohort.client_ids, request, "probs").of(1)
    sent = kind.encode(teacher)
    assert len(sent["kernel"]) == 15
    torch.testing.assert_close(kind.decode(sent).kernel, fusion.teachers)
    with pytest.raises(SettingError, match="weight must be > 0"):
        FedHeNN(weight=0)
