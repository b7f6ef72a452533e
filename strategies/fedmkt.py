"""FedMKT (Fan et al. 2025, arXiv 2406.02224): each sequence is taught by who predicts it best.

Its dual minimum cross entropy selection, for clients (and a server) of one tokenizer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fedkd.errors import RunError
from fedkd.fusion import soften
from fedkd.knowledge import KnowledgeType, PublicPredictions
from fedkd.messages import Cohort, Fusion, Predictions, ServerModels
from fedkd.settings.validators import at_least, check_choices
from fedkd.strategy import Needs


@dataclass(frozen=True, kw_only=True)
class FedMKT:
    """Teach each public sequence by the client with the least loss on it.

        L_js     mean over positions t of sequence s of -ln p_j(label of t), at temperature 1
        teacher  p_b(t), b = argmin_j L_js, of those clients i with L_bs < L_is
        weighted p(t) = sum_j r_js p_j(t), r_js in proportion to exp(-L_js), of all clients

    A sequence is a window of public text; of other data each sample is one. With ``server`` the
    selection is dual: the server's model distils the best client's predictions where these are
    below its own loss, and then alone teaches the clients on what it predicts better than they.

    Departures: one tokenizer for all, so that nothing is aligned; distillation is a phase of its
    own, where the released code adds 0.1 of it to 0.9 of the loss on labels (on texts
    ``tokens.label_share`` does); the released code counts the tokens of a prompt in a loss, here
    all positions that were asked about count. What clients send is whole, or top k by
    ``codec=top_k``, then with the rest of a distribution spread evenly (released: cut off).
    """

    knowledge: ClassVar[KnowledgeType] = PublicPredictions("logits", taught_apart=True)

    choice: Literal["least_loss", "weighted"] = "least_loss"
    """The best client alone, or all in proportion to the inverse of their perplexity."""
    server: str | None = None
    """Architecture of the server's model, by name or package.module:factory; null lets clients
    teach one another."""
    server_epochs: int = 1
    """Passes of the server over what it is taught each round, >= 1."""

    def __post_init__(self) -> None:
        check_choices(self)
        at_least(1, server_epochs=self.server_epochs)

    @property
    def needs(self) -> Needs:
        """The labels of the public set (of text its next tokens), and perhaps a server's model."""
        models = None if self.server is None else (self.server,)
        return Needs(public_labels=True, server_models=models)

    def fuse(self, cohort: Cohort, state: Mapping[str, Tensor] | None) -> Fusion:
        """Return the best client's soft labels, or the server's; ``taught_rows`` says to whom.

        ``weights`` are shares of samples, a client's own where it is not taught.
        """
        if cohort.public_labels is None:
            raise RunError("fedmkt needs the labels of the public set")
        losses = sequence_losses(cohort.logits, cohort.public_labels, cohort.sequences)
        shares = reward(losses) if self.choice == "weighted" else least(losses)
        chosen = torch.einsum("kn,knc->nc", shares, cohort.probs)
        if self.server is None:
            return self._from_clients(losses, shares, chosen)
        if cohort.server is None:
            raise RunError("fedmkt with a server's model needs one")
        return self._from_server(cohort, cohort.server, state, losses, shares, chosen)

    def _from_clients(
        self, losses: Float[Tensor, "K N"], shares: Float[Tensor, "K N"], chosen: Tensor
    ) -> Fusion:
        """Return the fusion where clients teach one another."""
        taught: Bool[Tensor, "K N"] = torch.ones_like(losses, dtype=torch.bool)
        if self.choice == "least_loss":
            taught = losses > losses.amin(dim=0)
        return Fusion(
            weights=mean_shares(shares, taught),
            teachers=chosen,
            taught_rows=None if bool(taught.all()) else taught,
            metrics=figures(losses, taught),
        )

    def _from_server(
        self,
        cohort: Cohort,
        server: ServerModels,
        state: Mapping[str, Tensor] | None,
        losses: Float[Tensor, "K N"],
        shares: Float[Tensor, "K N"],
        chosen: Float[Tensor, "N C"],
    ) -> Fusion:
        """Return the fusion where the server's model learns from clients, and teaches them.

        Args:
            cohort: The round's uploads.
            server: Trains the model.
            state: The model's state before; None in the first round.
            losses: Of each client on the sequence of each sample.
            shares: Each client's share in what teaches the server.
            chosen: What teaches the server.
        """
        name, ids = self.server or "", cohort.public_ids
        labels, sequences = cohort.public_labels, cohort.sequences
        assert labels is not None, "asked before"
        model = server.initial(name) if state is None else state
        own = sequence_losses(server.predict(name, model, ids)[None], labels, sequences)[0]
        better = losses.amin(dim=0) < own
        if bool(better.any()):
            model = server.distill(
                name,
                model,
                Predictions(ids=ids[better], values=chosen[better], scale="probs"),
                loss="kl",
                purpose="fedmkt",
                round=cohort.round,
                epochs=self.server_epochs,
            )
        logits = server.predict(name, model, ids)
        after = sequence_losses(logits[None], labels, sequences)[0]
        taught = losses > after
        return Fusion(
            weights=mean_shares(shares, taught),
            teachers=soften(logits, cohort.temperature),
            taught_rows=None if bool(taught.all()) else taught,
            state=dict(model),
            metrics={
                **figures(losses, taught),
                "server_taught": better.float().mean().item(),
                "server_loss": after.mean().item(),
            },
        )


