"""Scores of how similar samples are to a client's own; their ranking matters, not their size.

Pure functions over rows of numbers, in float64, on the device that the rows are on. Not for the
choice of a threshold (``fedkd.knowledge.selective``).
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedkd.runtime.devices import sent

Known = Float[Tensor, "n d"]
Rows = Float[Tensor, "m d"]
Scores = Float[Tensor, "m"]


def kulsif(known: Known, auxiliary: Float[Tensor, "a d"], rows: Rows, width: float) -> Scores:
    """Return the density ratio of the known over the auxiliary distribution, at each row.

    Kernel unconstrained least-squares importance fitting (Kanamori et al. 2012, doi
    10.1007/s10994-011-5266-3), with a Gaussian kernel ``exp(-|x - y|^2 / (2 width^2))`` and
    ``lambda = min(n, a)^(-1/2)``: ``w(x) = sum_i alpha_i k(x, aux_i) + (1 / (n lambda)) sum_j k(x,
    known_j)``, where alpha solves ``(K_aux / a + lambda I) alpha = -(1 / (n a lambda)) K_aux,known
    1``.

    Args:
        known: The client's own samples.
        auxiliary: Samples of the auxiliary distribution.
        rows: The samples to score.
        width: Width of the Gaussian kernel.

    >>> known, aux = torch.zeros(20, 1), torch.linspace(-5, 5, 50)[:, None]
    >>> near, far = kulsif(known, aux, torch.tensor([[0.0], [4.0]]), width=1.0).tolist()
    >>> near > 10 * abs(far)
    True
    """
    known, auxiliary, rows = known.double(), auxiliary.double(), rows.double()
    penalty = min(len(known), len(auxiliary)) ** -0.5
    among = _kernel(auxiliary, auxiliary, width) / len(auxiliary)
    across = _kernel(auxiliary, known, width).sum(dim=1) / (len(known) * len(auxiliary) * penalty)
    identity = torch.eye(len(auxiliary), dtype=among.dtype, device=among.device)
    alpha = torch.linalg.solve(among + penalty * identity, -across)
    near = _kernel(rows, known, width).sum(dim=1) / (len(known) * penalty)
    ratio: Tensor = _kernel(rows, auxiliary, width) @ alpha + near
    return ratio


def nearness(known: Known, rows: Rows, clusters: int, seed: int) -> Scores:
    """Return minus each row's distance to the nearest k-means centroid of the known samples.

    By scikit-learn, whose k-means is on the host.

    Args:
        known: The client's own samples.
        rows: The samples to score.
        clusters: Number of centroids; at most one a known sample is used.
        seed: Seed of k-means.
    """
    from sklearn.cluster import KMeans

    found = KMeans(n_clusters=min(clusters, len(known)), n_init=4, random_state=seed).fit(
        known.double().cpu().numpy()
    )
    centers = torch.from_numpy(np.asarray(found.cluster_centers_, dtype=np.float64))
    return -torch.cdist(rows.double(), sent(centers, rows.device)).amin(1)


def class_gaussians(known: Known, labels: Int[Tensor, "n"], rows: Rows) -> Scores:
    """Return each row's largest log density over classes, of Gaussians with common variances.

    Up to a constant ``-1/2 min_c sum_d (x_d - mu_cd)^2 / v_d``, v the pooled variance within
    classes, at least a millionth of its mean. A diagonal form of the Mahalanobis score (Lee et al.
    2018, arXiv 1807.03888).
    """
    known, rows = known.double(), rows.double()
    present = labels.unique()
    means = torch.stack([known[labels == label].mean(dim=0) for label in present])
    within = known - means[torch.searchsorted(present, labels)]
    variances = within.square().mean(dim=0)
    variances = variances.clamp(min=max(1e-6 * variances.mean().item(), 1e-12))
    scale = variances.sqrt()
    return -0.5 * torch.cdist(rows / scale, means / scale).square().amin(dim=1)


def _kernel(a: Float[Tensor, "m d"], b: Float[Tensor, "n d"], width: float) -> Float[Tensor, "m n"]:
    return torch.exp(-torch.cdist(a, b).square() / (2 * width**2))
