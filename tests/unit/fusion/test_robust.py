"""Robust means worked out by hand, and compared with NumPy, SciPy and naive loops. Laws are in
test_laws.py."""

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from fedkd.fusion import (
    filtered_mean,
    geometric_median,
    krum,
    median_distance,
    median_over_clients,
    renormalize,
    trimmed_mean_over_clients,
)


def assert_equals(found: torch.Tensor, expected: list, atol: float = 1e-6) -> None:
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=atol)


def column(*numbers: float) -> torch.Tensor:
    """One number from each client, for one sample and one class."""
    return torch.tensor(numbers)[:, None, None]


@pytest.fixture(params=[(3, 4, 2), (4, 5, 3), (7, 6, 5), (10, 8, 4), (5, 4, 12)], ids=str)
def values(request: pytest.FixtureRequest) -> np.ndarray:
    """Logits of a crowd of clients, the last of whom is far away from the others."""
    found = np.random.default_rng(request.param[0]).normal(size=request.param)
    found[-1] += 9.0
    return found


# Trimmed means and the median.


def test_a_trimmed_mean_by_hand():
    """Without the smallest (0) and the largest (9) of five: (1 + 2 + 6) / 3 = 3, a third from
    each."""
    aggregate, weights = trimmed_mean_over_clients(column(6.0, 0.0, 9.0, 1.0, 2.0), 1)
    assert_equals(aggregate, [[3.0]])
    assert_equals(weights, [1 / 3, 0.0, 0.0, 1 / 3, 1 / 3])


def test_of_equal_values_each_is_kept_in_part():
    """In order: 1 1 1 2 5, of which places 1 to 3 are kept: 1 1 2, mean 4/3.

    Three clients share two of three kept places, 2/9 each; the 2 is kept whole, 1/3; the 5 is cut.
    """
    aggregate, weights = trimmed_mean_over_clients(column(1.0, 5.0, 1.0, 2.0, 1.0), 1)
    assert_equals(aggregate, [[4 / 3]])
    assert_equals(weights, [2 / 9, 0.0, 2 / 9, 1 / 3, 2 / 9])


def test_a_median_by_hand():
    """Of four numbers it is the mean of the middle two; a client's weight is its share of all
    entries.

    Class 0: 0 1 3 9, median 2, half from each of clients 1 and 2. Class 1: 5 4 7 6, median 5.5,
    from clients 0 and 3.
    """
    values = torch.tensor([[[0.0, 5.0]], [[1.0, 4.0]], [[3.0, 7.0]], [[9.0, 6.0]]])
    aggregate, weights = median_over_clients(values)
    assert_equals(aggregate, [[2.0, 5.5]])
    assert_equals(weights, [0.25, 0.25, 0.25, 0.25])


def test_medians_of_soft_labels_do_not_sum_to_one_until_they_are_renormalized():
    """Medians (0.4, 0.3, 0.1), sum 0.8; divided by it (0.5, 0.375, 0.125)."""
    probs = torch.tensor([[[0.4, 0.5, 0.1]], [[0.7, 0.3, 0.0]], [[0.2, 0.1, 0.7]]])
    median, _ = median_over_clients(probs)
    assert_equals(median, [[0.4, 0.3, 0.1]])
    assert_equals(renormalize(median, probs[0]), [[0.5, 0.375, 0.125]])


@pytest.mark.parametrize("trim", [0, 1])
def test_trimmed_means_equal_scipys(values: np.ndarray, trim: int):
    expected = stats.trim_mean(values, (trim + 0.5) / len(values), axis=0)
    np.testing.assert_allclose(
        trimmed_mean_over_clients(torch.tensor(values), trim)[0].numpy(), expected
    )


def test_medians_equal_numpys(values: np.ndarray):
    median, _ = median_over_clients(torch.tensor(values))
    np.testing.assert_allclose(median.numpy(), np.median(values, axis=0))
    distances = np.linalg.norm(values - np.median(values, axis=0), axis=-1)
    np.testing.assert_allclose(
        median_distance(torch.tensor(values)).numpy(), np.median(distances, axis=0)
    )


# The geometric median.


