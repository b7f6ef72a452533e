"""A client's choice of public samples: held-out private samples set its threshold."""

import numpy as np
import pytest
import torch
from torch import Tensor
from views import View

from fedkd.knowledge import selective
from fedkd.knowledge.selective import InDistribution


def view_of(private: Tensor, public: Tensor) -> View:
    labels = torch.zeros(len(private), dtype=torch.int64)
    return View(own_inputs=private, own_labels=labels, inputs=public, classes=1)


def test_a_fifth_of_the_private_samples_sets_the_threshold_for_the_scores_of_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Samples are numbers and their own scores: of the held-out fifth the lower quartile counts."""
    asked = {}

    def scores(known: Tensor, rows: Tensor, clusters: int, seed: int) -> Tensor:
        asked.update(known=known.flatten().tolist(), rows=rows.flatten().tolist())
        return rows.flatten()

    monkeypatch.setattr(selective, "nearness", scores)
    private, public = torch.arange(20.0)[:, None], torch.arange(20.0)[:, None]
    rule = InDistribution(density="kmeans", quantile=0.25, width=1.0, auxiliary=1)
    chosen = rule.choose(view_of(private, public))
    held_out = asked["rows"][:4]
    assert asked["rows"][4:] == list(range(20))
    assert sorted(held_out + asked["known"]) == list(range(20))
    assert chosen.tolist() == [x >= np.quantile(held_out, 0.25) for x in range(20)]


def test_a_client_with_one_sample_predicts_on_everything() -> None:
    rule = InDistribution(density="kmeans", quantile=0.25, width=1.0, auxiliary=1)
    assert rule.choose(view_of(torch.zeros(1, 1), torch.ones(3, 1))).tolist() == [True] * 3
