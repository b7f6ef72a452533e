"""What a GPU found, tested where there is none."""

import pytest
import torch

from fedkd.models.factory import borrowed_global_generator
from fedkd.runtime.devices import deterministic


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
    with deterministic(torch.device("cuda")):
        assert allowed() == (True, False, False, False)
    assert allowed() == before