def test_the_geometric_median_of_a_square_is_its_center():
    values = torch.tensor([[[0.0, 0.0]], [[2.0, 0.0]], [[0.0, 2.0]], [[2.0, 2.0]]])
    aggregate, weights = geometric_median(values)
    assert_equals(aggregate, [[1.0, 1.0]])
    assert_equals(weights, [0.25] * 4)


def test_the_geometric_median_of_a_triangle_sees_each_side_under_the_same_angle():
    """The Fermat point of the right triangle with legs 1: on the diagonal, (t, t) with t = (3 -
    sqrt 3) / 6.

    By symmetry minimize sqrt(2) t + 2 sqrt((1 - t)^2 + t^2): the derivative is 0 where t =
    0.21132487.
    """
    values = torch.tensor([[[0.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]]])
    assert_equals(geometric_median(values)[0], [[0.21132487, 0.21132487]], atol=1e-4)


def test_the_geometric_median_is_a_client_that_the_others_do_not_pull_away():
    """A client inside the others' triangle, where their unit vectors sum to 0: it is the median,
    though they are far.

    The coordinate-wise median would be the same; one more outlier far to the right moves neither
    far.
    """
    values = torch.tensor([[[0.0, 0.0]], [[4.0, 0.0]], [[-2.0, 3.4641016]], [[-2.0, -3.4641016]]])
    assert_equals(geometric_median(values)[0], [[0.0, 0.0]], atol=1e-3)


def test_the_geometric_median_leaves_a_client_at_which_it_begins():
    """A client at the origin is the coordinate-wise median, but the others' unit vectors sum to
    (1.79, 0), above 1.

    Were its distance floored by little at the start, its weight would hold the iteration there for
    many steps.
    """
    values = torch.tensor(
        [[[0.0, 0.0]], [[10.0, 1.0]], [[10.0, -1.0]], [[-1.0, 10.0]], [[-1.0, -10.0]]]
    )
    assert_equals(median_over_clients(values)[0], [[0.0, 0.0]])
    settled = geometric_median(values)[0]
    assert settled[0, 0] > 1.0
    torch.testing.assert_close(geometric_median(values, iterations=5)[0], settled, rtol=0, atol=0.5)


@pytest.mark.fast(2)
def test_geometric_medians_are_as_good_as_scipys(values: np.ndarray):
    def summed(center: np.ndarray, points: np.ndarray) -> float:
        return float(np.linalg.norm(points - center, axis=-1).sum())

    found = geometric_median(torch.tensor(values))[0].numpy()
    for sample in range(values.shape[1]):
        points = values[:, sample]
        starts = [points.mean(axis=0), *points]
        best = min(
            optimize.minimize(summed, x, args=(points,), method="Nelder-Mead").fun
            for x in starts[:3]
        )
        assert summed(found[sample], points) <= best * 1.001


def test_the_geometric_median_of_whole_uploads_is_one_of_longer_vectors(values: np.ndarray):
    clients, samples, classes = values.shape
    whole, weights = geometric_median(torch.tensor(values).reshape(clients, 1, -1))
    mixed = torch.einsum("k,knc->nc", weights, torch.tensor(values))
    torch.testing.assert_close(whole.reshape(samples, classes), mixed)


# Krum.


def naive_krum(values: np.ndarray, attackers: int, average: int) -> np.ndarray:
    """Blanchard et al. 2017, one client after the other."""
    scores = []
    for i, own in enumerate(values):
        apart = sorted(((own - other) ** 2).sum() for j, other in enumerate(values) if j != i)
        scores.append(sum(apart[: len(values) - attackers - 2]))
    return values[np.argsort(scores)[:average]].mean(axis=0)


@pytest.mark.parametrize("average", [1, 3])
@pytest.mark.parametrize("attackers", [1, 2])
@pytest.mark.parametrize("seed", range(5))
def test_krum_equals_loops_over_clients(seed: int, attackers: int, average: int):
    values = np.random.default_rng(seed).normal(size=(9, 4, 3))
    found, weights = krum(torch.tensor(values), attackers, average)
    np.testing.assert_allclose(found.numpy(), naive_krum(values, attackers, average))
    assert (weights > 0).sum() == average