def sequence_losses(
    logits: Float[Tensor, "K N C"], labels: Int[Tensor, "N"], sequences: Int[Tensor, "N"] | None
) -> Float[Tensor, "K N"]:
    """Return each client's mean cross entropy on the sequence that each sample is of, in nats.

    Args:
        logits: The clients' predictions.
        labels: What is right.
        sequences: Which sequence each sample is of; None takes each as its own.

    >>> logits = torch.tensor([[[0.0, 0.0], [100.0, 0.0]]])
    >>> sequence_losses(logits, torch.tensor([0, 0]), torch.tensor([7, 7]))
    tensor([[0.3466, 0.3466]])
    """
    each = torch.stack([F.cross_entropy(rows, labels, reduction="none") for rows in logits])
    if sequences is None:
        return each
    _, where, counts = torch.unique(sequences, return_inverse=True, return_counts=True)
    sums = each.new_zeros(len(each), len(counts)).index_add_(1, where, each)
    found: Tensor = (sums / counts)[:, where]
    return found


def least(losses: Float[Tensor, "K N"]) -> Float[Tensor, "K N"]:
    """Return a share of 1 for the client with the least loss on each sample, the first of several.

    >>> least(torch.tensor([[1.0, 2.0], [1.0, 0.5]]))
    tensor([[1., 0.],
            [0., 1.]])
    """
    return F.one_hot(losses.argmin(dim=0), len(losses)).T.to(losses.dtype)


def reward(losses: Float[Tensor, "K N"]) -> Float[Tensor, "K N"]:
    """Return shares in proportion to the inverse of each client's perplexity."""
    return torch.softmax(-losses, dim=0)


def mean_shares(shares: Float[Tensor, "K N"], taught: Bool[Tensor, "K N"]) -> Float[Tensor, "K K"]:
    """Return how much client j teaches client i over all samples, i itself where it is not taught.

    >>> mean_shares(torch.tensor([[1.0, 1.0], [0.0, 0.0]]), torch.tensor([[0, 0], [1, 0]]).bool())
    tensor([[1.0000, 0.0000],
            [0.5000, 0.5000]])
    """
    found = taught.to(shares.dtype) @ shares.T / shares.shape[1]
    return found + torch.diag((~taught).to(shares.dtype).mean(dim=1))


def figures(losses: Float[Tensor, "K N"], taught: Bool[Tensor, "K N"]) -> dict[str, float]:
    """Return the share of what is taught, and the mean losses of all and of the best clients."""
    return {
        "taught": taught.float().mean().item(),
        "mean_loss": losses.mean().item(),
        "best_loss": losses.amin(dim=0).mean().item(),
    }
