"""The study that asks an aggregator about a client never met, on made-up predictions."""

import pytest
import torch
from torch import Tensor

from fedkd.cli.studies import unseen


def predictions(samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return soft labels of four clients of which one is sure and right, the others less sure of
    one wrong class."""
    stream = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 5, (samples,), generator=stream)
    logits = 0.3 * torch.randn(4, samples, 5, generator=stream)
    logits[0, torch.arange(samples), labels] += 4.0
    logits[1:, torch.arange(samples), (labels + 1) % 5] += 2.5
    return logits.softmax(dim=-1), labels


@pytest.mark.slow
def test_an_aggregator_that_can_tell_who_is_right_beats_the_mean_on_other_samples() -> None:
    public, labels = predictions(200, 1)
    asked, truth = predictions(100, 2)
    uniform, learned = unseen.accuracies_of(public, labels, asked, truth)
    assert uniform < 0.2
    assert learned > 0.95