def test_krum_by_hand():
    """Clients 0, 1, 3, 4, 10 with one attacker: 5 - 1 - 2 = 2 neighbors count.

    Scores: 0: 1 + 9 = 10; 1: 1 + 4 = 5; 3: 1 + 4 = 5; 4: 1 + 9 = 10; 10: 36 + 49 = 85. Clients 1
    and 3 tie: both. Averaging three takes in clients 0 and 4 as well, which tie for the third
    place.
    """
    values = column(0.0, 1.0, 3.0, 4.0, 10.0)
    aggregate, weights = krum(values, attackers=1)
    assert_equals(aggregate, [[2.0]])
    assert_equals(weights, [0.0, 0.5, 0.5, 0.0, 0.0])
    aggregate, weights = krum(values, attackers=1, average=3)
    assert_equals(aggregate, [[2.0]])
    assert_equals(weights, [0.25, 0.25, 0.25, 0.25, 0.0])


@pytest.mark.parametrize("factor", [0.1, 0.7, 1 / 3])
def test_krums_ties_are_found_in_spite_of_rounding(factor: float):
    """As above in other units, where the two scores of 5 are sums of rounded numbers."""
    values = factor * column(0.0, 1.0, 3.0, 4.0, 10.0) + 0.3
    assert_equals(krum(values, attackers=1)[1], [0.0, 0.5, 0.5, 0.0, 0.0])


@pytest.mark.parametrize("seed", [4, 7, 13])
def test_uploads_that_mirror_each_other_tie_although_their_sums_round_otherwise(seed: int):
    """Turning the order of all samples around leaves every distance: clients 2 and 3 are 0 and 1
    turned around."""
    values = torch.tensor(np.random.default_rng(seed).normal(size=(2, 30, 7)), dtype=torch.float32)
    weights = krum(torch.cat([values, values.flip(1)]), attackers=1)[1]
    assert weights[:2].tolist() == weights[2:].tolist()


def test_large_logits_cost_krum_no_precision():
    """Honest logits differ by 0.01 at 1000: squares that are expanded before they are subtracted
    would lose that.

    Three neighbors count: in units of 1e-4, the scores are 21, 11, 9, 29 and over 100.
    """
    values = 1000 + column(0.0, 0.01, 0.02, 0.04, 0.08, 1e6).expand(6, 50, 3)
    assert krum(values, attackers=1)[1].tolist() == [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]


# The spectral filter.


