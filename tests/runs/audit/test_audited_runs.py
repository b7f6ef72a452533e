"""Whole runs that store what they send, and are attacked at their end."""

import errno
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from opacus.optimizers import DPOptimizer
from tiny import scenario

from fedkd.audit.audit_settings import AUDITS
from fedkd.cli.audit import main
from fedkd.cli.command import main as simulate
from fedkd.errors import SettingError, StorageError
from fedkd.experiment.baseline import baseline_key, baseline_scenario
from fedkd.experiment.build import build
from fedkd.experiment.make_context import audit_candidates
from fedkd.experiment.resume import resume
from fedkd.experiment.run import Driver, run
from fedkd.federation.client import describe, take_part
from fedkd.federation.context import PRIVACY
from fedkd.flower.engine_grid import message_identity
from fedkd.flower.local_grid import LocalGrid
from fedkd.flower.process_clients import client_pool
from fedkd.flower.strategy_adapter import FederatedDistillation
from fedkd.messages import Download
from fedkd.privacy.stream_optimizer import StreamDPOptimizer
from fedkd.scenario.scenario import Scenario
from fedkd.storage.checkpoint import CheckpointFolder
from fedkd.storage.transcript import read_ground_truth, read_transcript

STORE = {"name": "store"}
CANARIES = {"name": "canaries", "per_client": 4}


def fast(**changes: Any) -> Scenario:
    return scenario(**{"strategy": "fedmd", "models": ["mlp"], "audit": CANARIES, **changes})


def without_time(run_dir: Path) -> Any:
    return json.loads((run_dir / "summary.json").read_text())["audit"]


@pytest.mark.slow
@pytest.mark.fast(1)
def test_what_is_stored_is_what_travelled(tmp_path: Path) -> None:
    codec = {"name": "float16"}
    run(fast(audit=STORE, codec=codec), tmp_path / "run")
    transcript = read_transcript(tmp_path / "run", "server")
    assert transcript.clients("upload") == transcript.clients("teacher") == [0, 1, 2, 3]
    sent = [arrays for _, arrays in transcript.of("upload", 1)]
    assert [sorted(arrays) for arrays in sent] == [["ids", "logits:float16"]] * 2
    assert transcript.about["codecs"]["upload"] == codec
    assert transcript.about["codecs"]["teacher"] == codec
    taught = [arrays["logits:float16"] for _, arrays in transcript.of("teacher", 3)]
    assert len(taught) == 2
    assert (
        len(list((tmp_path / "run" / "view").glob("teacher_*.npz"))) == 2
    )  # all clients are sent the same
    (public,) = (arrays["inputs"] for _, arrays in transcript.of("public"))
    assert public.shape == (40, 1, 8, 8)
    truth = read_ground_truth(tmp_path / "run")
    assert len(truth.labels) == 0
    sizes = build(fast(audit=STORE), threading.Event()).plan.train_sizes
    assert tuple(truth.label_counts.sum(axis=1)) == sizes


def test_a_client_that_was_left_a_canary_trains_on_it_and_others_do_not(tmp_path: Path) -> None:
    experiment = build(fast(), threading.Event(), tmp_path / "run")
    context, candidates = experiment.context, experiment.candidates
    assert candidates is not None
    for row, client, label, included in zip(
        candidates.rows, candidates.client_ids, candidates.labels, candidates.included, strict=True
    ):
        assert (row in context.train_rows(int(client))) == included
        assert context.prepared.labels[row] == label
    plain = build(fast(audit="none"), threading.Event()).context
    np.testing.assert_array_equal(plain.division.held_back, context.division.held_back)
    torch.testing.assert_close(plain.public_inputs, context.public_inputs, rtol=0, atol=0)


