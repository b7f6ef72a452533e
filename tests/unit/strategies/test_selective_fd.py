"""Selective-FD by hand, against naive loops, and in its limiting cases; densities are in
test_density.py."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedkd.errors import SettingError
from fedkd.knowledge import Request
from fedkd.messages import Cohort, Fusion
from fedkd.strategies.selective_fd import SelectiveFD


def cohort_of(probs: Tensor, answered: Tensor | None = None) -> Cohort:
    values = (
        probs if answered is None else probs * answered[..., None]
    )  # rows that did not come are zeros
    return Cohort(
        round=1,
        client_ids=tuple(range(len(probs))),
        public_ids=torch.arange(probs.shape[1]),
        values=values,
        scale="probs",
        answered=answered,
    )


def learned(fusion: Fusion, clients: int, samples: int) -> Any:
    """What clients are taught: the kind's lessons."""
    request = Request(
        round=1,
        classes=fusion.teachers.shape[-1],
        public_ids=torch.arange(samples),
        temperature=1.0,
        train_sizes=dict.fromkeys(range(clients), 5),
    )
    kind = SelectiveFD().knowledge
    kind.check_fusion(fusion, tuple(range(clients)), request, "probs")
    return kind.teachers(fusion, tuple(range(clients)), request, "probs")


PROBS = torch.tensor(
    [
        [[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.5, 0.5]],
        [[0.5, 0.5], [0.1, 0.9], [0.4, 0.6], [0.5, 0.5]],
    ]
)
ANSWERED = torch.tensor([[True, True, False, False], [True, False, True, False]])


def test_who_answered_by_hand():
    """Means: (0.7, 0.3) of both, (0.7, 0.3) of the first, (0.4, 0.6) of the second, nobody's.

    Their distances from the argmax 2 (1 - max q): 0.6, 0.6, 0.8. At tau 0.7 the first two are kept:
    the first client's shares are 1/2 and 1, the second's 1/2 and 0, which is 3/4 and 1/4.
    """
    fusion = SelectiveFD(tau=0.7).fuse(cohort_of(PROBS, ANSWERED), None)
    torch.testing.assert_close(
        fusion.teachers[:3], torch.tensor([[0.7, 0.3], [0.7, 0.3], [0.4, 0.6]])
    )
    assert fusion.taught_rows.tolist() == [True, True, False, False]
    torch.testing.assert_close(fusion.weights, torch.tensor([[0.75, 0.25], [0.75, 0.25]]))
    assert fusion.metrics == {"answered": 0.5, "kept": 0.5}


def test_samples_that_nobody_answered_or_is_sure_of_are_not_taught():
    lesson = learned(SelectiveFD(tau=0.7).fuse(cohort_of(PROBS, ANSWERED), None), 2, 4).common
    assert lesson.ids.tolist() == [0, 1]
    torch.testing.assert_close(lesson.values, torch.tensor([[0.7, 0.3], [0.7, 0.3]]))


def test_a_larger_tau_keeps_more():
    kept = [
        SelectiveFD(tau=tau).fuse(cohort_of(PROBS, ANSWERED), None).taught_rows.tolist()
        for tau in (0.5, 0.7, 1.9)
    ]
    assert kept == [[False] * 4, [True, True, False, False], [True, True, True, False]]


def test_tau_one_keeps_labels_above_one_half():
    probs = torch.tensor([[[0.50, 0.25, 0.25], [0.51, 0.25, 0.24]]])
    assert SelectiveFD().fuse(cohort_of(probs), None).taught_rows.tolist() == [False, True]


def test_where_nothing_is_kept_nobody_is_taught_and_all_weigh_the_same():
    fusion = SelectiveFD().fuse(cohort_of(PROBS, torch.zeros(2, 4, dtype=torch.bool)), None)
    assert not fusion.taught_rows.any()
    assert fusion.weights.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert torch.isfinite(fusion.teachers).all()
    assert learned(fusion, 2, 4).of(0) is None


