"""Opacus' DPOptimizer with noise from a NumPy generator, for gradients that may overflow.

Torch's CPU generator uses 32 bits of its seed: of a hundred thousand such generators two are
expected to be the same, and two sums with the same noise differ by gradients alone. A sample whose
gradient is not finite counts as zero, since clipping makes NaN of it: 0 times infinity. Importing
this module imports Opacus.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from opacus.optimizers import DPOptimizer
from opacus.optimizers.optimizer import _check_processed_flag, _mark_as_processed
from torch import Tensor


class StreamDPOptimizer(DPOptimizer):  # type: ignore[misc]
    """``DPOptimizer`` that draws its noise from ``stream``, on any device.

    Scaling and steps are Opacus', and so is clipping, of finite gradients: whatever a sample is, it
    moves the sum by at most the clip norm.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, *, stream: np.random.Generator, **settings: Any
    ) -> None:
        """Wrap ``optimizer`` with the ``settings`` of ``DPOptimizer``, but for a generator."""
        super().__init__(optimizer, **settings)
        self.stream = stream

    def clip_and_accumulate(self) -> None:
        """Clip and sum the samples' gradients; one that is not finite anywhere counts as zero."""
        drop_overflowing(self.params)
        super().clip_and_accumulate()

    def add_noise(self) -> None:
        """Add noise to each parameter's clipped and summed gradient, one after another."""
        deviation = self.noise_multiplier * self.max_grad_norm
        for p in self.params:
            _check_processed_flag(p.summed_grad)
            noise = deviation * torch.from_numpy(self.stream.standard_normal(p.summed_grad.shape))
            p.grad = (p.summed_grad + noise.to(p.summed_grad)).view_as(p)
            _mark_as_processed(p.summed_grad)


def drop_overflowing(parameters: Sequence[Any]) -> None:
    """Replace the gradients of each sample that has a number which is not finite by zeros.

    All parameters of the sample, since its norm over all is then not finite either. Samples whose
    gradients are finite are left to the bit.
    """
    finite: Tensor | None = None
    for parameter in parameters:
        own = torch.isfinite(parameter.grad_sample).flatten(1).all(dim=1)
        finite = own if finite is None else finite & own
    if finite is None or bool(finite.all()):
        return
    for parameter in parameters:
        parameter.grad_sample[~finite] = 0.0