@pytest.mark.fast(0)
@pytest.mark.parametrize("name", ["canaries", "members"])
def test_an_excluded_candidate_is_a_null_record_of_dp_sgd(name: str, tmp_path: Path) -> None:
    """All clients have 20 records before exclusion: one rate, one noise and one stated size,
    whatever came up."""
    private: dict[str, Any] = {"strategy": "dsfl", "privacy": {"name": "dp_sgd", "epsilon": 4.0}}
    experiment = build(
        fast(audit={"name": name, "per_client": 12}, **private), threading.Event(), tmp_path / "run"
    )
    context, plan = experiment.context, experiment.context.enforcer.plan
    assert len({len(rows) for rows in context.division.train}) > 1
    assert (plan.records, plan.fewest_records) == (20, 20)
    spent = set()
    for client_id in range(4):
        assert describe(context, client_id).train_size == 20
        take_part(context, client_id, Download(round=1, steps=("train",)))
        state = context.store.get(client_id)
        assert state is not None
        spent.add(tuple(state[f"{PRIVACY}steps"].flatten().tolist()))
    ((_, rate, steps),) = spent
    assert (rate, steps) == (8 / 20, 3)


def test_a_twin_has_the_planted_records_and_a_key_of_its_own() -> None:
    keys = {}
    for name in AUDITS:
        audit = {"name": name, **({"per_client": 4} if name in ("canaries", "members") else {})}
        experiment = build(fast(audit=audit), threading.Event())
        keys[name] = baseline_key(experiment)
        twin = build(baseline_scenario(experiment.scenario), threading.Event())
        for own, of_twin in zip(
            experiment.context.division.train, twin.context.division.train, strict=True
        ):
            np.testing.assert_array_equal(own, of_twin)
    assert keys["none"] == keys["store"]  # storing changes nobody's records
    assert len(set(keys.values())) == 3


