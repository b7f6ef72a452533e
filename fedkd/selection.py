"""Which public samples, and which view of each, are worth asking about: choices made from predictions alone.

All are greedy or ranked and draw nothing at random; ties go to the lowest index. Not for drawing a round's samples (the
server), which these may take the place of.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

FLOOR = 1e-12


def disagreement(teacher_probs: Float[Tensor, "*batch C"], student_probs: Float[Tensor, "*batch C"]) -> Tensor:
    """Return ``KL(teacher || student)`` of each soft label [*batch] in nats, the student's floored at 1e-12.

    >>> disagreement(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]])).tolist()  # ln 2
    [0.6931471824645996]
    """
    terms = torch.xlogy(teacher_probs, teacher_probs) - torch.xlogy(teacher_probs, student_probs.clamp(min=FLOOR))
    return terms.sum(dim=-1).clamp(min=0)


def most_disputed(
    fused_probs: Float[Tensor, "N C"], student_probs: Float[Tensor, "K N C"], count: int
) -> Int[Tensor, "count"]:
    """Return the samples on which K students are farthest from the fused teacher, the farthest first.

    Far is the mean over students of ``KL(fused || student)``. To ask for those again is the competitive curriculum of
    CoMD (Li et al. 2023, arXiv 2311.08213), in which a third model judges where the student falls behind; the KL in its
    place is ours. ``count`` is at most N.
    """
    assert 0 <= count <= len(fused_probs), f"count must be between 0 and {len(fused_probs)}, got {count}"
    far = disagreement(fused_probs.expand_as(student_probs), student_probs).mean(dim=0)
    return far.sort(descending=True, stable=True).indices[:count]


def hardest_views(teacher_probs: Float[Tensor, "V N C"], student_probs: Float[Tensor, "V N C"]) -> Int[Tensor, "N"]:
    """Return for each of N samples which of its V augmented views teacher and student disagree on most, by KL.

    After HARD (Nix et al. 2023, arXiv 2305.14890), which learns augmentations that make the two disagree; choosing
    among V random ones is our cheap stand-in. It takes V predictions of either side in place of one: count their bytes.
    """
    return disagreement(teacher_probs, student_probs).argmax(dim=0)


def core_set(probs: Float[Tensor, "N C"], count: int, chosen: Int[Tensor, "M"] | None = None) -> Int[Tensor, "count"]:
    """Return ``count`` more samples that cover the predictions: each the farthest from all that are chosen already.

    Greedy k-centre by L2 distance between soft labels (PCoreSet, Kang et al. 2025, arXiv 2506.00910; greedy k-centre,
    Gonzalez 1985). Without any chosen sample the first is the farthest from the mean soft label, where the paper begins
    with labeled samples. No sample is then farther from the chosen than twice what the best ``count`` centres could
    reach (where none was chosen before). Once all that is left repeats a chosen soft label, the lowest indices follow.
    ``count`` is at most the number of samples not chosen. O(N C) for each sample.

    >>> core_set(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.5, 0.5]]), 2, torch.tensor([0])).tolist()
    [2, 3]
    """
    before = [] if chosen is None else list(chosen)
    assert 0 <= count <= len(probs) - len(before), f"{count} of {len(probs)} samples, {len(before)} chosen before"
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
