"""Model weights: whole states travel, are those of the client's architecture, and are taken
over."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn
from views import View

from fedkd.errors import RunError, UploadRejected
from fedkd.knowledge import AdoptedKnowledge, ModelWeights, PenaltyKnowledge, Request
from fedkd.messages import Fusion, Upload

KIND = ModelWeights()


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def state(value: float) -> dict[str, Tensor]:
    return {name: torch.full_like(tensor, value) for name, tensor in model().state_dict().items()}


SHAPES = {name: tuple(tensor.shape) for name, tensor in model().state_dict().items()}
REQUEST = Request(
    round=1,
    classes=3,
    public_ids=torch.arange(0),
    temperature=1.0,
    train_sizes={0: 3, 1: 5, 2: 7},
    architectures=("small", "other", "small"),
    shapes={"small": SHAPES, "other": {}},
)


def without(name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state(1.0).items() if key != name}


def test_a_state_travels_with_its_buffers_and_is_a_copy():
    mine = model()
    sent = KIND.extract(View(model=mine))
    assert "1.num_batches_tracked" in sent
    back = KIND.decode(KIND.encode(sent))
    KIND.check(back, REQUEST, 0)
    assert all(torch.equal(back[name], tensor) for name, tensor in mine.state_dict().items())
    with torch.no_grad():
        mine[0].weight.add_(1.0)
    assert torch.equal(sent["0.weight"], back["0.weight"])


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (without("0.bias"), "not the weights of a small: 0.bias missing or of wrong shape"),
        ({**state(1.0), "extra": torch.ones(1)}, "not the weights of a small: extra"),
        ({**state(1.0), "0.weight": torch.ones(3, 3)}, "not the weights of a small: 0.weight"),
        (
            {**state(1.0), "0.bias": torch.tensor([0.0, torch.nan, 0.0])},
            "weight 0.bias is not finite",
        ),
    ],
)
def test_weights_of_another_model_are_rejected_by_name(sent: Mapping[str, Tensor], reason: str):
    with pytest.raises(UploadRejected, match=reason):
        KIND.check(sent, REQUEST, 0)


def test_uploads_are_stacked_by_client_and_known_by_architecture():
    uploads = [
        Upload(client_id=i, round=1, metrics={}, knowledge=state(float(i))) for i in (2, 0, 1)
    ]
    cohort = KIND.stack(uploads, REQUEST)
    assert (cohort.client_ids, cohort.train_sizes) == ((0, 1, 2), (3, 5, 7))
    assert [s["0.bias"][0].item() for s in cohort.states] == [0.0, 1.0, 2.0]
    assert cohort.members() == {"small": [0, 2], "other": [1]}


def test_everyone_of_an_architecture_takes_its_weights_over_and_nobody_else():
    fusion = Fusion(weights=torch.eye(1), teachers={"small": state(4.0)})
    KIND.check_fusion(fusion, (0,), REQUEST, "probs")
    lessons = KIND.teachers(fusion, (0,), REQUEST, "probs")
    assert lessons.of(0) is lessons.of(2)
    assert lessons.of(1) is None
    assert isinstance(KIND, AdoptedKnowledge)
    mine = model()
    KIND.adopt(View(model=mine), lessons.of(2))
    assert all((tensor == 4).all() for tensor in mine.state_dict().values())


@pytest.mark.parametrize(
    ("teachers", "reason"),
    [
        (torch.ones(2), "as a mapping"),
        ({"large": state(1.0)}, "weights for 'large'"),
        ({"small": {**state(1.0), "0.bias": torch.full((3,), torch.inf)}}, "not finite"),
    ],
)
def test_a_broken_fusion_ends_the_run_by_name(teachers: object, reason: str):
    with pytest.raises(RunError, match=reason):
        KIND.check_fusion(Fusion(weights=torch.eye(1), teachers=teachers), (0,), REQUEST, "probs")


def test_the_proximal_term_is_half_mu_times_the_squared_distance_from_the_start():
    """mu 0.1: all nine weights and biases of the linear layer move by 2, so 0.05 * 9 * 4 = 1.8."""
    mine = nn.Linear(2, 3)
    kind = ModelWeights(proximal=0.1)
    assert isinstance(kind, PenaltyKnowledge)
    penalty = kind.penalty(View(model=mine), None)
    arguments = (torch.tensor([0]), torch.zeros(1, 3), None)
    assert penalty(*arguments) == 0
    with torch.no_grad():
        for parameter in mine.parameters():
            parameter.add_(2.0)
    moved = penalty(*arguments)
    torch.testing.assert_close(moved, torch.tensor(1.8))
    moved.backward()
    torch.testing.assert_close(mine.bias.grad, torch.full((3,), 0.2))
    assert KIND.penalty(View(model=mine), None) is None