@pytest.mark.slow
@pytest.mark.parametrize("engine", [{"name": "local", "workers": 2}, "parts"])
def test_figures_are_the_same_to_the_bit_on_two_workers_and_after_a_resume(
    engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = {**CANARIES, "adversaries": ["server", "clients", "lab"]}
    run(fast(audit=audit), tmp_path / "one")
    if engine == "parts":
        save = CheckpointFolder.save

        def failing(self: CheckpointFolder, round_number: int, *rest: Any, **named: Any) -> None:
            if round_number == 2:
                raise KeyboardInterrupt
            save(self, round_number, *rest, **named)

        with monkeypatch.context() as patch:
            patch.setattr(CheckpointFolder, "save", failing)
            with pytest.raises(KeyboardInterrupt):
                run(fast(audit=audit), tmp_path / "other")
        assert (
            len(list(read_transcript(tmp_path / "other", "server").of("upload"))) == 8
        )  # the transcript is ahead of the checkpoint
        resume(fast(audit=audit), tmp_path / "other")
    else:
        run(fast(audit=audit, engine=engine), tmp_path / "other")
    one, other = tmp_path / "one", tmp_path / "other"
    assert without_time(one) == without_time(other)
    for name in (
        "view/index.json",
        "lab/index.json",
        "audit.json",
        "audit.csv",
        "audit_claims.csv",
    ):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert set(without_time(one)["by_adversary"]) == {"server", "clients", "lab"}


@pytest.mark.slow
def test_the_command_finds_afterwards_what_the_run_found(tmp_path: Path) -> None:
    run(fast(), tmp_path / "run")
    names = ("summary.json", "audit.json", "audit.csv", "audit_claims.csv")
    before = [(tmp_path / "run" / name).read_bytes() for name in names]
    assert main([str(tmp_path / "run")]) == 0
    assert [(tmp_path / "run" / name).read_bytes() for name in names] == before
    assert not (tmp_path / "run" / "lab").exists()  # by explicit setting only


@pytest.mark.slow
def test_where_the_server_is_trusted_no_raw_upload_is_stored(tmp_path: Path) -> None:
    central = {"name": "central_gaussian", "epsilon": 8.0}
    run(fast(strategy="dsfl", privacy=central), tmp_path / "run")
    kinds = {entry.what for entry in read_transcript(tmp_path / "run", "server").entries}
    assert kinds == {"public", "teacher"}
    entry = without_time(tmp_path / "run")
    assert list(entry["by_adversary"]) == ["clients"]
    assert entry["claimed_epsilon"] == pytest.approx(8.0)


def test_a_full_disk_ends_the_run_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, parts: Any, **_: Any) -> None:
        if path.name.startswith("upload"):
            raise StorageError(f"{path} cannot be written: {errno.errorcode[errno.ENOSPC]}")

    monkeypatch.setattr("fedkd.storage.transcript.write_checksummed", full)
    with pytest.raises(StorageError, match=r"upload_00001.*ENOSPC"):
        run(fast(), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"audit": {"name": "canaries", "per_client": 0}}, "audit.per_client must be >= 1"),
        ({"audit": {"name": "canaries", "kind": "odd"}}, "audit.kind must be one of mislabeled"),
        ({"audit": {"name": "canaries", "per_client": 20}}, "leaves client 0 no record"),
        ({"audit": {"name": "members", "per_client": 20}}, "per_client=20 needs at least one"),
        ({"audit": {"name": "store", "per_client": 3}}, "audit.per_client"),
        ({"audit": {"name": "store", "adversaries": ["lab"]}}, "has none"),
        ({"audit": {"name": "members", "adversaries": []}}, "audit.adversaries must name one"),
        ({"audit": {"name": "members", "adversaries": ["server", "server"]}}, "twice"),
        ({"audit": {"name": "members", "adversaries": ["outsiders"]}}, "audit.adversaries must be"),
        ({"audit": {"name": "members", "confidence": 1.0}}, "audit.confidence must be above 0 and"
                                                            " below 1"),
        ({"audit": "canary"}, "unknown audit 'canary'"),
        ({"audit": STORE, "strategy": "local_only"}, "exchanges nothing"),
        ({"audit": STORE, "strategy": "centralized"}, "private sets of all clients"),
        ({"audit": STORE, "attacks": "noise"}, "attackers' uploads"),
        (
            {"audit": {**CANARIES, "adversaries": ["server"]}, "strategy": "dsfl",
             "privacy": {"name": "central_gaussian", "epsilon": 8.0}},
            "trusted with raw predictions",
        ),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingError, match=message):
        build(fast(**changes), threading.Event(), tmp_path)


def test_planting_follows_from_the_scenario_alone() -> None:
    first, again, other = (audit_candidates(fast(seed=seed)) for seed in (0, 0, 1))
    assert first is not None
    assert again is not None
    assert other is not None
    np.testing.assert_array_equal(first.included, again.included)
    assert first.rows.tolist() != other.rows.tolist()


OVERFITTED: dict[str, Any] = {
    "samples_per_client": 60,
    "train": {"epochs": 30, "batch_size": 8},
    "public": {"size": 60},
    "audit": {"name": "canaries", "per_client": 25, "adversaries": ["server", "lab"]},
}


@pytest.mark.slow
def test_a_planted_bug_in_a_claimed_mechanism_ends_the_command_with_status_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    settings = [
        "strategy=dsfl",
        "clients=3",
        "models=[mlp]",
        "rounds=2",
        "samples_per_client=60",
        "public.size=60",
        "train.epochs=30",
        "train.batch_size=8",
        "baseline=none",
        "report.plots=false",
        "audit=canaries",
        "audit.per_client=25",
    ]
    bug = ["privacy=forgetful:Forgetful", "privacy.epsilon=0.3"]
    assert simulate([*settings, *bug, f"run_dir={run_dir}"]) == 3
    printed = capsys.readouterr()
    assert "VIOLATION" in printed.out
    assert "VIOLATION" in printed.err
    entry = without_time(run_dir)
    assert entry["verdict"] == "VIOLATION"
    assert entry["lower_bound"] > entry["claimed_epsilon"] == pytest.approx(0.3)
    assert main([str(run_dir), "trust=true"]) == 3
    right = ["privacy=gaussian", "privacy.epsilon=0.3", f"run_dir={tmp_path / 'right'}"]
    assert simulate([*settings, *right]) == 0
    assert without_time(tmp_path / "right")["verdict"] == "consistent (power unknown)"


