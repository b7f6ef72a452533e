"""Fusion worked out by hand, and compared with SciPy. Laws that hold for every input are in
test_laws.py."""

import math

import numpy as np
import pytest
import torch
from scipy import special, stats
from scipy.spatial import distance

from fedkd.fusion import (
    DIVERGENCES,
    argmax_histogram,
    effective_neighbors,
    keep_nearest,
    keep_within,
    mean_over_clients,
    mean_soft_label,
    mix,
    pairwise_cosine,
    pairwise_js,
    pairwise_kl,
    pairwise_l2,
    pairwise_tv,
    reduce_entropy,
    row_softmax,
    smooth,
    soften,
    without_self,
)

P = torch.tensor([[0.5, 0.5], [0.25, 0.75]])
INF = torch.inf


def assert_equals(found: torch.Tensor, expected: list) -> None:
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=1e-6)


# By hand.


def test_kl_by_hand():
    """Row i is the first argument.

    KL(P_0 || P_1) = 0.5 ln(0.5/0.25) + 0.5 ln(0.5/0.75) = 0.5 (ln 2 - ln 1.5) = 0.5 ln(4/3)
                   = 0.5 * 0.28768207 = 0.14384104
    KL(P_1 || P_0) = 0.25 ln(0.25/0.5) + 0.75 ln(0.75/0.5) = -0.25 * 0.69314718 + 0.75 * 0.40546511
                   = -0.17328680 + 0.30409883 = 0.13081204
    """
    assert_equals(pairwise_kl(P), [[0.0, 0.14384104], [0.13081204, 0.0]])


def test_js_by_hand():
    """The midpoint is M = (0.375, 0.625).

    KL(P_0 || M) = 0.5 ln(4/3) + 0.5 ln(4/5) = 0.14384104 - 0.11157178 = 0.03226926
    KL(P_1 || M) = 0.25 ln(2/3) + 0.75 ln(6/5) = -0.10136628 + 0.13674117 = 0.03537489
    JS = (0.03226926 + 0.03537489) / 2 = 0.03382208
    """
    assert_equals(pairwise_js(P), [[0.0, 0.03382208], [0.03382208, 0.0]])


def test_tv_by_hand():
    """(|0.5 - 0.25| + |0.5 - 0.75|) / 2 = 0.25."""
    assert_equals(pairwise_tv(P), [[0.0, 0.25], [0.25, 0.0]])


def test_cosine_by_hand():
    """The dot product is 0.125 + 0.375 = 0.5, the norms sqrt(0.5) and sqrt(0.625), their product
    sqrt(0.3125).

    1 - 0.5 / 0.55901699 = 1 - 0.89442719 = 0.10557281
    """
    assert_equals(pairwise_cosine(P), [[0.0, 0.10557281], [0.10557281, 0.0]])


def test_l2_by_hand():
    """sqrt(0.25^2 + 0.25^2) = 0.25 sqrt(2) = 0.35355339."""
    assert_equals(pairwise_l2(P), [[0.0, 0.35355339], [0.35355339, 0.0]])


def test_smoothing_by_hand():
    """((1, 0) + 0.125) / (1 + 2 * 0.125) = (1.125, 0.125) / 1.25 = (0.9, 0.1)."""
    assert_equals(smooth(torch.tensor([[1.0, 0.0]]), 0.125), [[0.9, 0.1]])


def test_softening_by_hand():
    """At T = 2 the logits (0, ln 9) become (0, ln 3), hence (1, 3) / 4; at T = 1 it is (1, 9) /
    10."""
    logits = torch.tensor([[0.0, math.log(9)]])
    assert_equals(soften(logits, 2.0), [[0.25, 0.75]])
    assert_equals(soften(logits), [[0.1, 0.9]])


def test_estimates_by_hand():
    """Of three samples class 0 is first once; the means are (0.6 + 0.2 + 0.1) / 3 and (0.4 + 0.8 +
    0.9) / 3."""
    probs = torch.tensor([[[0.6, 0.4], [0.2, 0.8], [0.1, 0.9]]])
    assert_equals(argmax_histogram(probs), [[1 / 3, 2 / 3]])
    assert_equals(mean_soft_label(probs), [[0.3, 0.7]])


def test_mixing_by_hand():
    """Two clients, one sample: client 0 says (1, 0), client 1 says (0, 4).

    Client 0 learns 0.75 (1, 0) + 0.25 (0, 4) = (0.75, 1), client 1 learns 0.5 (1, 0) + 0.5 (0, 4) =
    (0.5, 2). With the weights transposed, client 0 would learn (0.75, 2).
    """
    weights = torch.tensor([[0.75, 0.25], [0.5, 0.5]])
    values = torch.tensor([[[1.0, 0.0]], [[0.0, 4.0]]])
    assert_equals(mix(weights, values), [[[0.75, 1.0]], [[0.5, 2.0]]])


def test_the_mean_over_clients_by_hand():
    """(1 + 4) / 2 and (2 + 0) / 2."""
    assert_equals(mean_over_clients(torch.tensor([[[1.0, 2.0]], [[4.0, 0.0]]])), [[2.5, 1.0]])


