"""FedMD by hand and in its limiting cases."""

import pytest
import torch
from torch import Tensor

from fedkd.messages import Cohort
from fedkd.strategies.fedmd import FedMD
from fedkd.strategy import chosen_loss, declaration
from fedkd.training.losses import mae

THREE_CLIENTS = torch.tensor(
    [[[3.0, 0.0], [1.0, -1.0]], [[0.0, 6.0], [4.0, 1.0]], [[-6.0, 3.0], [1.0, 3.0]]]
)


def cohort_of(values: Tensor, scale: str = "logits", temperature: float = 1.0) -> Cohort:
    return Cohort(
        round=1,
        client_ids=tuple(range(len(values))),
        public_ids=torch.arange(values.shape[1]),
        values=values,
        scale=scale,
        temperature=temperature,
    )


def test_the_teacher_is_the_mean_of_logits_by_hand():
    """(3 + 0 - 6) / 3 = -1 and (0 + 6 + 3) / 3 = 3; (1 + 4 + 1) / 3 = 2 and (-1 + 1 + 3) / 3 =
    1."""
    fusion = FedMD().fuse(cohort_of(THREE_CLIENTS), None)
    torch.testing.assert_close(fusion.teachers, torch.tensor([[-1.0, 3.0], [2.0, 1.0]]))


def test_all_clients_weigh_the_same():
    fusion = FedMD().fuse(cohort_of(THREE_CLIENTS), None)
    torch.testing.assert_close(fusion.weights, torch.full((3, 3), 1 / 3))
    assert fusion.state is None


def test_the_softened_teacher_is_not_the_mean_of_soft_labels():
    """Logits (4, 0) and (0, 0) average to (2, 0), which is sigmoid(2) = 0.881; the mean of soft
    labels is 0.741."""
    teacher = FedMD().fuse(cohort_of(torch.tensor([[[4.0, 0.0]], [[0.0, 0.0]]])), None).teachers
    assert torch.softmax(teacher, dim=-1)[0, 0].item() == pytest.approx(0.880797, abs=1e-5)


def test_one_client_learns_its_own_logits():
    fusion = FedMD().fuse(cohort_of(THREE_CLIENTS[:1]), None)
    assert torch.equal(fusion.teachers, THREE_CLIENTS[0])


def test_equal_clients_give_their_logits():
    equal = THREE_CLIENTS[:1].repeat(4, 1, 1)
    torch.testing.assert_close(FedMD().fuse(cohort_of(equal), None).teachers, THREE_CLIENTS[0])


def test_opposite_clients_cancel():
    opposite = torch.cat([THREE_CLIENTS, -THREE_CLIENTS])
    torch.testing.assert_close(FedMD().fuse(cohort_of(opposite), None).teachers, torch.zeros(2, 2))


def test_the_temperature_plays_no_part():
    cool, warm = (
        FedMD().fuse(cohort_of(THREE_CLIENTS, temperature=t), None).teachers for t in (1.0, 7.0)
    )
    assert torch.equal(cool, warm)


def test_soft_labels_are_refused_as_logits():
    with pytest.raises(TypeError, match="the clients uploaded soft labels"):
        FedMD().fuse(cohort_of(torch.softmax(THREE_CLIENTS, dim=-1), scale="probs"), None)


def test_logits_travel_both_ways_and_the_digest_loss_is_the_mean_absolute_error():
    declared = declaration(FedMD(), "fedmd")
    assert (declared.knowledge, declared.teaches, declared.loss) == ("logits", "logits", "mae")


@pytest.mark.parametrize("loss", ["mae", "mse", "kl", "reverse_kl", "cross_entropy"])
def test_every_loss_can_take_its_teachers(loss: str):
    assert chosen_loss(declaration(FedMD(), "fedmd"), "fedmd", loss) == loss


def test_the_mean_is_not_the_minimizer_of_the_digest_loss():
    """FedMD teaches the mean all the same: the MAE to all clients is least at the median, (0, 3)
    for x_0."""
    teacher = FedMD().fuse(cohort_of(THREE_CLIENTS), None).teachers
    median = THREE_CLIENTS.median(dim=0).values
    total = [sum(mae(z, one).item() for one in THREE_CLIENTS) for z in (teacher, median)]
    assert total[0] > total[1]


def test_there_is_nothing_to_set():
    with pytest.raises(TypeError):
        FedMD(beta=1.0)