@pytest.mark.slow
def test_an_unprotected_overfitted_run_is_attacked_and_dp_sgd_brings_the_attack_to_chance(
    tmp_path: Path,
) -> None:
    run(fast(**OVERFITTED), tmp_path / "raw")
    raw = without_time(tmp_path / "raw")["by_adversary"]
    for adversary, least in (("server", 0.75), ("lab", 0.95)):
        assert raw[adversary]["auc_low"] > least
        assert raw[adversary]["blind_auc_low"] < 0.5 < raw[adversary]["blind_auc_high"]
        assert raw[adversary]["lower_bound"] > 0.5
        assert raw[adversary]["verdict"] == "no claim"
    protected = {**OVERFITTED, "train": {"epochs": 5, "batch_size": 8}}
    run(fast(**protected, privacy={"name": "dp_sgd", "epsilon": 1.0}), tmp_path / "protected")
    protected_by = without_time(tmp_path / "protected")["by_adversary"]
    for adversary in ("server", "lab"):
        assert protected_by[adversary]["auc_low"] < 0.5 < protected_by[adversary]["auc_high"]
        assert protected_by[adversary]["lower_bound"] == 0
    assert protected_by["server"]["verdict"] == "consistent (power unknown)"
    assert protected_by["server"]["claimed_epsilon"] <= 1.0
    assert protected_by["lab"]["claimed_epsilon"] <= 1.0