def test_entropy_reduction_by_hand():
    """softmax((0.6, 0.4) / 0.1) = softmax(6, 4) = 1 / (1 + e^-2) = 1 / 1.13533528 = 0.88079708, and
    the rest.

    A power of the probabilities, as another sharpening has it, would be 0.6^10 / (0.6^10 + 0.4^10)
    = 0.983.
    """
    assert_equals(reduce_entropy(torch.tensor([[0.6, 0.4]]), 0.1), [[0.88079708, 0.11920292]])


def test_a_certain_label_stays_less_than_certain_under_entropy_reduction():
    """softmax((1, 0) / 0.1) = 1 / (1 + e^-10) = 0.99995460: probabilities are bounded, so ERA never
    gives a one-hot."""
    assert_equals(reduce_entropy(torch.tensor([[1.0, 0.0]]), 0.1), [[0.99995460, 0.00004540]])


def test_row_softmax_by_hand():
    """exp(0, ln 3) = (1, 3), of which the shares are 1/4 and 3/4; -inf weighs 0; a row of -inf
    alone teaches itself."""
    scores = torch.tensor([[0.0, math.log(3), -INF], [-INF, 2.0, -INF], [-INF, -INF, -INF]])
    assert_equals(row_softmax(scores), [[0.25, 0.75, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])


def test_without_self_by_hand():
    scores = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert without_self(scores).tolist() == [[-INF, 2.0], [3.0, -INF]]


def test_the_nearest_by_hand():
    """Row 0 keeps itself (0) and client 1 (1). In row 1 clients 0 and 2 tie at 1, so three stay of
    two asked for.

    In row 2 the client itself is out (score -inf), so that the two nearest are clients 1 (1) and 0
    (3).
    """
    apart = torch.tensor([[0.0, 1.0, 3.0], [1.0, 0.0, 1.0], [3.0, 1.0, 0.0]])
    scores = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, -INF]])
    assert keep_nearest(scores, apart, 2).tolist() == [
        [1.0, 2.0, -INF],
        [4.0, 5.0, 6.0],
        [7.0, 8.0, -INF],
    ]


def test_those_within_a_radius_by_hand():
    """A client at exactly the radius stays."""
    apart = torch.tensor([[0.0, 1.0, 3.0], [1.0, 0.0, 1.0], [3.0, 1.0, 0.0]])
    scores = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, -INF]])
    assert keep_within(scores, apart, 1.0).tolist() == [
        [1.0, 2.0, -INF],
        [4.0, 5.0, 6.0],
        [-INF, 8.0, -INF],
    ]


def test_effective_neighbors_by_hand():
    """1 / (0.75^2 + 0.25^2) = 1 / 0.625 = 1.6; 1 / (4 * 0.25^2) = 4."""
    weights = torch.tensor([[0.75, 0.25, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]])
    assert_equals(effective_neighbors(weights), [1.6, 4.0])


# Against SciPy.


@pytest.fixture(params=range(5))
def distributions(request: pytest.FixtureRequest) -> np.ndarray:
    """Five clients' label distributions over seven classes, from nearly one-hot to nearly
    uniform."""
    stream = np.random.default_rng(request.param)
    return stream.dirichlet([0.1 * 4**request.param] * 7, size=5) * (1 - 7e-4) + 1e-4


SCIPY = {
    "kl": stats.entropy,
    "js": lambda p, q: distance.jensenshannon(p, q) ** 2,
    "tv": lambda p, q: distance.cityblock(p, q) / 2,
    "cosine": distance.cosine,
    "l2": distance.euclidean,
}


def test_scipy_has_every_divergence():
    assert sorted(SCIPY) == sorted(DIVERGENCES)


@pytest.mark.parametrize("name", SCIPY)
def test_divergences_equal_scipys(name: str, distributions: np.ndarray):
    expected = distance.cdist(distributions, distributions, SCIPY[name])
    found = DIVERGENCES[name](torch.tensor(distributions))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SCIPY)
def test_divergences_equal_scipys_in_float32(name: str, distributions: np.ndarray):
    expected = distance.cdist(distributions, distributions, SCIPY[name])
    found = DIVERGENCES[name](torch.tensor(distributions, dtype=torch.float32))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=2e-6)


def test_softmaxes_equal_scipys():
    logits = np.random.default_rng(0).normal(size=(4, 5, 6)) * 3
    np.testing.assert_allclose(
        soften(torch.tensor(logits), 2.5).numpy(), special.softmax(logits / 2.5, axis=-1)
    )
    np.testing.assert_allclose(
        reduce_entropy(torch.tensor(logits[0]), 0.7).numpy(),
        special.softmax(logits[0] / 0.7, axis=-1),
    )
    scores = logits[0][:, :5]
    np.testing.assert_allclose(
        row_softmax(torch.tensor(scores)).numpy(), special.softmax(scores, axis=1)
    )


def test_entropy_reduction_lowers_the_entropy_that_scipy_measures():
    """Every entry is at least T = 0.1 here, where ERA sharpens (see test_laws.py)."""
    probs = 0.1 + np.random.default_rng(1).dirichlet([1, 1, 1, 1], size=20) * 0.6
    before = stats.entropy(probs, axis=1)
    after = stats.entropy(reduce_entropy(torch.tensor(probs), 0.1).numpy(), axis=1)
    assert (after < before).all()
