"""Language models are causal, repeat from a seed, and stay small."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from fedkd.errors import SettingError
from fedkd.tasks.text.language_models import (
    LANGUAGE_ZOO,
    Gru,
    LanguageModelSpec,
    probe_language,
)


class Wrapped(nn.Module):
    def __init__(self, vocabulary: int, context: int) -> None:
        super().__init__()
        self.inner = Gru(vocabulary, 8, 8, 1)

    def forward(self, ids: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.inner(ids))


class LooksAhead(nn.Module):
    def __init__(self, vocabulary: int, context: int) -> None:
        super().__init__()
        self.inner = Gru(vocabulary, 8, 8, 1)

    def forward(self, ids: Tensor) -> Tensor:
        return self.inner(ids.flip(1)).flip(1)


def last_only(vocabulary: int, context: int) -> nn.Module:
    return nn.Sequential(
        nn.Embedding(vocabulary, 4), nn.Flatten(), nn.Linear(4 * context, vocabulary)
    )


@pytest.mark.fast(3)
@pytest.mark.parametrize("name", LANGUAGE_ZOO)
def test_every_model_of_the_zoo_is_causal_small_and_repeats_from_its_seed(name):
    least = {"tiny": 15_000, "small": 40_000}.get(name.rpartition("_")[2], 150_000)
    assert least < probe_language(LanguageModelSpec(name, 40, 64)) < 700_000
    assert probe_language(LanguageModelSpec(name, 2000, 64)) < 2_000_000
    architecture = LanguageModelSpec(name, 40, 64)
    before = torch.get_rng_state()
    states = [
        torch.cat([p.flatten() for p in architecture.build(seed).parameters()])
        for seed in (1, 1, 2)
    ]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_any_factory_is_taken_and_tried():
    where = f"{__name__}:"
    assert probe_language(LanguageModelSpec(where + "Wrapped", 40, 16)) > 0
    with pytest.raises(SettingError, match="is not causal"):
        probe_language(LanguageModelSpec(where + "LooksAhead", 40, 16))
    with pytest.raises(
        SettingError,
        match=r"logits \[N, L, V\] with V = 40; for N = 2, L = 16 it returned \(2, 40\)",
    ):
        probe_language(LanguageModelSpec(where + "last_only", 40, 16))
    with pytest.raises(SettingError, match="did you mean 'decoder'"):
        probe_language(LanguageModelSpec("decodr", 40, 16))
    with pytest.raises(ValueError, match="more than the decoder's context of 8"):
        LanguageModelSpec("decoder", 40, 8).build(0)(torch.zeros(1, 9, dtype=torch.int64))
