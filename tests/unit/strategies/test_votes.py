"""FedCT and SSFL: votes against a loop over samples, ties, majorities, abstention."""

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from views import View

from fedkd.errors import SettingError
from fedkd.fusion import hard_labels
from fedkd.knowledge import KINDS
from fedkd.knowledge.familiarity import Familiar, discriminator
from fedkd.messages import Cohort
from fedkd.settings.conditions import RunConditions
from fedkd.strategies.fedct import FedCT
from fedkd.strategies.ssfl import SSFL


def cohort_of(labels: list[list[int]], classes: int = 3) -> Cohort:
    """A cohort of hard labels by client; -1 abstains."""
    votes = torch.tensor(labels)
    return Cohort(
        round=1,
        client_ids=tuple(range(len(labels))),
        public_ids=torch.arange(votes.shape[1]),
        values=torch.nn.functional.one_hot(votes.clamp(min=0), classes).float(),
        scale="probs",
        answered=None if bool((votes >= 0).all()) else votes >= 0,
    )


votes_of_clients = st.integers(1, 7).flatmap(
    lambda clients: st.lists(
        st.lists(st.integers(-1, 2), min_size=4, max_size=4), min_size=clients, max_size=clients
    )
)


@given(labels=votes_of_clients, share=st.booleans())
def test_votes_equal_a_loop_over_samples(labels: list[list[int]], share: bool):
    """SSFL with abstention; FedCT where the votes of those that abstain are for class 0."""
    ties: Any = "share" if share else "leave_out"
    full = [[max(label, 0) for label in mine] for mine in labels]
    for rule, given_votes in ((SSFL(ties=ties), labels), (FedCT(ties=ties), full)):
        fusion = rule.fuse(cohort_of(given_votes), None)
        taught = fusion.taught_rows
        for x in range(4):
            counts = Counter(mine[x] for mine in given_votes if mine[x] >= 0)
            first = [c for c in range(3) if counts[c] == max(counts.values(), default=0)]
            told = bool(counts) and (share or len(first) == 1)
            assert (taught is None or bool(taught[x])) == told
            if counts:
                expected = [1 / len(first) if c in first else 0.0 for c in range(3)]
                assert fusion.teachers[x].tolist() == pytest.approx(expected)
        torch.testing.assert_close(fusion.weights.sum(dim=1), torch.ones(len(labels)))


def test_ties_are_said_and_majorities_count_shares():
    labels = [[0, 0, 0], [0, 0, 1], [0, 1, 1], [0, 1, 1], [0, 2, 1]]  # 5 of 5, 2 of 5 twice, 4 of 5
    plain = FedCT().fuse(cohort_of(labels), None)
    assert plain.taught_rows is not None
    assert plain.taught_rows.tolist() == [True, False, True]
    assert plain.metrics["ties"] == pytest.approx(1 / 3)
    assert plain.metrics["agreement"] == pytest.approx((1 + 0.4 + 0.8) / 3)
    qualified = FedCT(majority=0.8, ties="share").fuse(cohort_of(labels), None)
    assert qualified.taught_rows is not None
    assert qualified.taught_rows.tolist() == [True, False, True]
    strict = FedCT(majority=0.81).fuse(cohort_of(labels), None)
    assert strict.taught_rows is not None
    assert strict.taught_rows.tolist() == [True, False, False]


def test_shares_are_of_the_votes_on_samples_taught():
    fusion = SSFL().fuse(cohort_of([[0, -1, 1], [0, 2, 0], [-1, -1, -1]]), None)
    assert fusion.taught_rows is not None
    assert fusion.taught_rows.tolist() == [True, True, False]
    torch.testing.assert_close(fusion.weights[0], torch.tensor([0.25, 0.75, 0.0]))
    assert fusion.metrics["answered"] == pytest.approx(5 / 9)


def test_a_soft_upload_is_a_vote_for_its_first_largest_value():
    soft = cohort_of([[0, 0]])
    values = torch.tensor([[[0.1, 0.45, 0.45], [0.2, 0.2, 0.6]]])
    changed = Cohort(**{**vars(soft), "values": values})
    assert FedCT().fuse(changed, None).teachers.argmax(dim=1).tolist() == [1, 2]


def sees(logits: Tensor, inputs: Tensor) -> View:
    """A client whose own samples are near 0."""
    own = torch.linspace(-0.5, 0.5, 12)[:, None].expand(12, 3)
    return View(ids=torch.arange(len(logits)), logits=logits, inputs=inputs, own_inputs=own)


def test_a_client_votes_on_what_looks_like_its_own_samples():
    near = torch.tensor([True, True, True, False, False, False])
    inputs = torch.where(near[:, None], torch.zeros(6, 3), torch.full((6, 3), 4.0))
    sure = torch.where(near[:, None], torch.tensor([5.0, 0.0]), torch.tensor([0.1, 0.0]))
    chooser = Familiar(sees="inputs", width=16, steps=60)
    assert chooser.choose(sees(sure, inputs)).tolist() == near.tolist()
    # A model that is equally sure everywhere has nothing that is unfamiliar to it.
    assert chooser.choose(sees(torch.zeros(6, 2), inputs)).all()
    assert chooser.choose(sees(torch.zeros(0, 2), torch.zeros(0, 3))).shape == (0,)
    kind = SSFL().knowledge
    assert not kind.reveals_model_only
    assert not kind.all_answer


def test_a_discriminator_weighs_both_kinds_alike():
    """A hundred of one kind and two of the other at the same point: a coin."""
    scores = discriminator(
        torch.zeros(100, 2) + 1, torch.zeros(2, 2) + 1, width=8, steps=60, seed=1
    )
    assert abs(scores(torch.ones(1, 2)).item()) < 0.2


def test_hard_labels_leave_a_client_one_hot_whatever_the_codec():
    logits = torch.tensor([[0.2, 0.5, 0.3], [2.0, 2.0, 0.0]])
    sent = KINDS["labels"].extract(sees(logits, torch.zeros(2, 3)))
    assert sent.values.tolist() == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    assert torch.equal(hard_labels(sent.values), sent.values)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"majority": 0.4}, "majority must be >= 0.5, got 0.4"),
        ({"majority": 1.1}, "majority must be <= 1, got 1.1"),
        ({"ties": "lowest"}, "ties must be one of leave_out, share"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(SettingError, match=message):
        FedCT(**settings)


def test_a_majority_of_shares_that_nobody_sees_is_refused():
    gnmax = RunConditions(strategy="fedct", components={"privacy": "gnmax"})
    assert FedCT().conflict(gnmax) is None
    assert "majority=0.8 would do nothing" in (FedCT(majority=0.8).conflict(gnmax) or "")
    assert FedCT(majority=0.8).conflict(RunConditions(strategy="fedct")) is None
