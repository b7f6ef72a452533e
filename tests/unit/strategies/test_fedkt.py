"""FedKT: votes of teachers, students and clients against loops over samples."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from views import View

from fedkd.errors import SettingError
from fedkd.messages import Cohort
from fedkd.privacy.composition import epsilon_of
from fedkd.privacy.events import LaplaceRows
from fedkd.privacy.mechanisms.lnmax import LnMax
from fedkd.privacy.release_plan import ReleasePlan
from fedkd.settings.conditions import RunConditions
from fedkd.strategies.fedkt import FedKT, StudentVotes, divided, votes_of


def cohort_of(votes: Tensor) -> Cohort:
    return Cohort(
        round=1,
        client_ids=tuple(range(len(votes))),
        public_ids=torch.arange(votes.shape[1]),
        values=votes,
        scale="probs",
    )


def consistent(labels: list[list[list[int]]], classes: int = 3) -> Tensor:
    """The rows that clients send: by client, what each student says of each sample."""
    said = torch.nn.functional.one_hot(torch.tensor(labels), classes).float()
    return torch.stack([votes_of(mine, True) for mine in said])


by_student = st.lists(
    st.lists(st.lists(st.integers(0, 2), min_size=4, max_size=4), min_size=2, max_size=2),
    min_size=1,
    max_size=6,
)


@given(labels=by_student, share=st.booleans())
def test_labels_are_those_of_the_papers_consistent_voting(
    labels: list[list[list[int]]], share: bool
):
    """The paper's count: v_c adds the number of students of each client whose students agree."""
    ties: Any = "share" if share else "leave_out"
    fusion = FedKT(ties=ties).fuse(cohort_of(consistent(labels)), None)
    taught = fusion.taught_rows
    agreed = 0
    for x in range(4):
        counts = Counter[int]()
        for students in labels:
            if students[0][x] == students[1][x]:
                counts[students[0][x]] += 2
                agreed += 1
        first = [c for c in range(3) if counts[c] == max(counts.values(), default=0)]
        told = bool(counts) and (share or len(first) == 1)
        assert (taught is None or bool(taught[x])) == told
        if counts:
            expected = [1 / len(first) if c in first else 0.0 for c in range(3)]
            assert fusion.teachers[x].tolist() == pytest.approx(expected)
    assert fusion.metrics["agreed"] == pytest.approx(agreed / 4 / len(labels))


class Noted(View):
    """A client whose models are the nearest sample, and what each was fitted to."""

    def fitted(self, inputs: Tensor, labels: Tensor, purpose: str, epochs: int) -> Any:
        self.__dict__.setdefault("fits", []).append((purpose, inputs, labels))
        return super().fitted(inputs, labels, purpose, epochs)


def client(own: list[float], labels: list[int], public: list[float]) -> Noted:
    return Noted(
        own_inputs=torch.tensor(own)[:, None],
        own_labels=torch.tensor(labels),
        inputs=torch.tensor(public)[:, None],
        ids=torch.arange(len(public)),
    )


def kind(**changes: Any) -> StudentVotes:
    given_settings = {"students": 2, "parts": 3, "epochs": 1, "consistent": True, **changes}
    return StudentVotes("probs", **given_settings)


def test_each_teacher_has_a_part_of_its_own_and_students_see_no_private_sample():
    own = [float(i) for i in range(9)]
    view = client(own, [0] * 5 + [1] * 4, [0.1, 8.2])
    found = kind().extract(view)
    fits = view.__dict__["fits"]
    for number in range(2):
        teachers = [x for name, x, _ in fits if name.endswith(f"of student {number}")]
        assert sorted(torch.cat(teachers)[:, 0].tolist()) == own
        assert [len(part) for part in teachers] == [3, 3, 3]
        (student,) = [x for name, x, _ in fits if name == f"student {number}"]
        assert set(student[:, 0].tolist()) <= {view.inputs[0, 0].item(), view.inputs[1, 0].item()}
    first, second = (
        [x.tolist() for name, x, _ in fits if name.endswith(f"of student {number}")]
        for number in range(2)
    )
    assert first != second
    assert found.values.sum(dim=1).tolist() == pytest.approx([1, 1])


