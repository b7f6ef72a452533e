"""Device selection and deterministic execution."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils.deterministic
from torch import Tensor

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


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host's memory on a device, for which nobody waits."""
    return tensor if device.type == "cpu" else tensor.to(device, non_blocking=True)


def reads_wait(device: torch.device) -> bool:
    """Return whether reading a value waits until a device has done all that comes before it."""
    return device.type != "cpu"


def copy_into(targets: Mapping[str, Tensor], sources: Mapping[str, Tensor]) -> None:
    """Copy tensors into those of the same names, on a device all in one call.

    ``sources`` may hold others too.
    """
    pairs = [(target, sources[name].detach()) for name, target in targets.items()]
    apart = [(a, b) for a, b in pairs if a.device.type == "cpu" or b.device != a.device]
    joined = [(a, b) for a, b in pairs if a.device.type != "cpu" and b.device == a.device]
    with torch.no_grad():
        for target, source in apart:
            target.copy_(source, non_blocking=source.device.type == "cpu")
        if joined:
            torch._foreach_copy_([a for a, _ in joined], [b for _, b in joined])


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that are free on a GPU; None where that is not known."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def wait_for(device: torch.device) -> None:
    """Wait until a device has done all that it was asked to."""
    if device.type != "cpu" and torch.accelerator.is_available():
        torch.accelerator.synchronize(device)


def set_deterministic(device: torch.device) -> None:
    """Make this process compute deterministically on ``device`` from now on.

    Every torch operation runs on one thread: faster on small models, and the same sums at any
    number of workers. On a GPU torch uses deterministic algorithms, and warns of an operation that
    has none.
    """
    torch.set_num_threads(1)
    if device.type == "cuda":
        # cuBLAS is deterministic with the fixed workspace that fedkd/__init__.py asks for.
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        # As use_deterministic_algorithms does, which would load the compiler: a second.
        torch.set_deterministic_debug_mode("warn")
        # A third of all kernels filled memory that was overwritten at once. It guards against
        # reading what nothing wrote, and changes no bit of what is computed.
        _fill_memory(False)
        # Fused backward passes may not be deterministic, and fail under torch.func.vmap.
        _allow_fused_attention(flash=False, memory_efficient=False, cudnn=False)


def _fill_memory(wanted: bool) -> None:
    """Say whether new memory is filled where algorithms are deterministic."""
    switch: Any = torch.utils.deterministic
    switch.fill_uninitialized_memory = wanted


def _fills_memory() -> bool:
    """Return whether new memory is filled where algorithms are deterministic."""
    switch: Any = torch.utils.deterministic
    return bool(switch.fill_uninitialized_memory)


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
    mode = torch.get_deterministic_debug_mode()
    fills = _fills_memory()
    set_deterministic(device)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if device.type == "cuda":
            cudnn.deterministic, cudnn.benchmark = cudnn_flags
            _allow_fused_attention(**fused)
            _fill_memory(fills)
            torch.set_deterministic_debug_mode(mode)
