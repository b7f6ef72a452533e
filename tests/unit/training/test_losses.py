"""Distillation losses against their formulas, written out with plain floats (float64)."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedkd.errors import SettingError
from fedkd.federation import local_steps
from fedkd.fusion import soften
from fedkd.training.hyperparameters import TrainingSettings
from fedkd.training.losses import LOSSES as ALL_LOSSES
from fedkd.training.losses import (
    ON_LOGITS,
    ON_PROBS,
    SKEWED,
    by_sample,
    cross_correlation,
    cross_entropy,
    distillation_target,
    find_loss,
    js,
    kl,
    kl_mean,
    mae,
    mse,
    not_true,
    reverse_kl,
    skewed_kl,
    symmetric_cross_entropy,
    symmetric_kl,
    weighted,
)

OF_OTHER_LAWS = ("not_true", "cross_correlation")
"""The one is of a label too, the other of a batch together: their laws are at the end."""
LOSSES = {name: loss for name, loss in ALL_LOSSES.items() if name not in OF_OTHER_LAWS}
TEMPERATURES = [0.5, 1.0, 4.0]
SKEWS = [0.1, 0.5, 0.8]
OWN_SKEW = {"skewed_kl": 0.1, "symmetric_kl": 0.5, "js": 0.5}


def rows(seed: int, samples: int = 5, classes: int = 4, spread: float = 3.0) -> Tensor:
    """Random logits in float64."""
    stream = torch.Generator().manual_seed(seed)
    return torch.randn(samples, classes, generator=stream, dtype=torch.float64) * spread


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """A student's and a teacher's logits of the same shape."""
    samples, classes, seed = (
        draw(st.integers(1, 6)),
        draw(st.integers(2, 6)),
        draw(st.integers(0, 2**20)),
    )
    return rows(2 * seed, samples, classes), rows(2 * seed + 1, samples, classes)


def gradient(loss, student: Tensor, target: Tensor, temperature: float) -> Tensor:
    logits = student.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(logits, target, temperature), logits)
    return found


# The naive versions.


def softmax(row: list[float], temperature: float) -> list[float]:
    exponentials = [math.exp(x / temperature) for x in row]
    return [e / sum(exponentials) for e in exponentials]


def naive_kl(p: list[float], q: list[float]) -> float:
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True) if a > 0)


def naive(
    name: str, student: Tensor, target: Tensor, temperature: float, skew: float | None = None
) -> float:
    """The loss by its formula: a mean over samples of T^2 times a sum over classes, or a mean over
    all entries (kl_mean: of the terms, without T^2)."""
    by_sample = []
    w = OWN_SKEW.get(name, 0.5) if skew is None else skew
    for s, q in zip(student.tolist(), target.tolist(), strict=True):
        if name in ON_PROBS:
            p = softmax(s, temperature)
            m = [w * b + (1 - w) * a for a, b in zip(p, q, strict=True)]
            terms = {
                "skewed_kl": naive_kl(q, m),
                "symmetric_kl": w * naive_kl(q, p) + (1 - w) * naive_kl(p, q),
                "js": w * naive_kl(q, m) + (1 - w) * naive_kl(p, m),
                "kl": naive_kl(q, p),
                "kl_mean": naive_kl(q, p) / len(q) / temperature**2,
                "reverse_kl": naive_kl(p, q),
                "cross_entropy": -sum(b * math.log(a) for a, b in zip(p, q, strict=True)),
            }
            by_sample.append(temperature**2 * terms[name])
        else:
            power = {"mae": 1, "mse": 2}[name]
            by_sample.append(sum(abs(a - b) ** power for a, b in zip(s, q, strict=True)) / len(s))
    return sum(by_sample) / len(by_sample)


def target_for(name: str, teacher: Tensor, temperature: float) -> Tensor:
    return teacher if name in ON_LOGITS else soften(teacher, temperature)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("name", LOSSES)
def test_each_loss_equals_its_formula(name: str, temperature: float):
    student, target = rows(1), target_for(name, rows(2), temperature)
    found = LOSSES[name](student, target, temperature)
    assert found.shape == ()
    assert found.item() == pytest.approx(naive(name, student, target, temperature), rel=1e-12)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("name", LOSSES)
def test_float32_is_close_to_the_formula(name: str, temperature: float):
    student, target = rows(1), target_for(name, rows(2), temperature)
    found = LOSSES[name](student.float(), target.float(), temperature)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(naive(name, student, target, temperature), rel=1e-5)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_kl_is_the_distillation_part_of_torchdistills_kdloss(temperature: float):
    """Its KDLoss is alpha CE(s, y) + (1 - alpha) T^2 KLDivLoss(log_softmax(s / T), softmax(t / T)),
    "batchmean".

    At alpha = 0 only the second term is left, with labels given; without labels it
    drops T^2.
    """
    student, teacher = rows(3), rows(4)
    divergence = torch.nn.KLDivLoss(reduction="batchmean")
    theirs = temperature**2 * divergence(
        F.log_softmax(student / temperature, dim=1), F.softmax(teacher / temperature, dim=1)
    )
    ours = kl(student, distillation_target("kl", teacher, "logits", temperature), temperature)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)


# By hand.


def test_losses_on_soft_labels_by_hand():
    """The student's logits (0, 0) are (1/2, 1/2) at any temperature; the teacher says (1/4, 3/4).

    KL(q || p) = 0.25 ln(1/2) + 0.75 ln(3/2) = -0.17328680 + 0.30409883 = 0.13081204
    KL(p || q) = 0.5 ln 2 + 0.5 ln(2/3) = 0.5 ln(4/3) = 0.14384104
    cross entropy = ln 2 = 0.69314718
    At T = 2 each is four times as large.
    """
    student, target = torch.zeros(1, 2), torch.tensor([[0.25, 0.75]])
    for loss, expected in ((kl, 0.13081204), (reverse_kl, 0.14384104), (cross_entropy, 0.69314718)):
        assert loss(student, target).item() == pytest.approx(expected, abs=1e-6)
        assert loss(student, target, 2.0).item() == pytest.approx(4 * expected, abs=1e-5)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_kl_mean_is_pytorchs_divergence_over_the_number_of_entries(temperature: float):
    student, target = rows(3), soften(rows(4), temperature)
    theirs = F.kl_div(F.log_softmax(student / temperature, dim=1), target, reduction="sum")
    found = kl_mean(student, target, temperature)
    assert found.item() == pytest.approx(theirs.item() / student.numel(), rel=1e-12)


def test_losses_on_logits_by_hand():
    """(1, -2) against (0, 2): (1 + 4) / 2 = 2.5 and (1 + 16) / 2 = 8.5, whatever the
    temperature."""
    student, target = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, 2.0]])
    for temperature in TEMPERATURES:
        assert mae(student, target, temperature).item() == 2.5
        assert mse(student, target, temperature).item() == 8.5


# Laws.


@pytest.mark.parametrize("name", LOSSES)
@given(pair=pairs(), temperature=st.sampled_from(TEMPERATURES))
def test_no_loss_is_negative(name: str, pair: tuple[Tensor, Tensor], temperature: float):
    student, teacher = pair
    assert LOSSES[name](student, target_for(name, teacher, temperature), temperature) >= 0


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "cross_entropy"])
@given(pair=pairs(), temperature=st.sampled_from(TEMPERATURES))
def test_a_loss_is_zero_at_the_teacher_and_nowhere_else(
    name: str, pair: tuple[Tensor, Tensor], temperature: float
):
    student, teacher = pair
    target = target_for(name, teacher, temperature)
    assert LOSSES[name](teacher, target, temperature).item() == pytest.approx(0, abs=1e-12)
    assert LOSSES[name](student, target, temperature) > 1e-6


@given(pair=pairs(), temperature=st.sampled_from(TEMPERATURES))
def test_cross_entropy_at_the_teacher_is_the_teachers_entropy(
    pair: tuple[Tensor, Tensor], temperature: float
):
    teacher = pair[1]
    target = soften(teacher, temperature)
    entropy = torch.distributions.Categorical(probs=target).entropy().mean()
    assert cross_entropy(teacher, target, temperature).item() == pytest.approx(
        temperature**2 * entropy.item()
    )


@pytest.mark.parametrize("name", LOSSES)
@given(pair=pairs(), temperature=st.sampled_from(TEMPERATURES))
def test_the_gradient_is_zero_at_the_teacher(
    name: str, pair: tuple[Tensor, Tensor], temperature: float
):
    teacher = pair[1]
    found = gradient(LOSSES[name], teacher, target_for(name, teacher, temperature), temperature)
    torch.testing.assert_close(found, torch.zeros_like(found), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
@given(pair=pairs(), temperature=st.sampled_from(TEMPERATURES))
def test_a_small_step_against_the_gradient_lowers_the_loss(
    name: str, pair: tuple[Tensor, Tensor], temperature: float
):
    student, teacher = pair
    target = target_for(name, teacher, temperature)
    step = gradient(LOSSES[name], student, target, temperature)
    before, after = (LOSSES[name](x, target, temperature) for x in (student, student - 1e-4 * step))
    assert after < before


@given(pair=pairs(), temperature=st.sampled_from(TEMPERATURES))
def test_cross_entropy_and_kl_have_the_same_gradient(
    pair: tuple[Tensor, Tensor], temperature: float
):
    student, teacher = pair
    target = soften(teacher, temperature)
    torch.testing.assert_close(
        gradient(cross_entropy, student, target, temperature),
        gradient(kl, student, target, temperature),
    )


@given(pair=pairs(), temperature=st.sampled_from(TEMPERATURES))
def test_the_gradient_of_kl_is_the_difference_of_soft_labels(
    pair: tuple[Tensor, Tensor], temperature: float
):
    """d KL / d f = (softmax(f / T) - q) / T for one sample; times T^2 and a mean over N samples."""
    student, teacher = pair
    target = soften(teacher, temperature)
    expected = temperature * (soften(student, temperature) - target) / len(student)
    torch.testing.assert_close(gradient(kl, student, target, temperature), expected)


def test_the_squared_temperature_keeps_the_gradients_size():
    """For large T the gradient tends to (s - t) / (N C) where both are centered (Hinton et al.
    2015, eq. 4).

    Without the factor it would be T^2 times smaller: 10,000 times at T = 100.
    """
    student, teacher = (logits - logits.mean(dim=1, keepdim=True) for logits in (rows(5), rows(6)))
    limit = (student - teacher) / student.numel()
    found = gradient(kl, student, soften(teacher, 100.0), 100.0)
    torch.testing.assert_close(found, limit, rtol=0, atol=0.05 * limit.abs().max().item())


@pytest.mark.parametrize("name", LOSSES)
@given(pair=pairs(), temperature=st.sampled_from(TEMPERATURES))
def test_losses_are_means_over_samples(name: str, pair: tuple[Tensor, Tensor], temperature: float):
    student, teacher = pair
    loss, target = LOSSES[name], target_for(name, teacher, temperature)
    each = torch.stack(
        [loss(s[None], t[None], temperature) for s, t in zip(student, target, strict=True)]
    )
    torch.testing.assert_close(loss(student, target, temperature), each.mean())
    torch.testing.assert_close(
        loss(student.repeat(3, 1), target.repeat(3, 1), temperature),
        loss(student, target, temperature),
    )


@pytest.mark.parametrize("name", LOSSES)
@given(pair=pairs(), temperature=st.sampled_from(TEMPERATURES), seed=st.integers(0, 100))
def test_permuting_samples_and_classes_changes_no_loss(
    name: str, pair: tuple[Tensor, Tensor], temperature: float, seed: int
):
    student, teacher = pair
    stream = torch.Generator().manual_seed(seed)
    samples, classes = (torch.randperm(size, generator=stream) for size in student.shape)
    target = target_for(name, teacher, temperature)
    relabeled = LOSSES[name](student[samples][:, classes], target[samples][:, classes], temperature)
    torch.testing.assert_close(relabeled, LOSSES[name](student, target, temperature))


@pytest.mark.parametrize("name", LOSSES)
def test_inputs_stay_untouched(name: str):
    student, target = rows(1), target_for(name, rows(2), 2.0)
    before = student.clone(), target.clone()
    LOSSES[name](student, target, 2.0)
    assert torch.equal(student, before[0])
    assert torch.equal(target, before[1])


@pytest.mark.parametrize("name", ON_PROBS)
def test_targets_with_zeros_give_a_finite_loss_and_gradient(name: str):
    student, target = rows(1).float() * 5, torch.eye(5, 4)
    target[4] = torch.tensor([0.5, 0.5, 0.0, 0.0])
    assert torch.isfinite(ALL_LOSSES[name](student, target, 1.0))
    assert torch.isfinite(gradient(ALL_LOSSES[name], student, target, 1.0)).all()


@pytest.mark.parametrize("name", ON_PROBS)
def test_extreme_logits_give_a_finite_loss_and_gradient(name: str):
    student = torch.tensor([[500.0, -500.0, 0.0]])
    target = torch.tensor([[0.0, 1.0, 0.0]])
    assert torch.isfinite(ALL_LOSSES[name](student, target, 1.0))
    assert torch.isfinite(gradient(ALL_LOSSES[name], student, target, 1.0)).all()


def test_reverse_kl_floors_the_target_at_1e_12():
    """p = (1/2, 1/2), q = (1, 0): 0.5 (ln 0.5 - ln 1) + 0.5 (ln 0.5 - ln 1e-12) = ln 0.5 + 6 ln 10
    = 13.12236338."""
    found = reverse_kl(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
    assert found.item() == pytest.approx(13.12236338, abs=1e-4)


def test_kl_ignores_classes_that_the_teacher_rules_out():
    """q = (1, 0, 0), p uniform: the only term is 1 * ln(1 / (1/3)) = ln 3."""
    assert kl(torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0]])).item() == pytest.approx(
        math.log(3), rel=1e-6
    )


def test_forward_kl_covers_modes_and_reverse_kl_seeks_one():
    """A teacher of two modes: forward KL prefers the student that spreads over both, reverse KL the
    one that picks."""
    target = torch.tensor([[0.499, 0.002, 0.499]])
    spread, picks = torch.zeros(1, 3), torch.tensor([[8.0, 0.0, 0.0]])
    assert kl(spread, target) < kl(picks, target)
    assert reverse_kl(spread, target) > reverse_kl(picks, target)


# Skewed losses.


@pytest.mark.parametrize("skew", SKEWS)
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("name", SKEWED)
def test_each_skewed_loss_equals_its_formula_at_any_skew(
    name: str, temperature: float, skew: float
):
    student, target = rows(1), soften(rows(2), temperature)
    found = find_loss(name, skew)(student, target, temperature)
    assert found.item() == pytest.approx(naive(name, student, target, temperature, skew), rel=1e-12)


def test_skewed_losses_by_hand():
    """The student says (1/2, 1/2), the teacher (1/4, 3/4), as above; at skew 0.5 the mixture is
    (3/8, 5/8).

    KL(q || m) = 0.25 ln(2/3) + 0.75 ln(6/5) = 0.03537489, KL(p || m) = 0.5 ln(4/3) + 0.5 ln(4/5) =
    0.03226926 (as in test_golden.py), so js = 0.03382208; symmetric = (0.13081204 + 0.14384104) / 2
    = 0.13732654.
    """
    student, target = torch.zeros(1, 2), torch.tensor([[0.25, 0.75]])
    for loss, expected in ((skewed_kl, 0.03537489), (js, 0.03382208), (symmetric_kl, 0.13732654)):
        assert loss(student, target, skew=0.5).item() == pytest.approx(expected, abs=1e-6)
        assert loss(student, target, 2.0, skew=0.5).item() == pytest.approx(4 * expected, abs=1e-5)


@given(pair=pairs())
def test_the_ends_of_the_skew_are_the_two_kls(pair: tuple[Tensor, Tensor]):
    student, target = pair[0], soften(pair[1])
    tiny = 1e-7
    forward, backward = kl(student, target), reverse_kl(student, target)
    close = {"rtol": 1e-2, "atol": 1e-6}
    torch.testing.assert_close(symmetric_kl(student, target, skew=1 - tiny), forward, **close)
    torch.testing.assert_close(symmetric_kl(student, target, skew=tiny), backward, **close)
    torch.testing.assert_close(skewed_kl(student, target, skew=tiny), forward, **close)
    torch.testing.assert_close(js(student, target, skew=tiny) / tiny, forward, **close)
    torch.testing.assert_close(js(student, target, skew=1 - tiny) / tiny, backward, **close)


@given(pair=pairs(), skew=st.sampled_from(SKEWS))
def test_skewed_kl_and_js_are_bounded_however_far_the_student_is(
    pair: tuple[Tensor, Tensor], skew: float
):
    student, target = pair[0] * 100, soften(pair[1])
    assert skewed_kl(student, target, skew=skew) <= math.log(1 / skew)
    assert (
        js(student, target, skew=skew)
        <= -(skew * math.log(skew) + (1 - skew) * math.log(1 - skew)) + 1e-12
    )


@given(pair=pairs())
def test_js_and_symmetric_kl_do_not_ask_at_one_half_who_teaches(pair: tuple[Tensor, Tensor]):
    one, other = pair
    for loss in (js, symmetric_kl):
        torch.testing.assert_close(
            loss(one, soften(other)), loss(other, soften(one)), rtol=1e-6, atol=1e-9
        )


@pytest.mark.parametrize("name", SKEWED)
def test_no_skew_is_the_losss_own_and_another_skew_is_another_loss(name: str):
    student, target = rows(1), soften(rows(2))
    own = find_loss(name)(student, target, 1.0)
    assert own == find_loss(name, OWN_SKEW[name])(student, target, 1.0)
    assert abs(own - find_loss(name, 0.7)(student, target, 1.0)) > 1e-3


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in SKEWED])
def test_a_skew_for_a_loss_without_one_is_refused(name: str):
    assert find_loss(name) is LOSSES[name]
    with pytest.raises(
        SettingError,
        match=f"distill.loss_skew=0.3 would do nothing: loss={name} has none; skewed_kl",
    ):
        find_loss(name, 0.3)


# Weights by sample.


@pytest.mark.parametrize("name", LOSSES)
@given(pair=pairs(), temperature=st.sampled_from(TEMPERATURES))
def test_the_terms_of_the_samples_are_those_of_each_alone_and_make_the_loss(
    name: str, pair: tuple[Tensor, Tensor], temperature: float
):
    student, target = pair[0], target_for(name, pair[1], temperature)
    terms = by_sample(LOSSES[name], student, target, temperature)
    alone = [
        LOSSES[name](s[None], t[None], temperature) for s, t in zip(student, target, strict=True)
    ]
    torch.testing.assert_close(terms, torch.stack(alone))
    torch.testing.assert_close(terms.mean(), LOSSES[name](student, target, temperature))


@pytest.mark.parametrize("name", LOSSES)
def test_a_weight_multiplies_a_samples_term_and_its_gradient(name: str):
    student, target = rows(1), target_for(name, rows(2), 2.0)
    weights = torch.tensor([0.0, 2.0, 0.5, 1.5, 1.0], dtype=torch.float64)

    def loss(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
        return weighted(LOSSES[name], logits, target, weights, temperature)

    naive_terms = [naive(name, s[None], t[None], 2.0) for s, t in zip(student, target, strict=True)]
    expected = sum(w * term for w, term in zip(weights.tolist(), naive_terms, strict=True)) / 5
    assert loss(student, target, 2.0).item() == pytest.approx(expected, rel=1e-12)
    found = gradient(loss, student, target, 2.0)
    torch.testing.assert_close(
        found, weights[:, None] * gradient(LOSSES[name], student, target, 2.0)
    )
    ones = torch.ones(5, dtype=torch.float64)
    torch.testing.assert_close(
        weighted(LOSSES[name], student, target, ones, 2.0), LOSSES[name](student, target, 2.0)
    )


# Targets.


def test_every_loss_is_on_one_scale():
    assert set(ON_PROBS) | set(ON_LOGITS) == set(ALL_LOSSES)
    assert not set(ON_PROBS) & set(ON_LOGITS)


@pytest.mark.parametrize("name", ON_PROBS)
def test_logits_are_softened_for_a_loss_on_soft_labels(name: str):
    teacher = rows(2)
    expected = torch.tensor([softmax(row, 3.0) for row in teacher.tolist()], dtype=torch.float64)
    torch.testing.assert_close(distillation_target(name, teacher, "logits", 3.0), expected)


@pytest.mark.parametrize("name", ON_PROBS)
def test_soft_labels_are_taken_as_they_are(name: str):
    probs = soften(rows(2), 1.0)
    assert torch.equal(distillation_target(name, probs, "probs", 3.0), probs)


@pytest.mark.parametrize("name", ON_LOGITS)
def test_logits_are_taken_as_they_are_for_a_loss_on_logits(name: str):
    assert torch.equal(distillation_target(name, rows(2), "logits", 3.0), rows(2))


@pytest.mark.parametrize("name", ON_LOGITS)
def test_soft_labels_never_reach_a_loss_on_logits(name: str):
    with pytest.raises(AssertionError, match=f"{name} needs logits"):
        distillation_target(name, soften(rows(2)), "probs", 1.0)


# Losses with laws of their own.


@given(pair=pairs(), temperature=st.sampled_from(TEMPERATURES), weight=st.sampled_from([0.3, 1.0]))
def test_not_true_equals_a_loop_over_the_other_classes(
    pair: tuple[Tensor, Tensor], temperature: float, weight: float
):
    student, target = pair[0], soften(pair[1], temperature)
    total = 0.0
    for logits, probs in zip(student.tolist(), target.tolist(), strict=True):
        y = probs.index(max(probs))
        total -= math.log(softmax(logits, 1.0)[y])
        others = [c for c in range(len(probs)) if c != y]
        mass = sum(probs[c] for c in others)
        q = [probs[c] / mass for c in others]
        p = softmax([logits[c] for c in others], temperature)
        total += weight * temperature**2 * naive_kl(q, p)
    found = not_true(student, target, temperature, weight=weight)
    assert found.item() == pytest.approx(total / len(student), rel=1e-9)
    terms = by_sample(find_loss("not_true", None, weight), student, target, temperature)
    torch.testing.assert_close(terms.mean(), found)


def test_not_true_of_a_sure_teacher_or_of_two_classes_is_the_cross_entropy():
    student = rows(1)
    label_loss = F.cross_entropy(student, torch.arange(4).repeat(2)[:5])
    sure = torch.eye(4, dtype=torch.float64).repeat(2, 1)[:5]
    torch.testing.assert_close(not_true(student, sure, 3.0), label_loss)
    two, target = student[:, :2], soften(rows(2)[:, :2])
    expected = F.cross_entropy(two, target.argmax(dim=1))
    torch.testing.assert_close(not_true(two, target, 3.0), expected)


def test_not_true_leaves_the_likeliest_class_of_the_teacher_out_of_the_comparison():
    student = torch.tensor([[2.0, 1.0, 0.0]])
    one, other = torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[0.9, 0.06, 0.04]])
    torch.testing.assert_close(not_true(student, one), not_true(student, other))


def test_a_weight_of_not_true_for_another_loss_is_refused():
    with pytest.raises(SettingError, match="not_true_weight=2 would do nothing"):
        find_loss("kl", None, 2.0)


@given(seed=st.integers(0, 1000))
def test_cross_correlation_equals_a_loop_over_pairs_of_classes(seed: int):
    student, teacher = rows(seed), rows(seed + 1)
    total = 0.0
    for u in range(4):
        for v in range(4):
            m = torch.corrcoef(torch.stack([student[:, u], teacher[:, v]]))[0, 1].item()
            total += (1 - m) ** 2 if u == v else 0.0051 * (1 + m) ** 2
    found = cross_correlation(student, teacher)
    assert found.item() == pytest.approx(total, rel=1e-6)
    torch.testing.assert_close(cross_correlation(7 * student + 3, teacher), found)
    alone = cross_correlation(student[:1].requires_grad_(), teacher[:1])
    assert torch.isfinite(alone)


def test_the_reverse_cross_entropy_is_bounded_and_a_wrong_label_pulls_no_further():
    far = torch.tensor([[-50.0, 50.0]])
    plain = F.cross_entropy(far, torch.tensor([0]))
    both = symmetric_cross_entropy(far, torch.tensor([0]), reverse_weight=2.0)
    assert (both - plain).item() == pytest.approx(-2 * math.log(1e-4), rel=1e-5)


def test_clients_train_on_the_symmetric_loss_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
):
    logits, labels = rows(4), torch.tensor([0, 1, 2, 3, 1])
    monkeypatch.setattr(local_steps, "batches_of", lambda update, purpose, x: x.__getitem__)
    task = SimpleNamespace(logits=lambda model, x: x, training_loss=lambda model, x, y: None)
    context = SimpleNamespace(training=TrainingSettings(reverse_weight=2.0), task=task)
    update: Any = SimpleNamespace(context=context, model=None)
    found = local_steps.task_loss(update, "train", logits, labels)(torch.tensor([1, 3]))
    picked, y = logits[[1, 3]], labels[[1, 3]]
    torch.testing.assert_close(found, symmetric_cross_entropy(picked, y, reverse_weight=2.0))
