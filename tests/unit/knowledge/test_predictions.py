"""Public-set predictions: they travel unchanged, and whatever is no prediction is rejected."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from views import View

from fedkd.errors import FedkdError, RunError, UploadRejected
from fedkd.fusion import soften
from fedkd.knowledge import KINDS
from fedkd.knowledge.knowledge_type import Request
from fedkd.messages import Cohort, Fusion, Predictions, Upload

IDS = torch.tensor([3, 5, 8, 13])
LOGITS = torch.tensor([[1.0, 0.0, -1.0], [0.5, 0.5, 0.5], [30.0, -30.0, 0.0], [0.0, 2.0, 1.0]])
SCALES = ("logits", "probs")


def request_of(**changes: Any) -> Request:
    settings = {
        "round": 2,
        "classes": 3,
        "public_ids": IDS,
        "temperature": 2.0,
        "train_sizes": {0: 10, 1: 11, 2: 12, 7: 17},
    }
    return Request(**{**settings, **changes})


def good(scale: str) -> Predictions:
    return KINDS[scale].extract(View(logits=LOGITS, ids=IDS, temperature=2.0))


def received(scale: str, values: Any, ids: Any = (3, 5, 8, 13)) -> Predictions:
    """Predictions as the server has them, made from arrays that came over the wire."""
    return KINDS[scale].decode({"ids": np.asarray(ids), scale: np.asarray(values)})


def upload_of(client_id: int, values: Tensor, scale: str = "logits") -> Upload:
    knowledge = Predictions(ids=IDS, values=values, scale=scale)
    return Upload(client_id=client_id, round=2, metrics={}, knowledge=knowledge)


# Extracting.


def test_logits_are_uploaded_as_they_are():
    knowledge = good("logits")
    assert torch.equal(knowledge.values, LOGITS)
    assert (knowledge.scale, knowledge.ids.tolist()) == ("logits", IDS.tolist())


def test_soft_labels_are_made_at_the_temperature_asked_for():
    knowledge = good("probs")
    torch.testing.assert_close(knowledge.values, torch.softmax(LOGITS / 2.0, dim=-1))
    assert knowledge.scale == "probs"


# Travelling.


@pytest.mark.parametrize("scale", SCALES)
def test_knowledge_survives_the_trip_as_arrays_to_the_bit(scale: str):
    sent = good(scale)
    arrays = KINDS[scale].encode(sent)
    back = KINDS[scale].decode(arrays)
    assert torch.equal(back.values, sent.values)
    assert torch.equal(back.ids, sent.ids)
    assert back.ids.dtype == torch.int64
    assert back.scale == scale
    KINDS[scale].check(back, request_of(), 0)


@pytest.mark.parametrize("scale", SCALES)
def test_what_travels_is_named_and_as_small_as_it_can_be(scale: str):
    arrays = KINDS[scale].encode(good(scale))
    assert {name: array.dtype for name, array in arrays.items()} == {
        "ids": np.int32,
        scale: np.float32,
    }


def test_what_arrives_can_be_written_to_without_changing_the_message():
    arrays = KINDS["logits"].encode(good("logits"))
    arrays = {name: array.copy() for name, array in arrays.items()}
    back = KINDS["logits"].decode(arrays)
    back.values.zero_()
    assert np.array_equal(arrays["logits"], LOGITS.numpy())


@pytest.mark.parametrize(
    "names",
    [
        ("ids",),
        ("logits",),
        ("ids", "weights"),
        ("ids", "logits", "probs"),
        ("ids", "logits", "extra"),
        (),
    ],
)
def test_arrays_of_another_kind_are_rejected(names: tuple[str, ...]):
    arrays = {name: np.zeros((4, 3), dtype=np.float32) for name in names}
    with pytest.raises(UploadRejected, match="expected the arrays ids and logits, got"):
        KINDS["logits"].decode(arrays)


@pytest.mark.parametrize(
    "arrays",
    [
        {"ids": IDS.numpy(), "logits": np.array([["a"] * 3] * 4)},
        {"ids": IDS.numpy(), "logits": np.array([[None] * 3] * 4)},
        {"ids": np.array(["3", "5", "8", "13"]), "logits": LOGITS.numpy()},
        {"ids": np.array([3.2, 5.0, 8.0, 13.0]), "logits": LOGITS.numpy()},
    ],
    ids=["text", "objects", "ids that are text", "ids that are no whole numbers"],
)
def test_arrays_that_hold_no_numbers_of_the_kind_are_rejected(arrays: Mapping[str, np.ndarray]):
    """Rejected, not raised as another error: one client's message must not end the round."""
    with pytest.raises(UploadRejected):
        KINDS["logits"].check(KINDS["logits"].decode(arrays), request_of(), 0)


