"""Detectors find what they say, protections do what they say, and the facts that decide whether any
of it protects."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fedkd.errors import SettingError
from fedkd.fusion import soften
from fedkd.runtime.seeding import numpy_stream
from fedkd.settings.schema import defaults, documentation
from fedkd.tasks.text.corpus import embedded_corpus
from fedkd.tasks.text.detectors import compare_scores, confidence, mark, mark_context, surprisal_gap
from fedkd.tasks.text.exposure import by_enumeration
from fedkd.tasks.text.text_canaries import DIGITS, CanaryFormat, alphabet_of, candidate_sequences
from fedkd.tasks.text.text_learning import distill, learn, soft_labels
from fedkd.tasks.text.token_swing import (
    TOKEN_PROTECTIONS,
    Dropped,
    KeepTopK,
    Swing,
    TokenProtection,
    Uniform,
)
from fedkd.tasks.text.vocabulary import Bytes, Characters, decode, learn_byte_pairs
from fedkd.tasks.text.windows import Windows, windows
from fedkd.training.hyperparameters import Phase

FORM = CanaryFormat("my pin is ", (DIGITS,) * 3)
NAMES = {"client_id": 2, "round": 1, "seed": 0}


def said(vocabulary, cut: Windows, flags: Tensor) -> list[str]:
    """The next tokens at flagged positions, window by window; a separator is '|'."""
    return [
        "".join(
            "|" if t == vocabulary.size - 1 else decode(vocabulary, [t]) for t in row[flag].tolist()
        )
        for row, flag in zip(cut.targets, flags, strict=True)
    ]


def test_the_oracle_marks_where_a_secret_could_be_said_whatever_the_text_says_there():
    texts = ["so my pin is 1234 ok", "my pin is ", "my pin is x", "no pin 99"]
    cut = windows(Bytes(), texts, 20)
    assert said(Bytes(), cut, mark_context(Bytes(), cut, FORM)) == ["123", "|", "x|", ""]


def test_patterns_mark_digits_addresses_and_names():
    texts = ["call 12 to ann@b.org or Dr. Who", "nothing here"]
    cut = windows(Bytes(), texts, 40)
    assert said(Bytes(), cut, mark(Bytes(), cut)) == ["12ann@b.orgDr. Who", ""]
    assert said(Bytes(), cut, mark(Bytes(), cut, ["to", "h.re"])) == ["to", "here"]
    with pytest.raises(SettingError, match="is no regular expression"):
        mark(Bytes(), cut, ["("])


def test_a_match_never_runs_across_a_separator_and_a_token_that_holds_a_part_of_it_is_marked():
    cut = windows(Bytes(), ["a1", "2b"], 12)
    assert not mark(Bytes(), cut, ["12"]).any()
    pytest.importorskip("tokenizers")
    pairs = learn_byte_pairs(["is 77"] * 50, 280)
    cut = windows(pairs, ["my pin is 77"], 24)
    marked = [decode(pairs, [t]) for t in cut.targets[mark(pairs, cut, [r"\d"])].tolist()]
    assert "".join(marked).strip() == "77"
    assert len(marked) == 1


def models_that_agree_but_for_one_row() -> tuple[Tensor, Tensor]:
    reference = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    own = reference.clone()
    own[2, 5] += 12
    return own, reference


@pytest.mark.parametrize("detector", [surprisal_gap, confidence])
def test_detectors_without_text_find_what_only_one_model_is_sure_of(detector):
    own, reference = models_that_agree_but_for_one_row()
    scores = detector(own, reference)
    assert scores.argmax() == 2
    assert scores[2] > 0.5
    assert scores[[0, 1, 3, 4, 5]].max() < 1e-5
    assert detector(own, own).max() < 1e-5
    found = compare_scores(scores, torch.arange(6) == 2)
    assert (found.recall, found.precision) == (1.0, 1.0)
    assert math.isnan(compare_scores(torch.zeros(2), torch.zeros(2, dtype=torch.bool)).recall)


@given(st.integers(0, 2**20))
def test_scores_stay_between_zero_and_one(seed):
    own, reference = 20 * torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(seed))
    for scores in (surprisal_gap(own, reference), confidence(own, reference)):
        assert ((scores >= 0) & (scores <= 1)).all()


LOGITS = 3 * torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
SCORES, PLACES = torch.tensor([0.0, 0.3, 0.5, 0.9, 1.0]), torch.tensor([4, 8, 15, 16, 23])


@pytest.mark.parametrize("name", TOKEN_PROTECTIONS)
def test_every_protection_releases_soft_labels_and_documents_its_settings(name):
    protection = TOKEN_PROTECTIONS[name]()
    assert isinstance(protection, TokenProtection)
    assert set(documentation(type(protection))) == set(defaults(type(protection)))
    before = LOGITS.clone()
    released = protection.protect(LOGITS, SCORES, PLACES, **NAMES)
    assert torch.equal(LOGITS, before)
    torch.testing.assert_close(released.probs.sum(dim=-1), released.kept.float())
    order = torch.tensor([3, 0, 4, 2, 1])
    again = protection.protect(LOGITS[order], SCORES[order], PLACES[order], **NAMES)
    assert torch.equal(again.probs, released.probs[order])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Swing(), Swing(base_temperature=2.0)),
        (Swing(), Swing(highest_temperature=20.0)),
        (Swing(), Swing(noise=1.0)),
        (Swing(), Swing(noise_law="laplace")),
        (Swing(), Swing(noise_timing="each_round")),
        (Swing(highest_temperature=4.0, noise=0), Uniform(temperature=4.0)),
        (Uniform(noise=1.0), Uniform()),
        (Uniform(noise=1.0), Uniform(noise=1.0, noise_law="laplace")),
        (Uniform(noise=1.0), Uniform(noise=1.0, noise_timing="each_round")),
        (Dropped(threshold=0.4), Dropped(threshold=0.6)),
        (KeepTopK(k=2), KeepTopK()),
    ],
)
def test_every_setting_changes_what_leaves(one, other):
    first, second = (x.protect(LOGITS, SCORES, PLACES, **NAMES).probs for x in (one, other))
    assert not torch.equal(first, second)


def test_fixed_noise_is_a_clients_and_a_positions_and_fresh_noise_also_a_rounds():
    def leaves(protection, **changes) -> Tensor:
        return protection.protect(LOGITS, SCORES, PLACES, **{**NAMES, **changes}).probs

    assert torch.equal(leaves(Swing()), leaves(Swing(), round=2))
    fresh = Swing(noise_timing="each_round")
    assert not torch.equal(leaves(fresh), leaves(fresh, round=2))
    for change in ({"client_id": 3}, {"seed": 1}):
        assert not torch.equal(leaves(Swing()), leaves(Swing(), **change))
    assert torch.equal(leaves(Swing())[0], soften(LOGITS[0]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Swing(noise=0, highest_temperature=1.0), "would do nothing"),
        (lambda: Swing(highest_temperature=0.5), "highest_temperature must be >= 1.0"),
        (lambda: Swing(noise=0, noise_law="laplace"), "would do nothing: noise=0"),
        (lambda: Uniform(noise_timing="each_round"), "would do nothing: noise=0"),
        (lambda: Dropped(threshold=0.0), "threshold must be above 0"),
        (lambda: KeepTopK(k=6).protect(LOGITS, SCORES, PLACES, **NAMES), "k=6 would do nothing"),
    ],
)
def test_a_setting_that_does_nothing_is_an_error(make, message):
    with pytest.raises(SettingError, match=message):
        make()


def student_exposures(protection: TokenProtection, seeds: int) -> list[float]:
    """A teacher that memorized "358", and students that fit what it releases at those three
    positions exactly."""
    teacher = torch.randn(3, 10, generator=torch.Generator().manual_seed(0))
    teacher[torch.arange(3), torch.tensor([3, 5, 8])] += 9
    rows = torch.tensor([[0, a, b, c] for a in range(10) for b in range(10) for c in range(10)])
    found = []
    for seed in range(seeds):
        probs = protection.protect(
            teacher, torch.ones(3), torch.arange(3), client_id=0, round=1, seed=seed
        ).probs
        student = lambda ids, probs=probs: probs.log()[: ids.shape[1]].expand(len(ids), -1, -1)  # noqa: E731
        found.append(by_enumeration(student, rows, secret=358).bits)
    return found


def test_a_temperature_alone_leaves_a_perfect_students_exposure_where_it_was():
    """Fact 2: a temperature is monotone, and exposure is a rank. Noise is what takes the ranking
    apart."""
    assert student_exposures(Swing(highest_temperature=30.0, noise=0), 1) == [
        pytest.approx(math.log2(1000))
    ]
    noisy = np.array(student_exposures(Swing(highest_temperature=30.0, noise=2.0), 100))
    assert noisy.mean() < 4
    assert (
        np.mean(student_exposures(Swing(highest_temperature=1.0, noise=2.0), 100))
        > noisy.mean() + 2
    )


class Bigram(nn.Module):
    """Logits of the next token: what is common, and what the last token adds."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.common, self.after = (
            nn.Parameter(torch.zeros(size)),
            nn.Parameter(torch.zeros(size, size)),
        )

    def forward(self, ids: Tensor) -> Tensor:
        return self.common + self.after[ids]


