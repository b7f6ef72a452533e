"""A small federation on text: what is trained on is exposed, what is not is not, and a run repeats."""

import math
import statistics
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fedkd.errors import SettingError
from fedkd.messages import Cohort, Fusion
from fedkd.text.canaries import DIGITS, CanaryFormat, alphabet_of
from fedkd.text.corpus import embedded_corpus
from fedkd.text.models import Gru
from fedkd.text.study import Study, run_study
from fedkd.text.swing import Dropped, Swing, TokenProtection
from fedkd.text.vocabulary import characters_of
from fedkd.training import Phase

CORPUS = embedded_corpus(70)
FORM = CanaryFormat("pin ", (DIGITS,) * 2)
VOCABULARY = characters_of([*CORPUS.texts, alphabet_of(FORM)])
QUICK = Phase(epochs=8, batch_size=4, learning_rate=1e-2)


def tiny(vocabulary_size: int, context: int) -> Gru:
    return Gru(vocabulary_size, width=24, hidden=48, layers=1)


STUDY = Study(
    clients=2,
    models=(f"{__name__}:tiny",),
    canary=FORM,
    repeats=10,
    held_out=6,
    visit_times=10,
    context=40,
    train=QUICK,
    distill=QUICK,
)


class Mean:
    """The mean of soft labels; a personal teacher each, where asked."""

    def __init__(self, knowledge: str = "probs", teaches: str = "probs", personal: bool = False) -> None:
        self.knowledge, self.teaches, self.personal = knowledge, teaches, personal

    def fuse(self, cohort: Cohort, state: Any) -> Fusion:
        values: Tensor = cohort.logits if self.teaches == "logits" else cohort.probs
        teacher = values.mean(dim=0)
        weights = torch.full((cohort.size, cohort.size), 1 / cohort.size)
        return Fusion(weights=weights, teachers=teacher.expand_as(values) if self.personal else teacher)


def run(protection: TokenProtection | None = None, strategy: Mean | None = None, seed: int = 0, **changes: Any):
    return run_study(replace(STUDY, **changes), CORPUS, VOCABULARY, strategy or Mean(), protection, seed)


def test_inserted_secrets_are_exposed_to_their_model_and_controls_are_not():
    outcome = run()
    assert outcome.mean_exposure("own_model") > 4
    controls = statistics.fmean(x.bits for x in outcome.controls["own_model"])
    assert controls < 3
    assert {name: len(x) for name, x in outcome.exposures.items()} == {
        "own_model": 2,
        "server_uploads": 2,
        "server_student": 2,
        "peers": 2,
    }
    assert {len(x) for x in outcome.controls.values()} == {12, 6}
    assert len(outcome.rows()) == 4
    assert (outcome.found.recall, outcome.found.precision) == (1.0, 1.0)
    assert outcome.test_bits["clients_after"] < math.log2(VOCABULARY.size)


def test_a_run_repeats_and_how_the_strategy_takes_and_gives_soft_labels_does_not_matter():
    fast = {"train": replace(QUICK, epochs=1), "distill": replace(QUICK, epochs=1)}
    first = run(**fast)
    assert run(**fast) == first
    assert run(strategy=Mean(personal=True), **fast) == first
    assert run(seed=1, **fast) != first
    logits = run(strategy=Mean(knowledge="logits"), **fast)
    assert logits.test_bits["server_student"] == pytest.approx(first.test_bits["server_student"], abs=0.01)
    assert math.isfinite(run(strategy=Mean("logits", "logits"), rounds=2, **fast).test_bits["server_student"])


@pytest.mark.parametrize("detector", ["pattern", "surprisal_gap", "confidence"])
@pytest.mark.parametrize("protection", [Swing(), Dropped()])
def test_every_detector_serves_every_protection(detector, protection):
    fast = {"train": replace(QUICK, epochs=1), "distill": replace(QUICK, epochs=1)}
    outcome = run(protection, detector=detector, visits="prefix", own_share=0.2, **fast)
    assert all(math.isfinite(x.bits) for view in outcome.exposures.values() for x in view)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"visits": "never"}, "visit_times=10 would do nothing"),
        ({"clients": 1}, "clients must be >= 2"),
        ({"models": ()}, "must name at least one"),
        ({"context": 5}, "a canary of 6 tokens"),
        ({"clients": 8}, "7 topics cannot be divided among 8"),
        ({"models": ("lstm",)}, "unknown language model"),
    ],
)
def test_settings_that_do_not_fit_are_errors(changes, message):
    with pytest.raises(SettingError, match=message):
        run(**changes)
