"""Methods with a second model at the clients, against losses of which each moves its own model."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.errors import SettingError
from fedkd.knowledge import ModelPair, WeightsCohort
from fedkd.models.companion import Companion
from fedkd.strategies.fedkd import AdaptiveMutual, FedKD
from fedkd.strategies.fedmrl import FedMRL, Nested
from fedkd.strategies.fml import FML, Mutual
from fedkd.strategies.local_teacher import LocalTeacher, Taught

STREAM = torch.Generator().manual_seed(0)
INPUTS = torch.randn(6, 3, generator=STREAM)
LABELS = torch.randint(4, (6,), generator=STREAM)


def pair(beside: nn.Module | None = None) -> ModelPair:
    """Two small networks with features of width 5 and 2; the same ones in every call."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        own = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4))
        shared = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 4))
    return ModelPair(own, Companion(shared, beside), "2", "2", lambda model, x: model(x))


def gradients(loss: Tensor, *modules: nn.Module) -> list[Tensor]:
    parameters = [p for module in modules for p in module.parameters()]
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL of softmaxes, sample by sample and class by class."""
    p, q = teacher.softmax(-1), student.softmax(-1)
    rows = [sum(p[i, c] * (p[i, c] / q[i, c]).log() for c in range(4)) for i in range(len(p))]
    return torch.stack(rows).mean()


def cohort(*states: dict[str, Tensor], start: dict[str, Tensor] | None = None) -> WeightsCohort:
    return WeightsCohort(
        round=1,
        client_ids=tuple(range(len(states))),
        states=states,
        architectures=("mlp",) * len(states),
        train_sizes=(3, 1),
        public_ids=torch.arange(0),
        start=start,
    )


# fml


def test_mutual_distillation_moves_each_model_by_its_own_loss() -> None:
    alpha, beta = 0.3, 0.8
    made = pair()
    own, shared = made.logits(INPUTS)
    separate = [
        gradients(loss, module)
        for loss, module in (
            (
                alpha * F.cross_entropy(own, LABELS) + (1 - alpha) * kl(shared.detach(), own),
                made.own,
            ),
            (
                beta * F.cross_entropy(shared, LABELS) + (1 - beta) * kl(own.detach(), shared),
                made.companion,
            ),
        )
    ]
    joint = Mutual(own_weight=alpha, shared_weight=beta)
    found = gradients(joint.loss(made, INPUTS, LABELS, F.cross_entropy), made.own, made.companion)
    for one, other in zip(found, [g for part in separate for g in part], strict=True):
        torch.testing.assert_close(one, other)


def test_the_shared_model_is_the_mean_alike_or_by_sizes() -> None:
    states = {"w": torch.tensor([1.0])}, {"w": torch.tensor([5.0])}
    for strategy, expected in ((FML(), 3.0), (FML(mean="weighted"), 2.0), (FedMRL(), 2.0)):
        assert strategy.fuse(cohort(*states), None).teachers["w"].tolist() == [expected]


# fedkd


def test_adaptive_distillation_is_weighed_by_both_losses_of_labels() -> None:
    """Each model by its own loss, W by that of the shared one; the denominator is a number."""
    joint = AdaptiveMutual(hidden=True)
    made = pair(joint.beside(5, 2))
    own, h = made.own_features(INPUTS)
    shared, h_shared = made.companion_features(INPUTS)
    projected = h_shared @ made.companion.beside.weight.T
    ce, ce_shared = F.cross_entropy(own, LABELS), F.cross_entropy(shared, LABELS)
    scale = (ce + ce_shared).item()
    of_own = ce + (kl(shared.detach(), own) + (h - projected.detach()).square().mean()) / scale
    of_shared = (
        ce_shared + (kl(own.detach(), shared) + (h.detach() - projected).square().mean()) / scale
    )
    expected = [*gradients(of_own, made.own), *gradients(of_shared, made.companion)]
    found = gradients(joint.loss(made, INPUTS, LABELS, F.cross_entropy), made.own, made.companion)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_without_features_the_divergences_alone_are_left() -> None:
    made, joint = pair(), AdaptiveMutual(hidden=False)
    own, shared = made.logits(INPUTS)
    ce, ce_shared = F.cross_entropy(own, LABELS), F.cross_entropy(shared, LABELS)
    expected = ce + ce_shared + (kl(own, shared) + kl(shared, own)) / (ce + ce_shared)
    found = joint.loss(made, INPUTS, LABELS, F.cross_entropy)
    torch.testing.assert_close(found, expected)
    assert FedKD(hidden=False).needs.features is None


def test_changes_are_added_to_what_the_server_has() -> None:
    """Start 10, changes 1 and 5: 13; then 2 and 2: 15. Counters are what clients sent."""
    changes = [{"w": torch.tensor([x]), "seen": torch.tensor(3)} for x in (1.0, 5.0, 2.0)]
    start = {"w": torch.tensor([10.0]), "seen": torch.tensor(0)}
    first = FedKD().fuse(cohort(*changes[:2], start=start), None)
    assert first.teachers == {"w": torch.tensor([13.0]), "seen": torch.tensor(3)}
    second = FedKD().fuse(cohort(changes[2], changes[2], start=start), first.state)
    assert second.teachers["w"].tolist() == [15.0]


# fedmrl


def test_both_last_layers_learn_from_one_representation() -> None:
    joint = Nested()
    made = pair(joint.beside(5, 2))
    h, h_shared = made.own[:2](INPUTS), made.companion.shared[:2](INPUTS)
    m = torch.cat([h_shared, h], dim=1) @ made.companion.beside.weight.T
    m = m + made.companion.beside.bias
    large, small = made.own[2](m), made.companion.shared[2](m[:, :2])
    expected = F.cross_entropy(large, LABELS) + F.cross_entropy(small, LABELS)
    torch.testing.assert_close(joint.loss(made, INPUTS, LABELS, F.cross_entropy), expected)
    predictor = joint.predictor(made).eval()
    torch.testing.assert_close(predictor(INPUTS), large)
    assert not made.companion.training
    assert joint.misfit(2, 5) == "its 5 features are more than the 2 of the client's own"
    assert joint.misfit(5, 5) is None


# local_teacher


def unit(rows: Tensor) -> Tensor:
    """Rows whose mean square is 1."""
    return rows / rows.square().mean(dim=1, keepdim=True).sqrt()


@pytest.mark.parametrize("weight", [0.0, 0.4])
def test_a_local_teacher_learns_labels_alone_and_its_student_from_both(weight: float) -> None:
    joint = Taught(soft_label_weight=weight, feature_weight=0.7, temperature=3.0)
    made = pair(joint.beside(5, 2))
    own, h = made.own_features(INPUTS)
    said, h_student = made.companion_features(INPUTS)
    mapped = unit(h_student) @ made.companion.beside.weight.T
    of_student = (
        (1 - weight) * F.cross_entropy(said, LABELS)
        + weight * 9 * kl(own.detach() / 3, said / 3)
        + 0.7 * (mapped - unit(h).detach()).square().mean()
    )
    expected = [
        *gradients(F.cross_entropy(own, LABELS), made.own),
        *gradients(of_student, made.companion),
    ]
    found = gradients(joint.loss(made, INPUTS, LABELS, F.cross_entropy), made.own, made.companion)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert joint.predictor(made) is made.companion.shared


def test_without_a_weight_of_features_no_features_are_needed() -> None:
    strategy = LocalTeacher(feature_weight=0.0)
    assert strategy.needs.features is None
    made, joint = pair(), strategy.knowledge.joint  # type: ignore[attr-defined]
    own, said = made.logits(INPUTS)
    expected = F.cross_entropy(own, LABELS) + 0.5 * F.cross_entropy(said, LABELS)
    found = joint.loss(made, INPUTS, LABELS, F.cross_entropy)
    torch.testing.assert_close(found, expected + 0.5 * 4 * kl(own / 2, said / 2))
    states = {"w": torch.tensor([1.0])}, {"w": torch.tensor([5.0])}
    assert strategy.fuse(cohort(*states), None).teachers["w"].tolist() == [2.0]


@pytest.mark.parametrize(
    ("made", "changes", "reason"),
    [
        (LocalTeacher, {"soft_label_weight": 1.0}, "the student would learn no labels"),
        (LocalTeacher, {"soft_label_weight": -0.1}, "soft_label_weight must be >= 0"),
        (
            LocalTeacher,
            {"soft_label_weight": 0.0, "feature_weight": 0.0},
            "nobody would be taught",
        ),
        (LocalTeacher, {"soft_label_weight": 0.0, "temperature": 3.0}, "would do nothing"),
        (LocalTeacher, {"temperature": 0.0}, "temperature must be > 0"),
        (LocalTeacher, {"mean": "median"}, "mean must be one of weighted, plain"),
        (FML, {"own_weight": 1.0}, "own models would learn nothing from others"),
        (FML, {"own_weight": 0.0}, "own_weight must be"),
        (FML, {"shared_weight": 1.5}, "shared_weight must be"),
        (FML, {"mean": "median"}, "mean must be one of weighted, plain"),
        (FedKD, {"energy": 0.0}, "energy must be"),
        (FedKD, {"last_energy": 1.1}, "last_energy must be"),
        (FedKD, {"over": 0}, "over must be >= 1"),
        (FedMRL, {"mean": "median"}, "mean must be one of weighted, plain"),
    ],
)
def test_settings_out_of_range_are_errors(made: Any, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingError, match=reason):
        made(**changes)


def test_a_codec_of_changes_sends_less_than_the_weights() -> None:
    """A change of rank 1 in a matrix of 40 x 30 is 70 numbers, not 1,200."""
    up, down = FedKD().codec
    stream = np.random.default_rng(0)
    start = {"w": stream.normal(size=(40, 30)).astype(np.float32)}
    change = np.outer(stream.normal(size=40), stream.normal(size=30)).astype(np.float32)
    sent, _ = up.encode({"w": change}, None)
    assert sent["w:left"].size + sent["w:right"].size == 70
    first, memory = down.encode(start, None)
    assert first["w:values"].size == 1200
    later, _ = down.encode({"w": start["w"] + change}, memory)
    assert later["w:left"].size + later["w:right"].size == 70
    found, _ = down.decode(later, memory)
    np.testing.assert_allclose(found["w"], start["w"] + change, rtol=1e-4, atol=1e-4)
