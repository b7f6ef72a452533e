"""Whole runs: they repeat, they learn, they exchange, and a client's trouble stays its own."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from finished import finished_records
from flwr.app import ConfigRecord, RecordDict
from tiny import mean, records, scenario

from fedkd.errors import RunError
from fedkd.experiment.build import build
from fedkd.experiment.run import run
from fedkd.federation.round_records import PointFigures
from fedkd.flower import client_app
from fedkd.flower import records as encoded
from fedkd.flower.wire_arrays import pack_arrays
from fedkd.knowledge import KnowledgeType
from fedkd.messages import Upload

DISTILLED, TRAINED = "global_accuracy_after_distillation", "global_accuracy_after_training"
PUBLIC_BYTES_PER_ROW = 4 * 10 + 4  # ten float32 values and an int32 id


def test_the_same_seed_gives_the_same_knowledge_and_another_seed_does_not() -> None:
    first, again, other = finished_records(), records(), records(seed=1)
    assert first[-1].knowledge_sha256 == again[-1].knowledge_sha256 is not None
    assert first[-1].clients[0].train_loss == again[-1].clients[0].train_loss
    assert first[-1].knowledge_sha256 != other[-1].knowledge_sha256


@pytest.mark.parametrize("workers", [2, 3])
def test_the_number_of_workers_changes_nothing(workers: int) -> None:
    alone, together = finished_records(), records(engine={"name": "local", "workers": workers})
    for one, other in zip(alone, together, strict=True):
        assert one.knowledge_sha256 == other.knowledge_sha256
        for point in ("distillation", "training"):
            assert [c.after(point) for c in one.clients] == [c.after(point) for c in other.clients]


def test_a_model_with_dropout_repeats_at_any_number_of_workers() -> None:
    runs = [
        records(models=["toys:dropping"], engine={"name": "local", "workers": n}) for n in (1, 1, 3)
    ]
    assert len({run[-1].knowledge_sha256 for run in runs}) == 1


def test_a_run_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002  # the global state is what this test is about
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    records(models=["mlp", "toys:dropping"])
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002


def test_the_seed_of_the_global_generators_does_not_reach_a_run() -> None:
    torch.manual_seed(1)
    first = finished_records(models=["toys:dropping"])
    torch.manual_seed(2)
    assert first[-1].knowledge_sha256 == records(models=["toys:dropping"])[-1].knowledge_sha256


def test_local_only_exchanges_nothing() -> None:
    last = finished_records(strategy="local_only")[-1]
    assert last.knowledge_sha256 is None
    assert {c.bytes_up for c in last.clients} == {c.bytes_down for c in last.clients} == {0}
    assert last.weights is not None
    assert torch.equal(last.weights, torch.eye(4))


@pytest.mark.parametrize("strategy", ["fedmd", "dsfl", "knfu"])
def test_what_travels_is_counted_as_it_is_encoded(strategy: str) -> None:
    """40 public rows of 10 float32 values and an int32 id; the server asks for them by id too."""
    payload = 40 * PUBLIC_BYTES_PER_ROW
    request = 40 * 4
    for client in finished_records(strategy=strategy)[-1].clients:
        assert client.bytes_up == payload
        assert client.bytes_down == payload + request


def test_distillation_first_uses_the_teacher_of_the_round_before() -> None:
    first, second = finished_records(round_order="distill_first")
    assert all(c.distill_loss is None for c in first.clients)
    assert all(c.distill_loss is not None for c in second.clients)


def test_training_first_distills_in_every_round_and_one_round_is_one_shot() -> None:
    (only,) = records(rounds=1)
    assert all(c.distill_loss is not None for c in only.clients)


@pytest.mark.slow
def test_fusion_beats_local_training_by_a_wide_margin_when_data_is_scarce() -> None:
    """Fails if distillation does nothing: both runs would then be equal."""
    setting = {
        "models": ["mlp"],
        "clients": 8,
        "samples_per_client": 15,
        "rounds": 6,
        "partition": {"name": "dirichlet", "alpha": 1.0},
        "public": {"size": 200},
        "test": {"global_size": 300},
        "train": {"epochs": 5},
        "distill": {"epochs": 5},
    }
    alone = records(strategy="local_only", **setting)[-1]
    fused = records(strategy={"name": "knfu", "epd_timing": "first_round"}, **setting)[-1]
    assert mean(fused, DISTILLED) > mean(alone, TRAINED) + 0.15


@pytest.mark.slow
def test_the_weights_of_knfu_follow_the_similarity_of_labels() -> None:
    """Fails if KnFu is the mean: its weights would be uniform and correlate with nothing."""
    setting = {
        "strategy": {"name": "knfu", "beta": 1.0},
        "clients": 8,
        "models": ["mlp"],
        "samples_per_client": None,
        "rounds": 3,
        "train": {"epochs": 8},
        "partition": {"name": "pathological", "classes_per_client": 3},
        "public": {"size": 200},
    }
    weights = records(**setting)[-1].weights
    assert weights is not None
    counts = build(scenario(**setting), threading.Event()).plan.label_counts
    shares = counts / counts.sum(axis=1, keepdims=True)
    similarity = 1 - np.abs(shares[:, None] - shares[None]).sum(axis=-1) / 2
    apart = ~np.eye(8, dtype=bool)
    others = weights.numpy()[apart]
    assert others.std() > 0.01
    assert np.corrcoef(others, similarity[apart])[0, 1] > 0.5


def test_an_absent_client_keeps_its_model_and_the_record_says_so() -> None:
    rounds = records(participation=0.5, rounds=4)
    last_seen: dict[int, PointFigures] = {}
    for record in rounds:
        present = [c for c in record.clients if c.status == "ok"]
        assert len(present) == 2
        for client in record.clients:
            figures = client.after_training
            if client.status == "absent":
                assert figures == last_seen.get(client.client_id, PointFigures())
                assert client.bytes_up == client.bytes_down == 0
                assert client.distill_loss is None
            last_seen[client.client_id] = figures
        assert record.weights is not None
        gone = [c.client_id for c in record.clients if c.status == "absent"]
        assert record.weights[gone].isnan().all()
        assert not record.weights[[c.client_id for c in present]].isnan().any()
        assert (record.weights[[c.client_id for c in present]][:, gone] == 0).all()


def test_each_round_may_take_another_part_of_the_public_set() -> None:
    run = records(public={"size": 40, "per_round": 10}, rounds=3)
    assert run[-1].clients[0].bytes_up == 10 * PUBLIC_BYTES_PER_ROW
    assert len({record.knowledge_sha256 for record in run}) == 3


def test_an_upload_with_nan_is_rejected_and_recorded_and_the_round_goes_on() -> None:
    for record in finished_records(models=["mlp", "toys:diverged"]):
        assert [c.status for c in record.clients] == ["ok", "rejected", "ok", "rejected"]
        assert "NaN" in record.clients[1].reason
        assert record.clients[1].distill_loss is None
        assert record.weights is not None
        assert record.weights[1].isnan().all()
        assert record.knowledge_sha256 is not None


def test_a_round_without_any_accepted_upload_fuses_nothing_and_the_run_goes_on() -> None:
    run = records(models=["toys:diverged"])
    assert [record.knowledge_sha256 for record in run] == [None, None]
    assert all(client.status == "rejected" for record in run for client in record.clients)


def test_a_run_without_any_accepted_upload_ends_as_failed_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"no upload was accepted in any of 2 rounds.*; client 0 rejected: .*NaN"
    ):
        run(scenario(models=["toys:diverged"]), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"


@pytest.mark.parametrize("spoil", ["about", "metrics", "knowledge"])
def test_a_message_that_is_no_upload_is_rejected_and_the_round_goes_on(
    spoil: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(upload: Upload, kind: KnowledgeType) -> RecordDict:
        content = encoded.upload_content(upload, kind)
        if upload.client_id == 1:
            content[spoil] = ConfigRecord({"x": "y"})
            if spoil == "knowledge":
                content[spoil] = pack_arrays({"ids": np.zeros(3), "weights": np.zeros(3)})
        return content

    monkeypatch.setattr(client_app, "upload_content", spoiled)
    for record in records(round_order="distill_first"):
        assert [c.status for c in record.clients] == ["ok", "rejected", "ok", "ok"]
        assert record.clients[1].reason
        assert record.knowledge_sha256 is not None


def test_a_client_that_raises_is_recorded_as_failed_and_the_round_goes_on() -> None:
    for record in finished_records(models=["mlp", "toys:raising"]):
        assert [c.status for c in record.clients] == ["ok", "failed", "ok", "failed"]
        assert "this model cannot be evaluated" in record.clients[3].reason


def test_a_run_in_which_every_client_fails_ends_with_the_reason() -> None:
    with pytest.raises(
        RunError,
        match=r"round 1: 0 of 4 clients answered, min_clients=1; client 0 failed: .*evaluated",
    ):
        records(models=["toys:raising"])


def test_a_strategy_that_breaks_its_promise_ends_the_run_with_a_word_on_what_it_did() -> None:
    with pytest.raises(RunError, match="no soft labels"):
        records(strategy="toys:Broken")


def test_a_strategy_by_import_path_runs_with_its_settings() -> None:
    assert records(strategy={"name": "toys:Mean", "scale": 2.0})[-1].knowledge_sha256 is not None
    assert records(strategy={"name": "toys:Plain", "power": 2})[-1].knowledge_sha256 is not None


def test_beta_zero_is_the_strategy_that_takes_the_mean_of_soft_labels() -> None:
    knfu, unweighted_mean = (
        records(strategy={"name": "knfu", "beta": 0.0}),
        records(strategy="toys:Mean"),
    )
    assert knfu[-1].knowledge_sha256 == unweighted_mean[-1].knowledge_sha256


@pytest.mark.slow
def test_the_skew_of_a_loss_reaches_the_clients() -> None:
    own, named, other = (
        records(distill={"loss": "skewed_kl", **skew})[-1].knowledge_sha256
        for skew in ({}, {"loss_skew": 0.1}, {"loss_skew": 0.6})
    )
    assert own == named != other


def test_public_labels_reach_only_a_strategy_that_declared_them() -> None:
    run = records(strategy="toys:Labeled", public={"size": 40, "labeled": True}, rounds=1)
    assert run[0].knowledge_sha256 is not None


@pytest.mark.slow
def test_pre_training_on_the_labeled_public_set_teaches_before_the_first_round() -> None:
    setting = {
        "strategy": "local_only",
        "rounds": 1,
        "test": {"global_size": 300},
        "public": {"size": 200},
    }
    without = records(**setting)[0]
    with_labels = {
        **setting,
        "public": {"size": 200, "labeled": True},
        "train": {"public_epochs": 20},
    }
    assert mean(records(**with_labels)[0], TRAINED) > mean(without, TRAINED) + 0.3


def test_buffers_of_a_model_are_part_of_its_state() -> None:
    first, again = (
        records(models=["toys:with_batch_norm"], samples_per_client=16) for _ in range(2)
    )
    assert first[-1].knowledge_sha256 == again[-1].knowledge_sha256 is not None
