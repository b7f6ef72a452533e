"""Language models are causal, repeat from a seed, stay small, learn, and distil."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from fedkd.errors import SettingError
from fedkd.runtime.seeding import numpy_stream
from fedkd.tasks.text.corpus import embedded_corpus
from fedkd.tasks.text.language_models import (
    LANGUAGE_ZOO,
    Gru,
    LanguageModelSpec,
    probe_language,
)
from fedkd.tasks.text.text_learning import (
    accuracy_of_tokens,
    bits_per_token,
    distill,
    learn,
    predict_next,
    soft_labels,
)
from fedkd.tasks.text.vocabulary import characters_of
from fedkd.tasks.text.windows import Windows, windows
from fedkd.training.hyperparameters import Phase

TEXTS = embedded_corpus(28).texts
VOCABULARY = characters_of(TEXTS)
CUT = windows(VOCABULARY, TEXTS, 64)


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


@pytest.mark.parametrize("name", LANGUAGE_ZOO)
def test_every_model_of_the_zoo_is_causal_small_and_repeats_from_its_seed(name):
    assert 150_000 < probe_language(LanguageModelSpec(name, 40, 64)) < 700_000
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


@pytest.mark.parametrize("name", ["gru", "decoder"])
def test_a_model_learns_text_and_repeats_to_the_bit(name):
    def trained() -> nn.Module:
        model = LanguageModelSpec(name, VOCABULARY.size, 64).build(0)
        loss = learn(
            model,
            CUT,
            Phase(epochs=4, batch_size=8, learning_rate=3e-3),
            numpy_stream(0, "batches"),
        )
        assert math.isfinite(loss)
        return model

    fresh, model = LanguageModelSpec(name, VOCABULARY.size, 64).build(0), trained()
    assert bits_per_token(model, CUT) < bits_per_token(fresh, CUT) - 1
    assert accuracy_of_tokens(model, CUT) > accuracy_of_tokens(fresh, CUT) + 0.1
    assert torch.equal(predict_next(model, CUT.inputs), predict_next(trained(), CUT.inputs))


def test_bits_are_those_of_a_uniform_model_and_skip_what_has_no_target():
    model = Gru(VOCABULARY.size, 4, 4, 1)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert bits_per_token(model, CUT) == pytest.approx(math.log2(VOCABULARY.size), rel=1e-5)
    junk = Windows(torch.where(CUT.real, CUT.inputs, 0), CUT.targets)
    model = LanguageModelSpec("gru", VOCABULARY.size, 64).build(0)
    assert bits_per_token(model, junk) == pytest.approx(bits_per_token(model, CUT), rel=1e-6)


def test_a_student_comes_near_its_teacher_at_the_positions_that_are_taught():
    teacher = Gru(VOCABULARY.size, 16, 16, 1)
    with torch.no_grad():
        teacher.head.weight.mul_(6)
    places = CUT.real.flatten().nonzero().squeeze(1)
    order = places[torch.randperm(len(places), generator=torch.Generator().manual_seed(0))]
    student = LanguageModelSpec("gru", VOCABULARY.size, 64).build(0)
    target = soft_labels(teacher, CUT, order)
    apart = lambda: (soft_labels(student, CUT, order) - target).abs().sum(dim=1).mean().item()  # noqa: E731
    before = apart()
    phase = Phase(epochs=12, batch_size=8, learning_rate=3e-3)
    distill(student, CUT, order, target, phase, numpy_stream(0, "batches"))
    assert apart() < 0.5 * before


def test_a_share_of_one_learns_the_text_alone():
    places = CUT.real.flatten().nonzero().squeeze(1)
    wrong = torch.eye(VOCABULARY.size)[torch.zeros(len(places), dtype=torch.int64)]
    phase = Phase(batch_size=8)
    one, other = (LanguageModelSpec("gru", VOCABULARY.size, 64).build(0) for _ in range(2))
    distill(one, CUT, places, wrong, phase, numpy_stream(0, "batches"), own_share=1.0)
    learn(other, CUT, phase, numpy_stream(0, "batches"))
    torch.testing.assert_close(
        predict_next(one, CUT.inputs), predict_next(other, CUT.inputs), rtol=1e-3, atol=1e-3
    )
    with pytest.raises(SettingError, match="own_share must be <= 1"):
        distill(one, CUT, places, wrong, phase, numpy_stream(0, "batches"), own_share=1.5)


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
