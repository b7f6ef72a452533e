"""COMET (Cho et al. 2021, arXiv 2109.08119): clients of one k-means cluster teach one another."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from fedkd.errors import SettingError
from fedkd.messages import Cohort, Fusion
from fedkd.runtime.seeding import torch_stream
from fedkd.settings.validators import at_least, check_choices

ROUNDS_AT_MOST = 100
SAMPLES_AT_ONCE = 512


@dataclass(frozen=True, kw_only=True)
class COMET:
    """Teach each client the mean soft label of its cluster of clients.

        q_i(x) = sum_j W_ij p_j(x),  W_ij = 1 / |cluster of i| for j in the cluster of i, else 0

    With ``per=upload`` a client is one vector of all its soft labels. With ``per=sample`` each
    public sample has clusters of its own, and W is the mean over samples. Which of the two is the
    paper's is not known to us: its abstract speaks of clients with similar data, which is
    ``upload``; its text and code were not at hand, and of two reimplementations by others one
    clusters by upload, one by sample. Clients in another order give the same clusters.

    Departure: the paper's clients weigh this knowledge against their labels in one loss (its
    lambda); here distillation is a phase of its own.
    """

    knowledge: ClassVar[str] = "probs"

    clusters: int = 3
    """Number of clusters, >= 2; with as many as there are clients each teaches itself. One would be
    the unweighted mean."""
    per: Literal["upload", "sample"] = "upload"
    """Cluster clients once by all they uploaded, or anew for each public sample."""
    starts: int = 20
    """Starts of k-means, >= 1, of which the tightest clusters count; 1 starts from clients that are
    far apart, more also from drawn ones. The paper's number is not known to us."""

    def __post_init__(self) -> None:
        check_choices(self)
        at_least(1, starts=self.starts)
        if self.clusters < 2:
            raise SettingError(
                f"clusters must be >= 2, got {self.clusters}: one cluster is the unweighted mean,"
                " as in dsfl"
            )

    def fuse(self, cohort: Cohort, state: None) -> Fusion:
        """Return the centroid of each client's cluster."""
        probs = cohort.probs
        by_sample = probs.transpose(0, 1) if self.per == "sample" else probs.flatten(1)[None]
        found = [
            clusters_of(part, self.clusters, self.starts)
            for part in by_sample.split(SAMPLES_AT_ONCE)
        ]
        shares = _cluster_shares(torch.cat(found)).to(probs.dtype)
        for_each = shares.expand(probs.shape[1], -1, -1)
        return Fusion(
            weights=shares.mean(dim=0), teachers=torch.einsum("nij,jnc->inc", for_each, probs)
        )


def clusters_of(points: Float[Tensor, "B K d"], count: int, starts: int) -> Int[Tensor, "B K"]:
    """Return the k-means cluster of each point in each of B sets, by the best of several starts.

    The best is the one of the least squared distances from centres. The first start takes points
    that are far apart as centres (greedy k-centre), each other start draws them with probabilities
    in proportion to the squared distance from those that it has (k-means++). Equal points share a
    cluster. Points in another order give the same clusters: draws are for points in one order, that
    of their projections on one direction.

    >>> found = clusters_of(torch.tensor([[[0.0], [0.1], [5.0], [5.2]]]), 2, starts=1).tolist()
    >>> found in ([[0, 0, 1, 1]], [[1, 1, 0, 0]])
    True
    """
    stream = torch_stream(0, "strategy", "comet")
    wide = points.to(torch.float64)
    direction = torch.randn(wide.shape[-1], generator=stream, dtype=torch.float64)
    sorting = (wide @ direction).argsort(dim=1)
    rows = wide.take_along_dim(sorting[..., None], dim=1)[:, None]  # [B, 1, K, d]
    centers = _first_centers(rows, min(count, rows.shape[2]), starts, stream)
    for _ in range(ROUNDS_AT_MOST):
        distances = _distances(rows, centers).square()  # [B, S, K, count]
        nearest = F.one_hot(distances.argmin(dim=-1), centers.shape[2]).to(torch.float64)
        sizes = nearest.sum(dim=2)[..., None]
        means = nearest.transpose(2, 3) @ rows / sizes.clamp(min=1)
        moved = torch.where(sizes > 0, means, centers)
        if torch.equal(moved, centers):
            break
        centers = moved
    spread, labels = _distances(rows, centers).min(dim=-1)
    best = spread.square().sum(dim=-1).argmin(dim=1)  # [B]
    found = labels.take_along_dim(best[:, None, None], dim=1)[:, 0]
    return found.take_along_dim(sorting.argsort(dim=1), dim=1)


def _first_centers(
    rows: Float[Tensor, "B 1 K d"], count: int, starts: int, stream: torch.Generator
) -> Float[Tensor, "B S count d"]:
    """Return each start's first centres; the first start takes the farthest, others draw."""
    sets, _, size, _ = rows.shape
    far = (rows - rows.mean(dim=2, keepdim=True)).square().sum(dim=-1)  # [B, 1, K]
    nearest = torch.cat([far, torch.ones(sets, starts - 1, size, dtype=far.dtype)], dim=1)
    chosen = []
    for turn in range(count):
        # The largest of d / Exp(1) is a draw in proportion to d.
        luck = torch.empty(starts, size, dtype=far.dtype).exponential_(generator=stream)
        luck[0] = 1.0
        taken = (nearest / luck).argmax(dim=-1)
        chosen.append(rows.squeeze(1).take_along_dim(taken[..., None], dim=1))  # [B, S, d]
        distances = _distances(rows, chosen[-1][:, :, None]).squeeze(-1).square()
        nearest = distances if turn == 0 else torch.minimum(nearest, distances)
    return torch.stack(chosen, dim=2)


def _distances(
    rows: Float[Tensor, "B 1 K d"], centers: Float[Tensor, "B S G d"]
) -> Float[Tensor, "B S K G"]:
    # Term by term, so that equal points are equally far to the bit.
    return torch.cdist(rows, centers, compute_mode="donot_use_mm_for_euclid_dist")


def _cluster_shares(clusters: Int[Tensor, "B K"]) -> Float[Tensor, "B K K"]:
    """Return weights that are equal within a cluster and 0 outside; rows sum to 1."""
    same = (clusters[:, :, None] == clusters[:, None, :]).to(torch.float64)
    shares: Tensor = same / same.sum(dim=2, keepdim=True)
    return shares
