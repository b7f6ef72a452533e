"""After MST-Distill (Li et al. 2025, arXiv 2507.07015): a learned router mixes the clients."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fedkd.errors import RunError
from fedkd.messages import Cohort, Fusion
from fedkd.settings.validators import at_least, at_most, check_choices, positive
from fedkd.strategy import Needs

FLOOR = 1e-12
"""Least probability that a client is taken to give a label, so that its logarithm is finite."""
LEAST_SEEN = 1e-4
"""Least probability that the router can tell from 0."""
MOMENTUM = 0.9

Gates = Float[Tensor, "Q N K"]


@dataclass(frozen=True, kw_only=True)
class Routed:
    """Teach a mixture of soft labels whose weights a linear router R learns on public labels.

        q(x) = sum_j g_j(x) p_j(x),  g(x) = softmax(R z(x))
        loss of R = -mean_x ln q(y(x) | x) + balance (sum_j l_j^2 - 1/K),  l_j = mean_x g_j(x)

    R is a linear layer with a row for each client. Its input z is the logarithms of soft labels,
    less their mean over classes, and a constant: those of the client that is taught
    (``sees=student``: each has a router and a teacher of its own, as in the paper), or those of the
    mean of all clients (``sees=mean``: one router and one teacher for all). The server takes
    ``steps`` gradient steps on the routers each round, over all public samples, from R = 0, which
    is the unweighted mean.

    y(x) are the labels of the public set, which this needs. The second term is 0 where all clients
    teach equally much on average, and 1 - 1/K where one teaches everything. ``state`` holds the
    routers over all clients seen so far; a client that is new starts at the mean of the others, and
    an absent client's row stays as it is. With ``sees=student`` a round costs K^2 N C operations a
    step.

    Reconstructed by us from the formula of the teacher: a linear router, its input, its loss and
    its steps. The paper's teachers are of several modalities, only the best few of them teach a
    sample, and router and student are trained in one loop on the task's loss. Here all teachers are
    mixed, and no client learns a router. ``sees=mean`` is ours.
    """

    knowledge: ClassVar[str] = "probs"
    needs: ClassVar[Needs] = Needs(public_labels=True)

    sees: Literal["student", "mean"] = "student"
    """Input of a router: the prediction of the client that is taught, or the mean of all
    predictions."""
    balance: float = 1.0
    """Weight of the load balance, >= 0; 0 lets the router use a few clients only."""
    steps: int = 100
    """Gradient steps on the router each round (Nesterov's, momentum 0.9), >= 1."""
    step: float = 2.0
    """Size of a step over ``(1 + balance) mean |z|^2``, > 0 and at most 2, where it could not
    overshoot."""

    def __post_init__(self) -> None:
        check_choices(self)
        at_least(0, balance=self.balance)
        at_least(1, steps=self.steps)
        positive(step=self.step)
        at_most(2, step=self.step)

    def fuse(self, cohort: Cohort, state: Mapping[str, Tensor] | None) -> Fusion:
        """Return the routed mixture, personal or common; ``weights`` are means over samples."""
        if cohort.public_labels is None:
            raise RunError("routed needs the labels of the public set")
        ids = torch.tensor(cohort.client_ids)
        probs, personal = cohort.probs.double(), self.sees == "student"
        inputs = router_inputs(probs if personal else probs.mean(dim=0, keepdim=True))
        right = probs[:, torch.arange(probs.shape[1]), cohort.public_labels].clamp(min=FLOOR)
        routers, known = extend_routers(state, int(ids.max()) + 1, inputs.shape[-1], personal)
        students = ids if personal else torch.tensor([0])
        router = self.learn(present_routers(routers, known, students, ids), inputs, right)
        routers[students[:, None], ids], known[ids] = router, True
        gates = route(router, inputs)
        teachers = torch.einsum("qnk,knc->qnc", gates, probs).float()
        load = gates.mean(dim=1)  # [Q, K]
        return Fusion(
            weights=load.expand(cohort.size, -1).float().clone(),
            teachers=teachers if personal else teachers[0],
            state={"routers": routers, "known": known},
            metrics={
                "router_likelihood": likelihood(gates, right).mean().item(),
                "mean_likelihood": likelihood(torch.full_like(gates, 1 / cohort.size), right)
                .mean()
                .item(),
                "load_imbalance": imbalance(gates).mean().item(),
            },
        )

    def learn(
        self,
        router: Float[Tensor, "Q K F"],
        inputs: Float[Tensor, "Q N F"],
        right: Float[Tensor, "K N"],
    ) -> Float[Tensor, "Q K F"]:
        """Return the routers after a round's gradient steps.

        ``right`` is the probability that each client gives to each sample's label.
        """
        norms = inputs.square().sum(dim=-1).mean(dim=1)
        size = self.step / ((1 + self.balance) * norms)[:, None, None]
        moved = torch.zeros_like(router)
        for _ in range(self.steps):
            ahead = router + MOMENTUM * moved
            moved = MOMENTUM * moved - size * gradient(ahead, inputs, right, self.balance)
            router = router + moved
        return router


def router_inputs(probs: Float[Tensor, "Q N C"]) -> Float[Tensor, "Q N F"]:
    """Return a router's inputs: log probabilities less their mean over classes, and a 1; F = C + 1.

    >>> router_inputs(torch.tensor([[[0.5, 0.5]]])).tolist()
    [[[0.0, 0.0, 1.0]]]
    """
    logs = probs.clamp(min=LEAST_SEEN).log()
    centred = logs - logs.mean(dim=-1, keepdim=True)
    return torch.cat([centred, torch.ones_like(centred[..., :1])], dim=-1)


def route(router: Float[Tensor, "Q K F"], inputs: Float[Tensor, "Q N F"]) -> Gates:
    """Return each client's share in each sample's teacher: >= 0, sums to 1.

    A router of zeros gives 1/K.

    >>> router = torch.tensor([[[0.0, 0.0], [1.0, 0.0]]]) * torch.tensor(3.0).log()
    >>> route(router, torch.tensor([[[1.0, 1.0]]]))
    tensor([[[0.2500, 0.7500]]])
    """
    return torch.softmax(inputs @ router.transpose(1, 2), dim=-1)


def likelihood(gates: Gates, right: Float[Tensor, "K N"]) -> Float[Tensor, "Q"]:
    """Return the mean log likelihood of the labels, ``ln sum_j g_j(x) p_j(y(x) | x)``.

    ``right`` is the probability that each client gives to each sample's label.
    """
    return torch.einsum("qnk,kn->qn", gates, right).log().mean(dim=1)


def imbalance(gates: Gates) -> Float[Tensor, "Q"]:
    """Return ``sum_j l_j^2 - 1/K``, l the mean gates: 0 where all clients teach equally."""
    return gates.mean(dim=1).square().sum(dim=-1) - 1 / gates.shape[-1]


def gradient(
    router: Float[Tensor, "Q K F"],
    inputs: Float[Tensor, "Q N F"],
    right: Float[Tensor, "K N"],
    balance: float,
) -> Float[Tensor, "Q K F"]:
    """Return the gradient of ``balance * imbalance - likelihood`` for each router.

    With respect to the scores of a sample the gradient of the likelihood term is g_j - r_j, where
    r_j = g_j p_j(y) / sum_k g_k p_k(y) is the posterior share of client j given the label; that of
    the balance is 2 g_j (l_j - sum_k g_k l_k), where l_j is the mean of g_j.

    Args:
        router: A router for each student.
        inputs: The routers' inputs.
        right: The probability that each client gives to each sample's label.
        balance: Weight of the load balance.
    """
    gates = route(router, inputs)
    shares = gates * right.T
    responsible = shares / shares.sum(dim=-1, keepdim=True)
    load = gates.mean(dim=1, keepdim=True)
    pull = gates * (load - (gates * load).sum(dim=-1, keepdim=True))
    by_score = gates - responsible + 2 * balance * pull
    return by_score.transpose(1, 2) @ inputs / gates.shape[1]


def extend_routers(
    state: Mapping[str, Tensor] | None, clients: int, width: int, personal: bool
) -> tuple[Float[Tensor, "R S F"], Bool[Tensor, "S"]]:
    """Return copies of the routers and of the flags of known clients, extended to ``clients``.

    Args:
        state: The last round's ``state``; None in the first round.
        clients: Clients to make room for; a state of more keeps its size.
        width: Inputs of a router, F.
        personal: Whether each client has a router of its own.
    """
    known = torch.zeros(0, dtype=torch.bool) if state is None else state["known"]
    total = max(clients, len(known))
    routers = torch.zeros(total if personal else 1, total, width, dtype=torch.float64)
    if state is not None:
        before = state["routers"]
        routers[: before.shape[0], : before.shape[1]] = before
    return routers, torch.cat([known, known.new_zeros(total - len(known))])


def present_routers(
    routers: Float[Tensor, "R S F"],
    known: Bool[Tensor, "S"],
    students: Int[Tensor, "Q"],
    ids: Int[Tensor, "K"],
) -> Float[Tensor, "Q K F"]:
    """Return the routers of the students over the cohort; new clients get means over known ones.

    Args:
        routers: All routers over all clients seen so far.
        known: Which clients took part before.
        students: Whose routers to return.
        ids: The cohort's client ids.
    """
    found = routers[students][:, ids]
    if not known.any():
        return found
    found = torch.where(
        known[ids][:, None], found, routers[students][:, known].mean(dim=1, keepdim=True)
    )
    if len(routers) == 1:
        return found
    usual = torch.where(
        known[ids][:, None],
        routers[known][:, ids].mean(dim=0),
        routers[known][:, known].mean((0, 1)),
    )
    return torch.where(known[students][:, None, None], found, usual)
