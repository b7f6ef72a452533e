"""Class tables: mean soft labels by true class; classes that a client lacks travel nowhere and
teach nothing."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from views import View

from fedkd.errors import RunError, UploadRejected
from fedkd.knowledge import ClassTables, PenaltyKnowledge, Request
from fedkd.knowledge.class_tables import ClassTable
from fedkd.messages import Fusion, Upload

KIND = ClassTables(weight=0.5)
REQUEST = Request(
    round=1, classes=2, public_ids=torch.arange(0), temperature=1.0, train_sizes={0: 3, 4: 7}
)
LN = math.log
# Soft labels (1/2, 1/2), (1/4, 3/4) and (1/10, 9/10); the first two are of class 1, the last of
# class 0.
VIEW = View(
    classes=2,
    own_logits=torch.tensor([[0.0, 0.0], [0.0, LN(3)], [0.0, LN(9)]]),
    own_labels=torch.tensor([1, 1, 0]),
)


def table(probs: list[list[float]], present: list[bool]) -> ClassTable:
    return ClassTable(probs=torch.tensor(probs), present=torch.tensor(present))


def fusion_of(**changes: Any) -> Fusion:
    teachers = {"probs": torch.full((2, 2, 2), 0.5), "present": torch.ones(2, 2, dtype=torch.bool)}
    return Fusion(weights=torch.eye(2), teachers={**teachers, **changes})


def test_a_row_is_the_mean_soft_label_of_its_class():
    found = KIND.extract(VIEW)
    torch.testing.assert_close(found.probs, torch.tensor([[0.1, 0.9], [0.375, 0.625]]))
    assert found.present.tolist() == [True, True]


def test_a_class_that_is_missing_does_not_travel_and_comes_back_as_missing():
    found = KIND.extract(View(own_logits=torch.zeros(1, 3), own_labels=torch.tensor([2])))
    assert found.present.tolist() == [False, False, True]
    arrays = KIND.encode(found)
    assert arrays["probs"].shape == (1, 3)
    back = KIND.decode(arrays)
    assert torch.equal(back.probs, found.probs)
    assert torch.equal(back.present, found.present)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (table([[0.5, 0.5], [0.5, 0.5]], [False, False]), "no class at all"),
        (table([[0.6, 0.5], [0.5, 0.5]], [True, True]), "sum to 1"),
        (table([[1.5, -0.5], [0.5, 0.5]], [True, True]), ">= 0"),
        (
            ClassTable(probs=torch.eye(3), present=torch.ones(3, dtype=torch.bool)),
            r"expected a table of \[2, 2\]",
        ),
    ],
)
def test_what_is_no_table_of_soft_labels_is_rejected_by_name(sent: ClassTable, reason: str):
    with pytest.raises(UploadRejected, match=reason):
        KIND.check(sent, REQUEST, 0)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"present": np.ones(2)}, "expected the arrays present and probs, got present"),
        ({"present": np.ones(2), "probs": np.eye(2)}, "flags"),
        ({"present": np.ones(2, bool), "probs": np.eye(2, dtype=int)}, "flags"),
        (
            {"present": np.array([True, False]), "probs": np.eye(2)},
            "a row of 2 for each class present",
        ),
    ],
)
def test_arrays_of_another_kind_are_rejected_by_name(arrays: dict[str, np.ndarray], reason: str):
    with pytest.raises(UploadRejected, match=reason):
        KIND.decode(arrays)


def test_uploads_are_stacked_by_client():
    first, second = (
        table([[1.0, 0.0], [0.0, 0.0]], [True, False]),
        table([[0.0, 1.0], [1.0, 0.0]], [True, True]),
    )
    uploads = [
        Upload(client_id=i, round=1, metrics={}, knowledge=t) for i, t in ((4, second), (0, first))
    ]
    cohort = KIND.stack(uploads, REQUEST)
    assert (cohort.client_ids, cohort.train_sizes, cohort.size) == ((0, 4), (3, 7), 2)
    assert torch.equal(cohort.probs, torch.stack([first.probs, second.probs]))
    assert cohort.present.tolist() == [[True, False], [True, True]]


@pytest.mark.parametrize(
    ("fusion", "reason"),
    [
        (fusion_of(probs=torch.ones(2, 2, 3)), r"returned probs \[2, 2, 3\]"),
        (fusion_of(probs=torch.ones(2, 2, 2)), "no soft labels"),
        (Fusion(weights=torch.eye(2), teachers=torch.ones(2, 2, 2)), "as a mapping"),
        (Fusion(weights=torch.ones(2, 2), teachers={}), "weights"),
    ],
)
def test_a_broken_fusion_ends_the_run_by_name(fusion: Fusion, reason: str):
    with pytest.raises(RunError, match=reason):
        KIND.check_fusion(fusion, (0, 4), REQUEST, "probs")


def test_each_client_learns_its_own_table_and_an_empty_one_is_no_lesson():
    fusion = fusion_of(present=torch.tensor([[True, False], [False, False]]))
    KIND.check_fusion(fusion, (0, 4), REQUEST, "probs")
    lessons = KIND.teachers(fusion, (0, 4), REQUEST, "probs")
    assert lessons.of(0).present.tolist() == [True, False]
    assert lessons.of(4) is None
    assert lessons.of(3) is None


def test_the_penalty_is_the_weighted_cross_entropy_against_the_row_of_the_label():
    """Samples 0 and 2 have labels 1 and 0; of class 0 there is no row.

    0.5 * (-(0.25 ln 0.5 + 0.75 ln 0.5) + 0) / 2 = ln 2 / 4.
    """
    assert isinstance(KIND, PenaltyKnowledge)
    penalty = KIND.penalty(VIEW, table([[9.0, 9.0], [0.25, 0.75]], [False, True]))
    logits = torch.tensor([[0.0, 0.0], [5.0, 1.0]])
    torch.testing.assert_close(penalty(torch.tensor([0, 2]), logits, None), torch.tensor(LN(2) / 4))
    assert KIND.penalty(VIEW, None) is None
