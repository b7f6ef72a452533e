"""The spectral filter of Cronus: a robust mean over clients, for each public sample.

Not for the rules over single classes or distances alone (``fedkd.fusion.robust``).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from fedkd.fusion.robust import RESOLUTION, Aggregate, Shares, median_distance

SAME = 1e-6
"""Variances closer than this, relative to the larger, are equal: directions that tie are taken
together."""


def filtered_mean(
    values: Float[Tensor, "K N C"], tolerate: float, threshold: float
) -> tuple[Aggregate, Shares]:
    """Return each sample's mean over clients without those farthest along the widest direction.

    Cronus (Chang et al. 2019, arXiv 1912.11279) fuses soft labels by the filter of Diakonikolas et
    al. 2017 (arXiv 1703.00893): attackers that move the mean of C class values also widen the cloud
    of clients in the direction that they move it, which the top eigenvector of its covariance
    shows. For each sample, with weights c_j = 1:

        mu, Sigma   weighted mean and covariance of the z_j
        lambda, v   largest eigenvalue of Sigma and its eigenvector
        stop        where lambda <= threshold * median_distance^2
        tau_j       = (v . (z_j - mu))^2
        c_j         <- c_j * (1 - tau_j / max tau)                       and again

    The farthest client is out after each step, the others count less the farther they are.
    ``tolerate`` (epsilon in the papers) is the assumed share of attackers, 0 < tolerate < 1/2: at
    most ``2 * tolerate * K`` of all K weights is taken from a sample, in the last step as much as
    is left. While attackers are what widens the cloud, each step takes more from them than from the
    others, so that this is enough. The result is a weighted mean: in the hull of the uploads, and
    soft labels stay soft labels. Without any variance above the threshold it is the unweighted
    mean.

    The papers' exact constants were not available to us; reconstructed are: the bound on lambda,
    relative to the clients' median distance (rather than to a known variance), so that it holds for
    logits as for soft labels; the weights, as in the deterministic filter of the survey by
    Diakonikolas & Kane 2019 (arXiv 1911.05911), where the 2017 paper removes points beyond a cut;
    and the limit on what is taken. Directions that tie for the widest are projected on together.
    O(K N C) memory, in float64.

    >>> values = torch.tensor([[0.0, 0.0], [0.1, 0.0], [0.0, 0.1], [0.1, 0.1], [1e5, 0.0]])
    >>> aggregate, shares = filtered_mean(values[:, None], tolerate=0.2, threshold=1.0)
    >>> (aggregate.max() <= 0.1).item(), shares[-1].item()
    (True, 0.0)
    """
    clients, samples, _ = values.shape
    points = values.double().transpose(0, 1)
    weights = points.new_ones(samples, clients)
    bound = _variance_bound(values, threshold).double()
    wide = torch.arange(samples)
    for _ in range(clients):  # each step takes out one client at least
        shares = weights[wide] / weights[wide].sum(dim=1, keepdim=True)
        away = points[wide] - (shares[:, :, None] * points[wide]).sum(dim=1, keepdim=True)
        variance, projections = _widest_direction(away, shares)
        above = variance > bound[wide]
        wide, projections = wide[above], projections[above]
        if not len(wide):
            break
        # Never more than a client's weight.
        cut = weights[wide] * (projections / projections.amax(dim=1, keepdim=True))
        left = 2 * tolerate * clients - (clients - weights[wide].sum(dim=1))
        fits = cut.sum(dim=1) <= left
        weights[wide] -= cut * torch.where(fits, 1.0, left / cut.sum(dim=1))[:, None]
        wide = wide[fits]
    shares = weights / weights.sum(dim=1, keepdim=True)
    aggregate = torch.einsum("nk,nkc->nc", shares, points)
    return aggregate.to(values.dtype), shares.mean(dim=0).to(values.dtype)


def _variance_bound(values: Float[Tensor, "K N C"], threshold: float) -> Float[Tensor, "N"]:
    """Return the variance up to which no client is filtered, for each sample.

    It is large enough that differences below float32's resolution are never filtered.
    """
    unit: Tensor = RESOLUTION * torch.linalg.vector_norm(values, dim=-1).median(dim=0).values
    return (threshold * median_distance(values).square() + unit.square()) * (1 + SAME)


def _widest_direction(
    away: Float[Tensor, "N K C"], shares: Float[Tensor, "N K"]
) -> tuple[Float[Tensor, "N"], Float[Tensor, "N K"]]:
    """Return the largest variance along any direction, and the clients' squared projections on it.

    Clients without a share have the projection 0.
    """
    scaled = shares.sqrt()[:, :, None] * away
    if away.shape[1] < away.shape[2]:  # the same variances, from the smaller of the two products
        variances, mixtures = torch.linalg.eigh(scaled @ scaled.mT)
        directions = torch.nn.functional.normalize(scaled.mT @ mixtures, dim=1)
    else:
        variances, directions = torch.linalg.eigh(scaled.mT @ scaled)
    widest = variances[:, -1]
    leading = variances >= (1 - SAME) * widest[:, None]
    projections = ((away @ directions).square() * leading[:, None, :]).sum(dim=-1)
    return widest, projections * (shares > 0)
