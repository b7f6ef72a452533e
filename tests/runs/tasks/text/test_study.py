"""A small federation on text: what is trained on is exposed, what is not is not, and a run
repeats."""

import math
import statistics
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fedkd.errors import SettingError
from fedkd.messages import Cohort, Fusion
from fedkd.privacy.mechanisms.dp_sgd import DpSgd
from fedkd.tasks.text.corpus import embedded_corpus
from fedkd.tasks.text.language_models import Decoder, Gru
from fedkd.tasks.text.text_canaries import DIGITS, CanaryFormat, alphabet_of
from fedkd.tasks.text.text_study import Kept, Shared, Study, run_shared, run_study
from fedkd.tasks.text.token_swing import Dropped, Swing, TokenProtection
from fedkd.tasks.text.vocabulary import characters_of
from fedkd.training.hyperparameters import Phase

CORPUS = embedded_corpus(70)
FORM = CanaryFormat("pin ", (DIGITS,) * 2)
VOCABULARY = characters_of([*CORPUS.texts, alphabet_of(FORM)])
QUICK = Phase(epochs=8, batch_size=4, learning_rate=1e-2)


def tiny(vocabulary_size: int, context: int) -> Gru:
    return Gru(vocabulary_size, width=24, hidden=48, layers=1)


STUDY = Study(
    clients=2,
    models=(f"{__name__}:tiny",),
    canaries=(FORM,),
    repeats=10,
    held_out=6,
    visit_times=10,
    context=40,
    train=QUICK,
    distill=QUICK,
)


class Mean:
    """The mean of soft labels; a personal teacher each, where asked."""

    def __init__(
        self, knowledge: str = "probs", teaches: str = "probs", personal: bool = False
    ) -> None:
        self.knowledge, self.teaches, self.personal = knowledge, teaches, personal

    def fuse(self, cohort: Cohort, state: Any) -> Fusion:
        values: Tensor = cohort.logits if self.teaches == "logits" else cohort.probs
        teacher = values.mean(dim=0)
        weights = torch.full((cohort.size, cohort.size), 1 / cohort.size)
        return Fusion(
            weights=weights, teachers=teacher.expand_as(values) if self.personal else teacher
        )


def small_decoder(vocabulary_size: int, context: int) -> Decoder:
    return Decoder(vocabulary_size, context, width=32, heads=2, layers=1)


def run(
    protection: TokenProtection | None = None,
    strategy: Mean | None = None,
    seed: int = 0,
    **changes: Any,
):
    return run_study(
        replace(STUDY, **changes), CORPUS, VOCABULARY, strategy or Mean(), protection, seed
    )


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


@pytest.mark.slow
def test_a_run_repeats_and_how_the_strategy_takes_and_gives_soft_labels_does_not_matter():
    fast = {"train": replace(QUICK, epochs=1), "distill": replace(QUICK, epochs=1)}
    first = run(**fast)
    assert run(**fast) == first
    assert run(strategy=Mean(personal=True), **fast) == first
    assert run(seed=1, **fast) != first
    logits = run(strategy=Mean(knowledge="logits"), **fast)
    assert logits.test_bits["server_student"] == pytest.approx(
        first.test_bits["server_student"], abs=0.01
    )
    assert math.isfinite(
        run(strategy=Mean("logits", "logits"), rounds=2, **fast).test_bits["server_student"]
    )


FAST = {"train": replace(QUICK, epochs=1), "distill": replace(QUICK, epochs=1)}
OTHER = replace(FORM, prefix="code ")


@pytest.mark.slow
def test_memorized_secrets_reach_the_ceiling_of_several_forms_in_an_overfitted_client():
    """99 candidates are left without the other client's secret: log2 99 is the most that there
    is."""
    overfitted = run(
        canaries=(FORM, OTHER),
        repeats=20,
        train=replace(QUICK, epochs=16),
        distill=replace(QUICK, epochs=1),
    )
    assert [x.bits for x in overfitted.exposures["own_model"]] == pytest.approx([math.log2(99)] * 4)
    assert {name: len(x) for name, x in overfitted.exposures.items()} == {
        "own_model": 4,
        "server_uploads": 4,
        "server_student": 4,
        "peers": 4,
    }


def test_what_runs_share_changes_no_figure():
    study, shared = replace(STUDY, **FAST), Shared(CORPUS, VOCABULARY, 0)
    first = run_shared(study, shared, Mean(), None)
    assert run_shared(replace(study, detector="confidence"), shared, Mean(), Swing()) != first
    assert run_shared(study, shared, Mean(), None) == first == run(**FAST)
    assert run_shared(replace(study, visits="prefix"), shared, Mean(), None) == run(
        visits="prefix", **FAST
    )


@pytest.mark.parametrize(("timing", "away"), [("fixed", False), ("each_round", True)])
def test_what_a_server_keeps_of_all_rounds_takes_fresh_noise_away_and_not_fixed(timing, away):
    """Fact 3 as the server_uploads adversary uses it: over 400 rounds the error of a logit falls
    from 2 to 0.1."""
    logits = torch.tensor([[9.0, 1.0, 0.0, 2.0]])
    swing, keeper = Swing(highest_temperature=1.0, noise=2.0, noise_timing=timing), Kept(1, 1, 4)
    for round in range(1, 401):
        one = swing.protect(
            logits, torch.ones(1), torch.tensor([3]), client_id=0, round=round, seed=0
        )
        keeper.add(one.probs[None], one.kept)
    ever, averages = keeper.averages()
    assert ever.tolist() == [True]
    error = (averages[0].log() - torch.log_softmax(logits, dim=-1)).abs().max().item()
    assert (error < 0.5) == away


def test_a_server_keeps_only_what_came_and_a_single_round_as_it_came():
    keeper = Kept(1, 2, 2)
    keeper.add(torch.tensor([[[0.25, 0.75]]]), torch.tensor([False, True]))
    ever, averages = keeper.averages()
    assert ever.tolist() == [False, True]
    torch.testing.assert_close(averages, torch.tensor([[[0.25, 0.75]]]))


@pytest.mark.slow
def test_dp_sgd_teachers_are_decoders_that_repeat_and_forget():
    private = {
        "models": (f"{__name__}:small_decoder",),
        "train_privately": DpSgd(noise_multiplier=4.0, delta=1e-3),
    }
    quick = {
        "distill": replace(QUICK, epochs=1),
        "train": replace(QUICK, batch_size=8),
        "canaries": (FORM, OTHER),
    }
    outcome = run(**private, **quick)
    assert run(**private, **quick) == outcome
    plain = run(**{**private, "train_privately": None}, **quick)
    assert outcome.mean_exposure("own_model") < plain.mean_exposure("own_model") - 2
    with pytest.raises(SettingError, match="dp_sgd cannot train"):
        run(train_privately=DpSgd(epsilon=4.0, delta=1e-3), **quick)


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
        ({"canaries": ()}, "at least one form"),
        ({"canaries": (FORM, FORM)}, "need contexts of their own"),
        ({"train_again": 1}, "train_again=1 would do nothing"),
        ({"context": 5}, "a canary of 6 tokens"),
        ({"clients": 8}, "7 topics cannot be divided among 8"),
        ({"models": ("lstm",)}, "unknown language model"),
    ],
)
def test_settings_that_do_not_fit_are_errors(changes, message):
    with pytest.raises(SettingError, match=message):
        run(**changes)
