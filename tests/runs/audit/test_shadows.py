"""Shadow models, trained as the client was on inclusion bits of their own, and LiRA with them."""

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import scenario

from fedkd.audit.audit_run import audit_run
from fedkd.audit.audit_settings import check_shadows
from fedkd.audit.decoding import teachers_by_client
from fedkd.audit.membership_inference import lira_offline
from fedkd.audit.record_canaries import Candidates
from fedkd.audit.shadows import ShadowModels, train_shadows
from fedkd.errors import SettingError
from fedkd.experiment.build import Experiment, build
from fedkd.experiment.run import run
from fedkd.storage.client_states import DiskStore
from fedkd.storage.transcript import read_transcript
from fedkd.training.loop import predict

CANARIES = {"name": "canaries", "per_client": 4}


def experiment_of(folder: Path, **changes: Any) -> Experiment:
    given = {"strategy": "fedmd", "models": ["mlp"], "audit": CANARIES, **changes}
    return build(scenario(**given), threading.Event(), folder)


def shadows_of(experiment: Experiment, count: int = 4, teachers: Any = None) -> ShadowModels:
    assert experiment.candidates is not None
    return train_shadows(
        experiment.context,
        experiment.candidates,
        teachers or {},
        rounds=2,
        distills_first=False,
        count=count,
        seed=5,
    )


def test_every_candidate_is_in_half_of_the_shadows_and_inclusion_differs_between_candidates(
    tmp_path: Path,
) -> None:
    shadows = shadows_of(experiment_of(tmp_path), 6)
    assert shadows.included.shape == (6, 16)
    assert (shadows.included.sum(axis=0) == 3).all()
    assert len({tuple(column) for column in shadows.included.T}) > 8  # of 20 ways


@pytest.mark.slow
def test_what_shadows_do_leaves_no_trace_in_the_run_and_repeats(tmp_path: Path) -> None:
    experiment = experiment_of(tmp_path)
    before = [experiment.context.store.get(i) for i in range(4)]
    first, again = shadows_of(experiment), shadows_of(experiment)
    assert before == [experiment.context.store.get(i) for i in range(4)] == [None] * 4
    np.testing.assert_array_equal(first.logits, again.logits)
    np.testing.assert_array_equal(first.uploads[2], again.uploads[2])
    assert not np.array_equal(
        first.logits[0], first.logits[1]
    )  # each starts from weights of its own


@pytest.mark.slow
def test_a_shadow_with_a_runs_inclusion_and_streams_is_the_runs_client(
    tmp_path: Path, monkeypatch: Any
) -> None:
    given = scenario(strategy="fedmd", models=["mlp"], audit={**CANARIES, "adversaries": ["lab"]})
    experiment = build(given, threading.Event(), tmp_path / "again")
    run(given, tmp_path / "run")
    assert experiment.candidates is not None
    context, candidates = experiment.context, experiment.candidates
    monkeypatch.setattr("fedkd.audit.shadows.derive", lambda *_: context.seed)
    monkeypatch.setattr(
        "fedkd.audit.shadows._half_of_shadows", lambda count, n, _: np.tile(own, (count, 1))
    )
    assert context.kind is not None
    teachers = teachers_by_client(read_transcript(tmp_path / "run", "clients"), context.kind)
    for client in range(4):
        own = candidates.included[candidates.client_ids == client]
        here = candidates.client_ids == client
        alone = Candidates(
            candidates.rows[here], candidates.client_ids[here], candidates.labels[here], own
        )
        shadows = train_shadows(
            context, alone, teachers, rounds=2, distills_first=False, count=2, seed=0
        )
        ((_, answered),) = read_transcript(tmp_path / "run", "lab").of("query", client)
        trained = context.own_model(client, DiskStore(tmp_path / "run" / "states"))
        inputs, _ = context.task.test_set(alone.rows)
        np.testing.assert_array_equal(shadows.logits[0], predict(trained, inputs).numpy())
        # The run predicts on all candidates at once, and products of few rows may round otherwise.
        np.testing.assert_allclose(
            shadows.logits[0], answered["logits"][here], rtol=1e-4, atol=1e-6
        )
        sent = [
            arrays["logits"]
            for _, arrays in read_transcript(tmp_path / "run", "server").of("upload", client)
        ]
        probs = np.mean(
            [torch.softmax(torch.from_numpy(rows).double(), 1).numpy() for rows in sent], axis=0
        )
        np.testing.assert_allclose(shadows.uploads[client][0], probs, atol=1e-7)