def naive_filter(
    values: np.ndarray, tolerate: float, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """The formulas of ``filtered_mean``'s docstring for one sample [K, C], one client after the
    other."""
    clients = len(values)
    spread = np.median(np.linalg.norm(values - np.median(values, axis=0), axis=1))
    kept = np.ones(clients)
    while True:
        mean = sum(c * z for c, z in zip(kept, values, strict=True)) / kept.sum()
        covariance = (
            sum(c * np.outer(z - mean, z - mean) for c, z in zip(kept, values, strict=True))
            / kept.sum()
        )
        variances, directions = np.linalg.eigh(covariance)
        if variances[-1] <= threshold * spread**2:
            return mean, kept / kept.sum()
        tau = np.array(
            [
                (directions[:, -1] @ (z - mean)) ** 2 if c > 0 else 0.0
                for c, z in zip(kept, values, strict=True)
            ]
        )
        cut = kept * (tau / tau.max())
        left = 2 * tolerate * clients - (clients - kept.sum())
        if cut.sum() > left:
            kept = kept - cut * left / cut.sum()
            return (kept[:, None] * values).sum(axis=0) / kept.sum(), kept / kept.sum()
        kept = kept - cut


@pytest.mark.parametrize("threshold", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("tolerate", [0.1, 0.3, 0.45])
def test_the_filter_equals_loops_over_samples_and_clients(
    values: np.ndarray, tolerate: float, threshold: float
):
    each = [
        naive_filter(values[:, sample], tolerate, threshold) for sample in range(values.shape[1])
    ]
    aggregate, weights = filtered_mean(torch.tensor(values), tolerate, threshold)
    np.testing.assert_allclose(aggregate.numpy(), [mean for mean, _ in each], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(
        weights.numpy(), np.mean([share for _, share in each], axis=0), rtol=1e-6, atol=1e-9
    )


def test_the_filter_by_hand():
    """Clients at 0, 1, 2, 3 and 14: median 2, distances 2 1 0 1 12, median distance 1, so variance
    up to 0.5 is left.

    Mean 4, variance (16 + 9 + 4 + 1 + 100) / 5 = 26, squares over the largest: 0.16 0.09 0.04 0.01
    1, which sum to 1.3. With tolerate=0.2 as much as 2 may be taken, so they are: weights 0.84 0.91
    0.96 0.99 0. Now the sum is 3.7, the mean (0.91 + 1.92 + 2.97) / 3.7 = 5.8 / 3.7 = 1.5675676,
    and the variance (0.91 + 3.84 + 8.91) / 3.7 - 1.5675676^2 = 3.6918919 - 2.4572681 = 1.2346238,
    above 0.5 still. Squares from the mean: 2.4572681 0.3221329 0.1869978 2.0518627, times weights
    over the largest: 0.84, 0.1192958, 0.0730565, 0.8266703, sum 1.8590226, of which 0.7 may be
    taken, the share 0.3765420: weights left 0.5237047, 0.8650801, 0.9324912, 0.6787239, sum 3. The
    mean is (0.8650801 + 1.8649824 + 2.0361717) / 3 = 1.5887447.
    """
    aggregate, weights = filtered_mean(
        column(0.0, 1.0, 2.0, 3.0, 14.0), tolerate=0.2, threshold=0.5
    )
    assert_equals(aggregate, [[1.5887447]])
    assert_equals(weights, [0.5237047 / 3, 0.8650801 / 3, 0.9324912 / 3, 0.6787239 / 3, 0.0])


@pytest.mark.parametrize("angle", [0.0, 0.3, 1.0])
def test_the_filter_takes_equal_directions_together(angle: float):
    """Three outliers in an equal triangle about the others widen all directions of its plane alike.

    Were one direction taken first, rounding would decide who is out. As 2.7 of 9 may be taken, 0.9
    is from each: what is left is 0.1 each of 6.3.
    """
    values = torch.zeros(9, 1, 2)
    for corner in range(3):
        turn = torch.tensor(angle + corner * 2 * torch.pi / 3)
        values[corner, 0] = 5 * torch.stack([turn.cos(), turn.sin()])
    aggregate, weights = filtered_mean(values, tolerate=0.15, threshold=0.5)
    assert_equals(weights, [*[0.1 / 6.3] * 3, *[1 / 6.3] * 6], atol=1e-4)
    assert_equals(aggregate, [[0.0, 0.0]])


@pytest.mark.parametrize("factor", [1.0, 0.1, 1 / 3, 70.0])
def test_a_variance_at_the_threshold_is_not_filtered_in_spite_of_rounding(factor: float):
    """Two clients at -1, two at 1, one at 0: median distance 1, variance 0.8."""
    values = factor * (column(-1.0, -1.0, 1.0, 1.0, 0.0) + 0.3)
    assert_equals(filtered_mean(values, tolerate=0.2, threshold=0.8)[1], [0.2] * 5)
    assert filtered_mean(values, tolerate=0.2, threshold=0.79)[1][4] > 0.21


def test_what_float32_cannot_tell_apart_is_not_filtered():
    """Most agree to the bit, so that their median distance is 0; some differ in the last bit."""
    values = torch.full((10, 2, 3), 7.0)
    values[:3] = torch.nextafter(values[:3], torch.tensor(8.0))
    assert_equals(filtered_mean(values, tolerate=0.3, threshold=0.5)[1], [0.1] * 10)


def test_the_filter_finds_attackers_that_hide_within_the_spread_of_many_classes():
    """Each attacker is no farther from the mean than honest clients are, but all go the same way.

    Honest clients have a standard deviation of 1 in each of 100 classes, so that they are about 10
    from their mean, and so are the attackers. The mean moves by 2; the medians see nobody far away
    and move nearly as much.
    """
    stream = torch.Generator().manual_seed(0)
    honest = torch.randn(40, 20, 100, generator=stream)
    values = torch.cat(
        [honest, torch.ones(10, 20, 100) + 0.01 * torch.randn(10, 20, 100, generator=stream)]
    )

    def moved(aggregate: torch.Tensor) -> float:
        return (aggregate - honest.mean(dim=0)).norm(dim=-1).mean().item()

    assert moved(values.mean(dim=0)) > 1.9
    assert moved(median_over_clients(values)[0]) > 1.9
    assert moved(geometric_median(values)[0]) > 1.5
    assert moved(filtered_mean(values, tolerate=0.2, threshold=0.1)[0]) < 0.8
