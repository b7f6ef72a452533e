"""COSMOS (2026, arXiv 2605.11165): a server model for each cluster of clients teaches the cluster.

Clusters are of soft labels on the public set; how many there are is found from them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedkd.errors import RunError
from fedkd.fusion import soften
from fedkd.messages import Cohort, Fusion, Predictions
from fedkd.settings.validators import at_least, positive
from fedkd.strategy import Needs

STRUCTURE = 0.25
"""Mean silhouette up to which Kaufman & Rousseeuw (1990) find no substantial structure."""


@dataclass(frozen=True, kw_only=True)
class COSMOS:
    """Distil the mean of each cluster's soft labels into a model of its own, which then teaches it.

        distance  d_ij = root of the mean over samples of |p_i(x) - p_j(x)|^2, in a client's first
                  round
        clusters  take the client with most others within ``radius``, with these; repeat
        server    steps on KL(mean of the cluster's p_j || p_s), kept from round to round
        teacher   the soft labels of the cluster's model

    Clusters are found among the clients of the first round and stay; a client that comes later
    joins the one of the nearest mean of soft labels in that round, if no clustered client is there
    the first.

    The number of clusters: without ``radius`` every distance between two clients is tried, and the
    one is taken whose clusters have the largest mean silhouette (Rousseeuw 1987), if it is above
    0.25: else all are of one cluster. The released code raises its radius until there are no more
    clusters than it knows there to be, which is an oracle that no server has.

    Departures: the released code adds the squared difference of soft labels of samples and noisy
    copies to the losses of server and clients; it is not here. All public samples are taught, where
    it drops the last rows of an epoch. Which distance it takes across samples is ours.
    """

    knowledge: ClassVar[str] = "probs"

    server: str = "cnn"
    """Architecture of the server's models, by name or package.module:factory; VGG16 in the
    paper."""
    server_epochs: int = 5
    """Passes over the public set with which each model distils every round, >= 1; the paper's
    are 5."""
    radius: float | None = None
    """Distance within which clients are of one cluster, > 0, sqrt(2) at most between two; null
    finds it."""

    def __post_init__(self) -> None:
        at_least(1, server_epochs=self.server_epochs)
        if self.radius is not None:
            positive(radius=self.radius)

    @property
    def needs(self) -> Needs:
        """Models of the server's own, of the architecture ``server``."""
        return Needs(server_models=(self.server,))

    def fuse(self, cohort: Cohort, state: Mapping[str, Any] | None) -> Fusion:
        """Return for each client the soft labels of its cluster's model.

        ``state`` has the cluster of each client met so far, and the models by cluster.
        """
        server = cohort.server
        if server is None:
            raise RunError("cosmos needs models of the server's own to distil into")
        probs, ids = cohort.probs, cohort.public_ids
        clusters = assigned(probs, cohort.client_ids, state and state["clusters"], self.radius)
        models = {} if state is None else dict(state["models"])
        own = torch.tensor([clusters[i] for i in cohort.client_ids])
        weights = (own[:, None] == own[None, :]).to(probs.dtype)
        weights = weights / weights.sum(dim=1, keepdim=True)
        teachers = torch.zeros_like(probs)
        for cluster in own.unique().tolist():
            mean = Predictions(ids=ids, values=probs[own == cluster].mean(dim=0), scale="probs")
            before = models.get(str(cluster)) or server.initial(self.server)
            models[str(cluster)] = server.distill(
                self.server,
                before,
                mean,
                loss="kl",
                purpose=f"cosmos cluster {cluster}",
                round=cohort.round,
                epochs=self.server_epochs,
            )
            logits = server.predict(self.server, models[str(cluster)], ids)
            teachers[own == cluster] = soften(logits, cohort.temperature)
        known = {str(client): cluster for client, cluster in clusters.items()}
        return Fusion(
            weights=weights,
            teachers=teachers,
            state={
                "clusters": known,
                "models": {name: dict(model) for name, model in models.items()},
            },
            metrics={"clusters": float(len(set(clusters.values())))},
        )


def assigned(
    probs: Float[Tensor, "K N C"],
    client_ids: Sequence[int],
    known: Mapping[str, int] | None,
    radius: float | None,
) -> dict[int, int]:
    """Return the cluster of every client met so far: found anew, or as it was known.

    Args:
        probs: The clients' soft labels.
        client_ids: The clients.
        known: The clusters so far, by client; None before the first round.
        radius: Distance within which clients are of one cluster; None finds it.
    """
    if known is None:
        labels = clusters_within(distances_of(probs), radius)
        return dict(zip(client_ids, labels.tolist(), strict=True))
    found = {int(client): cluster for client, cluster in known.items()}
    present = [found.get(i, -1) for i in client_ids]
    labels = torch.tensor(present)
    means = {c: probs[labels == c].mean(dim=0) for c in sorted(set(present) - {-1})}
    for row, client in enumerate(client_ids):
        if client not in found:
            apart = {c: (mean - probs[row]).square().sum().item() for c, mean in means.items()}
            found[client] = min(apart, key=lambda c: apart[c]) if apart else min(found.values())
    return found


def distances_of(probs: Float[Tensor, "K N C"]) -> Float[Tensor, "K K"]:
    """Return the root of the mean squared distance of clients' soft labels, in [0, sqrt(2)]."""
    flat = probs.flatten(1).to(torch.float64)
    exact = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
    scaled: Tensor = exact / max(probs.shape[1], 1) ** 0.5
    return scaled


def clusters_within(distances: Float[Tensor, "K K"], radius: float | None) -> Int[Tensor, "K"]:
    """Return each client's cluster, from 0: within a radius, or within the best of all radii.

    The best is that of the largest mean silhouette above 0.25, which needs two clusters and a
    client that is not alone; without such a one all are of one cluster. Equal silhouettes take the
    larger radius.

    >>> apart = torch.tensor([[0.0, 0.1, 1.0], [0.1, 0.0, 1.0], [1.0, 1.0, 0.0]])
    >>> clusters_within(apart, None).tolist()
    [0, 0, 1]
    """
    if radius is not None:
        return greedy_clusters(distances, radius)
    best, chosen = STRUCTURE, torch.zeros(len(distances), dtype=torch.int64)
    for tried in distances.flatten().unique().flip(0).tolist():
        labels = greedy_clusters(distances, tried)
        found = mean_silhouette(distances, labels)
        if found is not None and found > best + 1e-12:
            best, chosen = found, labels
    return chosen


def greedy_clusters(distances: Float[Tensor, "K K"], radius: float) -> Int[Tensor, "K"]:
    """Return clusters: again and again the client with most others left within a radius, and these.

    Of clients with as many, the one that they are nearest to is taken.
    """
    labels = torch.full((len(distances),), -1)
    near, count = distances <= radius, 0
    while bool((labels < 0).any()):
        left = labels < 0
        within = near & left[None, :]
        sums = (distances * within).sum(dim=1)
        rank = within.sum(dim=1) - sums / (1 + sums)
        center = int(torch.where(left, rank, -torch.inf).argmax())
        labels[within[center]] = count
        count += 1
    return labels


def mean_silhouette(distances: Float[Tensor, "K K"], labels: Int[Tensor, "K"]) -> float | None:
    """Return the mean silhouette of clusters, in [-1, 1]; None for one, or for clients alone.

    That of a client is ``(b - a) / max(a, b)``: a its mean distance from the others of its cluster,
    b the least mean distance from those of another. A client alone has 0.
    """
    count = int(labels.max()) + 1
    if not 1 < count < len(labels):
        return None
    members = torch.nn.functional.one_hot(labels, count).to(distances.dtype)
    sums, sizes = distances @ members, members.sum(dim=0)
    own = sizes[labels]
    inside = sums.gather(1, labels[:, None])[:, 0] / (own - 1).clamp(min=1)
    outside = (sums / sizes).masked_fill(members.bool(), torch.inf).amin(dim=1)
    larger = torch.maximum(inside, outside).clamp(min=1e-12)
    return torch.where(own > 1, (outside - inside) / larger, 0.0).mean().item()
