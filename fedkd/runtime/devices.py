"""Device selection and deterministic execution."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fedkd.errors import SettingError


def choose_device(setting: str) -> torch.device:
    """Return the device that ``setting`` ("cpu", "cuda" or "auto") names on this machine.

    "auto" is CUDA where PyTorch finds it, else the CPU. Raises SettingError for "cuda" without a
    CUDA device.
    """
    if setting == "cuda" and not torch.cuda.is_available():
        raise SettingError(
            "device=cuda, but PyTorch finds no CUDA device here; use device=cpu or device=auto"
        )
    return torch.device(
        "cuda" if setting == "cuda" or (setting == "auto" and torch.cuda.is_available()) else "cpu"
    )


def describe_device(device: torch.device, setting: str) -> str:
    """Return a readable name of the device: a GPU's model, or "CPU".

    On the Ray engine clients may run on another machine, where only the ``setting`` is known.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return {"cuda": "CUDA of the cluster"}.get(setting, "CPU")


def set_deterministic(device: torch.device) -> None:
    """Make this process compute deterministically on ``device`` from now on.

    Every torch operation runs on one thread: faster on small models, and the same sums at any
    number of workers. On a GPU torch uses deterministic algorithms, and warns of an operation that
    has none.
    """
    torch.set_num_threads(1)
    if device.type == "cuda":
        # cuBLAS is deterministic only with a fixed workspace, and reads this variable once.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Fused backward passes may not be deterministic, and fail under torch.func.vmap.
        _allow_fused_attention(flash=False, memory_efficient=False, cudnn=False)


def _allow_fused_attention(*, flash: bool, memory_efficient: bool, cudnn: bool) -> None:
    """Enable or disable each of the fused attention kernels on a GPU."""
    cuda = torch.backends.cuda
    cuda.enable_flash_sdp(flash)
    cuda.enable_mem_efficient_sdp(memory_efficient)
    cuda.enable_cudnn_sdp(cudnn)


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Compute deterministically within the context; restore torch's settings afterwards."""
    cuda, cudnn, threads = torch.backends.cuda, torch.backends.cudnn, torch.get_num_threads()
    cudnn_flags = cudnn.deterministic, cudnn.benchmark
    fused = {
        "flash": cuda.flash_sdp_enabled(),
        "memory_efficient": cuda.mem_efficient_sdp_enabled(),
        "cudnn": cuda.cudnn_sdp_enabled(),
    }
    mode = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    set_deterministic(device)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        # Not on a CPU, where use_deterministic_algorithms would load the compiler: a second.
        if device.type == "cuda":
            cudnn.deterministic, cudnn.benchmark = cudnn_flags
            _allow_fused_attention(**fused)
            torch.use_deterministic_algorithms(mode, warn_only=warn_only)
