"""Heads and prototypes that a server learns: FedGH and FedTGP, against plain modules of torch."""

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.errors import RunError, SettingError
from fedkd.fusion import descend
from fedkd.knowledge import GlobalHead, PrototypeCohort, Request
from fedkd.messages import Fusion
from fedkd.runtime.seeding import numpy_stream
from fedkd.strategies.fedgh import FedGH, first_head
from fedkd.strategies.fedtgp import FedTGP, adaptive_margin, first_weights, margin_loss, prototypes

STREAM = torch.Generator().manual_seed(0)
FEATURES = torch.randn(3, 4, 5, generator=STREAM)
COUNTS = torch.tensor([[3.0, 0.0, 2.0, 0.0], [1.0, 4.0, 0.0, 0.0], [0.0, 2.0, 9.0, 0.0]])


def cohort(round_number: int = 1, counts: Tensor = COUNTS) -> PrototypeCohort:
    return PrototypeCohort(
        round=round_number,
        client_ids=tuple(range(len(counts))),
        features=FEATURES[: len(counts)],
        counts=counts,
    )


def pairs() -> list[tuple[Tensor, int]]:
    """Every prototype that exists, by client and then by class."""
    return [(FEATURES[j, y], y) for j in range(3) for y in range(4) if COUNTS[j, y] > 0]


def test_descent_is_torchs_sgd_over_the_same_batches() -> None:
    rows = torch.randn(7, 2, generator=STREAM)
    found, last = descend(
        {"w": torch.ones(2), "unused": torch.ones(1)},
        lambda now, batch: (rows[batch] @ now["w"]).square().mean(),
        7,
        epochs=3,
        batch_size=3,
        learning_rate=0.05,
        stream=numpy_stream(0, "a"),
    )
    weight = torch.ones(2, requires_grad=True)
    optimizer, stream = torch.optim.SGD([weight], lr=0.05), numpy_stream(0, "a")
    for _ in range(3):
        losses = []
        for batch in torch.from_numpy(stream.permutation(7)).split(3):
            loss = (rows[batch] @ weight).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses += [loss.item()] * len(batch)
    torch.testing.assert_close(found["w"], weight.detach())
    assert last == pytest.approx(sum(losses) / 7)
    assert found["unused"].tolist() == [1.0]


# fedgh


def test_the_global_head_learns_as_a_linear_layer_on_single_prototypes() -> None:
    head = nn.Linear(5, 4)
    head.load_state_dict(first_head(4, 5))
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    stream = numpy_stream(0, "strategy", "fedgh", "round", 1)
    for _ in range(2):
        for i in stream.permutation(6).tolist():
            row, label = pairs()[i]
            optimizer.zero_grad()
            F.cross_entropy(head(row)[None], torch.tensor([label])).backward()
            optimizer.step()
    fusion = FedGH(server_epochs=2, server_learning_rate=0.1).fuse(cohort(), None)
    for name, tensor in head.state_dict().items():
        torch.testing.assert_close(fusion.teachers[name], tensor)
    assert fusion.weights.tolist() == [[pytest.approx(1 / 3)] * 3] * 3


def test_the_global_head_goes_on_from_round_to_round() -> None:
    strategy, state, losses = FedGH(server_learning_rate=0.1), None, []
    for round_number in range(1, 40):
        fusion = strategy.fuse(cohort(round_number), state)
        state, losses = fusion.state, [*losses, fusion.metrics["head_loss"]]
    assert losses[-1] < 0.3 < 1.2 < losses[0]
    right = [
        (fusion.teachers["weight"] @ row + fusion.teachers["bias"]).argmax() == y
        for row, y in pairs()
    ]
    assert all(right)


def test_a_head_of_another_shape_ends_the_run() -> None:
    request = Request(
        round=1,
        classes=4,
        public_ids=torch.arange(0),
        temperature=1.0,
        train_sizes={0: 1},
        architectures=("small",),
        features={"small": 5},
        shapes={"small": {"2.weight": (4, 5)}},
        heads={"small": "2"},
    )
    for teachers, reason in (
        ({"weight": torch.ones(4, 3), "bias": torch.ones(4)}, r"weight \[4, 3\]"),
        ({"weight": torch.full((4, 5), torch.nan), "bias": torch.ones(4)}, "not finite"),
        ({"weight": torch.ones(4, 5)}, "as a mapping of weight"),
    ):
        fusion = Fusion(weights=torch.ones(1, 1), teachers=teachers)
        with pytest.raises(RunError, match=reason):
            GlobalHead().check_fusion(fusion, (0,), request, "probs")
    assert GlobalHead().misfit(request) == "the last layer of small, 2, has no bias"


