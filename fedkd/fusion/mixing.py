"""Means of clients' predictions: weighted for each client, unweighted, sharpened."""

import torch
from jaxtyping import Float
from torch import Tensor

from fedkd.runtime.parallel import map_chunks

COLUMNS = 2048
"""Values of a client that are mixed at once: those of a hundred clients fit into a core's cache."""


def mix(weights: Float[Tensor, "I K"], values: Float[Tensor, "K N C"]) -> Float[Tensor, "I N C"]:
    """Return each recipient's weighted mean of the clients' values, ``q_i(x) = sum_j W_ij z_j(x)``.

    One matrix product. Stays in the convex hull of the values where the rows of ``weights`` are
    non-negative and sum to 1.
    """
    clients, samples, classes = values.shape
    flat = values.reshape(clients, samples * classes)
    teachers = flat.new_empty(len(weights), samples * classes)

    def compute(part: slice) -> None:
        torch.mm(weights, flat[:, part], out=teachers[:, part])

    map_chunks(compute, samples * classes, COLUMNS)
    return teachers.view(-1, samples, classes)


class RunningMean:
    """The mean over clients of values that are added one client at a time, in O(N C) memory.

    The same to the bit as ``mean_over_clients`` of the stacked values, if clients are added in the
    same order.
    """

    def __init__(self) -> None:
        self._total: Tensor | None = None
        self.clients = 0

    def add(self, values: Float[Tensor, "N C"]) -> None:
        """Add one client's values to the sum."""
        self._total = values.clone() if self._total is None else self._total.add_(values)
        self.clients += 1

    def mean(self) -> Float[Tensor, "N C"]:
        """Return the mean of the values added so far; at least one client must be."""
        assert self._total is not None, "nothing was added"
        return self._total / self.clients


def mean_over_clients(values: Float[Tensor, "K N C"]) -> Float[Tensor, "N C"]:
    """Return the unweighted mean over clients, the common teacher of FedMD.

    >>> mean_over_clients(torch.tensor([[[1.0, 2.0]], [[3.0, 6.0]]])).tolist()
    [[2.0, 4.0]]
    """
    running = RunningMean()
    for client in values:
        running.add(client)
    return running.mean()


def reduce_entropy(probs: Float[Tensor, "N C"], temperature: float) -> Float[Tensor, "N C"]:
    """Return ``softmax(probs / temperature)``, the entropy reduction of DS-FL.

    Itahara et al. 2021, arXiv 2008.06180. The softmax acts on *probabilities*, as in the paper, so
    that the result is no power of the input. It lowers the entropy where the largest probabilities
    are well above the temperature (0.1 in the paper); it flattens a row that is already one-hot, or
    whose entries are all below the temperature. The argmax stays.
    """
    return torch.softmax(probs / temperature, dim=-1)
