"""Where a run computes, and in such a way that it computes the same again."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fedkd.errors import SettingError


def choose_device(setting: str) -> torch.device:
    """Return the device to compute on; SettingError where CUDA is asked for and there is none."""
    if setting == "cuda" and not torch.cuda.is_available():
        raise SettingError(
            "device=cuda, but PyTorch finds no CUDA device here; use device=cpu or device=auto"
        )
    return torch.device(
        "cuda" if setting == "cuda" or (setting == "auto" and torch.cuda.is_available()) else "cpu"
    )


def describe_device(device: torch.device, setting: str) -> str:
    """Return the device in words, a GPU by its name. Where clients run elsewhere, only ``setting``
    is known here.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return {"cuda": "CUDA of the cluster"}.get(setting, "CPU")


def set_deterministic(device: torch.device) -> None:
    """Let this process repeat its sums on ``device`` from now on.

    Each of torch's calls gets one thread: faster on small models, and the same sums for any number
    of workers. On a GPU torch takes algorithms that give the same bits again, and warns of an
    operation that has none.
    """
    torch.set_num_threads(1)
    if device.type == "cuda":
        os.environ.setdefault(
            "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
        )  # cuBLAS, which reads it once, repeats only so
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Fused backward passes may not repeat, and fail where clients train together.
        _fused_attention((False, False, False))


def _fused_attention(allowed: tuple[bool, bool, bool]) -> None:
    """Allow attention's fused kernels on a GPU: flash, memory-efficient, cuDNN's."""
    cuda = torch.backends.cuda
    cuda.enable_flash_sdp(allowed[0])
    cuda.enable_mem_efficient_sdp(allowed[1])
    cuda.enable_cudnn_sdp(allowed[2])


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """``settle`` for as long as the context lasts."""
    threads, cudnn = torch.get_num_threads(), torch.backends.cudnn
    flags = cudnn.deterministic, cudnn.benchmark
    cuda = torch.backends.cuda
    fused = cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.cudnn_sdp_enabled()
    mode, warns = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    set_deterministic(device)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if (
            device.type == "cuda"
        ):  # asked in vain, use_deterministic_algorithms would load the compiler: a second
            cudnn.deterministic, cudnn.benchmark = flags
            _fused_attention(fused)
            torch.use_deterministic_algorithms(mode, warn_only=warns)
