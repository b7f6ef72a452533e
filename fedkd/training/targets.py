"""What a client makes of its teacher before it distills: whom to believe on which sample, and how
much.

Plain functions over the soft labels of one client's public samples; nothing here sees labels.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Rows = Float[Tensor, "N C"]


def teacher_is_surer(teacher_probs: Rows, self_probs: Rows) -> Bool[Tensor, "N"]:
    """Return on which samples the teacher's largest probability is above the client's own; where
    equal it is not.
    """
    return teacher_probs.max(dim=-1).values > self_probs.max(dim=-1).values


def gate_by_confidence(teacher_probs: Rows, self_probs: Rows) -> Rows:
    """Return the teacher's soft label where the teacher is surer, the client's own elsewhere.

    ``self_probs`` are the client's predictions before it distills, and stay fixed while it does: on
    those samples it is held to what it knew. This is the unsupervised data-partitioned transfer of
    Roth et al. (2023, arXiv 2310.17653), who distill at temperature 1. Both must be softened alike,
    or the sharper one wins. A uniform teacher is never believed; a client whose own soft labels are
    uniform believes any other.

    >>> gate_by_confidence(torch.tensor([[0.9, 0.1], [0.5, 0.5]]), torch.tensor([[0.2, 0.8], [0.3, 0.7]])).tolist()
    [[0.8999999761581421, 0.10000000149011612], [0.30000001192092896, 0.699999988079071]]
    """
    return torch.where(
        teacher_is_surer(teacher_probs, self_probs)[:, None], teacher_probs, self_probs
    )


def margin_weights(teacher_probs: Rows) -> Float[Tensor, "N"]:
    """Return each sample's margin ``s_1 - s_2`` between the teacher's two largest probabilities,
    scaled to mean 1.

    A sample that is like none of the classes tends to leave the teacher undecided, and so counts
    less: WAD's weight for public sets with foreign samples (ICCV 2023). The paper was not available
    to us: the margin is as we found it summarized, the scaling is ours. Weights are between 0 and
    N; where the teacher is undecided everywhere, all are 1.

    >>> margin_weights(torch.tensor([[0.75, 0.25], [0.5, 0.5]])).tolist()
    [2.0, 0.0]
    """
    largest = teacher_probs.topk(2, dim=-1).values
    margins = largest[:, 0] - largest[:, 1]
    mean = margins.mean()
    return torch.where(mean > 0, margins / mean, torch.ones_like(margins))
