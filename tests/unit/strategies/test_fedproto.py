"""FedProto's prototypes: the mean features of all samples of a class, whoever has them."""

from typing import Any

import pytest
import torch
from tiny import records

from fedkd.errors import SettingError
from fedkd.knowledge import PrototypeCohort
from strategies.fedproto import FedProto


def cohort_of(features: Any, counts: Any) -> PrototypeCohort:
    counts = torch.tensor(counts)
    return PrototypeCohort(
        round=1,
        client_ids=tuple(range(len(counts))),
        features=torch.tensor(features),
        counts=counts,
    )


def test_a_prototype_is_the_mean_weighted_by_counts():
    """Class 0: 3 samples at 1 and 1 at 5 make 2. Class 1: client 1 alone. Class 2: nobody.

    Weights: client 0 has 3/4 of class 0 and nothing of class 1, so 3/8 of what is taught.
    """
    fusion = FedProto().fuse(
        cohort_of(
            [[[1.0], [0.0], [0.0]], [[5.0], [7.0], [0.0]]], [[3.0, 0.0, 0.0], [1.0, 2.0, 0.0]]
        ),
        None,
    )
    assert fusion.teachers["features"].tolist() == [[2.0], [7.0], [0.0]]
    assert fusion.teachers["present"].tolist() == [True, True, False]
    assert fusion.weights.tolist() == [[0.375, 0.625]] * 2
    assert fusion.state is None


def test_a_client_alone_learns_its_own_prototypes():
    fusion = FedProto().fuse(cohort_of([[[1.0, 2.0]]], [[4.0]]), None)
    assert fusion.teachers["features"].tolist() == [[1.0, 2.0]]
    assert fusion.weights.tolist() == [[1.0]]


def spread_after(weight: float) -> list[float | None]:
    run = records(strategy={"name": "fedproto", "prototype_weight": weight}, models=["mlp"])
    return [record.clients[0].train_loss for record in run]


def test_prototypes_change_training_from_the_second_round_on():
    weak, strong = spread_after(1e-6), spread_after(5.0)
    assert weak[0] == strong[0]
    assert weak[1] != strong[1]


def test_models_of_unequal_width_need_a_width_and_learn_together_with_one():
    with pytest.raises(SettingError, match=r"mlp 128, cnn 84; say strategy.width=N"):
        records(strategy="fedproto")
    run = records(strategy={"name": "fedproto", "width": 16})
    assert {client.status for record in run for client in record.clients} == {"ok"}
    # Ten counts, and at most ten rows of 16 numbers, of 4 bytes each.
    assert all(0 < client.bytes_up <= 10 * 4 + 10 * 16 * 4 for client in run[0].clients)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"prototype_weight": 0.0}, "prototype_weight must be > 0"),
        ({"width": 0}, "width must be >= 1"),
    ],
)
def test_settings_out_of_range_are_errors(changes: dict[str, Any], reason: str):
    with pytest.raises(SettingError, match=reason):
        FedProto(**changes)
