"""Adaptive top k: what is sent, how it travels, what is refused, and who a class's mean is over."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedkd.errors import SettingError, UploadRejected
from fedkd.knowledge import Request
from fedkd.messages import Cohort, Predictions
from fedkd.strategies.top_k_mean import LikeliestClasses, TopKMean, likeliest

KIND = LikeliestClasses("probs", mass=0.8, most=3)
REQUEST = Request(
    round=1, classes=5, public_ids=torch.tensor([4, 9]), temperature=1.0, train_sizes={0: 10}
)


def sent(values: list[list[float]]) -> Predictions:
    return Predictions(ids=torch.tensor([4, 9]), values=torch.tensor(values), scale="probs")


def cohort(values: Tensor) -> Cohort:
    clients, samples, _ = values.shape
    return Cohort(
        round=1,
        client_ids=tuple(range(clients)),
        public_ids=torch.arange(samples),
        values=values,
        scale="probs",
    )


@given(seed=st.integers(0, 2**20), mass=st.floats(0.05, 1.0), most=st.integers(1, 7))
def test_the_fewest_classes_that_hold_the_mass_are_sent(seed: int, mass: float, most: int):
    stream = torch.Generator().manual_seed(seed)
    probs = torch.softmax(2 * torch.randn(4, 6, generator=stream), dim=1)
    mask = likeliest(probs, mass, most)
    for row, kept in zip(probs.tolist(), mask.tolist(), strict=True):
        order = sorted(range(6), key=lambda c: -row[c])
        total, expected = 0.0, set[int]()
        for c in order:
            if total >= mass - 1e-6 or len(expected) == most:
                break
            expected.add(c)
            total += row[c]
        assert {c for c in range(6) if kept[c]} == expected


def test_a_mean_is_over_those_who_sent_the_class():
    values = torch.tensor([[[0.6, 0.3, 0.0]], [[0.8, 0.0, 0.0]], [[0.0, 0.0, 0.9]]])
    fusion = TopKMean().fuse(cohort(values), None)
    assert isinstance(fusion.teachers, Tensor)
    means = torch.tensor([0.7, 0.3, 0.9])
    torch.testing.assert_close(fusion.teachers[0], means / means.sum())
    parts = torch.tensor([0.3 + 0.3, 0.4, 0.9]) / means.sum()
    torch.testing.assert_close(fusion.weights, parts.expand(3, 3))
    assert fusion.metrics == pytest.approx({"classes_sent": 4 / 3, "senders": 4 / 3})
    over_all = TopKMean(over="all").fuse(cohort(values), None).teachers
    assert isinstance(over_all, Tensor)
    sums = torch.tensor([1.4, 0.3, 0.9])
    torch.testing.assert_close(over_all[0], sums / sums.sum())


def test_what_one_client_alone_knows_is_not_diluted_by_the_others():
    values = torch.zeros(5, 1, 3)
    values[:, 0, 0], values[4, 0, 1] = 0.5, 0.5
    shares = [
        strategy.fuse(cohort(values), None).teachers[0, 1].item()  # type: ignore[index]
        for strategy in (TopKMean(), TopKMean(over="all"))
    ]
    assert shares == pytest.approx([1 / 2, 1 / 6])


def test_uploads_come_back_to_the_bit_and_take_their_entries_alone():
    logits = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    view: Any = SimpleNamespace(
        temperature=1.0, public_ids=lambda: torch.tensor([4, 9]), public_logits=lambda: logits
    )
    found = KIND.extract(view)
    arrays = KIND.encode(found)
    entries = int(arrays["counts"].sum())
    assert entries == int((found.values > 0).sum()) < 10
    assert sum(a.nbytes for a in arrays.values()) == 2 * 4 + 2 * 4 + 2 * 1 + entries * (1 + 4)
    back = KIND.decode(arrays)
    assert torch.equal(back.values, found.values)
    assert torch.equal(back.ids, found.ids)
    KIND.check(back, REQUEST, 0)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([[0.5, 0.4, 0, 0, 0], [0, 0, 0, 0, 0]], "a class at least"),
        ([[0.5, 0.7, 0, 0, 0], [1, 0, 0, 0, 0]], "sum to 1"),
        ([[0.2, 0.2, 0.1, 0.1, 0.1], [1, 0, 0, 0, 0]], "sum to 1"),
        ([[0.5, 0.4], [0.5, 0.4]], "of shape"),
        ([[float("nan"), 0.4, 0, 0, 0], [1, 0, 0, 0, 0]], "NaN"),
    ],
)
def test_rows_that_are_no_part_of_a_soft_label_are_rejected(values: Any, reason: str):
    with pytest.raises(UploadRejected, match=reason):
        KIND.check(sent(values), REQUEST, 0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"classes": np.array([1, 0, 2], np.uint8)}, "ascend in each row"),
        ({"classes": np.array([0, 9, 2], np.uint8)}, "below 5"),
        ({"classes": np.array([0, 2], np.uint8)}, "expected 3 numbers in the classes"),
        ({"counts": np.array([2, 200], np.uint8)}, "expected 202 numbers"),
        ({"counts": np.array([2], np.uint8)}, "expected 2 numbers in the counts"),
        ({"amounts": np.array([0.5, -0.4, 1.0], np.float32)}, "must be > 0"),
        ({"amounts": np.array([0.5, np.inf, 1.0], np.float32)}, "infinity"),
        ({"amounts": np.array([0.5, 0.4, 1.0], np.float64)}, "must be float32"),
        ({"shape": np.array([2, 2**31], np.uint32)}, "are accepted"),
        ({"shape": np.array([2], np.uint32)}, "must be rows of classes"),
        ({"more": np.zeros(1)}, "expected the arrays"),
    ],
)
def test_broken_messages_are_rejected(change: dict[str, np.ndarray], reason: str):
    arrays = KIND.encode(sent([[0.5, 0.4, 0, 0, 0], [0, 0, 1.0, 0, 0]]))
    KIND.check(KIND.decode(arrays), REQUEST, 0)
    with pytest.raises(UploadRejected, match=reason):
        KIND.decode({**arrays, **change})


def test_all_classes_of_equal_clients_are_the_plain_mean():
    values = torch.softmax(torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(2)), -1)
    kept = torch.where(likeliest(values.flatten(0, 1), 1.0, 6).view_as(values), values, 0.0)
    for strategy in (TopKMean(), TopKMean(over="all")):
        found = strategy.fuse(cohort(kept), None).teachers
        assert isinstance(found, Tensor)
        torch.testing.assert_close(found, values.mean(dim=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrong", [{"mass": 0.0}, {"mass": 1.1}, {"most": 0}, {"over": "some"}])
def test_settings_that_send_nothing_or_mean_nothing_are_refused(wrong: dict[str, Any]):
    with pytest.raises(SettingError):
        TopKMean(**wrong)
