"""Losses on the similarities between samples, for which student and teacher may differ in C.

Two samples are as similar as their soft labels point the same way: the cosine, between 0 and 1. A
student may match all similarities and still permute the classes, so these losses are added to one
of ``fedkd.training.losses`` wherever classes matter. T softens and is no factor: nothing here is a
divergence of soft labels.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fedkd.fusion import soften

Scalar = Float[Tensor, ""]


def similarities(
    probs: Float[Tensor, "N C"], anchors: Float[Tensor, "A C"]
) -> Float[Tensor, "N A"]:
    """Return the cosine between each soft label and each anchor's.

    It is 1 where they are equal, 0 where they share no class.

    >>> import torch
    >>> similarities(torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([[0.0, 1.0]])).tolist()
    [[0.0], [0.800000011920929]]
    """
    return F.normalize(probs, dim=-1) @ F.normalize(anchors, dim=-1).T


def match_similarities(
    student_logits: Float[Tensor, "N C"],
    target_probs: Float[Tensor, "N D"],
    temperature: float = 1.0,
) -> Scalar:
    """Return the mean squared difference of student and teacher similarities in a batch.

    ``mean_ij (S^student_ij - S^teacher_ij)^2`` over all pairs of the batch, S the cosines of soft
    labels. Between 0 and 1. One sample alone, or a student that equals the teacher, gives 0. It is
    not a mean over samples of a term for each: the size of the batch, whose pairs alone are
    compared, is part of the loss. A batch's Gram matrices are compared as by Tung & Mori (2019,
    arXiv 1907.09682) and in the relation distillation of LLaVA-KD (Cai et al. 2024, arXiv
    2410.16236); both relate features or visual tokens, ours soft labels.
    """
    probs = soften(student_logits, temperature)
    return (similarities(probs, probs) - similarities(target_probs, target_probs)).square().mean()
