"""Targets and sample weights of distillation, made from a client's teacher and its own predictions.

Pure functions over the soft labels of one client's public samples; nothing here sees labels.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Rows = Float[Tensor, "N C"]


def teacher_is_surer(teacher_probs: Rows, self_probs: Rows) -> Bool[Tensor, "N"]:
    """Return flags of the samples on which the teacher's confidence is above the client's own.

    Confidence is the largest probability.
    """
    return teacher_probs.max(dim=-1).values > self_probs.max(dim=-1).values


def gate_by_confidence(teacher_probs: Rows, self_probs: Rows) -> Rows:
    """Return the teacher's soft label where the teacher is more confident, else the client's own.

    ``self_probs`` are the client's predictions before it distills, and stay fixed while it does: on
    those samples it distills its own knowledge. This is the unsupervised data-partitioned transfer
    of Roth et al. (2023, arXiv 2310.17653), who distill at temperature 1. Both must be softened at
    one temperature, or the sharper one wins. A uniform teacher is never taken; a client whose own
    soft labels are uniform takes any other.

    >>> teacher = torch.tensor([[0.9, 0.1], [0.5, 0.5]])
    >>> gate_by_confidence(teacher, torch.tensor([[0.2, 0.8], [0.3, 0.7]]))
    tensor([[0.9000, 0.1000],
            [0.3000, 0.7000]])
    """
    return torch.where(
        teacher_is_surer(teacher_probs, self_probs)[:, None], teacher_probs, self_probs
    )


def margin_weights(teacher_probs: Rows) -> Float[Tensor, "N"]:
    """Return sample weights: the margin of the teacher's two largest probabilities, with mean 1.

    The teacher's margin ``s_1 - s_2`` tends to be small on a sample that is like none of the
    classes, which so counts less: WAD's weight for public sets with foreign samples (ICCV 2023).
    The paper was not available to us: the margin is as we found it summarized, the scaling is ours.
    Weights are between 0 and N; where all margins are 0, all weights are 1.

    >>> margin_weights(torch.tensor([[0.75, 0.25], [0.5, 0.5]])).tolist()
    [2.0, 0.0]
    """
    largest = teacher_probs.topk(2, dim=-1).values
    margins = largest[:, 0] - largest[:, 1]
    mean = margins.mean()
    return torch.where(mean > 0, margins / mean, torch.ones_like(margins))
