"""Public positions that are asked about, against their definition by masks."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.tasks.task import batch_device
from fedkd.tasks.text.asked_positions import AskedPositions
from fedkd.tasks.text.windows import Windows
from fedkd.training.losses import kl
from fedkd.training.relational_losses import match_similarities

WINDOWS, CONTEXT, TOKENS = 5, 7, 4
ASKED = torch.tensor([(i % 3 == 0) or (i // CONTEXT == 2) for i in range(WINDOWS * CONTEXT)])
"""Three or two of a window's positions, and all of the third one's."""


def asked(label_share: float = 0.0) -> AskedPositions:
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(TOKENS, (2, WINDOWS, CONTEXT), generator=generator)
    cells = ASKED.nonzero().squeeze(1)
    shuffled = cells[torch.randperm(len(cells), generator=generator)]
    return AskedPositions.of(Windows(text[0], text[1]), shuffled, label_share)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(TOKENS, 6), nn.Linear(6, TOKENS))


@pytest.mark.parametrize("label_share", [0.0, 0.25])
def test_what_is_distilled_are_the_masked_positions_to_the_bit(label_share: float):
    positions, target = asked(label_share), torch.rand(int(ASKED.sum()), TOKENS).softmax(-1)
    batch = torch.tensor([2, 0, 4])

    def compare(logits: Tensor, rows: Tensor) -> Tensor:
        related = match_similarities(logits, target[rows])
        return kl(logits, target[rows], 2.0) + related

    found, expected = model(), model()
    positions.taught_loss(found, batch, compare).backward()
    mask, logits = positions.rows[batch] >= 0, expected(positions.inputs[batch])
    loss = compare(logits[mask], positions.rows[batch][mask])
    if label_share:
        own = F.cross_entropy(logits.flatten(0, 1), positions.targets[batch].flatten())
        loss = label_share * own + (1 - label_share) * loss
    loss.backward()
    for one, other in zip(found.parameters(), expected.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.equal(one.grad, other.grad)


def test_predictions_are_in_the_order_of_ids():
    positions, student = asked(), model()
    found, logits = positions.predict(student), student(positions.inputs)
    mask = positions.rows >= 0
    assert torch.equal(found[positions.rows[mask]], logits[mask])


def test_batches_come_to_the_host_where_it_is_known_what_they_hold():
    assert batch_device(asked()) == torch.device("cpu")