# fedtgp


class Prototyper(nn.Module):
    """FedTGP's module at the server, as one writes it in torch."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.inner, self.outer = nn.Embedding(4, 5), nn.Linear(5, 5), nn.Linear(5, 5)
        start = first_weights(4, 5)
        self.embed.load_state_dict({"weight": start["embed"]})
        self.inner.load_state_dict({"weight": start["inner"], "bias": start["inner_bias"]})
        self.outer.load_state_dict({"weight": start["outer"], "bias": start["outer_bias"]})

    def forward(self) -> Tensor:
        found: Tensor = self.outer(F.relu(self.inner(self.embed(torch.arange(4)))))
        return found


def naive_margin(largest: float) -> float:
    means = {}
    for y in range(4):
        rows = [row for row, label in pairs() if label == y]
        if rows:
            means[y] = torch.stack(rows).mean(dim=0)
    gaps = dict.fromkeys(means, 1e9)
    for one, other in itertools.permutations(means, 2):
        gaps[one] = min(gaps[one], (means[one] - means[other]).norm().item())
    return min(max(gaps.values()), largest)


def test_trainable_prototypes_are_those_of_a_module_and_torchs_sgd() -> None:
    module, margin = Prototyper(), naive_margin(100.0)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    stream = numpy_stream(0, "strategy", "fedtgp", "round", 1)
    for _ in range(3):
        for batch in torch.from_numpy(stream.permutation(6)).split(4):
            rows = torch.stack([pairs()[i][0] for i in batch.tolist()])
            labels = torch.tensor([pairs()[i][1] for i in batch.tolist()])
            apart = torch.cdist(rows, module())
            optimizer.zero_grad()
            F.cross_entropy(-(apart + margin * F.one_hot(labels, 4)), labels).backward()
            optimizer.step()
    fusion = FedTGP(server_epochs=3, server_learning_rate=0.05, server_batch=4).fuse(cohort(), None)
    torch.testing.assert_close(fusion.teachers["features"], module().detach(), rtol=1e-4, atol=1e-5)
    assert fusion.metrics["margin"] == pytest.approx(margin)
    assert fusion.teachers["present"].tolist() == [True, True, True, False]


def test_the_margin_adapts_up_to_the_largest() -> None:
    assert FedTGP(margin=0.5).fuse(cohort(), None).metrics["margin"] == 0.5
    assert adaptive_margin(torch.ones(1, 5), 7.0) == 7.0  # one class has no neighbor


def test_learning_goes_on_and_remembers_classes_of_absent_clients() -> None:
    strategy = FedTGP(server_epochs=60, server_learning_rate=0.05)
    first = strategy.fuse(cohort(), None)
    later = strategy.fuse(cohort(2, COUNTS[:1]), first.state)
    assert later.teachers["present"].tolist() == [True, True, True, False]
    again = strategy.fuse(cohort(2), first.state)
    assert again.metrics["prototype_loss"] < first.metrics["prototype_loss"]


def test_the_gradient_is_finite_where_a_prototype_meets_a_row() -> None:
    centers = prototypes(first_weights(4, 5)).requires_grad_()
    margin_loss(centers, centers.detach()[:2].clone(), torch.tensor([0, 1]), 1.0).backward()
    assert torch.isfinite(centers.grad).all()


@pytest.mark.parametrize(
    ("made", "changes", "reason"),
    [
        (FedGH, {"server_epochs": 0}, "server_epochs must be >= 1"),
        (FedGH, {"server_learning_rate": 0.0}, "server_learning_rate must be > 0"),
        (FedGH, {"prediction": "nearest_own"}, "prediction must be one of head, nearest"),
        (FedTGP, {"margin": 0.0}, "margin must be > 0"),
        (FedTGP, {"prototype_weight": 0.0}, "prototype_weight must be > 0"),
        (FedTGP, {"width": 0}, "width must be >= 1"),
        (FedTGP, {"prediction": "knn"}, "prediction must be one of head, nearest, nearest_own"),
    ],
)
def test_settings_out_of_range_are_errors(made: Any, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingError, match=reason):
        made(**changes)
