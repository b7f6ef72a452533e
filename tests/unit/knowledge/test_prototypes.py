"""Class prototypes: mean features by class, with counts that must be the client's own."""

from typing import Any

import numpy as np
import pytest
import torch
from views import View

from fedkd.errors import RunError, UploadRejected
from fedkd.knowledge import ClassifyingKnowledge, ClassPrototypes, PenaltyKnowledge, Request
from fedkd.knowledge.prototypes import Prototypes
from fedkd.messages import Fusion, Upload

KIND = ClassPrototypes(weight=0.5)
REQUEST = Request(
    round=1,
    classes=3,
    public_ids=torch.arange(0),
    temperature=1.0,
    train_sizes={0: 3, 4: 2},
    architectures=("small",) * 5,
    features={"small": 4},
)
FEATURES = torch.tensor([[1.0, 3.0, 5.0, 7.0], [3.0, 3.0, 3.0, 3.0], [0.0, 0.0, 2.0, 4.0]])
VIEW = View(own_features=FEATURES, own_labels=torch.tensor([2, 2, 0]))


def prototypes(features: Any, counts: list[int]) -> Prototypes:
    return Prototypes(features=torch.as_tensor(features), counts=torch.tensor(counts))


def test_a_row_is_the_mean_of_the_features_of_its_class():
    found = KIND.extract(VIEW)
    assert found.features.tolist() == [[0.0, 0.0, 2.0, 4.0], [0.0] * 4, [2.0, 3.0, 4.0, 5.0]]
    assert found.counts.tolist() == [1, 0, 2]
    KIND.check(found, REQUEST, 0)


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 9])
def test_features_of_any_width_are_pooled_to_one(width: int):
    """Entry i is the mean from floor(i d / width) up to ceil((i + 1) d / width)."""
    found = ClassPrototypes(weight=1.0, width=width).pooled(FEATURES)
    for i in range(width):
        stretch = FEATURES[:, i * 4 // width : -(-(i + 1) * 4 // width)]
        torch.testing.assert_close(found[:, i], stretch.mean(dim=1))


def test_what_is_missing_does_not_travel():
    arrays = KIND.encode(KIND.extract(VIEW))
    assert arrays["features"].shape == (2, 4)
    assert (arrays["counts"].dtype, arrays["features"].dtype) == (np.int32, np.float32)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (prototypes(torch.zeros(3, 5), [1, 0, 2]), r"expected prototypes \[3, 4\], got \[3, 5\]"),
        (prototypes(torch.zeros(2, 4), [1, 2]), r"expected prototypes \[3, 4\]"),
        (prototypes(torch.zeros(3, 4), [1, 1, 2]), "sum to the 3 training samples"),
        (prototypes(torch.zeros(3, 4), [4, 0, -1]), "must be >= 0"),
        (prototypes(torch.full((3, 4), torch.nan), [1, 0, 2]), "contain NaN"),
        (prototypes(torch.full((3, 4), 1e7), [1, 0, 2]), "as large as 1e"),
    ],
)
def test_what_is_no_prototype_is_rejected_by_name(sent: Prototypes, reason: str):
    with pytest.raises(UploadRejected, match=reason):
        KIND.check(sent, REQUEST, 0)


def test_pooled_prototypes_must_have_the_width_that_was_set():
    kind = ClassPrototypes(weight=1.0, width=2)
    kind.check(kind.extract(VIEW), REQUEST, 0)
    with pytest.raises(UploadRejected, match=r"expected prototypes \[3, 2\], got \[3, 4\]"):
        kind.check(KIND.extract(VIEW), REQUEST, 0)


def test_an_input_is_of_the_nearest_prototype_among_the_clients_own_classes():
    """The client has classes 0 and 2. The first input lies on the prototype of class 1, which is
    not its own, and is nearer to that of 2 than to that of 0."""
    teacher = prototypes([[0.0] * 4, [6.0] * 4, [4.0] * 4], [1, 1, 1])
    inputs = torch.tensor([[6.0] * 4, [1.0] * 4, [3.0] * 4])[:, None, None]
    assert isinstance(KIND, ClassifyingKnowledge)
    assert KIND.classify(VIEW, teacher, inputs).tolist() == [2, 0, 2]
    without_2 = prototypes([[0.0] * 4, [6.0] * 4, [4.0] * 4], [1, 1, 0])
    assert KIND.classify(VIEW, without_2, inputs).tolist() == [0, 0, 0]


