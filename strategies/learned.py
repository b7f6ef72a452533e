"""After Meta-DMoE (Zhong et al. 2022, arXiv 2210.03885): a small transformer weighs the clients."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fedkd.errors import RunError
from fedkd.messages import Cohort, Fusion
from fedkd.runtime.seeding import torch_stream
from fedkd.settings.validators import at_least, at_most, positive
from fedkd.strategy import Needs

WIDTH, HEADS, FEATURES = 16, 2, 6
FLOOR = 1e-12
"""Least probability that a client is taken to give a label, so that its logarithm is finite."""

Weights = Mapping[str, Float[Tensor, "*shape"]]
Shares = Float[Tensor, "N K"]
Present = Bool[Tensor, "N K"]


@dataclass(frozen=True, kw_only=True)
class Learned:
    """Teach all clients a mixture of soft labels, weighed sample by sample by a learned aggregator.

        q(x) = sum_j a_j(x) p_j(x),  a(x) the aggregator's shares for the sample
        loss of the aggregator = -mean_x ln q(y(x) | x),  y the labels of the public set

    The aggregator is one transformer block over the clients' prediction vectors of a sample (see
    ``shares_of``). It sees neither client ids nor class indices, so that it is equivariant to
    permutations of clients and of classes, and takes any number of clients, also ones that it never
    met. Each round it takes ``steps`` steps of Adam. In every step one client of each sample is
    masked out, another in the next step (``masked_client``), so that it learns to fuse without that
    client: an unseen one. Then it fuses all clients. It starts as the unweighted mean; ``state`` is
    its weights. With fewer than three clients it does not learn, since nothing is left to weigh. A
    step costs N K^2 in memory.

    Reconstructed by us: the block and what tokens are made of, the labels of the public set as
    task, the schedule of masks, steps and learning rate. The paper's experts are models of source
    domains, its aggregator puts out features for a student that is adapted to a domain, and
    training is meta-learning through that adaptation; here the output is a mixture of the clients'
    soft labels, and there is no inner loop. Queries of the paper come from an expert's own domain;
    public samples belong to no client, so that clients take turns. Initial weights are the same in
    every run.
    """

    knowledge: ClassVar[str] = "probs"
    needs: ClassVar[Needs] = Needs(public_labels=True)

    steps: int = 25
    """Steps of Adam on the aggregator each round, over all public samples at once, >= 1."""
    learning_rate: float = 0.03
    """Learning rate of Adam, > 0 and at most 1."""

    def __post_init__(self) -> None:
        at_least(1, steps=self.steps)
        positive(learning_rate=self.learning_rate)
        at_most(1, learning_rate=self.learning_rate)

    def fuse(self, cohort: Cohort, state: Weights | None) -> Fusion:
        """Return the aggregator's mixture, common to all; ``weights`` are means over samples."""
        labels = cohort.public_labels
        if labels is None:
            raise RunError("learned needs the labels of the public set")
        probs = cohort.probs.double().transpose(0, 1)  # [N, K, C]
        weights = self.learn(state or initial_weights(), probs, labels, cohort)
        all_present = torch.ones(probs.shape[:2], dtype=torch.bool)
        shares = shares_of(weights, probs, all_present)
        uniform = torch.full_like(shares, 1 / cohort.size)
        return Fusion(
            weights=shares.mean(dim=0).expand(cohort.size, -1).float().clone(),
            teachers=torch.einsum("nk,nkc->nc", shares, probs).float(),
            state=dict(weights),
            metrics={
                "aggregator_likelihood": likelihood(shares, probs, labels).item(),
                "mean_likelihood": likelihood(uniform, probs, labels).item(),
            },
        )

    def learn(
        self,
        weights: Weights,
        probs: Float[Tensor, "N K C"],
        labels: Int[Tensor, "N"],
        cohort: Cohort,
    ) -> Weights:
        """Return the aggregator's weights after a round's steps.

        Args:
            weights: The aggregator's weights before the round.
            probs: Soft labels of the cohort, by sample.
            labels: Labels of the public samples.
            cohort: The round, public ids and client ids, which say who is masked in each step.
        """
        samples, clients, _ = probs.shape
        if clients < 3:
            return weights
        trained = {name: tensor.clone().requires_grad_() for name, tensor in weights.items()}
        optimizer = torch.optim.Adam(trained.values(), lr=self.learning_rate)
        for step in range(self.steps):
            turn = (cohort.round - 1) * self.steps + step
            masked = masked_client(cohort.public_ids, cohort.client_ids, turn)
            present = torch.ones(samples, clients, dtype=torch.bool).scatter(
                1, masked[:, None], False
            )
            optimizer.zero_grad()
            (-likelihood(shares_of(trained, probs, present), probs, labels)).backward()
            optimizer.step()
        return {name: tensor.detach() for name, tensor in trained.items()}


