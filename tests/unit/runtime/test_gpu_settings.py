"""What a GPU found, tested where there is none."""

import sys

import pytest
import torch

from fedkd.flower.engine_run import on_device
from fedkd.flower.local_grid import Local
from fedkd.models.factory import borrowed_global_generator
from fedkd.runtime.devices import _fills_memory, deterministic
from fedkd.training.hyperparameters import Phase
from fedkd.training.optimizers import Optimizer
from fedkd.training.precision import describe_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_a_gpus_generators_are_seeded_and_given_back_too(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.Generator().manual_seed(5)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "default_generators", (gpu,))
    before = gpu.get_state()

    with borrowed_global_generator(3):
        first = torch.rand(4, generator=gpu)
    assert torch.equal(gpu.get_state(), before)
    with borrowed_global_generator(3):
        assert torch.equal(torch.rand(4, generator=gpu), first)


def test_attention_takes_plain_products_on_a_gpu_and_is_left_as_it_was() -> None:
    cuda = torch.backends.cuda

    def allowed() -> tuple[bool, bool, bool, bool]:
        return (
            cuda.math_sdp_enabled(),
            cuda.flash_sdp_enabled(),
            cuda.mem_efficient_sdp_enabled(),
            cuda.cudnn_sdp_enabled(),
        )

    before = allowed()
    with deterministic(CUDA):
        assert allowed() == (True, False, False, False)
    assert allowed() == before


def test_on_a_gpu_new_memory_is_not_filled_and_the_compiler_is_not_loaded() -> None:
    def now() -> tuple[bool, int, bool]:
        return (
            _fills_memory(),
            torch.get_deterministic_debug_mode(),
            "torch._inductor" in (sys.modules),
        )

    before = now()
    with deterministic(CUDA):
        assert now() == (False, 1, before[2])
    assert now() == before


def test_one_thread_works_on_a_gpu_unless_more_are_asked_for() -> None:
    assert on_device(Local(), CUDA) == Local(workers=1)
    assert on_device(Local(workers=3), CUDA) == Local(workers=3)
    assert on_device(Local(), CPU) == Local()


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_on_a_gpu_adam_is_one_kernel_that_goes_on_from_a_state_of_the_cpu(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    phase = Phase(optimizer=name, weight_decay=0.1, optimizer_state="kept")  # type: ignore[arg-type]

    def stepped(fused: bool) -> list[torch.Tensor]:
        weights = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2, 2))]
        optimizer = Optimizer(weights, phase)
        for step in range(4):
            if step == 2:  # the state comes from a checkpoint, which is the same on all devices
                stored = {k: v.clone() for k, v in optimizer.tensors().items()}
                monkeypatch.setattr("fedkd.training.optimizers.is_fused", lambda _: fused)
                optimizer = Optimizer(weights, phase)
                optimizer.restore(stored)
            for i, weight in enumerate(weights):
                weight.grad = torch.full_like(weight, 0.1 * (step + 1) * (i - 0.5))
            optimizer.step()
        return [weight.detach() for weight in weights]

    seen: list[bool] = []
    original = torch._fused_adamw_ if name == "adamw" else torch._fused_adam_
    monkeypatch.setattr(
        torch, original.__name__, lambda *a, **k: seen.append(True) or original(*a, **k)
    )
    for alone, fused in zip(stepped(False), stepped(True), strict=True):
        torch.testing.assert_close(alone, fused)
    assert len(seen) == 2


def test_the_summary_can_say_what_is_in_tf32() -> None:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = True, False
    try:
        assert describe_precision("default", CUDA) == "float32, convolutions in TF32"
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
    assert describe_precision("default", CPU) == "float32"
    assert describe_precision("bf16", CPU).startswith("bfloat16")