def test_one_student_and_part_votes_as_a_model_of_the_whole_set():
    view = client([0.0, 1.0, 2.0, 3.0], [0, 1, 2, 0], [0.1, 1.1, 2.1, 2.9])
    found = kind(students=1, parts=1).extract(view)
    assert found.values.argmax(dim=1).tolist() == [0, 1, 2, 0]
    assert found.values.amax(dim=1).tolist() == [1, 1, 1, 1]


def test_a_client_without_samples_and_a_request_without_samples_abstain():
    assert kind().extract(client([], [], [0.1])).values.tolist() == [pytest.approx([1 / 3] * 3)]
    assert kind().extract(client([1.0], [0], [])).values.shape == (0, 3)
    streams = (torch.tensor([0]), torch.tensor([0, 1, 2]))
    for rows in streams:
        view = View()
        assert len(divided(len(rows), 5, view.stream("parts"))) == 1


def test_what_cannot_be_is_refused():
    for changes, message in (
        ({"students": 0}, "students must be >= 1"),
        ({"parts": 0}, "parts must be >= 1"),
        ({"epochs": 0}, "epochs must be >= 1"),
        ({"server_epochs": 0}, "server_epochs must be >= 1"),
        ({"ties": "first"}, "ties"),
    ):
        with pytest.raises(SettingError, match=message):
            FedKT(**changes)
    noisy = RunConditions(strategy="fedkt", components={"privacy": "gnmax"})
    assert "would count as a vote for the first class" in (FedKT().conflict(noisy) or "")
    robust = RunConditions(strategy="fedkt", components={"robust": "median"})
    assert FedKT().conflict(robust) is None
    assert "robust=median returns labels" in (FedKT(server="mlp").conflict(robust) or "")


PLAN = ReleasePlan(
    clients=20, rounds=1, rows=3, public_size=3, classes=2, scale="probs", records=100
)


def told(noise: LnMax, votes: Tensor) -> Tensor:
    plan = replace(PLAN, classes=votes.shape[-1])
    mean = noise.protect_mean(votes, len(votes), plan, np.random.default_rng(0))
    assert bool(mean.answered.all())
    return mean.values


def test_a_hardly_noisy_winner_is_that_of_the_votes_and_uniform_rows_abstain():
    votes = consistent([[[0], [0]], [[1], [2]], [[1], [2]], [[1], [1]], [[1], [1]]])
    assert told(LnMax(sigma=1e-3), votes).tolist() == [[0, 1, 0]]
    assert told(LnMax(sigma=1e-3), votes[:3]).tolist() == [[1, 0, 0]]
    loud = torch.cat([1e4 * votes[3:4], votes[:1], votes[:1]])  # one client, one vote
    assert told(LnMax(sigma=1e-3), loud).tolist() == [[1, 0, 0]]


@pytest.mark.parametrize(("scale", "holds"), [(2.0, True), (3.0, False), (1.3, False)])
def test_the_loser_wins_as_often_as_laplace_noise_lets_it(scale: float, holds: bool):
    """The difference of two Laplace variables of scale b exceeds x with probability
    (1/2 + x / 4b) exp(-x / b)."""
    rows = torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]])  # two votes ahead
    votes = rows[:, None].expand(4, 20_000, 2)
    wrong = told(LnMax(sigma=2**0.5 * scale), votes)[:, 1].mean().item()
    expected = (1 / 2 + 2 / (4 * 2.0)) * np.exp(-2 / 2.0)
    assert (abs(wrong - expected) < 0.012) == holds


def test_lnmax_costs_two_over_its_scale_a_sample_and_keeps_its_budget():
    (spent,) = LnMax(sigma=2**0.5 * 4).planned(PLAN)
    assert isinstance(spent.event, LaplaceRows)
    assert spent.event.pure == pytest.approx(3 * 2 / 4)
    assert (spent.unit, spent.seen_by) == ("client", ("clients", "outsiders"))
    (budgeted,) = LnMax(epsilon=8.0).planned(PLAN)
    assert epsilon_of([(budgeted.event, 1)], 1e-5)[0] == pytest.approx(8.0, rel=1e-3)
    assert 7.9 < epsilon_of([(budgeted.event, 1)], 1e-5)[0] <= 8.0
