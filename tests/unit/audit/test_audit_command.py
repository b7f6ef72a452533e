"""The audit of stored runs that a test wrote: uploads leak inclusion bits as much as it sets."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkd.audit.audit_run import audit_run
from fedkd.audit.audited_claims import AuditedClaim, covers, read_claims
from fedkd.audit.decoding import upload_probs
from fedkd.audit.label_inference import infer_labels
from fedkd.audit.one_run import Guesses, one_run_bound
from fedkd.audit.report import contradictions
from fedkd.cli.audit import main
from fedkd.codecs import Float16
from fedkd.errors import SettingError
from fedkd.storage.transcript import (
    GroundTruth,
    TranscriptWriter,
    read_transcript,
    write_ground_truth,
)

CLIENTS, EACH, CLASSES, PUBLIC = 4, 40, 3, 30


def stored(
    folder: Path,
    *,
    leak: float,
    epsilon: float | None = 0.5,
    adversary: str = "server",
    codec: str = "full",
) -> Path:
    """A run whose models in the lab answer ``leak`` standard deviations higher where a canary was
    in."""
    stream = np.random.default_rng(0)
    folder.mkdir()
    claim: dict[str, Any] = {"mechanism": "gaussian", "epsilon": None, "reason": "by hand"}
    if epsilon is not None:
        claim |= {
            "unit": "record",
            "neighbors": "zero-out",
            "adversary": adversary,
            "epsilon": epsilon,
            "delta": 1e-5,
        }
    (folder / "summary.json").write_text(json.dumps({"privacy": claim}))
    size = CLIENTS * EACH
    owners, included = np.repeat(np.arange(CLIENTS), EACH), stream.random(size) < 0.5
    labels = stream.integers(0, CLASSES, size)
    counts = stream.integers(1, 50, (CLIENTS, CLASSES))
    write_ground_truth(
        folder, GroundTruth(stream.normal(size=(size, 1, 2, 2)), labels, owners, included, counts)
    )
    view, lab = (
        TranscriptWriter(folder, "view", {"codecs": {"upload": {"name": codec}}}),
        TranscriptWriter(folder, "lab", {}),
    )
    view.add(
        "public", {"inputs": stream.normal(size=(PUBLIC, 1, 2, 2)).astype(np.float32)}, round=0
    )
    for client in range(CLIENTS):
        probs = np.tile(counts[client] / counts[client].sum(), (PUBLIC, 1)).astype(np.float32)
        probs = 0.98 * probs + 0.02 * stream.dirichlet(np.ones(CLASSES), PUBLIC).astype(np.float32)
        arrays = {"ids": np.arange(PUBLIC), "probs": probs.astype(np.float32)}
        sent = Float16().encode(arrays, None)[0] if codec == "float16" else arrays
        view.add("upload", sent, round=1, client=client)
        logits = 0.1 * stream.normal(size=(size, CLASSES))
        logits[np.arange(size), labels] += leak * (included & (owners == client))
        lab.add("query", {"logits": logits}, round=1, client=client)
    view.add("teacher", {"ids": np.arange(PUBLIC), "probs": probs}, round=1)
    view.save()
    lab.save()
    return folder


def test_models_that_know_their_canaries_are_found_in_the_lab(tmp_path: Path) -> None:
    result = audit_run(stored(tmp_path / "run", leak=5.0), "lab")
    by_name = {attack.name: attack for attack in result.attacks}
    best = by_name["query: co-op LiRA"]
    assert best.auc > 0.999
    assert best.rates[0].reason is not None or best.rates[0].value is not None
    level = 1 - 0.05 / (4 * len(by_name))  # Bonferroni: four bounds of each attack
    assert best.one_run == pytest.approx(one_run_bound(Guesses(160, 128, 128), 1e-5, level))
    assert result.blind is not None
    assert abs(result.blind.auc - 0.5) < 0.15
    assert {j.verdict for j in result.judgments} == {
        "no claim"
    }  # nothing is claimed against the lab


def test_models_that_know_nothing_show_nothing(tmp_path: Path) -> None:
    result = audit_run(stored(tmp_path / "run", leak=0.0), "lab")
    for attack in result.attacks:
        assert abs(attack.auc - 0.5) < 0.12
        assert attack.one_run < 0.5


@pytest.mark.slow
def test_label_distributions_are_read_off_uploads_through_their_codec(tmp_path: Path) -> None:
    run = stored(tmp_path / "run", leak=0.0, codec="float16")
    rows = upload_probs(read_transcript(run, "server"))
    assert sorted(rows) == [0, 1, 2, 3]
    assert len(rows[0]) == PUBLIC
    result = audit_run(run, "server")
    assert all(found.total_variation < 0.05 for found in result.labels.values())


@pytest.mark.slow
def test_a_consistent_run_writes_its_files_and_ends_with_status_0(tmp_path: Path) -> None:
    run = stored(tmp_path / "run", leak=0.0)
    assert main([str(run)]) == 0
    report = json.loads((run / "audit.json").read_text())
    (audit,) = report["audits"]
    assert [claim["verdict"] for claim in audit["claims"]] == ["consistent (power unknown)"]
    assert set(audit["labels"]) == {"0", "1", "2", "3"}
    assert len(report["limits"]) == 3
    entry = json.loads((run / "summary.json").read_text())["audit"]
    assert (entry["verdict"], entry["power"]) == ("consistent (power unknown)", None)
    with (run / "audit.csv").open() as file:
        names = [row["attack"] for row in csv.DictReader(file)]
    assert names == [
        "surrogate: " + n for n in ("loss threshold", "difficulty calibrated", "co-op LiRA")
    ] + ["blind"]
    head = "audit_of,mechanism,unit,neighbors,adversary,epsilon,delta,"
    assert (run / "audit_claims.csv").read_text().startswith(head)
    assert (run / "plots" / "audit_roc_server.png").stat().st_size > 1000


@pytest.mark.slow
def test_label_counts_that_stand_in_uploads_contradict_a_claim(tmp_path: Path) -> None:
    result = audit_run(stored(tmp_path / "run", leak=0.0), "server")
    (line,) = contradictions(result)  # these uploads are nearly the counts themselves
    assert line.startswith("CONTRADICTS the claim of epsilon")
    told = result.labels
    blurred = {**told, 0: replace(told[0], exact=False)}
    assert contradictions(replace(result, labels=blurred)) == ()
    unclaimed = audit_run(stored(tmp_path / "raw", leak=0.0, epsilon=None), "server")
    assert contradictions(replace(unclaimed, labels=told)) == ()
    assert infer_labels(np.tile([0.8, 0.2], (3, 1)), np.array([8, 2])).exact
    assert not infer_labels(np.tile([0.7, 0.3], (3, 1)), np.array([8, 2])).exact
    assert not infer_labels(np.tile([0.5, 0.5], (3, 1)), np.array([5, 5])).exact


@pytest.mark.slow
def test_a_violated_claim_ends_with_status_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = stored(tmp_path / "run", leak=5.0)
    monkeypatch.setattr(
        "fedkd.audit.audit_run.covers", lambda claim, adversary: True
    )  # as if it were of the raw models
    assert main([str(run), "--adversary", "lab"]) == 3
    said = capsys.readouterr().out
    assert "VIOLATION" in said
    assert "The lab, which asks the models themselves, can tell" in said
    assert "this run leaks." in said
    assert "The audit refutes the claim: epsilon" in said
    assert all(len(line.rstrip()) <= 100 for line in said.splitlines() if " VIOLATION" in line)


def test_a_claim_beyond_what_so_few_canaries_can_show_is_uninformative(tmp_path: Path) -> None:
    result = audit_run(stored(tmp_path / "run", leak=0.0, epsilon=8.0), "server")
    (judgment,) = result.judgments
    assert judgment.verdict == "uninformative"
    assert judgment.ceiling is not None
    assert judgment.ceiling < 4


def test_other_clients_have_the_teacher_only(tmp_path: Path) -> None:
    result = audit_run(stored(tmp_path / "run", leak=0.0), "clients")
    assert [attack.name for attack in result.attacks] == ["surrogate: loss threshold"]
    assert result.labels == {}
    assert result.judgments[0].verdict == "consistent (power unknown)"


@pytest.mark.parametrize(
    ("claimed", "server", "clients"),
    [("server", True, True), ("other clients and outsiders", False, True), ("none", False, False)],
)
def test_a_claim_against_the_server_covers_other_clients_and_not_the_other_way(
    claimed: str, server: bool, clients: bool
) -> None:
    claim = AuditedClaim("gaussian", "client", "replace-one", claimed, 1.0, 1e-5)
    assert (covers(claim, "server"), covers(claim, "clients"), covers(claim, "lab")) == (
        server,
        clients,
        False,
    )


@pytest.mark.parametrize(("layer", "lab"), [("model", True), ("upload", False), ("teacher", False)])
def test_a_claim_holds_for_the_models_themselves_where_their_training_is_protected(
    layer: str, lab: bool
) -> None:
    claim = AuditedClaim("dp_sgd", "record", "zero-out", "server", 1.0, 1e-5, layer)
    assert covers(claim, "lab") == lab
    assert covers(claim, "server")


@pytest.mark.slow
def test_a_run_without_protection_claims_nothing(tmp_path: Path) -> None:
    run = stored(tmp_path / "run", leak=0.0, epsilon=None)
    assert [claim.epsilon for claim in read_claims(run)] == [None]
    assert [j.verdict for j in audit_run(run, "server").judgments] == ["no claim"]


def test_folders_that_cannot_be_audited_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path)]) == 2
    assert "holds no view" in capsys.readouterr().err
    run = stored(tmp_path / "run", leak=0.0)
    (run / "summary.json").unlink()
    with pytest.raises(SettingError, match="summary"):
        audit_run(run, "server")
    (run / "summary.json").write_text('{"status": "running"}')
    with pytest.raises(SettingError, match="has not ended"):
        audit_run(run, "server")
    (run / "summary.json").write_text("{")
    assert main([str(run)]) == 1


def test_a_folder_that_cannot_be_audited_is_told_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*given: str) -> str:
        assert main(given) == 2
        return capsys.readouterr().err

    assert f"{tmp_path / 'typo'}: no such folder; give that of a run" in said(
        f"{tmp_path / 'typo'}"
    )
    (tmp_path / "sweep.json").touch()
    assert "is a sweep's folder; audit its runs one by one" in said(str(tmp_path))
    (tmp_path / "sweep.json").unlink()
    stores = "holds no view/ to audit; a run with audit=store|canaries|members stores one"
    assert stores in said(str(tmp_path))
    stored(tmp_path / "run", leak=0.0)
    shutil.rmtree(tmp_path / "run" / "lab")
    stores = "a run with audit=canaries|members audit.adversaries=[lab] stores one"
    assert stores in said(str(tmp_path / "run"), "--adversary", "lab")
