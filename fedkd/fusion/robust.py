"""Robust means over clients, ``[K, N, C] -> ([N, C], [K])``, which a minority cannot move far.

Each returns the aggregate and the clients' shares in it: >= 0, in sum 1. Functions know of no
scale. ``trimmed_mean_over_clients`` and its limiting case the median treat every class alone, so
that soft labels come out with another sum than 1, which ``renormalize`` mends; the others are means
of whole class vectors, under which soft labels stay soft labels. Not for trust over several rounds;
the spectral filter has a module of its own.
"""

import torch
from jaxtyping import Float
from torch import Tensor

Aggregate = Float[Tensor, "N C"]
Shares = Float[Tensor, "K"]

RESOLUTION = 1e-7
"""Values that differ by less than this share of their size are equal: uploads are float32."""
TIE = 1e-5
"""Krum's scores that differ by less than this share of the score are equal: they are long sums in
float32."""
SMOOTHING = 1e-4
"""Weiszfeld's floor on a distance, as a share of the median distance: no weight is infinite."""


def trimmed_mean_over_clients(
    values: Float[Tensor, "K N C"], trim: int
) -> tuple[Aggregate, Shares]:
    """Return the mean over clients without the ``trim`` smallest and largest values of each entry.

    The coordinate-wise trimmed mean of Yin et al. 2018 (arXiv 1803.01498), for ``0 <= 2 * trim <
    K``. With no more than ``trim`` attackers each entry lies between the smallest and the largest
    of the honest clients' entries, whatever the attackers upload. ``trim=0`` is the unweighted
    mean; the largest ``trim`` is the median. A client's share is that of the values left that are
    its own; equal values are left in equal parts, so that the order of clients does not matter.

    >>> values = torch.tensor([[[0.0]], [[1.0]], [[3.0]], [[1e5]]])
    >>> aggregate, shares = trimmed_mean_over_clients(values, 1)
    >>> aggregate.tolist(), shares.tolist()
    ([[2.0]], [0.0, 0.5, 0.5, 0.0])
    """
    clients = len(values)
    entries = values.movedim(0, -1).contiguous()
    ordered = entries.sort(dim=-1).values
    # A client's value has the ranks first..last - 1 among those of its entry: several, if it ties.
    first = torch.searchsorted(ordered, entries)
    last = torch.searchsorted(ordered, entries, right=True)
    ranks_left = (last.clamp(max=clients - trim) - first.clamp(min=trim)).clamp(min=0)
    shares = ranks_left / ((last - first) * (clients - 2 * trim))
    aggregate = ordered[..., trim : clients - trim].mean(dim=-1)
    return aggregate, shares.mean(dim=(0, 1)).to(values.dtype)


