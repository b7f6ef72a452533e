"""Losses on how samples relate to one another, in place of what class each is: student and teacher
may differ in C.

Two samples are as similar as their soft labels point the same way: the cosine, between 0 and 1. A
student may match all similarities and still name the classes in another order, so these losses
stand beside one of ``fedkd.training.losses`` wherever classes matter. T softens and is no factor:
nothing here is a divergence of soft labels.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fedkd.fusion import soften

Scalar = Float[Tensor, ""]


def similarities(
    probs: Float[Tensor, "N C"], anchors: Float[Tensor, "A C"]
) -> Float[Tensor, "N A"]:
    """Return the cosine between each soft label and each anchor's: 1 where they are equal, 0 where
    none is shared.

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
    """Return ``mean_ij (S^student_ij - S^teacher_ij)^2`` over all pairs of a batch, S the cosines
    of soft labels.

    Between 0 and 1. One sample alone, or a student that equals the teacher, gives 0. It is no mean
    over samples of a term for each: the size of the batch, whose pairs are all that is compared, is
    part of the loss. A batch's Gram matrices are compared as by Tung & Mori (2019, arXiv
    1907.09682) and in the relation distillation of LLaVA-KD (Cai et al. 2024, arXiv 2410.16236);
    both relate features or visual tokens, ours soft labels.
    """
    probs = soften(student_logits, temperature)
    return (similarities(probs, probs) - similarities(target_probs, target_probs)).square().mean()


def match_anchors(
    student_logits: Float[Tensor, "N C"],
    target_probs: Float[Tensor, "N D"],
    student_anchors: Float[Tensor, "A C"],
    target_anchors: Float[Tensor, "A D"],
    temperature: float = 1.0,
    *,
    anchor_temperature: float = 0.1,
) -> Scalar:
    """Return ``mean_x KL(r(x) || s(x))`` in nats, r and s the teacher's and the student's place
    among the anchors.

    ``s(x) = softmax over a of cos(p(x), p(a)) / anchor_temperature``, r(x) the same of the
    teacher's soft labels. Anchors are A samples that both have predicted before: their soft labels
    are fixed, so this is a mean over samples of a term for each. After COMODO (Chen et al. 2025,
    arXiv 2503.07259), whose anchors are a queue of the teacher's embeddings and serve both sides;
    giving each side its own is what lets C and D differ. One anchor says nothing: the loss is 0.
    """
    probs = soften(student_logits, temperature)
    student = F.log_softmax(similarities(probs, student_anchors) / anchor_temperature, dim=-1)
    teacher = F.log_softmax(similarities(target_probs, target_anchors) / anchor_temperature, dim=-1)
    return (teacher.exp() * (teacher - student)).sum(dim=-1).mean()
