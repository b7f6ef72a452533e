"""Who takes part in a round, and when too few are left."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedkd.errors import RunError
from fedkd.federation.participation import Participation, Selection
from fedkd.federation.protocol import Protocol


def participation(clients: int = 10, **changes: float) -> Participation:
    return Participation(Protocol(**changes), clients, seed=0)  # type: ignore[arg-type]


def selection(invited: tuple[int, ...], participants: tuple[int, ...]) -> Selection:
    none = torch.arange(0)
    return Selection(
        round_number=4,
        invited=invited,
        participants=participants,
        trainers=participants,
        round_ids=none,
        query_ids=none,
    )


@given(clients=st.integers(1, 30), share=st.floats(0.01, 1.0), round_number=st.integers(1, 9))
def test_a_share_of_the_clients_is_invited_in_ascending_order(
    clients: int, share: float, round_number: int
) -> None:
    drawn = participation(clients, participation=share).invited(round_number)
    assert len(drawn) == max(1, round(share * clients))
    assert list(drawn) == sorted(set(drawn))
    assert set(drawn) <= set(range(clients))
    assert drawn == participation(clients, participation=share).invited(round_number)


def test_another_round_invites_others() -> None:
    drawn = {participation(participation=0.3).invited(n) for n in range(1, 20)}
    assert len(drawn) > 5


def test_a_client_drops_out_whoever_else_is_invited() -> None:
    draws = participation(dropout=0.5)
    every = draws.present(3, range(10))
    assert 0 < len(every) < 10
    assert draws.present(3, [1, 4, 7]) == tuple(i for i in (1, 4, 7) if i in every)
    assert participation().present(3, [4, 7]) == (4, 7)


def test_too_few_present_or_left_end_the_run_with_the_first_reason() -> None:
    one = participation(min_clients=2)
    one.require_present(selection((0, 1, 2), (1, 2)))
    with pytest.raises(RunError, match=r"round 4: 1 of 10 clients answered, .*=2; 2 dropped out"):
        one.require_present(selection((0, 1, 2), (1,)))
    one.require_answers(selection((0, 1, 2), (0, 1, 2)), {1: "lost"})
    with pytest.raises(RunError, match=r"round 4: 1 of 10 .*; client 1 failed: lost$"):
        one.require_answers(selection((0, 1, 2), (0, 1, 2)), {2: "late", 1: "lost"})
