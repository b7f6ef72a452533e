"""Opacus' DPOptimizer with noise from a NumPy generator.

Torch's CPU generator uses 32 bits of its seed.

Of a hundred thousand such generators two are expected to be the same, and two sums with the same
noise differ by gradients alone. Importing this module imports Opacus.
"""

from typing import Any

import numpy as np
import torch
from opacus.optimizers import DPOptimizer
from opacus.optimizers.optimizer import _check_processed_flag, _mark_as_processed


class StreamDPOptimizer(DPOptimizer):  # type: ignore[misc]
    """``DPOptimizer`` that draws its noise from ``stream``, on any device.

    Clipping, scaling and steps are Opacus'.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, *, stream: np.random.Generator, **settings: Any
    ) -> None:
        """Wrap ``optimizer`` with the ``settings`` of ``DPOptimizer``, but for a generator."""
        super().__init__(optimizer, **settings)
        self.stream = stream

    def add_noise(self) -> None:
        """Add noise to each parameter's clipped and summed gradient, one after another."""
        deviation = self.noise_multiplier * self.max_grad_norm
        for p in self.params:
            _check_processed_flag(p.summed_grad)
            noise = deviation * torch.from_numpy(self.stream.standard_normal(p.summed_grad.shape))
            p.grad = (p.summed_grad + noise.to(p.summed_grad)).view_as(p)
            _mark_as_processed(p.summed_grad)
