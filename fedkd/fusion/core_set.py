"""Greedy choice of samples that cover a set of soft labels."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def core_set(
    probs: Float[Tensor, "N C"], count: int, chosen: Int[Tensor, "M"] | None = None
) -> Int[Tensor, "count"]:
    """Return ``count`` more samples, each the farthest from all samples that are already chosen.

    Greedy k-centre by L2 distance between soft labels (PCoreSet, Kang et al. 2025, arXiv
    2506.00910; greedy k-centre, Gonzalez 1985). Without any chosen sample the first is the farthest
    from the mean soft label, where the paper begins with labeled samples. In that case no sample is
    farther from the chosen ones than twice the radius of the best ``count`` centres. Once all that
    is left repeats a chosen soft label, the lowest indices follow. ``count`` is at most the number
    of samples not chosen. O(N C) for each sample.

    >>> probs = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.5, 0.5]])
    >>> core_set(probs, 2, torch.tensor([0])).tolist()
    [2, 3]
    """
    before = [] if chosen is None else list(chosen)
    assert 0 <= count <= len(probs) - len(before), (
        f"{count} of {len(probs)} samples, {len(before)} chosen before"
    )
    nearest = probs.new_full((len(probs),), torch.inf)
    taken = torch.zeros(len(probs), dtype=torch.bool, device=probs.device)

    def take(sample: Tensor) -> None:
        nonlocal nearest
        nearest = torch.minimum(nearest, (probs - probs[sample]).norm(dim=-1))
        taken[sample] = True

    for sample in before:
        take(sample)
    distance = nearest if before else (probs - probs.mean(dim=0)).norm(dim=-1)
    found: list[Tensor] = []
    for _ in range(count):
        found.append(distance.masked_fill(taken, -1).argmax())
        take(found[-1])
        distance = nearest
    return torch.stack(found) if found else torch.zeros(0, dtype=torch.int64, device=probs.device)
