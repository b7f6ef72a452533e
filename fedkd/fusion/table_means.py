"""Means over clients of class tables and of model states."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def leave_one_out(
    probs: Float[Tensor, "K C D"], present: Bool[Tensor, "K C"]
) -> tuple[Float[Tensor, "K C D"], Bool[Tensor, "K C"], Float[Tensor, "K K"]]:
    """Return, for each client and class, the mean row of the *other* clients that have the class.

    Also flags of the rows that exist, and the weights [K, K]: the mean over a client's taught
    classes of each other client's share in the row. A client that is taught nothing has itself as
    its only teacher. Rows that do not exist are zeros. With K = 2 the tables are swapped; own rows
    never return. Jeong et al. 2018, arXiv 1811.11479.

    >>> tables = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[0.5, 0.5]]])
    >>> leave_one_out(tables, torch.tensor([[True], [True], [False]]))[0].squeeze(1)
    tensor([[0.0000, 1.0000],
            [1.0000, 0.0000],
            [0.5000, 0.5000]])
    """
    has = present.to(probs.dtype)
    others = (has.sum(dim=0, keepdim=True) - has).round()
    taught = others > 0
    alone = 1 - torch.eye(len(probs), dtype=probs.dtype, device=probs.device)
    rows = torch.einsum("ij,jc,jcd->icd", alone, has, probs) / others.clamp(min=1)[..., None]
    shares = torch.einsum("ij,jc,ic->ij", alone, has, taught / others.clamp(min=1))
    classes = taught.sum(dim=1, keepdim=True)
    own = torch.eye(len(probs), dtype=probs.dtype, device=probs.device)
    return rows, taught, torch.where(classes > 0, shares / classes.clamp(min=1), own)


def mean_by_count(
    rows: Float[Tensor, "K C D"], counts: Float[Tensor, "K C"]
) -> tuple[Float[Tensor, "C D"], Bool[Tensor, "C"], Float[Tensor, "K"]]:
    """Return the mean row of each class over clients, weighted by their sample counts of the class.

    Also flags of the classes that any client has, and the weights [K]: the mean over these classes
    of each client's share. Rows of classes that no client has are zeros; where no client has any
    class, the weights are equal. With equal counts it is the unweighted mean; a client without a
    class has no share in its row, whatever its own row says.

    >>> mean_by_count(torch.tensor([[[0.0]], [[4.0]]]), torch.tensor([[3.0], [1.0]]))
    (tensor([[1.]]), tensor([True]), tensor([0.7500, 0.2500]))
    """
    totals = counts.sum(dim=0)
    present = totals > 0
    shares = counts / totals.clamp(min=1)
    masked = torch.where((counts > 0)[..., None], rows, 0.0)
    means = torch.einsum("kc,kcd->cd", shares, masked)
    weights = shares.sum(dim=1) / present.sum().clamp(min=1)
    return (
        means,
        present,
        weights if bool(present.any()) else torch.full_like(weights, 1 / len(rows)),
    )


def average_states(
    states: Sequence[Mapping[str, Tensor]], shares: Float[Tensor, "K"]
) -> dict[str, Tensor]:
    """Return the weighted mean of model states, ``sum_k shares[k] * states[k]``, tensor by tensor.

    Integer tensors (counters) are the first state's. Sums are in float64 and in order, so that
    equal states come back as they were.

    >>> states = [{"w": torch.tensor([0.0])}, {"w": torch.tensor([4.0])}]
    >>> average_states(states, torch.tensor([0.75, 0.25]))
    {'w': tensor([1.])}
    """
    found = {}
    for name, first in states[0].items():
        if not first.is_floating_point():
            found[name] = first.clone()
            continue
        total = torch.zeros_like(first, dtype=torch.float64)
        for state, share in zip(
            states, shares.to(torch.float64) / shares.to(torch.float64).sum(), strict=True
        ):
            total += share * state[name].to(torch.float64)
        found[name] = total.to(first.dtype)
    return found
