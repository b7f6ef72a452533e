"""Local training alone: no exchange, and as a rule over a cohort self-distillation."""

import pytest
import torch
from torch import Tensor

from fedkd.fusion import effective_neighbors, mix, soften
from fedkd.messages import Cohort
from fedkd.strategies.local_only import LocalOnly
from fedkd.strategy import Needs, chosen_loss, declaration

LOGITS = torch.tensor([[[0.0, 0.0], [2.0, -1.0]], [[1.0, 3.0], [0.0, 5.0]]])


def cohort_of(values: Tensor, temperature: float = 1.0) -> Cohort:
    return Cohort(
        round=1,
        client_ids=tuple(range(len(values))),
        public_ids=torch.arange(values.shape[1]),
        values=values,
        temperature=temperature,
    )


def test_nobody_learns_from_another():
    fusion = LocalOnly().fuse(cohort_of(LOGITS), None)
    assert torch.equal(fusion.weights, torch.eye(2))
    assert effective_neighbors(fusion.weights).tolist() == [1.0, 1.0]
    assert fusion.state is None


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_each_teacher_is_the_client_itself(temperature: float):
    fusion = LocalOnly().fuse(cohort_of(LOGITS, temperature), None)
    assert torch.equal(fusion.teachers, soften(LOGITS, temperature))
    assert torch.equal(fusion.teachers, mix(fusion.weights, fusion.teachers))


def test_a_teacher_by_hand():
    """Equal logits are (1/2, 1/2); (1, 3) is 1 / (1 + e^2) = 0.11920292 and the rest."""
    teachers = LocalOnly().fuse(cohort_of(LOGITS), None).teachers
    expected = torch.tensor([[0.5, 0.5], [0.11920292, 0.88079708]])
    torch.testing.assert_close(teachers[:, 0], expected, rtol=0, atol=1e-6)


def test_one_clients_change_leaves_the_others_teachers():
    changed = LOGITS.clone()
    changed[1] += torch.tensor([3.0, 0.0])
    before, after = (
        LocalOnly().fuse(cohort_of(values), None).teachers for values in (LOGITS, changed)
    )
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1])


def test_nothing_is_uploaded_and_no_public_set_is_needed():
    declared = declaration(LocalOnly(), "local_only")
    assert declared.knowledge == "nothing"
    assert declared.needs == Needs(public_set=False, public_labels=False, label_counts=False)


@pytest.mark.parametrize("loss", ["kl", "mae"])
def test_any_distillation_loss_may_stay_in_its_scenario(loss: str):
    """Nothing is distilled, so that a scenario compares strategies without another change."""
    assert chosen_loss(declaration(LocalOnly(), "local_only"), "local_only", loss) == loss


def test_there_is_nothing_to_set():
    with pytest.raises(TypeError):
        LocalOnly(beta=1.0)
