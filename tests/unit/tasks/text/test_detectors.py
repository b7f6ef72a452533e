"""Detectors find in a text what they say, and two facts that decide whether swing protects."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedkd.errors import SettingError
from fedkd.privacy.mechanisms.swing import Swing
from fedkd.runtime.seeding import numpy_stream
from fedkd.tasks.text.asked_positions import AskedPositions
from fedkd.tasks.text.corpus import embedded_corpus
from fedkd.tasks.text.detectors import compare_scores, mark, mark_contexts
from fedkd.tasks.text.exposure import among_all, chance_exposure, log_perplexity
from fedkd.tasks.text.text_canaries import DIGITS, CanaryFormat, alphabet_of, candidate_sequences
from fedkd.tasks.text.vocabulary import Bytes, Characters, decode, learn_byte_pairs
from fedkd.tasks.text.windows import IGNORED, Windows, windows
from fedkd.training.hyperparameters import Phase
from fedkd.training.loop import optimize
from fedkd.training.losses import kl

FORM = CanaryFormat("my pin is ", (DIGITS,) * 3)


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
    assert said(Bytes(), cut, mark_contexts(Bytes(), cut, [FORM])) == ["123", "|", "x|", ""]


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


def test_an_oracle_marks_the_contexts_of_several_formats():
    forms = [FORM, replace(FORM, prefix="code ")]
    cut = windows(Bytes(), ["my pin is 123", "code 45"], 40)
    assert said(Bytes(), cut, mark_contexts(Bytes(), cut, forms)) == ["12345|"]


def test_recall_and_precision_are_shares_of_what_matters_and_of_what_was_found():
    found = compare_scores(torch.tensor([0.5, 0.4, 0.9]), torch.tensor([True, True, False]))
    assert (found.recall, found.precision) == (0.5, 0.5)
    assert math.isnan(compare_scores(torch.zeros(2), torch.zeros(2, dtype=torch.bool)).recall)


def student_exposures(protection: Swing, seeds: int) -> np.ndarray:
    """A teacher that memorized "358", and students that fit what it releases at those three
    positions exactly."""
    teacher = torch.randn(3, 10, generator=torch.Generator().manual_seed(0))
    teacher[torch.arange(3), torch.tensor([3, 5, 8])] += 9
    rows = torch.tensor([[0, a, b, c] for a in range(10) for b in range(10) for c in range(10)])
    found = []
    for seed in range(seeds):
        noise = protection.draw(torch.arange(3), 10, seed, client_id=0, round_number=1)
        logits = protection.release(teacher, "logits", torch.ones(3), noise)
        student = lambda ids, z=logits: z[: ids.shape[1]].expand(len(ids), -1, -1)  # noqa: E731
        found.append(among_all(log_perplexity(student, rows), secret=358))
    return np.array(found)


@pytest.mark.slow
def test_a_temperature_alone_leaves_a_perfect_students_exposure_where_it_was():
    """Fact 2: a temperature is monotone, and exposure is a rank. Noise is what takes the ranking
    apart."""
    alone = student_exposures(Swing(max_temperature=30.0, noise=0), 1)
    assert alone == pytest.approx(math.log2(1000))
    noisy = student_exposures(Swing(max_temperature=30.0, noise=2.0), 100)
    assert noisy.mean() < 4
    cool = student_exposures(Swing(max_temperature=1.0, noise=2.0), 100)
    assert cool.mean() > noisy.mean() + 2


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


def asked_about(text: Windows, which: Tensor) -> AskedPositions:
    return AskedPositions.of(text, which.flatten().nonzero().squeeze(1))


@pytest.mark.slow
def test_skipping_marked_positions_still_lets_the_secret_out():
    """Fact 4. A student that never sees a marked position learns the secret's digits from the tails
    of the others."""
    form = replace(FORM, slots=(DIGITS,) * 4)
    texts = embedded_corpus(30).texts
    vocabulary = Characters("".join(sorted({*"".join(texts), *alphabet_of(form)})))
    candidates = candidate_sequences(form, vocabulary, 80)
    public = windows(vocabulary, [*texts, *form.texts([1234, 9876])], 80)
    asked = asked_about(public, public.real & ~mark_contexts(vocabulary, public, [form]))
    assert asked.count < public.positions
    phase, exposures = Phase(epochs=15, batch_size=8, learning_rate=0.05), []
    for secret in (2722, 5155, 8088, 4644):
        private = windows(vocabulary, [*texts, *[form.text(secret)] * 10], 80)
        teacher, student = Bigram(vocabulary.size), Bigram(vocabulary.size)

        def learn(batch: Tensor, model: Any = teacher, text: Windows = private) -> Tensor:
            logits = model(text.inputs[batch]).flatten(0, 1)
            return nn.functional.cross_entropy(
                logits, text.targets[batch].flatten(), ignore_index=IGNORED
            )

        optimize(teacher, len(private.inputs), learn, phase, numpy_stream(0, "train"))
        probs = asked.predict(teacher).softmax(dim=-1)

        def distill(batch: Tensor, model: Any = student, target: Tensor = probs) -> Tensor:
            return asked.taught_loss(model, batch, lambda logits, rows: kl(logits, target[rows]))

        optimize(student, asked.size, distill, phase, numpy_stream(0, "distill"))
        exposures.append(among_all(log_perplexity(student, candidates), secret))
    assert np.mean(exposures) - chance_exposure(10_000) > 2, exposures
