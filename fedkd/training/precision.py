"""The precision that a model computes in: 32-bit floats, TF32, or bfloat16 by PyTorch's autocast.

Weights, their updates and all that leaves a model (logits) are 32-bit floats in each of them.
"""

from typing import Any, Literal

import torch
from torch import nn

from fedkd.errors import SettingError

Precision = Literal["default", "fp32", "tf32", "bf16"]


def _check(precision: Precision, device: torch.device) -> None:
    if precision == "tf32" and device.type != "cuda":
        raise SettingError(
            f"precision=tf32 would do nothing on device={device.type}: TF32 is of NVIDIA's GPUs;"
            " use fp32 or bf16"
        )
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise SettingError("precision=bf16: this GPU has no bfloat16; use fp32")


_before: dict[str, bool] = {}
"""What this process allowed TF32 in before a run said otherwise."""


def set_precision(precision: Precision, device: torch.device) -> None:
    """Allow or forbid TF32 in this process's matrix products and convolutions on a GPU.

    ``default`` and ``bf16`` leave it as PyTorch, or the program that runs fedkd, had it. Raises
    SettingError where the device does not have the precision.
    """
    _check(precision, device)
    if device.type != "cuda":
        return
    said = {"fp32": False, "tf32": True}.get(precision)
    if said is not None:
        _before.setdefault("matmul", torch.backends.cuda.matmul.allow_tf32)
        _before.setdefault("cudnn", torch.backends.cudnn.allow_tf32)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = said
    elif _before:
        torch.backends.cuda.matmul.allow_tf32 = _before.pop("matmul")
        torch.backends.cudnn.allow_tf32 = _before.pop("cudnn")


def describe_precision(precision: Precision, device: torch.device) -> str:
    """Return what models compute in on a device, in words, once a run has set it.

    >>> describe_precision("default", torch.device("cpu"))
    'float32'
    """
    if precision == "bf16":
        return "bfloat16, weights and logits float32"
    if device.type != "cuda":
        return "float32"
    cuda = {
        "products": torch.backends.cuda.matmul.allow_tf32,
        "convolutions": torch.backends.cudnn.allow_tf32,
    }
    rounded = [name for name, allowed in cuda.items() if allowed]
    return f"float32, {' and '.join(rounded)} in TF32" if rounded else "float32"


def in_precision(model: nn.Module, precision: Precision, device: torch.device) -> nn.Module:
    """Return a model that computes in a precision, and puts out 32-bit floats: the same module."""
    if precision != "bf16":
        return model
    forward = model.forward

    def in_bfloat16(*inputs: Any, **named: Any) -> Any:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            found = forward(*inputs, **named)
        return found.float() if isinstance(found, torch.Tensor) else found

    model.forward = in_bfloat16
    return model
