"""Nothing of a training step makes the host wait for a device: what Python reads is counted."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fedkd.training.hyperparameters import Phase
from fedkd.training.loop import accuracy, optimize
from fedkd.training.metrics import (
    expected_calibration_error,
    negative_log_likelihood,
    quality_in_one_read,
)


class Reads(TorchDispatchMode):
    """Counts what would wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += operation._schema.name in (
            "aten::_local_scalar_dense",
            "aten::nonzero",
            "aten::equal",
            "aten::is_nonzero",
        )
        return operation(*args, **(kwargs or {}))


def test_a_phase_is_waited_for_once_whatever_its_steps() -> None:
    model, x, y = nn.Linear(4, 3), torch.randn(40, 4), torch.arange(40) % 3
    for batch_size in (20, 4):
        with Reads() as reads:
            optimize(
                model,
                40,
                lambda batch: F.cross_entropy(model(x[batch]), y[batch]),
                Phase(epochs=2, batch_size=batch_size, optimizer="sgd"),  # Adam counts on the CPU
                np.random.default_rng(0),
            )
        assert reads.count == 1


def test_the_quality_of_a_model_is_that_of_its_figures_one_by_one() -> None:
    logits, labels = torch.randn(30, 4), torch.arange(30) % 4
    strange = logits.clone()
    strange[0, 1], strange[1] = torch.nan, torch.nan
    for each in (logits, strange):
        right, nll, error = quality_in_one_read(each, labels)
        probs = each.softmax(-1)
        assert right == accuracy(each, labels)
        np.testing.assert_equal(nll, negative_log_likelihood(probs, labels))
        np.testing.assert_equal(error, expected_calibration_error(probs, labels))
