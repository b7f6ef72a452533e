"""Batches of clients that fail: said once, and the clients go on alone."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fedkd.flower import process_clients
from fedkd.flower.process_clients import Batches


def batches(stopped: bool = False) -> Batches:
    names = [SimpleNamespace(name="mlp")] * 12 + [SimpleNamespace(name="cnn")] * 4
    return Batches(SimpleNamespace(architectures=names, stopped=lambda: stopped))  # type: ignore[arg-type]


def test_where_memory_is_short_batches_are_halved_and_stay_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[list[int]] = []

    def train(context: object, batch: list[tuple[int, Any]]) -> None:
        if len(batch) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        trained.append([i for i, _ in batch])

    monkeypatch.setattr(process_clients, "train_batch", train)
    one = batches()
    for _ in range(2):
        one.train(lambda: [(i, None) for i in range(8)])  # type: ignore[misc]
    assert trained == [[0, 1], [2, 3], [4, 5], [6, 7]] * 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert "too short to train 8 clients of mlp together: at most 4 together" in said[0]


def test_a_model_that_fails_together_is_said_once_and_left_to_the_loop(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[int] = []

    def train(context: object, batch: list[tuple[int, Any]]) -> None:
        asked.append(batch[0][0])
        if batch[0][0] < 12:
            raise RuntimeError("no batching rule")

    monkeypatch.setattr(process_clients, "train_batch", train)
    one = batches()
    for first in (0, 4, 12, 12):
        one.train(lambda first=first: [(i, None) for i in range(first, first + 4)])  # type: ignore[misc]
    assert asked == [0, 12, 12]
    (said,) = capsys.readouterr().err.splitlines()
    assert "clients of mlp train one by one from here on" in said
    assert "no batching rule" in said


def test_a_run_that_is_stopped_ends_in_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(context: object, batch: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(process_clients, "train_batch", train)
    with pytest.raises(KeyboardInterrupt):
        batches(stopped=True).train(lambda: [(0, None), (1, None)])  # type: ignore[misc]