@pytest.mark.slow
def test_shadows_learn_the_candidates_that_fell_in(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"samples_per_client": 40, "train": {"epochs": 40, "batch_size": 8}}
    audit = {**CANARIES, "per_client": 12}
    experiment = experiment_of(tmp_path, **settings, audit=audit, clients=2)
    shadows = shadows_of(experiment)
    assert experiment.candidates is not None
    right = shadows.logits.argmax(axis=-1) == experiment.candidates.labels
    assert right[shadows.included].mean() > 0.8  # mislabeled records that a shadow trained on
    assert right[~shadows.included].mean() < 0.3


def test_offline_lira_takes_the_models_that_did_not_see_a_record() -> None:
    margins = np.array([[-1.0, 9.0], [1.0, 2.0], [7.0, 4.0]])
    included = np.array([[False, True], [False, False], [True, False]])
    # without: -1 and 1 of the first record, 2 and 4 of the second; pooled variance (2 + 2) / 2
    np.testing.assert_allclose(
        lira_offline(np.array([2.0, 3.0]), margins, included), [2 / 2**0.5, 0.0]
    )
    with pytest.raises(SettingError, match="a model trained without it"):
        lira_offline(np.array([2.0, 3.0]), margins, np.ones((3, 2), bool))


@pytest.mark.slow
def test_the_command_trains_the_same_shadows_as_the_run(tmp_path: Path) -> None:
    from fedkd.cli.audit import main

    audit = {**CANARIES, "adversaries": ["server", "lab"], "shadows": 4}
    settings: dict[str, Any] = {
        "strategy": "dsfl",
        "round_order": "distill_first",
        "public": {"size": 20},
        "clients": 3,
    }
    run(scenario(models=["mlp"], audit=audit, **settings), tmp_path / "run")
    before = (tmp_path / "run" / "audit.json").read_bytes()
    assert b"surrogate: LiRA online" in before
    assert b"query: LiRA offline" in before
    assert main([str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "audit.json").read_bytes() == before
    assert main([str(tmp_path / "run"), "--shadows", "5"]) == 2


@pytest.mark.slow
def test_a_server_that_is_sent_weights_asks_them_and_shadows_are_measured_where_they_send(
    tmp_path: Path,
) -> None:
    audit = {**CANARIES, "per_client": 12, "shadows": 4}
    settings: dict[str, Any] = {
        "samples_per_client": 40,
        "train": {"epochs": 30, "batch_size": 8},
        "clients": 3,
    }
    run(scenario(strategy="fedavg", models=["mlp"], audit=audit, **settings), tmp_path / "run")
    entry = json.loads((tmp_path / "run" / "summary.json").read_text())["audit"]
    assert set(entry["attacks"]) == {
        f"weights: {name}"
        for name in (
            "loss threshold",
            "difficulty calibrated",
            "co-op LiRA",
            "LiRA offline",
            "LiRA online",
        )
    }
    assert min(found["auc"] for found in entry["attacks"].values()) > 0.7


def test_what_cannot_be_attacked_says_why(tmp_path: Path) -> None:
    run(scenario(strategy="fd", models=["mlp"], audit=CANARIES), tmp_path / "run")
    study = audit_run(tmp_path / "run", "server")
    assert study.attacks == ()
    assert any("ClassTables" in reason or "Table" in reason for reason in study.skipped)


@pytest.mark.parametrize("count", [2, 5, 258, -2])
def test_shadows_come_in_even_numbers_that_are_bounded(count: int) -> None:
    with pytest.raises(SettingError, match="even number from 4 to 256"):
        check_shadows(count)


@pytest.mark.parametrize(
    ("audit", "message"),
    [
        ({"name": "store", "shadows": 8}, "audit=store has no candidates"),
        ({**CANARIES, "shadows": 8, "adversaries": ["clients"]}, "no single client's model"),
    ],
)
def test_shadows_that_would_do_nothing_are_refused(audit: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        scenario(audit=audit)
