"""Each attack worked out by hand, measured, or compared with SciPy; and the settings that it
refuses."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats
from torch import Tensor

from fedkd.errors import SettingError
from fedkd.robustness.attacks.independent import (
    LabelSwap,
    NoisyPredictions,
    RandomPredictions,
    SignFlip,
    add_noise,
    random_predictions,
    sign_flip,
)
from fedkd.robustness.attacks.omniscient import Colluding, Lie, collude, largest_z, lie
from fedkd.robustness.attacks.scale import contrast, onto_simplex

LAST = torch.tensor([False, False, True])


def assert_equals(found: Tensor, expected: list) -> None:
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=1e-6)


def three(*rows: list[float]) -> Tensor:
    """Three clients' predictions on one sample."""
    return torch.tensor(rows)[:, None, :]


# Alone.


def test_a_flipped_soft_label_by_hand():
    """softmax(-ln p) is 1/p divided by its sum: (1/0.5, 1/0.25, 1/0.25) = (2, 4, 4), hence (0.2,
    0.4, 0.4).

    With strength 2: (4, 16, 16) / 36.
    """
    values = three(*[[0.5, 0.25, 0.25]] * 3)
    assert_equals(sign_flip(values, LAST, "probs", 1.0)[2], [[0.2, 0.4, 0.4]])
    assert_equals(sign_flip(values, LAST, "probs", 2.0)[2], [[1 / 9, 4 / 9, 4 / 9]])


def test_contrast_by_hand():
    """Rows (3, -1, 1) and (0, 0, 0) about their means (1, 0): squares 4 4 0 0 0 0, mean 4/3."""
    logits = torch.tensor([[[3.0, -1.0, 1.0], [0.0, 0.0, 0.0]]])
    assert_equals(contrast(logits), [[[math.sqrt(4 / 3)]]])
    probs = torch.log_softmax(logits, dim=-1)
    assert_equals(contrast(probs), [[[math.sqrt(4 / 3)]]])


@pytest.mark.parametrize("strength", [0.5, 2.0])
def test_noise_and_random_logits_are_normal_and_as_large_as_asked_for(strength: float):
    """20,000 numbers: the standard deviation is known to 0.5 %, so that two thirds or three halves
    would fail."""
    stream = torch.Generator().manual_seed(0)
    values = 3 * torch.randn(2, 2000, 10, generator=stream)
    attackers = torch.tensor([False, True])
    size = strength * contrast(values)[1].item()
    noise = (add_noise(values, attackers, "logits", strength, np.random.default_rng(0)) - values)[1]
    drawn = random_predictions(values, attackers, "logits", strength, np.random.default_rng(1))[1]
    for numbers in (noise, drawn):
        assert abs(numbers.std().item() / size - 1) < 0.02
        assert abs(numbers.mean().item()) < 0.03 * size
        assert stats.kstest(numbers.flatten().numpy() / size, "norm").pvalue > 1e-3
        assert abs(np.corrcoef(numbers.flatten(), values[1].flatten())[0, 1]) < 0.03
    assert np.corrcoef((noise + values[1]).flatten(), values[1].flatten())[0, 1] > 0.3


def test_little_noise_is_nearly_honest():
    values = three([0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4])
    found = add_noise(values, LAST, "probs", 1e-4, np.random.default_rng(0))
    torch.testing.assert_close(found, values, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        (LabelSwap(), [0.4, 0.3, 0.2, 0.1]),
        (LabelSwap(shift=3), [0.2, 0.1, 0.4, 0.3]),
        (LabelSwap(shift=-1), [0.2, 0.1, 0.4, 0.3]),
        (LabelSwap(shift=5), [0.4, 0.3, 0.2, 0.1]),
        (LabelSwap(pair=(0, 3)), [0.4, 0.2, 0.1, 0.3]),
    ],
    ids=str,
)
@pytest.mark.parametrize("scale", ["logits", "probs"])
def test_swapped_labels_by_hand(attack: LabelSwap, expected: list[float], scale: str):
    """Shift 1 gives class 1 what class 0 had, and class 0 what the last had."""
    values = three(*[[0.3, 0.2, 0.1, 0.4]] * 3)
    attack.check(3, 4)
    assert attack.poison(values, LAST, scale, np.random.default_rng(0))[2].tolist() == [
        pytest.approx(expected, abs=1e-6)
    ]