def masked_client(
    public_ids: Int[Tensor, "N"], client_ids: tuple[int, ...], turn: int
) -> Int[Tensor, "N"]:
    """Return each sample's masked client, as an index into ``client_ids``; K turns mask each once.

    >>> [masked_client(torch.tensor([0, 1]), (4, 2, 9), turn).tolist() for turn in range(3)]
    [[1, 0], [0, 2], [2, 1]]
    """
    return torch.tensor(client_ids).argsort()[(public_ids + turn) % len(client_ids)]


def likelihood(
    shares: Shares, probs: Float[Tensor, "N K C"], labels: Int[Tensor, "N"]
) -> Float[Tensor, ""]:
    """Return the mean log likelihood of the labels, ``ln sum_j a_j(x) p_j(y(x) | x)``."""
    right = probs[torch.arange(len(labels)), :, labels].clamp(min=FLOOR)
    return (shares * right).sum(dim=1).log().mean()


def initial_weights() -> dict[str, Float[Tensor, "*shape"]]:
    """Return the weights of an aggregator whose shares are uniform.

    Its last layer is zero. The other layers are drawn from one fixed random stream.
    """
    stream = torch_stream(0, "strategy", "learned", "weights")

    def drawn(inputs: int, outputs: int) -> Tensor:
        return torch.randn(inputs, outputs, generator=stream, dtype=torch.float64) / math.sqrt(
            inputs
        )

    def zeros(size: int) -> Tensor:
        return torch.zeros(size, dtype=torch.float64)

    return {
        "embed": drawn(FEATURES, WIDTH),
        "embed_bias": zeros(WIDTH),
        "attend": drawn(WIDTH, 3 * WIDTH),
        "alike": zeros(HEADS),
        "merge": drawn(WIDTH, WIDTH),
        "widen": drawn(WIDTH, 2 * WIDTH),
        "widen_bias": zeros(2 * WIDTH),
        "narrow": drawn(2 * WIDTH, WIDTH),
        "score": zeros(WIDTH),
    }


def shares_of(weights: Weights, probs: Float[Tensor, "N K C"], present: Present) -> Shares:
    """Return each client's share in each sample's teacher: >= 0, sums to 1, 0 for absent clients.

    A token is a client's prediction of a sample, embedded by ``tokens_of``. One block of
    pre-normalized attention over the tokens present, whose scores have a term for how alike two
    predictions are (a learned factor times their inner product), one two-layer perceptron, and a
    linear score a token, of which the softmax is taken. Absent clients have no influence.
    """
    h = tokens_of(probs, present) @ weights["embed"] + weights["embed_bias"]
    samples, clients, _ = h.shape
    parts = (_normalized(h) @ weights["attend"]).reshape(samples, clients, 3, HEADS, WIDTH // HEADS)
    queries, keys, values = parts.permute(2, 0, 3, 1, 4)  # each [N, heads, K, width / heads]
    alike = weights["alike"][:, None, None] * (probs @ probs.transpose(1, 2))[:, None]
    scores = queries @ keys.transpose(-1, -2) / math.sqrt(WIDTH / HEADS) + alike
    attention = scores.masked_fill(~present[:, None, None, :], -torch.inf).softmax(dim=-1)
    h = h + (attention @ values).transpose(1, 2).reshape(samples, clients, WIDTH) @ weights["merge"]
    h = (
        h
        + torch.relu(_normalized(h) @ weights["widen"] + weights["widen_bias"]) @ weights["narrow"]
    )
    return (_normalized(h) @ weights["score"]).masked_fill(~present, -torch.inf).softmax(dim=-1)


def tokens_of(probs: Float[Tensor, "N K C"], present: Present) -> Float[Tensor, "N K F"]:
    """Return the six features of each prediction, which do not change if classes are permuted.

    Its largest probability, the margin to the next, its entropy (over ln C), the client's mean
    entropy over all samples, its inner product with the mean of those present, and its divergence
    in nats from the client's mean prediction: a prediction that a client makes of every sample
    tells little.
    """
    first, second = probs.topk(2, dim=-1).values.unbind(dim=-1)
    entropy = -torch.xlogy(probs, probs).sum(dim=-1) / math.log(probs.shape[-1])
    mean = torch.einsum("nk,nkc->nc", present.to(probs), probs) / present.sum(dim=1, keepdim=True)
    usual = probs.mean(dim=0).clamp(min=FLOOR)
    said = torch.xlogy(probs, probs / usual).sum(dim=-1)
    agreement = torch.einsum("nkc,nc->nk", probs, mean)
    return torch.stack(
        [first, first - second, entropy, entropy.mean(dim=0).expand_as(entropy), agreement, said],
        dim=-1,
    )


def _normalized(h: Float[Tensor, "N K D"]) -> Float[Tensor, "N K D"]:
    return F.layer_norm(h, h.shape[-1:])