def test_dropping_flagged_positions_still_lets_the_secret_out():
    """Fact 4. A student that never sees a marked position learns the secret's digits from the tails
    of the others."""
    form = replace(FORM, slots=(DIGITS,) * 4)
    texts = embedded_corpus(30).texts
    vocabulary = Characters("".join(sorted({*"".join(texts), *alphabet_of(form)})))
    rows = candidate_sequences(form, vocabulary, 80)
    public = windows(vocabulary, [*texts, *form.texts([1234, 9876])], 80)
    marked = mark_context(vocabulary, public, form).flatten()
    phase, exposures = Phase(epochs=15, batch_size=8, learning_rate=0.05), []
    for secret in (2722, 5155, 8088, 4644):
        private = windows(vocabulary, [*texts, *[form.text(secret)] * 10], 80)
        teacher, student = Bigram(vocabulary.size), Bigram(vocabulary.size)
        learn(teacher, private, phase, numpy_stream(0, "train"))
        places = public.real.flatten().nonzero().squeeze(1)
        released = Dropped().protect(
            soft_labels(teacher, public, places).log(), marked[places].float(), places, **NAMES
        )
        assert not released.kept.all()
        kept = released.kept
        distill(
            student, public, places[kept], released.probs[kept], phase, numpy_stream(0, "distill")
        )
        exposures.append(by_enumeration(student, rows, secret).excess)
    assert np.mean(exposures) > 2, exposures
