import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd.audit.record_canaries import (
    CANARIES,
    CanaryKind,
    RecordCanaries,
    members_and_others,
    plant,
)
from fedkd.data.division import Division
from fedkd.data.prepare import Prepared
from fedkd.errors import SettingError


def data(clients: int = 3, each: int = 30) -> tuple[Prepared, Division]:
    size = clients * each + 20
    stream = np.random.default_rng(0)
    images = stream.integers(0, 200, (size, 4, 4, 1), np.uint8)
    prepared = Prepared("toy", images, stream.integers(0, 5, size), size, tuple("abcde"), {})
    prepared.images.flags.writeable = prepared.labels.flags.writeable = False
    rows = np.arange(20, size).reshape(clients, each)
    return prepared, Division(
        np.arange(10), np.arange(10, 20), tuple(rows), tuple(rows[:, :0]), tuple(rows[:, :0])
    )


@given(st.sampled_from(CANARIES), st.integers(1, 10), st.integers(0, 1000))
def test_only_canaries_differ_and_each_is_where_its_coin_says(
    kind: CanaryKind, per_client: int, seed: int
) -> None:
    prepared, division = data()
    altered, after, candidates = plant(
        prepared, division, RecordCanaries(kind=kind, per_client=per_client), seed
    )
    assert len(candidates.rows) == len(set(candidates.rows)) == 3 * per_client
    for row, client, label, included in zip(
        candidates.rows, candidates.client_ids, candidates.labels, candidates.included, strict=True
    ):
        assert row in division.train[client]
        assert (row in after.train[client]) == included
        assert altered.labels[row] == label != prepared.labels[row]
    untouched = np.setdiff1d(np.arange(len(prepared.labels)), candidates.rows)
    np.testing.assert_array_equal(altered.images[untouched], prepared.images[untouched])
    np.testing.assert_array_equal(altered.labels[untouched], prepared.labels[untouched])
    np.testing.assert_array_equal(
        np.concatenate(after.train),
        np.setdiff1d(np.concatenate(division.train), candidates.rows[~candidates.included]),
    )
    assert after.held_back is division.held_back
    assert altered.key != prepared.key


def test_kinds_look_as_they_are_called() -> None:
    prepared, division = data()
    seen = {
        kind: plant(prepared, division, RecordCanaries(kind=kind, per_client=8), 1)
        for kind in CANARIES
    }
    altered, _, candidates = seen["mislabeled"]
    np.testing.assert_array_equal(altered.images, prepared.images)
    altered, _, candidates = seen["blank"]
    pixels = altered.images[candidates.rows].reshape(len(candidates.rows), -1)
    assert (pixels == pixels[:, :1]).all()
    assert len(set(pixels[:8, 0].tolist())) == 8  # canaries of one client can be told apart
    altered, _, candidates = seen["out_of_distribution"]
    assert (altered.images[candidates.rows] != prepared.images[candidates.rows]).mean() > 0.95


def test_inclusion_is_fair_and_repeats() -> None:
    prepared, division = data()
    share = np.mean(
        [
            plant(prepared, division, RecordCanaries(per_client=20), s)[2].included.mean()
            for s in range(40)
        ]
    )
    assert abs(share - 0.5) < 0.04  # 2,400 bits: four standard deviations
    first, again = (
        plant(prepared, division, RecordCanaries(per_client=20), 7)[2] for _ in range(2)
    )
    np.testing.assert_array_equal(first.included, again.included)


def test_a_client_keeps_a_record_that_is_certainly_its_own() -> None:
    prepared, division = data(each=5)
    with pytest.raises(SettingError, match="client 0"):
        plant(prepared, division, RecordCanaries(per_client=5), 0)


def test_ordinary_records_are_left_out_with_probability_one_half_and_nothing_else_changes() -> None:
    prepared, division = data()
    after, candidates = members_and_others(prepared, division, None, 3)
    assert len(candidates.rows) == 3 * 29  # one of each client's is in for certain
    for row, client, label, included in zip(
        candidates.rows, candidates.client_ids, candidates.labels, candidates.included, strict=True
    ):
        assert row in division.train[client]
        assert (row in after.train[client]) == included
        assert label == prepared.labels[row]
    kept = np.concatenate(
        [np.setdiff1d(own, candidates.rows[~candidates.included]) for own in division.train]
    )
    np.testing.assert_array_equal(np.concatenate(after.train), kept)
    share = np.mean(
        [members_and_others(prepared, division, None, s)[1].included.mean() for s in range(40)]
    )
    assert abs(share - 0.5) < 0.035  # 3,480 bits: four standard deviations
    assert len(members_and_others(prepared, division, 4, 3)[1].rows) == 12
    with pytest.raises(SettingError, match="client 0 has 30"):
        members_and_others(prepared, division, 30, 3)