def test_without_a_prototype_of_its_own_classes_a_client_has_no_answer():
    teacher = prototypes([[0.0] * 4, [6.0] * 4, [4.0] * 4], [0, 1, 0])
    assert KIND.classify(VIEW, teacher, torch.zeros(2, 1, 1, 4)).tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"counts": np.ones(3, int)}, "expected the arrays counts and features, got counts"),
        ({"counts": np.ones(3), "features": np.ones((3, 4))}, "whole numbers"),
        (
            {"counts": np.array([1, 0, 2]), "features": np.ones((3, 4))},
            "expected 2 rows, one for each count above 0",
        ),
    ],
)
def test_arrays_of_another_kind_are_rejected_by_name(arrays: dict[str, np.ndarray], reason: str):
    with pytest.raises(UploadRejected, match=reason):
        KIND.decode(arrays)


def test_uploads_are_stacked_by_client():
    first, second = (
        prototypes(torch.ones(3, 4), [1, 1, 1]),
        prototypes(torch.zeros(3, 4), [2, 0, 0]),
    )
    uploads = [
        Upload(client_id=i, round=1, metrics={}, knowledge=p) for i, p in ((4, second), (0, first))
    ]
    cohort = KIND.stack(uploads, REQUEST)
    assert (cohort.client_ids, cohort.train_sizes, cohort.size) == ((0, 4), (3, 2), 2)
    assert cohort.counts.tolist() == [[1, 1, 1], [2, 0, 0]]
    assert cohort.features[:, 0, 0].tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("teachers", "reason"),
    [
        (torch.ones(3, 4), "as a mapping"),
        (
            {"features": torch.ones(2, 4), "present": torch.ones(3, dtype=torch.bool)},
            r"returned features \[2, 4\]",
        ),
        (
            {"features": torch.full((3, 4), torch.nan), "present": torch.ones(3, dtype=torch.bool)},
            "not finite",
        ),
    ],
)
def test_a_broken_fusion_ends_the_run_by_name(teachers: object, reason: str):
    with pytest.raises(RunError, match=reason):
        KIND.check_fusion(Fusion(weights=torch.eye(2), teachers=teachers), (0, 4), REQUEST, "probs")


def test_everyone_learns_the_same_prototypes_without_the_counts_of_others():
    teachers = {"features": torch.ones(3, 4), "present": torch.tensor([True, False, True])}
    lessons = KIND.teachers(
        Fusion(weights=torch.eye(2), teachers=teachers), (0, 4), REQUEST, "probs"
    )
    assert lessons.of(0) is lessons.of(3)
    assert lessons.of(3).counts.tolist() == [1, 0, 1]
    assert lessons.of(3).features.sum(dim=1).tolist() == [4.0, 0.0, 4.0]


def test_the_penalty_is_the_weighted_mean_square_from_the_prototype_of_the_label():
    """Sample 0, of class 2, is (0, 2, 4, 6) from its prototype: a mean square of 14; of class 0
    there is none.

    0.5 * (14 + 0) / 2 = 3.5.
    """
    assert isinstance(KIND, PenaltyKnowledge)
    teacher = prototypes([[9.0] * 4, [9.0] * 4, [1.0] * 4], [0, 1, 5])
    penalty = KIND.penalty(VIEW, teacher)
    batch = torch.tensor([0, 2])
    torch.testing.assert_close(
        penalty(batch, torch.zeros(2, 3), FEATURES[batch]), torch.tensor(3.5)
    )
    assert KIND.penalty(VIEW, None) is None


def test_pooled_features_are_drawn_to_pooled_prototypes():
    """Pooled to 1 wide, sample 0 is 4, from a prototype of 1: a square of 9."""
    kind = ClassPrototypes(weight=1.0, width=1)
    penalty = kind.penalty(VIEW, prototypes([[0.0], [0.0], [1.0]], [0, 0, 1]))
    features = FEATURES[:1].clone().requires_grad_()
    loss = penalty(torch.tensor([0]), torch.zeros(1, 3), features)
    torch.testing.assert_close(loss, torch.tensor(9.0))
    loss.backward()
    torch.testing.assert_close(features.grad, torch.full((1, 4), 1.5))
