"""What a client remembers of its private training, and how a teacher's weights count."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from fedkd.federation import local_steps
from fedkd.messages import Predictions
from fedkd.training.hyperparameters import DistillationSettings


class Memory:
    def __init__(self) -> None:
        self.kept: dict[str, dict[str, Tensor]] = {}

    def replace(self, section: str, tensors: dict[str, Tensor]) -> None:
        self.kept[section] = tensors


def test_a_kind_is_asked_before_and_after_private_training(monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []

    def remember(view: Any, moment: str) -> dict[str, Tensor] | None:
        happened.append(moment)
        return {"loss": torch.ones(1)} if moment == "before training" else None

    monkeypatch.setattr(local_steps, "_train", lambda update: happened.append("training"))
    monkeypatch.setattr(local_steps, "KnowledgeView", lambda update: None)
    kind, memory = SimpleNamespace(remembers=True, remember=remember), Memory()
    update: Any = SimpleNamespace(context=SimpleNamespace(kind=kind), memory=memory)
    local_steps.train(update)
    assert happened == ["before training", "training", "after training"]
    assert memory.kept["knowledge "]["loss"].item() == 1
    kind.remembers = False
    local_steps.train(update)
    assert happened[3:] == ["training"]


def test_weights_of_a_teacher_multiply_those_of_margins(monkeypatch: pytest.MonkeyPatch) -> None:
    probs = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.5, 0.5]])
    weights = torch.tensor([1.0, 0.1, 1.0])
    teacher = Predictions(ids=torch.arange(3), values=probs, scale="probs", weights=weights)
    monkeypatch.setattr(local_steps, "teacher_target", lambda context, teacher: teacher.values)
    found = []
    for margin_weights in (False, True):
        settings = DistillationSettings(margin_weights=margin_weights)
        context: Any = SimpleNamespace(distillation=settings, loss="kl", device=torch.device("cpu"))
        found.append(local_steps.distillation_loss(context, teacher, None).weights)
    torch.testing.assert_close(found[0], weights)
    margins = torch.tensor([0.8, 0.2, 0.0])  # scaled to mean 1
    torch.testing.assert_close(found[1], weights * margins / margins.mean())