@pytest.mark.slow
def test_an_audit_says_what_it_would_have_refuted_without_the_noise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Clipped alone, models of so many epochs know their canaries; with tiny steps they do not."""
    found = {}
    for name, rate in (("long", 3e-2), ("short", 1e-6)):
        private: dict[str, Any] = {
            "train": {"epochs": 10, "batch_size": 60, "learning_rate": rate},
            "privacy": {"name": "dp_sgd", "epsilon": 0.5, "clip_norm": 1.0},
            "audit": {**OVERFITTED["audit"], "adversaries": ["lab"], "power": True},
        }
        run(fast(**{**OVERFITTED, **private}), tmp_path / name)
        found[name] = without_time(tmp_path / name)
    assert found["long"]["verdict"] == "consistent (absent noise would show)"
    assert found["long"]["power"] > 0.5 >= found["long"]["claimed_epsilon"]
    assert found["short"]["verdict"] == "consistent (absent noise would not show)"
    assert found["short"]["power"] <= 0.5
    capsys.readouterr()
    assert main([str(tmp_path / "long")]) == 0  # from the files alone
    assert without_time(tmp_path / "long") == found["long"]
    printed = capsys.readouterr().out
    assert f"claims below epsilon {found['long']['power']:.2f}" in printed
    shutil.rmtree(tmp_path / "long" / "power")
    assert main([str(tmp_path / "long")]) == 0
    assert without_time(tmp_path / "long")["verdict"] == "consistent (power unknown)"
    assert main([str(tmp_path / "long"), "--power"]) == 0
    assert without_time(tmp_path / "long") == found["long"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"audit": {**CANARIES, "power": True}}, "power=true would do nothing: privacy=none"),
        (
            {"audit": {**STORE, "power": True}, "privacy": {"name": "dp_sgd", "epsilon": 1.0}},
            "audit=store has no candidates",
        ),
    ],
)
def test_power_without_noise_or_candidates_is_refused(
    changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingError, match=reason):
        build(fast(**changes), threading.Event(), tmp_path / "run")


def unclipped(self: DPOptimizer) -> None:
    """Sum the gradients as they are; the noise stays that of the clip norm."""
    norm, self.max_grad_norm = self.max_grad_norm, 1e9
    DPOptimizer.clip_and_accumulate(self)
    self.max_grad_norm = norm


@pytest.mark.slow
def test_dp_sgd_without_clipping_is_refuted_by_the_models_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StreamDPOptimizer, "clip_and_accumulate", unclipped)
    private = {
        "train": {"epochs": 30, "batch_size": 60, "learning_rate": 1e-2},
        "privacy": {"name": "dp_sgd", "epsilon": 1.0, "clip_norm": 0.1},
        "audit": {**OVERFITTED["audit"], "adversaries": ["lab"]},
    }
    run(fast(**{**OVERFITTED, **private}), tmp_path / "run")
    found = without_time(tmp_path / "run")
    assert found["verdict"] == "VIOLATION"
    assert found["lower_bound"] > 1.0 >= found["claimed_epsilon"]


@pytest.mark.slow
def test_members_of_an_overfitted_run_are_told_from_others_of_the_same_pool(tmp_path: Path) -> None:
    run(
        fast(**{**OVERFITTED, "audit": {"name": "members", "adversaries": ["server", "lab"]}}),
        tmp_path / "run",
    )
    for found in without_time(tmp_path / "run")["by_adversary"].values():
        assert found["auc_low"] > 0.5
        assert found["blind_auc_low"] < 0.5 < found["blind_auc_high"]


@pytest.mark.slow
def test_a_claim_that_was_tampered_with_is_refuted_afterwards(tmp_path: Path) -> None:
    run(fast(**{**OVERFITTED, "audit": {"name": "canaries", "per_client": 25}}), tmp_path / "run")
    path = tmp_path / "run" / "summary.json"
    summary = json.loads(path.read_text())
    assert summary["audit"]["verdict"] == "no claim"
    claim = {
        "mechanism": "gaussian",
        "unit": "record",
        "adversary": "server",
        "epsilon": 0.1,
        "delta": 1e-5,
    }
    path.write_text(json.dumps({**summary, "privacy": claim}))
    assert main([str(tmp_path / "run")]) == 1  # the file is not as the run wrote it
    (tmp_path / "run" / "checksums.json").unlink()
    assert main([str(tmp_path / "run")]) == 3
    assert without_time(tmp_path / "run")["verdict"] == "VIOLATION"


@pytest.mark.slow
@pytest.mark.usefixtures("ray_and_trigger")
def test_ray_finds_the_same_to_the_bit(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    audit = {**CANARIES, "adversaries": ["server", "lab"], "shadows": 4}
    run(fast(audit=audit), tmp_path / "local")
    run(fast(audit=audit, engine={"name": "ray", "workers": 1}), tmp_path / "ray")
    for name in ("view/index.json", "lab/index.json", "audit.json"):
        assert (tmp_path / "local" / name).read_bytes() == (tmp_path / "ray" / name).read_bytes(), (
            name
        )


@pytest.mark.slow
def test_on_flowers_own_engines_the_view_is_the_same_and_models_stay_elsewhere(
    tmp_path: Path,
) -> None:
    """Where the end of a round and the beginning of the next are one message, each is stored in its
    own round."""
    context = build(fast(), threading.Event()).context

    def start(strategy: FederatedDistillation) -> None:
        with message_identity():
            grid = LocalGrid(client_pool(context), 4, 1, threading.Event(), lambda _: None)
            strategy.start(grid)
            grid.shut_down()

    run(fast(), tmp_path / "here")
    run(fast(), tmp_path / "there", Driver("flower", start))
    for name in ("view/index.json", "audit.json"):
        assert (tmp_path / "here" / name).read_bytes() == (
            tmp_path / "there" / name
        ).read_bytes(), name
    with pytest.raises(SettingError, match="models of flower are on other machines"):
        run(
            fast(audit={**CANARIES, "adversaries": ["lab"]}),
            tmp_path / "lab",
            Driver("flower", start),
        )
