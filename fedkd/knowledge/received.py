"""Checks of received arrays that kinds of knowledge share. Not for: what the arrays mean."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from fedkd.errors import UploadRejected


def check_names(arrays: Mapping[str, np.ndarray], *names: str) -> None:
    """Raise UploadRejected unless the arrays have exactly these names.

    >>> check_names({"ids": np.zeros(2)}, "ids", "rows")
    Traceback (most recent call last):
    fedkd.errors.UploadRejected: expected the arrays ids and rows, got ids
    """
    if set(arrays) != set(names):
        came = ", ".join(sorted(arrays)) or "none"
        raise UploadRejected(f"expected the arrays {' and '.join(names)}, got {came}")


def check_numbers(name: str, tensor: Tensor, shape: tuple[int, ...], largest: float) -> None:
    """Raise UploadRejected unless a tensor has a shape and finite values of some magnitude.

    Args:
        name: What it is, for the error.
        tensor: The tensor.
        shape: Its shape.
        largest: The largest magnitude of a value.

    >>> check_numbers("rows", torch.ones(2, 3), (2, 2), 1.0)
    Traceback (most recent call last):
    fedkd.errors.UploadRejected: expected rows [2, 2], got [2, 3]
    """
    if tuple(tensor.shape) != shape:
        raise UploadRejected(f"expected {name} {list(shape)}, got {list(tensor.shape)}")
    if not torch.isfinite(tensor).all():
        raise UploadRejected(f"{name} contains NaN or infinity")
    if tensor.numel() and tensor.abs().max() > largest:
        raise UploadRejected(f"{name} is as large as {tensor.abs().max():.3g}; at most {largest:g}")
