"""FedGEMS (Cheng et al. 2021, arXiv 2110.11027): a server model learns from correct clients."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fedkd.errors import RunError
from fedkd.fusion import soften
from fedkd.messages import Cohort, Fusion, Predictions
from fedkd.settings.validators import at_least
from fedkd.strategy import Needs


@dataclass(frozen=True, kw_only=True)
class FedGEMS:
    """Distil into a server model, sample by sample, its own knowledge or that of the right clients.

        t(x) = p_s(x)                  where the server is right
               sum_j s_j(x) p_j(x)     else, where a client is right
               one-hot label           else
        s_j  = exp(1 / H(p_j)) / sum_k exp(1 / H(p_k)) over the clients that are right, else 0

    H is the entropy in nats, at least 0.001. Each round the server trains on the labels
    (``server_epochs``), then distils t (``server_epochs``), and teaches the clients with its soft
    labels.

    Reconstructed by us: the order of these steps, and the one-hot label where neither the server
    nor a client is right. Departure: the paper's server starts from a pre-trained large model.
    """

    knowledge = "probs"

    server: str = "resnet"
    """Architecture of the server's model, by name or package.module:factory; larger than the
    clients' in the paper."""
    server_epochs: int = 5
    """Passes over the public set on labels, and again on selected knowledge, every round, >= 1."""

    def __post_init__(self) -> None:
        at_least(1, server_epochs=self.server_epochs)

    @property
    def needs(self) -> Needs:
        """A labeled public set, and a model of the server's own."""
        return Needs(public_labels=True, server_models=(self.server,))

    def fuse(self, cohort: Cohort, state: Mapping[str, Tensor] | None) -> Fusion:
        """Return the server model's soft labels after it distilled the selected knowledge.

        ``weights`` are means over the samples that clients teach; ``state`` is the server model's.
        """
        server, labels = cohort.server, cohort.public_labels
        if server is None or labels is None:
            raise RunError(
                "fedgems needs a model of the server's own and the labels of the public set"
            )
        ids, name = cohort.public_ids, self.server
        before = server.initial(name) if state is None else state
        fitted = server.fit(
            name,
            before,
            ids,
            labels,
            purpose="fedgems labels",
            round=cohort.round,
            epochs=self.server_epochs,
        )
        own = soften(server.predict(name, fitted, ids), cohort.temperature)
        selected, shares = select(own, cohort.probs, labels)
        model = server.distill(
            name,
            fitted,
            Predictions(ids=ids, values=selected, scale="probs"),
            loss="kl",
            purpose="fedgems knowledge",
            round=cohort.round,
            epochs=self.server_epochs,
        )
        total = shares.sum(dim=1)
        weights = (
            total / total.sum() if total.sum() > 0 else torch.full_like(total, 1 / cohort.size)
        )
        return Fusion(
            weights=weights.expand(cohort.size, -1).clone(),
            teachers=soften(server.predict(name, model, ids), cohort.temperature),
            state=dict(model),
            metrics={
                "server_accuracy": server.accuracy(name, model),
                "taught_by_clients": (shares.sum(dim=0) > 0).float().mean().item(),
            },
        )


def select(
    server_probs: Float[Tensor, "N C"], probs: Float[Tensor, "K N C"], labels: Int[Tensor, "N"]
) -> tuple[Float[Tensor, "N C"], Float[Tensor, "K N"]]:
    """Return the selected soft labels, and each client's share in them.

    Shares are 0 where the server is right, and where neither it nor any client is.

    >>> server = torch.tensor([[0.9, 0.1], [0.9, 0.1]])
    >>> clients = torch.tensor([[[0.6, 0.4], [0.2, 0.8]], [[0.6, 0.4], [0.7, 0.3]]])
    >>> # The server is right on the first sample; on the second the first client is.
    >>> select(server, clients, torch.tensor([0, 1]))[1]
    tensor([[0., 1.],
            [0., 0.]])
    """
    right: Bool[Tensor, "K N"] = probs.argmax(dim=-1) == labels
    wrong_server = server_probs.argmax(dim=-1) != labels
    entropy = -torch.xlogy(probs, probs).sum(dim=-1).clamp(max=-0.0)
    scores = (1 / entropy.clamp(min=1e-3)).masked_fill(~right, -torch.inf)
    taught = wrong_server & right.any(dim=0)
    shares = torch.softmax(scores.masked_fill(~taught, 0.0), dim=0) * taught
    by_clients = torch.einsum("kn,knc->nc", shares, probs)
    one_hot = torch.nn.functional.one_hot(labels, probs.shape[-1]).to(probs.dtype)
    none_right = wrong_server & ~right.any(dim=0)
    found = torch.where(taught[:, None], by_clients, server_probs)
    return torch.where(none_right[:, None], one_hot, found), shares