# Omniscient.


def test_collusion_by_hand():
    """The honest mean is (0.4, 0.35, 0.25): class 2 is the least likely. Its logit is 6 above the
    others: -2 -2 4.

    The attacker's own prediction, which finds class 0 least likely, plays no part. With a target it
    is that one.
    """
    probs = three([0.6, 0.2, 0.2], [0.2, 0.5, 0.3], [0.0, 0.5, 0.5])
    e = math.exp(-6)
    assert_equals(
        collude(probs, LAST, "probs", 6.0, None)[2],
        [[e / (1 + 2 * e), e / (1 + 2 * e), 1 / (1 + 2 * e)]],
    )
    assert_equals(
        collude(probs.log().clamp(min=-9), LAST, "logits", 6.0, None)[2], [[-2.0, -2.0, 4.0]]
    )
    assert_equals(collude(probs, LAST, "logits", 6.0, 1)[2], [[-2.0, 4.0, -2.0]])


def test_a_lie_about_soft_labels_by_hand():
    """Mean (0.4, 0.35, 0.25), standard deviations (0.2, 0.15, 0.05).

    z = 1: (0.2, 0.2, 0.2), a third too little each: (1/3, 1/3, 1/3).
    z = 2: (0, 0.05, 0.15), raised by 0.8 / 3: (0.2666667, 0.3166667, 0.4166667).
    """
    probs = three([0.6, 0.2, 0.2], [0.2, 0.5, 0.3], [0.0, 0.5, 0.5])
    assert_equals(lie(probs, LAST, "probs", 1.0)[2], [[1 / 3, 1 / 3, 1 / 3]])
    assert_equals(lie(probs, LAST, "probs", 2.0)[2], [[0.8 / 3, 0.05 + 0.8 / 3, 0.15 + 0.8 / 3]])
    assert_equals(lie(probs, LAST, "logits", 2.0)[2], [[0.0, 0.05, 0.15]])


@pytest.mark.parametrize("scale", ["logits", "probs"])
def test_no_lie_is_the_honest_mean_and_so_is_a_lie_about_a_single_client(scale: str):
    probs = three([0.6, 0.2, 0.2], [0.2, 0.5, 0.3], [0.0, 0.5, 0.5])
    assert_equals(lie(probs, LAST, scale, 0.0)[2], [[0.4, 0.35, 0.25]])
    alone = torch.tensor([False, True, True])
    assert_equals(lie(probs, alone, scale, 3.0)[2], [[0.6, 0.2, 0.2]])


@pytest.mark.parametrize(
    ("clients", "attackers"), [(50, 24), (50, 12), (10, 3), (10, 4), (25, 11), (7, 3)]
)
def test_the_papers_z_equals_scipys(clients: int, attackers: int):
    supporters = np.floor(clients / 2 + 1) - attackers
    expected = stats.norm.ppf((clients - attackers - supporters) / (clients - attackers))
    assert largest_z(clients, attackers) == pytest.approx(expected)


def test_the_papers_z_lies_within_what_so_many_honest_clients_exceed():
    """With 50 workers of whom 24 are corrupted two honest ones must be farther out: 92 % of 26 are
    nearer."""
    assert largest_z(50, 24) == pytest.approx(1.43, abs=0.01)
    assert largest_z(10, 9) == largest_z(4, 4) == 3.0
    assert largest_z(10, 1) < 0
    assert largest_z(2, 0) < 0


