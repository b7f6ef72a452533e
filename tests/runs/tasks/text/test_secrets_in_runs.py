"""Secrets in clients' texts: who learns them in a run, what stops it, and when a run shows
nothing."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_text import CANARIES, text_experiment, text_records, text_scenario

from fedkd.audit.secret_exposure import UploadHistory, summarized, void_because
from fedkd.errors import SettingError
from fedkd.experiment.resume import resume
from fedkd.experiment.run import run
from fedkd.report.console import text_lines
from fedkd.report.folder import stored_records
from fedkd.scenario.registry import create
from fedkd.settings.schema import parse
from fedkd.tasks.text.exposure import chance_exposure
from fedkd.tasks.text.language_models import LanguageModelSpec
from fedkd.tasks.text.secrets import TextCanaries, plant
from fedkd.tasks.text.text_canaries import alphabet_of
from fedkd.tasks.text.vocabulary import Bytes, Characters

LEARNING: dict[str, Any] = {
    "text_canaries": {**CANARIES, "slots": "dddd", "repeats": 10, "held_out": 8, "visit_times": 12},
    "models": ["tiny_text:small_gru"],
    "train": {"epochs": 4, "batch_size": 4, "learning_rate": 1e-2},
    "distill": {"epochs": 4, "batch_size": 4, "learning_rate": 1e-2},
    "strategy": {"name": "dsfl", "aggregation": "mean"},
}

STRONG = {"max_temperature": 100.0, "noise": 8.0}


def exposure(path: Path, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = run(text_scenario(**{**LEARNING, **changes}), path)["exposure"]
    return found


@pytest.mark.slow
def test_what_was_learned_leaks_to_everybody_and_what_was_not_inserted_does_not(
    tmp_path: Path,
) -> None:
    plain = exposure(tmp_path / "plain")
    means = {name: found["inserted"]["mean"] for name, found in plain["by_adversary"].items()}
    assert plain["void"] is None
    assert plain["ceiling"] == pytest.approx(math.log2(9_999))
    assert means["own_model"] > 0.9 * math.log2(10_000)
    assert means["server_uploads"] > chance_exposure(9_999) + 4
    for found in plain["by_adversary"].values():
        assert found["excess"] == pytest.approx(found["inserted"]["mean"] - chance_exposure(9_999))
        assert abs(found["held_out"]["mean"] - chance_exposure(10_000)) < 1.5
    swung = exposure(tmp_path / "swung", privacy={"name": "swing", "detector": "oracle", **STRONG})
    less = {name: found["inserted"]["mean"] for name, found in swung["by_adversary"].items()}
    assert less["own_model"] == means["own_model"]
    assert less["server_uploads"] < means["server_uploads"] - 3
    assert swung["detector"] == {"recall": 1.0, "precision": 1.0}
    records = stored_records(tmp_path / "swung", 1)
    assert records[-1].exposure == swung
    assert resume(text_scenario(**LEARNING), tmp_path / "plain")["exposure"] == plain


@pytest.mark.slow
def test_a_run_whose_clients_did_not_learn_their_secrets_says_that_it_is_void(
    tmp_path: Path,
) -> None:
    canaries = {**LEARNING["text_canaries"], "repeats": 1}
    found = exposure(
        tmp_path / "run", text_canaries=canaries, train={"epochs": 1}, distill={"epochs": 1}
    )
    assert "what was not learned cannot leak" in found["void"]
    lines = text_lines({"exposure": found, "bits_per_token": {"balanced test": 2.0}})
    assert lines[-1].startswith("VOID: the clients' own models expose")
    assert "nobody's secrets were measured" in str(void_because([], 6.6))


@pytest.mark.fast(0)
@pytest.mark.parametrize(
    ("detector", "recall"), [("pattern", 1.0), ("surprisal_gap", None), ("confidence", None)]
)
def test_detectors_are_judged_by_where_secrets_could_be_said(
    detector: str, recall: float | None, tmp_path: Path
) -> None:
    found = exposure(
        tmp_path / "run",
        privacy={"name": "swing", "detector": detector},
        train={"epochs": 1},
        distill={"epochs": 1},
    )["detector"]
    assert found["recall"] is not None
    assert recall is None or found["recall"] == recall


def test_noise_is_fixed_for_a_client_and_a_position() -> None:
    """A second round, whose models have moved, has the noise of the first; or, as a control, noise
    of its own."""
    context = text_experiment(
        **LEARNING, privacy={"name": "swing", "detector": "everywhere"}
    ).context
    enforcer, ids = context.enforcer, torch.tensor([3, 9])
    rows = _predictions(ids, torch.zeros(2, context.task.classes))

    def released(client_id: int, round_number: int) -> torch.Tensor:
        turn = enforcer.client_round(client_id, round_number, records=10, memory={})
        values: torch.Tensor = enforcer.protect(rows, turn, torch.ones(2))[0].values
        return values

    first, second = released(0, 1), released(0, 2)
    assert torch.equal(first, second)
    other = released(1, 1)
    assert not torch.equal(first, other)


def _predictions(ids: torch.Tensor, values: torch.Tensor) -> Any:
    from fedkd.messages import Predictions

    return Predictions(ids=ids, values=values, scale="logits")


ONE_TEACHER: dict[str, Any] = {
    "clients": 1,
    "models": ["tiny_text:small_decoder"],
    "strategy": {"name": "dsfl", "aggregation": "mean"},
    "text_canaries": {
        **CANARIES,
        "slots": "dddddd",
        "visits": "secrets",
        "references": 100,
        "exact_below": 5,
        "student": "tiny_text:small_gru",
    },
}


@pytest.mark.slow
def test_one_teacher_has_one_student_of_the_model_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []
    build = LanguageModelSpec.build
    monkeypatch.setattr(
        LanguageModelSpec,
        "build",
        lambda self, seed: (built.append(self.name), build(self, seed))[1],
    )
    found = exposure(tmp_path / "run", **ONE_TEACHER, train={"epochs": 1})
    assert built[-1] == "tiny_text:small_gru"
    # The mean of one client's upload is that upload, and there are no peers.
    assert list(found["by_adversary"]) == ["own_model", "server_student"]
    assert found["ceiling"] == pytest.approx(math.log2(1_000_000))
    for one in found["by_adversary"].values():
        assert one["sampling"]["low"] <= one["inserted"]["mean"] <= one["sampling"]["high"]
    lines = text_lines({"exposure": found, "bits_per_token": None})
    assert f"({found['by_adversary']['own_model']['sampling']['low']:.2f} to" in lines[1]


def test_a_student_that_is_no_other_model_is_refused() -> None:
    for student, message in (
        ("tiny_text:small_decoder", "would do nothing"),
        ("gruu", "student=gruu: unknown"),
    ):
        canaries = {**ONE_TEACHER["text_canaries"], "student": student}
        with pytest.raises(SettingError, match=message):
            text_experiment(**{**ONE_TEACHER, "text_canaries": canaries})


def test_each_client_holds_its_own_secrets_as_often_as_asked() -> None:
    context = text_experiment(text_canaries={**CANARIES, "per_client": 3, "repeats": 2}).context
    secrets = context.task.secrets
    assert [len(secrets.of(i)) for i in range(2)] == [3, 3]
    assert len({c.index for c in (*secrets.inserted, *secrets.controls)}) == 6 + 4
    for client in range(2):
        texts = secrets.insert_into([], client)
        assert sorted(texts) == sorted(
            secrets.settings.forms[0].text(c.index) for c in secrets.of(client) for _ in range(2)
        )
    rows = context.division.train[0]
    alone = context.task.prepared.texts(rows)
    windows = context.task.training_set(rows, (0,))[0]
    assert windows.numel() > sum(map(len, alone))


def test_the_public_text_visits_the_context_as_asked() -> None:
    for visits, times in (("never", None), ("prefix", 6), ("fillings", 6), ("secrets", 6)):
        task = text_experiment(
            text_canaries={**CANARIES, "visits": visits, "visit_times": times}
        ).context.task
        # Of a filling, two tokens and what follows are where a secret could be said; of a prefix
        # its end alone.
        expected = {"never": 0, "prefix": 6, "fillings": 12, "secrets": 12}
        assert int(task.flagged().sum()) == expected[visits]


def test_secrets_may_be_ranked_among_some_fillings() -> None:
    pin = create("text_canaries", {"name": "pin", "references": 200}).value
    secrets = plant(pin, Bytes(), 64, clients=2, seed=0)
    assert len(secrets.by_form[0].candidates) == 200 + 2 + 8
    assert secrets.candidates == 201
    ranks = [max(0.0, math.log2(200 / rank)) for rank in range(1, 202)]
    assert secrets.chance == pytest.approx(sum(ranks) / 201)
    assert secrets.ceiling == pytest.approx(math.log2(200))
    model = torch.nn.Embedding(257, 257)
    (bits,) = secrets.exposures(model, [(*secrets.inserted, *secrets.controls)])
    assert all(0 <= value <= secrets.ceiling for value in bits)


def test_slots_are_written_as_letters() -> None:
    form = create("text_canaries", {"name": "phone"}).value.forms[0]
    assert form.text(0) == "call me at 555-20-000"
    assert form.size == 80_000
    assert (
        create("text_canaries", {"name": "email"}).value.forms[0].text(1)
        == "write to aaab@example.org"
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"slots": "aaaaaaaa"}, "give references"),
        ({"slots": "dd", "references": 100}, "not fewer than the 100 fillings"),
        ({"slots": "dd", "visit_times": None}, "visit_times must be given"),
        ({"slots": "dd", "per_client": 0}, "per_client must be >= 1"),
    ],
)
def test_canaries_that_cannot_be_measured_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        parse(TextCanaries, {"prefix": "pin ", **fields}, "text_canaries")


def test_a_decoder_is_trained_by_dp_sgd_and_a_gru_is_refused() -> None:
    private = {"privacy": {"name": "dp_sgd", "noise_multiplier": 1.0}}
    (record,) = text_records(models=["tiny_text:small_decoder"], train={"epochs": 1}, **private)
    assert all(client.epsilon is not None and client.epsilon > 0 for client in record.clients)
    with pytest.raises(SettingError, match="dp_sgd cannot find the gradients of single samples"):
        text_experiment(models=["tiny_text:small_gru"], **private)


def test_an_oracle_needs_canaries_and_a_pattern_needs_text() -> None:
    with pytest.raises(SettingError, match="oracle needs to know the canaries"):
        text_experiment(privacy={"name": "swing", "detector": "oracle"})


def test_a_summary_has_means_and_medians() -> None:
    found = summarized([1.0, 2.0, 9.0], [1.0], chance=1.4)
    assert (found["inserted"]["mean"], found["inserted"]["median"]) == (4.0, 2.0)


class Recites(torch.nn.Module):
    """A model that has learned some texts by heart: it knows each one's next tokens, and nothing
    else."""

    def __init__(self, rows: torch.Tensor, size: int) -> None:
        super().__init__()
        self.rows, self.size = rows, size
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*ids.shape, self.size)
        for n, row in enumerate(ids):
            for t in range(len(row)):
                begun = (self.rows[:, : t + 1] == row[: t + 1]).all(dim=1)
                if t + 1 < self.rows.shape[1]:
                    logits[n, t, self.rows[begun, t + 1]] += 20.0
        return logits


def test_ten_secrets_that_were_learned_by_heart_are_at_the_ceiling() -> None:
    """Each is ranked without the other nine, which the model knows as well. Among all candidates
    the ten would average log2(100) - log2(10!) / 10 = 4.46 of 6.64 bits, and the run be void."""
    pin = parse(TextCanaries, {"prefix": "pin ", "slots": "dd", "per_client": 10}, "text_canaries")
    vocabulary = Characters(alphabet_of(pin.forms[0]))
    secrets = plant(pin, vocabulary, 16, clients=1, seed=0)
    assert len(secrets.inserted) == 10
    model = Recites(
        secrets.by_form[0].candidates[[c.index for c in secrets.inserted]], vocabulary.size
    )
    own, controls = secrets.exposures(model, [secrets.inserted, secrets.controls])
    assert own == pytest.approx([secrets.ceiling] * 10)
    assert secrets.ceiling == pytest.approx(math.log2(91))
    assert void_because(own, secrets.ceiling) is None
    assert max(controls) < secrets.ceiling


def test_names_make_contexts_of_their_own() -> None:
    settings = {
        **CANARIES,
        "prefix": "pin of {name}: ",
        "names": ["anna", "boris"],
        "per_client": 2,
    }
    task = text_experiment(text_canaries=settings).context.task
    secrets = task.secrets
    assert [form.prefix for form in secrets.settings.forms] == ["pin of anna: ", "pin of boris: "]
    assert len(secrets.of(0)) == len(secrets.not_of(0)) == 4
    assert len(secrets.controls) == 2 * 4
    anna, boris = (one.inserted for one in secrets.by_form)
    assert [c.index for c in anna] != [c.index for c in boris]
    texts = secrets.insert_into([], 0)
    assert sum(text.startswith("pin of anna: ") for text in texts) == 2 * 6
    assert sum(text.startswith("pin of boris: ") for text in texts) == 2 * 6
    assert int(task.flagged().sum()) == 2 * 6 * 2
    (bits,) = secrets.exposures(torch.nn.Embedding(task.classes, task.classes), [boris])
    assert len(bits) == len(boris)


def test_a_history_is_the_mean_of_logarithms_of_what_came() -> None:
    """Noise that is fresh each round averages out in it; noise that is fixed stays."""
    logits, ids = torch.randn(3, 5), torch.tensor([4, 1, 2])
    fixed, fresh = UploadHistory(6, 5), UploadHistory(6, 5)
    noise = torch.randn(400, 3, 5)
    for each in noise:
        fixed.add(ids, (logits + noise[0]).softmax(-1))
        fresh.add(ids, (logits + each).softmax(-1))
    for history, expected in ((fixed, logits + noise[0]), (fresh, logits)):
        known, probs = history.mean()
        assert known.tolist() == [1, 2, 4]
        torch.testing.assert_close(
            probs[[2, 0, 1]], expected.softmax(-1), atol=0.1 if history is fresh else 1e-5, rtol=0
        )