@st.composite
def cohorts(draw: st.DrawFn) -> Cohort:
    clients, samples, classes = (
        draw(st.integers(1, 5)),
        draw(st.integers(1, 6)),
        draw(st.integers(2, 4)),
    )
    stream = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    probs = (3 * torch.randn(clients, samples, classes, generator=stream)).softmax(dim=-1)
    return cohort_of(
        probs,
        torch.rand(clients, samples, generator=stream) < draw(st.sampled_from([0.2, 0.7, 1.1])),
    )


@given(cohort=cohorts(), tau=st.sampled_from([0.3, 1.0, 1.99]))
def test_the_rule_equals_a_loop_over_samples(cohort: Cohort, tau: float):
    fusion = SelectiveFD(tau=tau).fuse(cohort, None)
    clients, samples, classes = cohort.values.shape
    shares, kept = [0.0] * clients, []
    for x in range(samples):
        voters = [j for j in range(clients) if cohort.answered[j, x]]
        if not voters:
            kept.append(False)
            continue
        q = [
            sum(cohort.values[j, x, c].item() for j in voters) / len(voters) for c in range(classes)
        ]
        torch.testing.assert_close(fusion.teachers[x], torch.tensor(q), rtol=0, atol=1e-5)
        first = q.index(max(q))
        vagueness = sum(abs(float(c == first) - q[c]) for c in range(classes))
        assert vagueness == pytest.approx(2 * (1 - max(q)), abs=1e-5)
        kept.append(vagueness < tau)
        for j in voters:
            shares[j] += kept[-1] / len(voters)
    assert fusion.taught_rows.tolist() == kept
    expected = [s / sum(shares) if sum(shares) else 1 / clients for s in shares]
    torch.testing.assert_close(
        fusion.weights, torch.tensor([expected] * clients), rtol=0, atol=1e-5
    )


@given(cohort=cohorts())
def test_what_was_not_answered_has_no_part(cohort: Cohort):
    other = torch.where(
        cohort.answered[..., None], cohort.values, torch.full_like(cohort.values, 0.123)
    )
    changed = Cohort(**{**vars(cohort), "values": other})
    one, same = SelectiveFD().fuse(cohort, None), SelectiveFD().fuse(changed, None)
    assert torch.equal(one.teachers, same.teachers)
    assert torch.equal(one.taught_rows, same.taught_rows)


@given(cohort=cohorts())
def test_where_everybody_answers_and_tau_is_nearly_two_it_is_the_mean(cohort: Cohort):
    probs = cohort.values + ~cohort.answered[..., None] / cohort.values.shape[-1]
    for answered in (None, torch.ones_like(cohort.answered)):
        fusion = SelectiveFD(tau=1.9999).fuse(cohort_of(probs, answered), None)
        assert fusion.taught_rows.all()
        torch.testing.assert_close(fusion.teachers, probs.mean(dim=0))
        torch.testing.assert_close(fusion.weights, torch.full_like(fusion.weights, 1 / cohort.size))


# Runs.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tau": 2.0}, "tau must be below 2, got 2.0: no label is so vague"),
        ({"tau": 0.0}, "tau must be > 0"),
        ({"quantile": 1.0}, "quantile must be at least 0 and below 1"),
        ({"quantile": -0.1}, "quantile must be at least 0 and below 1"),
        ({"density": "kde"}, "density must be one of kulsif, kmeans, feature_gaussian"),
        ({"density": "kmeans", "width": 3.0}, "width=3.0 would do nothing: density=kmeans"),
        (
            {"density": "feature_gaussian", "auxiliary": 10},
            "auxiliary=10 would do nothing: density=feature_gaussian",
        ),
        ({"width": 0.0}, "width must be > 0"),
        ({"auxiliary": 0}, "auxiliary must be >= 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(SettingError, match=message):
        SelectiveFD(**settings)
