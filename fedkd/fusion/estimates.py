"""Estimates of clients' label distributions (EPD) from their predictions on the public set.

An EPD is also a label-distribution inference attack (arXiv 2502.08001): anyone who sees the
predictions can make it.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def mean_soft_label(probs: Float[Tensor, "K N C"]) -> Float[Tensor, "K C"]:
    """Return each client's mean soft label over the public samples; rows sum to 1.

    KnFu (arXiv 2403.11892) estimates a client's label distribution from its predictions on the
    transfer set; that the estimate is this mean is our reconstruction.
    """
    return probs.mean(dim=1)


def argmax_histogram(probs: Float[Tensor, "K N C"]) -> Float[Tensor, "K C"]:
    """Return the histogram of each client's predicted classes over the public samples.

    Rows sum to 1. Ties go to the lowest class, as in ``torch.argmax``.

    >>> argmax_histogram(torch.tensor([[[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]]])).tolist()
    [[0.75, 0.25]]
    """
    one_hot = torch.nn.functional.one_hot(probs.argmax(dim=-1), probs.shape[-1])
    return one_hot.to(probs.dtype).mean(dim=1)
