"""FD's teachers: the mean table of the others, class by class. Laws of the mean itself are in
tests/fusion."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedkd.errors import SettingError
from fedkd.knowledge import TableCohort
from fedkd.strategies.fd import FD


def cohort_from(seed: int, clients: int, classes: int = 3, missing: float = 0.0) -> TableCohort:
    stream = torch.Generator().manual_seed(seed)
    present = torch.rand(clients, classes, generator=stream) >= missing
    probs = (
        torch.softmax(torch.randn(clients, classes, classes, generator=stream), dim=-1)
        * present[..., None]
    )
    return TableCohort(round=1, client_ids=tuple(range(clients)), probs=probs, present=present)


seeds = st.integers(0, 2**20)


@given(seed=seeds)
def test_two_clients_swap_their_tables(seed: int):
    cohort = cohort_from(seed, 2)
    fusion = FD().fuse(cohort, None)
    torch.testing.assert_close(fusion.teachers["probs"], cohort.probs.flip(0))
    assert fusion.weights.tolist() == [[0.0, 1.0], [1.0, 0.0]]


@given(seed=seeds, clients=st.integers(2, 5))
def test_what_a_client_says_never_returns_to_it(seed: int, clients: int):
    cohort = cohort_from(seed, clients, missing=0.3)
    other = cohort_from(seed + 1, clients, missing=0.3)
    changed = TableCohort(
        round=1,
        client_ids=cohort.client_ids,
        probs=torch.cat([other.probs[:1], cohort.probs[1:]]),
        present=torch.cat([other.present[:1], cohort.present[1:]]),
    )
    before, after = FD().fuse(cohort, None), FD().fuse(changed, None)
    assert torch.equal(before.teachers["probs"][0], after.teachers["probs"][0])
    assert torch.equal(before.teachers["present"][0], after.teachers["present"][0])


def test_classes_that_are_missing_are_masked_and_not_taken_for_zeros():
    """Class 1: only client 0 has it, so that it learns nothing of it, and the others its row as it
    is.

    Class 0: client 0 lacks it, and learns the mean of (0.8, 0.2) and (0.4, 0.6).
    """
    cohort = TableCohort(
        round=1,
        client_ids=(0, 1, 2),
        probs=torch.tensor(
            [[[0.0, 0.0], [0.3, 0.7]], [[0.8, 0.2], [0.0, 0.0]], [[0.4, 0.6], [0.0, 0.0]]],
        ),
        present=torch.tensor([[False, True], [True, False], [True, False]]),
    )
    fusion = FD().fuse(cohort, None)
    assert fusion.teachers["present"].tolist() == [[True, False], [True, True], [True, True]]
    expected = [[[0.6, 0.4], [0.0, 0.0]], [[0.4, 0.6], [0.3, 0.7]], [[0.8, 0.2], [0.3, 0.7]]]
    torch.testing.assert_close(fusion.teachers["probs"], torch.tensor(expected))
    torch.testing.assert_close(
        fusion.weights, torch.tensor([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])
    )


def test_a_client_alone_is_its_own_and_only_teacher():
    fusion = FD().fuse(cohort_from(0, 1), None)
    assert fusion.weights.tolist() == [[1.0]]
    assert not fusion.teachers["present"].any()


def test_no_weight_is_an_error():
    with pytest.raises(SettingError, match="gamma must be > 0"):
        FD(gamma=0.0)