# Checking.


@pytest.mark.parametrize("scale", SCALES)
def test_what_was_asked_for_is_accepted(scale: str):
    KINDS[scale].check(good(scale), request_of(), 0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("scale", SCALES)
def test_any_floating_point_type_is_accepted(scale: str, dtype: type):
    KINDS[scale].check(received(scale, good(scale).values.numpy().astype(dtype)), request_of(), 0)


@pytest.mark.parametrize(("asked", "sent"), [("logits", "probs"), ("probs", "logits")])
def test_the_other_scale_is_rejected(asked: str, sent: str):
    with pytest.raises(UploadRejected, match=f"expected {asked}, got {sent}"):
        KINDS[asked].check(good(sent), request_of(), 0)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(
    "shape", [(4, 2), (4, 4), (3, 3), (5, 3), (12,), (4, 3, 1), (1, 4, 3), (0, 3), (4, 0), ()]
)
def test_a_wrong_shape_is_rejected(scale: str, shape: tuple[int, ...]):
    values = np.full(shape, 1 / 3, dtype=np.float32)
    with pytest.raises(UploadRejected, match=rf"expected {scale} of shape \[4, 3\], got"):
        KINDS[scale].check(received(scale, values), request_of(), 0)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8, np.bool_, np.complex64])
@pytest.mark.parametrize("scale", SCALES)
def test_values_that_are_no_floating_point_numbers_are_rejected(scale: str, dtype: type):
    one_hot = np.eye(4, 3).astype(dtype)
    with pytest.raises(UploadRejected, match=f"expected floating point {scale}, got torch"):
        KINDS[scale].check(received(scale, one_hot), request_of(), 0)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("bad", [99, -1, 2**31 - 1])
def test_unknown_ids_are_rejected_and_named(scale: str, bad: int):
    with pytest.raises(
        UploadRejected, match=rf"unknown public ids \[{bad}\]; expected the 4 that were asked for"
    ):
        KINDS[scale].check(received(scale, good(scale).values, ids=[3, 5, 8, bad]), request_of(), 0)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("ids", [[5, 3, 8, 13], [3, 3, 8, 13], [3, 5, 8], [3, 5, 8, 13, 13], []])
