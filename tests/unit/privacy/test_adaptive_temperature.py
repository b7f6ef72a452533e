"""Laws of swing on rows, and two of the four facts that decide whether it protects."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedkd.fusion import soften
from fedkd.privacy.adaptive_temperature import draw_noise, swing_logits, swing_temperatures
from fedkd.training.losses import kl


def released(*arguments: Tensor) -> Tensor:
    """The soft labels of what ``swing_logits`` returns."""
    return soften(swing_logits(*arguments))


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [N, C], scores [N] of which some are 0 and 1, noise [N, C]."""
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(2, 6))
    stream = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    scores = (torch.rand(rows, generator=stream) * 1.5 - 0.25).clamp(0, 1)
    return (
        4 * torch.randn(rows, columns, generator=stream),
        scores,
        torch.randn(rows, columns, generator=stream),
    )


@given(problems(), st.floats(0.5, 2), st.floats(1, 100), st.floats(0, 5))
def test_a_release_is_the_formula(problem, base, ratio, sigma):
    logits, scores, noise = problem
    found = released(logits, swing_temperatures(scores, base, base * ratio), sigma * scores, noise)
    for t, score in enumerate(scores.tolist()):
        temperature = base * ratio**score
        raw = [
            z / temperature + sigma * score * g
            for z, g in zip(logits[t].tolist(), noise[t].tolist(), strict=True)
        ]
        odds = [math.exp(x - max(raw)) for x in raw]
        assert found[t].tolist() == pytest.approx([x / sum(odds) for x in odds], abs=1e-4)


@given(problems())
def test_rows_of_score_zero_leave_as_plain_soft_labels_whatever_the_noise(problem):
    logits, scores, noise = problem
    calm = scores == 0
    noise = noise.masked_fill(calm[:, None], math.nan)
    found = released(logits, swing_temperatures(scores, 1.0, 30.0), 2 * scores, noise)
    torch.testing.assert_close(found[calm], soften(logits[calm]))


@given(problems(), st.floats(1, 100))
def test_temperature_rises_with_the_score_from_base_to_highest(problem, ratio):
    scores = problem[1].sort().values
    found = swing_temperatures(scores, 2.0, 2.0 * ratio)
    assert (found.diff() >= 0).all()
    ends = swing_temperatures(torch.tensor([0.0, 1.0]), 2.0, 2.0 * ratio)
    torch.testing.assert_close(ends, torch.tensor([2.0, 2.0 * ratio]))


@given(problems(), st.floats(1, 100))
def test_temperature_alone_keeps_every_ranking(problem, highest):
    logits, scores, _ = problem
    found = released(logits, swing_temperatures(scores, 1.0, highest))
    assert torch.equal(found.argmax(dim=-1), logits.argmax(dim=-1))
    ranked = found.gather(1, logits.argsort(dim=-1))
    assert (ranked.diff(dim=-1) >= -1e-7).all()


def test_the_same_temperature_on_both_sides_keeps_the_optimum_at_the_teacher():
    """Fact 1. The loss is flat at the teacher's logits if both soften, and at z / T if only the
    teacher does."""
    logits = torch.tensor([[3.0, 1.0, -2.0]])
    temperature = 5.0
    target = released(logits, torch.tensor([temperature]))

    def gradient(student: Tensor, student_temperature: float) -> float:
        student = student.clone().requires_grad_()
        kl(student, target, student_temperature).backward()
        return student.grad.abs().max().item()

    assert gradient(logits, temperature) < 1e-6
    assert gradient(logits, 1.0) > 0.1
    assert gradient(logits / temperature, 1.0) < 1e-6


@pytest.mark.parametrize("law", ["gaussian", "laplace"])
def test_noise_is_of_mean_zero_and_variance_one(law):
    drawn = draw_noise(torch.arange(200), 200, law, 0, "client", 1)
    assert abs(drawn.mean().item()) < 4 / 200
    assert abs(drawn.std().item() - 1) < 0.03
    fourth = (drawn**4).mean().item()
    assert abs(fourth - {"gaussian": 3, "laplace": 6}[law]) < 1, "the kurtosis tells the laws apart"


def test_fixed_noise_stays_and_fresh_noise_averages_out():
    """Fact 3. Over R = 64 rounds fresh noise shrinks by 8, fixed noise by nothing; over K = 16
    clients by 4."""
    rows = torch.tensor([5, 9, 11])
    fixed = torch.stack([draw_noise(rows, 400, "gaussian", 0, "client", 2) for _ in range(64)])
    fresh = torch.stack(
        [draw_noise(rows, 400, "gaussian", 0, "client", 2, "round", r) for r in range(64)]
    )
    clients = torch.stack([draw_noise(rows, 400, "gaussian", 0, "client", k) for k in range(16)])
    assert fixed.mean(dim=0).std().item() == pytest.approx(1, abs=0.1)
    assert fresh.mean(dim=0).std().item() == pytest.approx(1 / 8, abs=0.02)
    assert clients.mean(dim=0).std().item() == pytest.approx(1 / 4, abs=0.03)


def test_a_rows_noise_depends_on_its_name_alone():
    together = draw_noise(torch.tensor([3, 7, 3]), 8, "laplace", 1, "client", 0)
    alone = draw_noise(torch.tensor([7]), 8, "laplace", 1, "client", 0)
    assert torch.equal(together[1], alone[0])
    assert torch.equal(together[0], together[2])
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(alone, draw_noise(torch.tensor([7]), 8, "laplace", 2, "client", 0))
