"""FedProto's Table 1: its network, its count of hits, and its table."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fedkd.cli.studies.fedproto_table import (
    NAMES,
    PUBLISHED,
    SETTINGS,
    DroppedLinear,
    Readings,
    cnn18,
    cnn20,
    cnn22,
    running_count,
    study_of,
    table,
)
from fedkd.models.features import find_head, forward_with_features


@pytest.mark.parametrize(("factory", "channels"), [(cnn18, 18), (cnn20, 20), (cnn22, 22)])
def test_networks_are_of_the_papers_size(factory: Callable[..., nn.Module], channels: int) -> None:
    """20 x 21,840 parameters are the paper's 430,000 a round of FedAvg."""
    model = factory((1, 28, 28), 10).eval()
    by_hand = (26 * 10) + (250 + 1) * channels + (16 * channels + 1) * 50 + 51 * 10
    assert sum(p.numel() for p in model.parameters()) == by_hand
    head = find_head(model, torch.zeros(2, 1, 28, 28))
    assert head is not None
    assert forward_with_features(model, head, torch.zeros(2, 1, 28, 28))[1].shape == (2, 50)


def test_features_are_what_comes_before_the_last_dropout() -> None:
    model = nn.Sequential(nn.Flatten(), DroppedLinear(50, 3)).train()
    inputs = torch.ones(4, 50)
    logits, features = forward_with_features(model, "1", inputs)
    assert torch.equal(features, inputs)
    assert not torch.equal(logits[0], logits[1])  # dropout acts


def test_the_running_count_is_that_of_a_loop_without_a_reset() -> None:
    stream = np.random.default_rng(0)
    sizes = np.array([80, 120, 200, 40])
    head, nearest = (stream.integers(0, sizes + 1) / sizes for _ in range(2))
    hits = images = 0.0
    expected, without = [], []
    for i in range(4):
        for accuracies in (head, nearest):
            hits += accuracies[i] * sizes[i]
            images += sizes[i]
        expected.append(hits / images)
        without.append((head * sizes)[: i + 1].sum() / sizes[: i + 1].sum())
    np.testing.assert_allclose(running_count(head, nearest, sizes), expected)
    np.testing.assert_allclose(running_count(head, None, sizes), without)


def test_the_table_has_each_published_figure_beside_three_readings() -> None:
    head, nearest = np.array([0.9, 0.7]), np.array([0.8, 0.8])
    with_one = Readings(head, nearest, running_count(head, nearest, np.array([10, 10])))
    without = Readings(head, None, running_count(head, None, np.array([10, 10])))
    found = {
        (method, ways): [with_one if method.startswith("fedproto") else without] * 2
        for method in SETTINGS
        for ways in NAMES
    }
    lines = table(found).splitlines()
    assert len(lines) == 2 + len(PUBLISHED) * len(NAMES)
    assert "| 3 | local_only | 94.05 ± 2.93 | 80.00 ± 10.00 | – | 85.00 ± 5.00 |" in lines
    assert (
        "| 5 | fedproto-mh | 96.22 ± 0.36 | 80.00 ± 10.00 | 80.00 ± 0.00 | 82.50 ± 2.50 |" in lines
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", SETTINGS)
def test_its_runs_are_valid_and_have_the_papers_rounds(method: str) -> None:
    cells = study_of(method, None).cells(2, Path("out"), 1)
    assert len(cells) == 2 * len(NAMES)