def test_ids_in_another_order_or_number_are_rejected(scale: str, ids: list[int]):
    knowledge = received(scale, good(scale).values, ids=np.array(ids, dtype=np.int32))
    with pytest.raises(UploadRejected, match="public ids in another order or number"):
        KINDS[scale].check(knowledge, request_of(), 0)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(
    ("bad", "word"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")]
)
def test_one_value_that_is_not_finite_is_enough_to_reject(scale: str, bad: float, word: str):
    values = good(scale).values.numpy().copy()
    values[2, 1] = bad
    with pytest.raises(UploadRejected, match=f"{scale} contain {word}"):
        KINDS[scale].check(received(scale, values), request_of(), 0)


def test_a_value_too_large_for_float32_is_rejected():
    """It is finite in the float64 that was sent, and infinite in the float32 that is fused."""
    values = LOGITS.numpy().astype(np.float64)
    values[1, 1] = 1e300
    knowledge = received("logits", values)
    with pytest.raises(UploadRejected):
        KINDS["logits"].check(knowledge, request_of(), 0)


@pytest.mark.parametrize(
    "row",
    [
        [0.5, 0.5, 0.5],
        [0.3, 0.3, 0.3],
        [1.5, -0.5, 0.0],
        [0.0, 0.0, 0.0],
        [0.5, 0.498, 0.0],
        [1.0, 1e-2, 0.0],
    ],
)
def test_soft_labels_that_are_no_distributions_are_rejected(row: list[float]):
    values = good("probs").values.numpy().copy()
    values[3] = row
    with pytest.raises(UploadRejected, match="soft labels must be >= 0 and sum to 1 in each row"):
        KINDS["probs"].check(received("probs", values), request_of(), 0)


def test_logits_need_not_sum_to_anything():
    KINDS["logits"].check(
        received("logits", np.full((4, 3), -7.5, dtype=np.float32)), request_of(), 0
    )


# Stacking.


def test_uploads_are_stacked_by_client_id():
    uploads = [upload_of(client, LOGITS + client) for client in (7, 0, 2)]
    cohort = KINDS["logits"].stack(uploads, request_of())
    assert cohort.client_ids == (0, 2, 7)
    assert cohort.size == 3
    assert torch.equal(cohort.values, torch.stack([LOGITS, LOGITS + 2, LOGITS + 7]))
    assert cohort.train_sizes == (10, 12, 17)
    assert (cohort.round, cohort.scale, cohort.temperature) == (2, "logits", 2.0)
    assert torch.equal(cohort.public_ids, IDS)
    assert cohort.label_counts is None
    assert cohort.public_labels is None


def test_the_order_of_arrival_does_not_matter():
    uploads = [upload_of(client, LOGITS + client) for client in (0, 1, 7)]
    one, other = (KINDS["logits"].stack(order, request_of()) for order in (uploads, uploads[::-1]))
    assert torch.equal(one.values, other.values)
    assert one.client_ids == other.client_ids


def test_label_counts_follow_the_clients_and_public_labels_come_along():
    counts = {0: (1, 2, 3), 1: (4, 5, 6), 2: (7, 8, 9), 7: (10, 11, 12)}
    labels = torch.tensor([0, 1, 2, 0])
    uploads = [upload_of(client, LOGITS) for client in (7, 1)]
    cohort = KINDS["logits"].stack(uploads, request_of(label_counts=counts, public_labels=labels))
    assert cohort.label_counts.tolist() == [[4, 5, 6], [10, 11, 12]]
    assert cohort.public_labels.tolist() == [0, 1, 2, 0]


def test_values_of_any_floating_point_type_are_stacked_as_float32():
    uploads = [upload_of(0, LOGITS.double()), upload_of(1, LOGITS.half())]
    assert KINDS["logits"].stack(uploads, request_of()).values.dtype == torch.float32


def test_stacked_values_are_a_copy():
    values = LOGITS.clone()
    cohort = KINDS["logits"].stack([upload_of(0, values)], request_of())
    values.zero_()
    assert torch.equal(cohort.values[0], LOGITS)


def test_soft_labels_are_stacked_as_soft_labels():
    probs = soften(LOGITS, 2.0)
    cohort = KINDS["probs"].stack([upload_of(0, probs, "probs")], request_of())
    assert torch.equal(cohort.probs, probs[None])
    assert torch.equal(cohort.probs_at(9.0), probs[None])
    with pytest.raises(TypeError, match="uploaded soft labels"):
        _ = cohort.logits


def test_a_cohort_of_logits_softens_at_its_own_temperature():
    cohort = KINDS["logits"].stack([upload_of(0, LOGITS)], request_of())
    torch.testing.assert_close(cohort.probs, torch.softmax(LOGITS / 2, dim=-1)[None])
    torch.testing.assert_close(cohort.probs_at(1.0), torch.softmax(LOGITS, dim=-1)[None])


# What a strategy returned.


@pytest.fixture
def cohort() -> Cohort:
    return KINDS["logits"].stack(
        [upload_of(client, LOGITS + client) for client in (0, 1)], request_of()
    )


HALVES = torch.full((2, 2), 0.5)
SOFT = soften(LOGITS, 2.0)


@pytest.mark.parametrize("teachers", [SOFT, torch.stack([SOFT, SOFT])], ids=["common", "personal"])
@pytest.mark.parametrize("scale", SCALES)
def test_common_and_personal_teachers_pass(cohort: Cohort, scale: str, teachers: Tensor):
    KINDS["logits"].check_fusion(
        Fusion(weights=HALVES, teachers=teachers), cohort.client_ids, request_of(), scale
    )


def test_teachers_may_be_any_finite_logits_where_logits_are_declared(cohort: Cohort):
    fusion = Fusion(weights=HALVES, teachers=LOGITS)
    KINDS["logits"].check_fusion(fusion, cohort.client_ids, request_of(), "logits")
    with pytest.raises(
        RunError,
        match="teachers that are no soft labels; declare teaches = 'logits' to send logits",
    ):
        KINDS["logits"].check_fusion(fusion, cohort.client_ids, request_of(), "probs")


@pytest.mark.parametrize("shape", [(3, 3), (2, 3), (2,), (1, 1), (2, 2, 1)])
def test_weights_of_a_wrong_shape_are_an_error(cohort: Cohort, shape: tuple[int, ...]):
    with pytest.raises(RunError, match=r"fuse returned weights \[.*\], expected \[2, 2\]"):
        KINDS["logits"].check_fusion(
            Fusion(weights=torch.full(shape, 0.5), teachers=SOFT),
            cohort.client_ids,
            request_of(),
            "probs",
        )


@pytest.mark.parametrize(
    "weights",
    [
        [[0.5, 0.5], [0.5, 0.6]],
        [[1.5, -0.5], [0.5, 0.5]],
        [[torch.nan, 1.0], [0.5, 0.5]],
        [[torch.inf, 0.0], [0.5, 0.5]],
        [[1.0, 1.0], [0.0, 0.0]],
    ],
    ids=["no sum of 1", "negative", "NaN", "infinite", "columns sum to 1"],
)
def test_weights_whose_rows_are_no_distributions_are_an_error(
    cohort: Cohort, weights: list[list[float]]
):
    fusion = Fusion(weights=torch.tensor(weights), teachers=SOFT)
    with pytest.raises(
        RunError, match="weights that are not finite, >= 0 and summing to 1 in each row"
    ):
        KINDS["logits"].check_fusion(fusion, cohort.client_ids, request_of(), "probs")


@pytest.mark.parametrize("shape", [(4, 2), (3, 4, 3), (2, 3, 4), (2, 4), (12,), (2, 2, 4, 3)])
def test_teachers_of_a_wrong_shape_are_an_error(cohort: Cohort, shape: tuple[int, ...]):
    fusion = Fusion(weights=HALVES, teachers=torch.full(shape, 1 / shape[-1]))
    with pytest.raises(RunError, match=r"expected \[2, 4, 3\] \(personal\) or \[4, 3\] \(common\)"):
        KINDS["logits"].check_fusion(fusion, cohort.client_ids, request_of(), "probs")


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("scale", SCALES)
def test_teachers_that_are_not_finite_are_an_error(cohort: Cohort, scale: str, bad: float):
    teachers = SOFT.clone()
    teachers[0, 0] = bad
    with pytest.raises(RunError, match="teachers that are not finite"):
        KINDS["logits"].check_fusion(
            Fusion(weights=HALVES, teachers=teachers), cohort.client_ids, request_of(), scale
        )


def test_a_broken_promise_of_a_strategy_is_no_rejected_upload():
    """A bad upload leaves the round going on, a bad fusion ends the run."""
    assert not issubclass(RunError, UploadRejected)
    assert issubclass(RunError, FedkdError)
    assert issubclass(UploadRejected, FedkdError)
