"""Logits of private samples: hashes and labels travel once, logits each round."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from views import View

from fedkd.errors import RunError, UploadRejected
from fedkd.knowledge import PenaltyKnowledge, PrivateLogits, Request
from fedkd.knowledge.private_logits import SampleLogits, SampleTeacher, sign_hashes
from fedkd.messages import Fusion, Upload

KIND = PrivateLogits(weight=1.5, bits=16)
LOGITS = torch.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, -1.0]])
HASHES = torch.zeros(3, 2, dtype=torch.uint8)
LABELS = torch.tensor([0, 1, 1])
TEACHER = SampleTeacher(logits=torch.zeros(3, 2), taught=torch.tensor([True, True, False]))


def view(**changes: Any) -> View:
    inputs = torch.arange(12.0).reshape(3, 1, 2, 2) - 5
    return View(
        **{
            "classes": 2,
            "own_logits": LOGITS,
            "own_inputs": inputs,
            "own_labels": LABELS,
            **changes,
        }
    )


def request_of(*taught: int) -> Request:
    return Request(
        round=2,
        classes=2,
        public_ids=torch.arange(0),
        temperature=1.0,
        train_sizes={0: 3, 4: 1},
        taught=frozenset(taught),
    )


def test_hashes_and_labels_travel_until_a_teacher_comes_back():
    first, later = KIND.extract(view()), KIND.extract(view(teacher=TEACHER))
    assert {name: (a.dtype, a.shape) for name, a in KIND.encode(first).items()} == {
        "logits": (np.float32, (3, 2)),
        "hashes": (np.uint8, (3, 2)),
        "labels": (np.int32, (3,)),
    }
    assert set(KIND.encode(later)) == {"logits"}
    KIND.check(KIND.decode(KIND.encode(first)), request_of(), 0)
    KIND.check(KIND.decode(KIND.encode(later)), request_of(0), 0)


def test_a_teacher_travels_to_the_bit():
    back = KIND.decode(KIND.encode(TEACHER))
    assert isinstance(back, SampleTeacher)
    assert torch.equal(back.logits, TEACHER.logits)
    assert torch.equal(back.taught, TEACHER.taught)


def test_hashes_say_the_angle_between_inputs_and_are_the_same_for_everyone():
    """At 45 degrees a quarter of the bits differ: 2048 of 8192, with a standard deviation of 39."""
    inputs = torch.tensor([[1.0, 0.0], [3.0, 3.0], [-1.0, 0.0], [2.0, 0.0]])
    bits = np.unpackbits(sign_hashes(inputs, 8192).numpy(), axis=1)
    assert abs((bits[0] != bits[1]).sum() - 2048) < 5 * 39
    assert (bits[0] != bits[2]).all()
    assert (bits[0] == bits[3]).all()
    assert torch.equal(sign_hashes(inputs[:1], 8192), sign_hashes(inputs, 8192)[:1])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"logits": LOGITS[:2]}, r"expected logits of shape \[3, 2\], got \[2, 2\]"),
        ({"logits": LOGITS / 0}, "contain NaN"),
        ({"logits": LOGITS * 1e7}, "at most 1e"),
        ({"hashes": None}, "expected hashes and labels with the first upload"),
        ({"hashes": HASHES[:, :1]}, r"expected hashes \[3, 2\] of bytes, got \[3, 1\]"),
        ({"hashes": HASHES.to(torch.int64)}, "of torch.int64"),
        ({"labels": LABELS[:2]}, "expected 3 labels"),
        ({"labels": LABELS + 1}, "labels must be from 0 to 1"),
        ({"labels": LABELS - 1}, "labels must be from 0 to 1"),
    ],
)
def test_a_first_upload_that_is_not_whole_is_rejected_by_name(changes: dict[str, Any], reason: str):
    sent = SampleLogits(**{"logits": LOGITS, "hashes": HASHES, "labels": LABELS, **changes})
    with pytest.raises(UploadRejected, match=reason):
        KIND.check(sent, request_of(4), 0)


def test_nobody_moves_its_samples_later_or_uploads_a_teacher():
    with pytest.raises(UploadRejected, match="came again"):
        KIND.check(SampleLogits(logits=LOGITS, hashes=HASHES, labels=LABELS), request_of(0), 0)
    with pytest.raises(UploadRejected, match="a teacher was uploaded"):
        KIND.check(TEACHER, request_of(0), 0)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        (
            {"logits": np.ones((3, 2)), "hashes": np.ones((3, 2), np.uint8)},
            "expected the array logits, the first time",
        ),
        ({"logits": np.ones((3, 2), int)}, "logits must have 2 axes and not be int64"),
    ],
)
def test_arrays_of_another_kind_are_rejected_by_name(arrays: dict[str, np.ndarray], reason: str):
    with pytest.raises(UploadRejected, match=reason):
        KIND.decode(arrays)


def test_uploads_are_sorted_by_client():
    uploads = [
        Upload(client_id=i, round=2, metrics={}, knowledge=SampleLogits(logits=LOGITS[:i]))
        for i in (4, 0)
    ]
    cohort = KIND.stack(uploads, request_of())
    assert (cohort.client_ids, cohort.train_sizes, cohort.size) == ((0, 4), (3, 1), 2)
    assert [len(upload.logits) for upload in cohort.uploads] == [0, 3]


@pytest.mark.parametrize(
    ("teachers", "reason"),
    [
        ({}, "an entry for every client"),
        ({0: {"logits": torch.ones(2, 2), "taught": torch.ones(3)}}, "for client 0"),
        ({0: {"logits": torch.full((3, 2), torch.nan), "taught": torch.ones(3)}}, "not finite"),
    ],
)
def test_a_broken_fusion_ends_the_run_by_name(teachers: Any, reason: str):
    with pytest.raises(RunError, match=reason):
        KIND.check_fusion(
            Fusion(weights=torch.eye(1), teachers=teachers), (0,), request_of(), "probs"
        )


def test_clients_that_were_absent_have_lessons_too():
    teachers = {
        i: {"logits": torch.ones(n, 2), "taught": torch.ones(n, dtype=torch.bool)}
        for i, n in ((0, 3), (4, 1))
    }
    fusion = Fusion(weights=torch.eye(1), teachers=teachers)
    KIND.check_fusion(fusion, (4,), request_of(), "probs")
    lessons = KIND.teachers(fusion, (4,), request_of(), "probs")
    assert len(lessons.of(0).logits) == 3
    assert lessons.of(1) is None


def test_the_penalty_is_the_weighted_divergence_from_the_teacher_of_each_sample():
    """At temperature 2: the teacher's logits (0, 2 ln 3) are (1/4, 3/4), the student's equal ones
    (1/2, 1/2).

    KL = ln 2 - H(1/4, 3/4) = 0.75 ln 3 - ln 2; the other sample of the batch is not taught, so
    1.5 * 4 * KL / 2 = 3 KL.
    """
    assert isinstance(KIND, PenaltyKnowledge)
    teacher = SampleTeacher(
        logits=torch.tensor([[9.0, 9.0], [0.0, 2 * math.log(3)], [0.0, 0.0]]), taught=LABELS > 0
    )
    penalty = KIND.penalty(view(temperature=2.0), teacher)
    student = torch.zeros(2, 2)
    expected = 3 * (0.75 * math.log(3) - math.log(2))
    torch.testing.assert_close(penalty(torch.tensor([0, 1]), student, None), torch.tensor(expected))
    assert penalty(torch.tensor([0, 0]), student, None) == 0
    assert KIND.penalty(view(), None) is None
    assert KIND.penalty(view(), SampleTeacher(logits=LOGITS, taught=LABELS > 5)) is None


@pytest.mark.parametrize("taught", [(0, 1, 2), (1,), (0, 2)])
def test_where_reads_wait_the_penalty_is_the_same(
    taught: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
):
    flags = torch.zeros(3, dtype=torch.bool)
    flags[list(taught)] = True
    teacher = SampleTeacher(logits=LOGITS.flip(0), taught=flags)
    values, grads, batch = [], [], torch.tensor([2, 0, 1, 0])
    for waits in (False, True):
        monkeypatch.setattr("fedkd.knowledge.private_logits.reads_wait", lambda _, w=waits: w)
        penalty = KIND.penalty(view(temperature=2.0), teacher)
        assert penalty is not None
        student = LOGITS.clone().requires_grad_()
        values.append(penalty(batch, student[batch], None))
        values[-1].backward()
        grads.append(student.grad)
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*grads)