def test_the_z_of_a_round_follows_its_clients():
    """Three of seven attack: s = 4 - 3 = 1 of 4 honest, z = Phi^-1(3/4). One of four: too few, the
    honest mean."""
    values = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(0))
    stream = np.random.default_rng(0)
    three_of_seven = torch.tensor([True] * 3 + [False] * 4)
    found = Lie().poison(values, three_of_seven, "logits", stream)
    assert torch.equal(found, lie(values, three_of_seven, "logits", stats.norm.ppf(0.75)))
    one_of_four = three_of_seven[2:6]
    found = Lie().poison(values[2:6], one_of_four, "logits", stream)
    torch.testing.assert_close(found[0], values[3:6].mean(dim=0))


# The simplex.


@given(
    seed=st.integers(0, 2**20), size=st.integers(1, 8), scale=st.sampled_from([0.01, 1.0, 100.0])
)
def test_the_projection_gives_the_nearest_distribution(seed: int, size: int, scale: float):
    """A distribution, unchanged by a second projection, nearer than any other tried; and SciPy's
    bisection agrees."""
    stream = np.random.default_rng(seed)
    row = scale * stream.normal(size=size)
    found = onto_simplex(torch.tensor(row))
    assert (found >= 0).all()
    assert found.sum().item() == pytest.approx(1.0)
    torch.testing.assert_close(onto_simplex(found), found)
    for other in stream.dirichlet(np.ones(size), size=20):
        assert np.linalg.norm(found.numpy() - row) <= np.linalg.norm(other - row) + 1e-9
    lowered = optimize.brentq(
        lambda by: np.maximum(row - by, 0).sum() - 1, row.min() - 2, row.max()
    )
    np.testing.assert_allclose(
        found.numpy(), np.maximum(row - lowered, 0), atol=1e-6 * max(scale, 1)
    )


# Settings.


@pytest.mark.parametrize(
    "attack", [SignFlip, RandomPredictions, NoisyPredictions, LabelSwap, Colluding, Lie]
)
@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1, math.nan])
def test_an_attack_without_attackers_is_an_error(attack: type, fraction: float):
    with pytest.raises(SettingError, match="fraction must be above 0 and at most 1"):
        attack(fraction=fraction)


@pytest.mark.parametrize(
    ("attack", "name"),
    [
        (SignFlip, "strength"),
        (RandomPredictions, "strength"),
        (NoisyPredictions, "strength"),
        (Colluding, "margin"),
        (Lie, "z"),
    ],
)
def test_strengths_are_positive_and_limited(attack: type, name: str):
    for value in (0.0, -1.0):
        with pytest.raises(SettingError, match=f"{name} must be > 0"):
            attack(**{name: value})
    with pytest.raises(SettingError, match=f"{name} must be <= 1e\\+06"):
        attack(**{name: 2e6})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LabelSwap(shift=2, pair=(0, 1)), "shift=2 would do nothing"),
        (lambda: LabelSwap(pair=(1, 1)), "would do nothing: name two different classes"),
        (lambda: LabelSwap(pair=(-1, 1)), "pair must be >= 0"),
        (
            lambda: LabelSwap(shift=20).check(10, 10),
            "shift=20 would do nothing: there are 10 classes",
        ),
        (
            lambda: LabelSwap(pair=(3, 10)).check(10, 10),
            "names a class that does not exist: there are 10, from 0",
        ),
        (lambda: Colluding(target=-1), "target must be >= 0"),
        (lambda: Colluding(target=10).check(10, 10), "target=10 is a class that does not exist"),
        (lambda: Lie().check(10, 10), "z must be given with 2 attackers among 10 clients"),
    ],
)
def test_attacks_that_would_do_nothing_or_cannot_be_are_errors(make, message: str):
    with pytest.raises(SettingError, match=message):
        make()


def test_a_lie_by_enough_clients_needs_no_z():
    Lie(fraction=0.4).check(10, 10)
    Lie(z=1.0).check(10, 10)
