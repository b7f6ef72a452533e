"""COMET (Cho et al. 2021, arXiv 2109.08119): clients of one k-means cluster teach one another."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedkd.errors import SettingError
from fedkd.fusion import core_set
from fedkd.messages import Cohort, Fusion
from fedkd.settings.validators import check_choices


@dataclass(frozen=True, kw_only=True)
class COMET:
    """Teach each client the mean soft label of its cluster of clients.

        q_i(x) = sum_j W_ij p_j(x),  W_ij = 1 / |cluster of i| for j in the cluster of i, else 0

    With ``per=upload`` a client is one vector of all its soft labels. With ``per=sample`` each
    public sample has clusters of its own, and W is the mean over samples. k-means begins at centres
    that are far apart (greedy k-centre), so that nothing is drawn and clients in another order give
    the same clusters.

    Departure: the paper's clients weigh this knowledge against their labels in one loss (its
    lambda); here distillation is a phase of its own.
    """

    knowledge: ClassVar[str] = "probs"

    clusters: int = 3
    """Number of clusters, >= 2; with as many as there are clients each teaches itself. One would be
    the unweighted mean."""
    per: Literal["upload", "sample"] = "upload"
    """Cluster clients once by all they uploaded, or anew for each public sample."""

    def __post_init__(self) -> None:
        check_choices(self)
        if self.clusters < 2:
            raise SettingError(
                f"clusters must be >= 2, got {self.clusters}: one cluster is the unweighted mean,"
                " as in dsfl"
            )

    def fuse(self, cohort: Cohort, state: None) -> Fusion:
        """Return the centroid of each client's cluster."""
        probs = cohort.probs
        if self.per == "upload":
            weights = _cluster_weights(clusters_of(probs.flatten(1), self.clusters)).to(probs.dtype)
            return Fusion(weights=weights, teachers=torch.einsum("ij,jnc->inc", weights, probs))
        by_sample = torch.stack(
            [_cluster_weights(clusters_of(rows, self.clusters)) for rows in probs.unbind(1)]
        ).to(probs.dtype)
        return Fusion(
            weights=by_sample.mean(dim=0), teachers=torch.einsum("nij,jnc->inc", by_sample, probs)
        )


def clusters_of(points: Float[Tensor, "K d"], count: int) -> Int[Tensor, "K"]:
    """Return the k-means cluster of each point, from initial centres that are far apart.

    By scikit-learn. Equal points share a cluster.

    >>> found = clusters_of(torch.tensor([[0.0], [0.1], [5.0], [5.2]]), 2).tolist()
    >>> found in ([0, 0, 1, 1], [1, 1, 0, 0])
    True
    """
    wide = points.to(torch.float64)
    distinct = len(wide.unique(dim=0))
    if distinct <= count:
        groups: Tensor = torch.unique(wide, dim=0, return_inverse=True)[1]
        return groups
    from sklearn.cluster import KMeans

    start = wide[core_set(wide, count)]
    found = KMeans(n_clusters=count, init=start.numpy(), n_init=1, algorithm="lloyd").fit(
        wide.numpy()
    )
    return torch.from_numpy(found.labels_).to(torch.int64)


def _cluster_weights(clusters: Int[Tensor, "K"]) -> Float[Tensor, "K K"]:
    """Return weights that are equal within a cluster and 0 outside; rows sum to 1."""
    same = (clusters[:, None] == clusters[None, :]).to(torch.float64)
    weights: Tensor = same / same.sum(dim=1, keepdim=True)
    return weights
