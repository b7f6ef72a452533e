"""Measures of how much a public sample, or a view of it, has to teach: from predictions alone.

All are greedy or ranked and draw nothing at random; ties go to the lowest index. Not for drawing a
round's samples (the server), which these may take the place of.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

FLOOR = 1e-12


def disagreement(
    teacher_probs: Float[Tensor, "*batch C"], student_probs: Float[Tensor, "*batch C"]
) -> Tensor:
    """Return ``KL(teacher || student)`` of each soft label [*batch], in nats.

    The student's probabilities are floored at 1e-12.

    >>> disagreement(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]])).tolist()  # ln 2
    [0.6931471824645996]
    """
    terms = torch.xlogy(teacher_probs, teacher_probs) - torch.xlogy(
        teacher_probs, student_probs.clamp(min=FLOOR)
    )
    return terms.sum(dim=-1).clamp(min=0)


def hardest_views(
    teacher_probs: Float[Tensor, "V N C"], student_probs: Float[Tensor, "V N C"]
) -> Int[Tensor, "N"]:
    """Return each sample's augmented view, of V, on which teacher and student disagree most.

    After HARD (Nix et al. 2023, arXiv 2305.14890), which learns augmentations that make the two
    disagree; choosing among V random ones is our cheap stand-in. It takes V predictions of either
    side in place of one: count their bytes.
    """
    return disagreement(teacher_probs, student_probs).argmax(dim=0)
