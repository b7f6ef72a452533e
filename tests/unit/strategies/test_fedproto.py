"""FedProto's prototypes: the mean features of all samples of a class, whoever has them."""

from typing import Any

import pytest
import torch

from fedkd.errors import SettingError
from fedkd.knowledge import PrototypeCohort
from fedkd.strategies.fedproto import FedProto


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


def test_a_plain_mean_counts_every_client_with_the_class_once():
    """Class 0: (1 + 5) / 2 = 3, whatever the counts. Class 1: client 1 alone."""
    fusion = FedProto(mean="plain").fuse(
        cohort_of(
            [[[1.0], [0.0], [0.0]], [[5.0], [7.0], [0.0]]], [[3.0, 0.0, 0.0], [1.0, 2.0, 0.0]]
        ),
        None,
    )
    assert fusion.teachers["features"].tolist() == [[3.0], [7.0], [0.0]]
    assert fusion.teachers["present"].tolist() == [True, True, False]
    assert fusion.weights.tolist() == [[0.25, 0.75]] * 2


def test_a_client_alone_learns_its_own_prototypes():
    fusion = FedProto().fuse(cohort_of([[[1.0, 2.0]]], [[4.0]]), None)
    assert fusion.teachers["features"].tolist() == [[1.0, 2.0]]
    assert fusion.weights.tolist() == [[1.0]]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"prototype_weight": 0.0}, "prototype_weight must be > 0"),
        ({"mean": "median"}, "mean must be one of weighted, plain"),
        ({"width": 0}, "width must be >= 1"),
    ],
)
def test_settings_out_of_range_are_errors(changes: dict[str, Any], reason: str):
    with pytest.raises(SettingError, match=reason):
        FedProto(**changes)
