"""Fusing K clients' predictions into teachers."""

import torch
from jaxtyping import Float
from torch import Tensor


def mix(weights: Float[Tensor, "I K"], values: Float[Tensor, "K N C"]) -> Float[Tensor, "I N C"]:
    """Return each recipient's weighted mean, ``q_i(x) = sum_j W_ij z_j(x)``: one matrix product.

    Stays in the convex hull of the values where the rows of ``weights`` are non-negative and sum to 1.
    """
    return torch.einsum("ik,knc->inc", weights, values)


def mean_over_clients(values: Float[Tensor, "K N C"]) -> Float[Tensor, "N C"]:
    """Return the plain mean over clients, the common teacher of FedMD and of DS-FL's simple averaging."""
    return values.mean(dim=0)


def reduce_entropy(probs: Float[Tensor, "N C"], temperature: float) -> Float[Tensor, "N C"]:
    """Return ``softmax(probs / temperature)``: DS-FL's entropy reduction (Itahara et al. 2021, arXiv 2008.06180).

    The softmax acts on *probabilities*, as in the paper, so that the result is no power of the input. It lowers the
    entropy where the probabilities that matter are well above the temperature (0.1 in the paper); a row that is
    already one-hot, or whose entries are all below the temperature, it flattens. The argmax stays.
    """
    return torch.softmax(probs / temperature, dim=-1)