def median_over_clients(values: Float[Tensor, "K N C"]) -> tuple[Aggregate, Shares]:
    """Return the median over clients for each sample and class.

    The coordinate-wise median of Yin et al. 2018 (arXiv 1803.01498); of an even number of clients,
    the mean of the middle two. It holds against any minority of attackers: each entry lies between
    the smallest and the largest of the honest clients' entries. For one or two clients it is the
    mean. Since classes are treated alone, the median of soft labels does not sum to 1: see
    ``renormalize``.

    >>> median_over_clients(torch.tensor([[[0.0, 1.0]], [[0.5, 0.5]], [[1e5, 0.25]]]))[0].tolist()
    [[0.5, 0.5]]
    """
    return trimmed_mean_over_clients(values, (len(values) - 1) // 2)


def renormalize(
    rows: Float[Tensor, "N C"], otherwise: Float[Tensor, "N C"]
) -> Float[Tensor, "N C"]:
    """Return non-negative rows divided by their sum, and rows of ``otherwise`` for rows of zeros.

    For soft labels after a rule over single classes. A row is zero where no class has a majority:
    the median of three certain clients that all disagree is 0 for each class.

    >>> rows, otherwise = torch.tensor([[0.5, 0.25], [0.0, 0.0]]), torch.full((2, 2), 0.5)
    >>> renormalize(rows, otherwise).tolist()
    [[0.6666666865348816, 0.3333333432674408], [0.5, 0.5]]
    """
    sums = rows.sum(dim=-1, keepdim=True)
    return torch.where(sums > 0, rows / sums, otherwise)


def median_distance(values: Float[Tensor, "K N C"]) -> Float[Tensor, "N"]:
    """Return the clients' median Euclidean distance from their median, for each sample.

    A measure of how far apart the clients are, in the units of ``values``, that a minority cannot
    move far. It is 0 where more than half agree.

    >>> median_distance(torch.tensor([[[0.0, 0.0]], [[3.0, 4.0]], [[-1e5, -1e5]]])).tolist()
    [5.0]
    """
    return _median(torch.linalg.vector_norm(values - _median(values), dim=-1))


def geometric_median(
    values: Float[Tensor, "K N C"], iterations: int = 100
) -> tuple[Aggregate, Shares]:
    """Return the geometric median over clients of each sample's class vector.

    That vector's summed Euclidean distance to the clients' vectors is the smallest. Weiszfeld's
    iteration, smoothed as in RFA (Pillutla et al. 2019, arXiv 1912.13445): a mean with weights ``1
    / max(distance, floor)``, repeated until it moves by less than 1e-6 of the median distance, at
    most ``iterations`` times. Departures: the floor is 1e-4 of each sample's median distance rather
    than a constant, so that scaling the uploads scales the result; and it starts from the
    coordinate-wise median rather than from the mean, after a first step with the median distance as
    floor, so that the start is neither far away nor at an upload.

    Where the result is at an upload the iteration is slow: on random points of 3 to 6 clients the
    summed distance was within 0.2 % of the least after 100 steps, for 10 clients in 10 classes it
    had converged after 20.

    With a share f < 1/2 of attackers it is at most ``2 (1 - f) / (1 - 2 f)`` times as far from any
    point as the honest client that is farthest from it. It is the mean of one or two clients, and
    an upload that more than half share. For one median of whole uploads, reshape them to ``[K, 1, N
    * C]``.

    >>> values = torch.tensor([[[0.0, 0.0]], [[0.0, 0.0]], [[1e5, 0.0]]])
    >>> geometric_median(values)[0].abs().max().item() < 1e-3
    True
    """
    points, center = values.double(), _median(values).double()
    unit = RESOLUTION * torch.linalg.vector_norm(center, dim=-1) + torch.finfo(torch.float32).tiny
    spread = median_distance(values) + unit
    weights = _weiszfeld_weights(points, center, spread)
    center = _weighted_mean(weights, points)
    moving = torch.arange(points.shape[1])
    for _ in range(iterations):
        old, some = center[moving], points[:, moving]
        weights[:, moving] = _weiszfeld_weights(some, old, SMOOTHING * spread[moving])
        center[moving] = _weighted_mean(weights[:, moving], some)
        moved = torch.linalg.vector_norm(center[moving] - old, dim=-1)
        moving = moving[moved > 1e-2 * SMOOTHING * spread[moving]]
        if not len(moving):
            break
    return center.to(values.dtype), weights.mean(dim=1).to(values.dtype)


def krum(
    values: Float[Tensor, "K N C"], attackers: int, average: int = 1
) -> tuple[Aggregate, Shares]:
    """Return the mean of the ``average`` uploads that are closest to their nearest others.

    Krum (Blanchard et al. 2017, arXiv 1703.02757): a client's score is the sum of squared
    distances, between whole uploads [N, C], to its ``K - attackers - 2`` nearest others; the
    ``average`` clients of smallest score are averaged (1 is Krum, more is multi-Krum). The
    guarantee needs ``K >= 2 * attackers + 3`` and ``average <= K - attackers``: then attackers that
    are far from all honest clients are never chosen. Departures: the paper's were gradients; and
    all clients that tie with the last one chosen (within 1e-5 of the score) are averaged too, where
    the paper takes the first. With a single neighbor two clients often tie, each being the nearest
    of the other. Where there are too few clients, one neighbor is counted; of two, the result is
    the mean.

    >>> values = torch.tensor([[[0.0]], [[2.0]], [[3.0]], [[4.0]], [[1e5]]])
    >>> [part.tolist() for part in krum(values, attackers=1)]
    [[[3.0]], [0.0, 0.0, 1.0, 0.0, 0.0]]
    """
    clients = len(values)
    flat = values.reshape(clients, -1)
    # Differences are taken before they are squared: equals are exactly 0 apart, and large logits
    # cost no precision.
    apart = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist").square()
    others = apart.sort(dim=1).values[:, 1:]  # the smallest, 0, is its distance from itself
    scores = others[:, : max(clients - attackers - 2, 1)].sum(dim=1)
    last = scores.sort().values[min(average, clients) - 1]
    chosen = scores <= last * (1 + TIE)
    return values[chosen].mean(dim=0), chosen.to(values.dtype) / chosen.sum()


def _median(values: Float[Tensor, "K *rest"]) -> Float[Tensor, "*rest"]:
    """Return the median over clients, without shares."""
    clients = len(values)
    return values.sort(dim=0).values[(clients - 1) // 2 : clients // 2 + 1].mean(dim=0)


def _weiszfeld_weights(
    points: Float[Tensor, "K N C"], center: Aggregate, floor: Float[Tensor, "N"]
) -> Float[Tensor, "K N"]:
    """Return weights ``1 / max(distance, floor)``, scaled to sum to 1 for each sample."""
    distances = torch.linalg.vector_norm(points - center, dim=-1)
    weights = 1.0 / torch.maximum(distances, floor)
    return weights / weights.sum(dim=0)


def _weighted_mean(weights: Float[Tensor, "K N"], points: Float[Tensor, "K N C"]) -> Aggregate:
    """Return the weighted mean over clients for each sample."""
    return torch.einsum("kn,knc->nc", weights, points)
