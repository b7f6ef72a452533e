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

from fedkd.runtime.devices import reads_wait, sent


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
        """Add noise to each parameter's clipped and summed gradient."""
        sums = [p.summed_grad for p in self.params]
        for summed in sums:
            _check_processed_flag(summed)
        each = normal_like(sums, self.noise_multiplier * self.max_grad_norm, self.stream)
        for p, summed, noise in zip(self.params, sums, each, strict=True):
            p.grad = (summed + noise).view_as(p)
            _mark_as_processed(summed)


def normal_like(
    tensors: Sequence[Tensor], deviation: float, stream: np.random.Generator
) -> list[Tensor]:
    """Return normal noise of each tensor's shape, number type and device, sent in one copy.

    It is drawn at once, and is what tensor after tensor would draw.

    Args:
        tensors: At least one, on one device.
        deviation: The noise's standard deviation.
        stream: Where it is drawn from.
    """
    sizes = [tensor.numel() for tensor in tensors]
    drawn = torch.from_numpy(stream.standard_normal(sum(sizes))).mul_(deviation)
    first = tensors[0]
    if all(tensor.dtype == first.dtype for tensor in tensors):
        drawn = drawn.to(first.dtype)
    parts = sent(drawn, first.device).split(sizes)
    return [part.view_as(t).to(t) for part, t in zip(parts, tensors, strict=True)]


def drop_overflowing(parameters: Sequence[Any]) -> None:
    """Replace the gradients of each sample that has a number which is not finite by zeros.

    All parameters of the sample, since its norm over all is then not finite either. Samples whose
    gradients are finite are left to the bit.
    """
    finite: Tensor | None = None
    for parameter in parameters:
        own = torch.isfinite(parameter.grad_sample).flatten(1).all(dim=1)
        finite = own if finite is None else finite & own
    if finite is None or (not reads_wait(finite.device) and bool(finite.all())):
        return
    for parameter in parameters:
        found: Tensor = parameter.grad_sample
        of_sample = ~finite.view(-1, *[1] * (found.ndim - 1))
        parameter.grad_sample = found.masked_fill(of_sample, 0.0)
