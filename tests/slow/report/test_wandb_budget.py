"""A sweep over budgets leaves everything about them in Weights & Biases' offline runs, without an
account."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedkd.cli.command import main

SMALL = [
    "scenario=privacy_budget",
    "clients=4",
    "samples_per_client=20",
    "rounds=2",
    "public.size=40",
    "test.global_size=50",
    "baseline=none",
    "report.plots=false",
    "engine.workers=1",
    "audit.per_client=4",
]
BLOCK, HEADER = 32768, 7


def wandb_records(path: Path) -> Iterator[Any]:
    """Yield the records of an offline run: a LevelDB log of W&B's messages behind seven bytes."""
    from wandb.proto import wandb_internal_pb2

    content, at, parts = path.read_bytes(), HEADER, list[bytes]()
    assert content.startswith(b":W&B")
    while at + HEADER <= len(content):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + HEADER])
        parts.append(content[at + HEADER : at + HEADER + length])
        at += HEADER + length
        if at > len(content):
            return
        if kind in (1, 4):  # whole, or its last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(b"".join(parts))
            parts.clear()
            yield record


def finished(path: Path) -> list[Any]:
    """Return the records of an offline run once W&B's own process has written the last of them."""
    for _ in range(600):
        found = list(wandb_records(path)) if path.stat().st_size else []
        if found and found[-1].WhichOneof("record_type") == "exit":
            return found
        time.sleep(0.1)
    raise AssertionError(f"{path} was not finished within a minute")


def values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def table(run: Path, name: str) -> tuple[list[str], list[list[Any]]]:
    (path,) = run.glob(f"files/media/table/{name}_*.table.json")
    found = json.loads(path.read_text())
    return found["columns"], found["data"]


@pytest.mark.daily(0)
@pytest.mark.slow
def test_a_sweep_over_budgets_is_in_wandb_offline_with_group_tags_and_what_was_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert main([*SMALL, "-m", "privacy.epsilon=4,inf", "seed=1", "report.tags=[mine]"]) == 0
    (sweep,) = Path("runs").glob("*_sweep")
    folders = sorted(sweep.glob("[01]_*"))
    names = ["dsfl privacy.epsilon=4 seed=1", "dsfl privacy.epsilon=inf seed=1"]
    assert [folder.name[2:].replace("_", " ") for folder in folders] == names
    said = capsys.readouterr().out
    assert f"wandb sync {sweep}/wandb/offline-run-*" in said  # one folder for the whole sweep
    claims = json.loads((folders[0] / "summary.json").read_text())["privacy"]["text"]
    assert said.count("Privacy: ") == len(claims)  # those of the first run, not of each
    found = []
    for folder in folders:
        (run,) = sweep.glob(f"wandb/offline-run-*-{(folder / 'wandb_id').read_text()}")
        (path,) = run.glob("*.wandb")
        everything = finished(path)
        (about,) = [
            record.run for record in everything if record.WhichOneof("record_type") == "run"
        ]
        assert about.run_group == "privacy_budget"
        found.append((run, about, everything))
    budgets = [values(about.config.update)["privacy"]["epsilon"] for _, about, _ in found]
    assert budgets == [4.0, "inf"]
    assert [list(about.tags) for _, about, _ in found] == [
        ["mine", "privacy.epsilon=4"], ["mine", "privacy.epsilon=inf"]
    ]  # fmt: skip
    assert [(about.display_name.split(" public")[0], about.job_type) for _, about, _ in found] == [
        ("dsfl clients=4 samples_per_client=20 rounds=2", "dsfl")
    ] * 2  # what varies in the sweep comes after what all its runs change in the scenario
    assert all(about.notes for _, about, _ in found)  # the description of the scenario

    run, _, everything = found[0]
    rounds = history(everything)
    spent = [row["privacy/epsilon"] for row in rounds]
    assert 0 < spent[0] < spent[1] <= 4.0
    assert [row["round"] for row in rounds] == [1, 2]
    columns, rows = table(run, "epsilon_by_client")
    assert columns == ["round", "client", "epsilon"]
    assert [row[:2] for row in rows] == [
        [round_number, client] for round_number in (1, 2) for client in range(4)
    ]
    assert max(row[2] for row in rows) == pytest.approx(spent[1])
    columns, rows = table(run, "clients")  # of all rounds, not of the last alone
    assert [row[:2] for row in rows] == [[n, client] for n in (1, 2) for client in range(4)]
    columns, rows = table(run, "claims")
    claims = [dict(zip(columns, row, strict=True)) for row in rows]
    assert [claim["adversary"] for claim in claims] == ["server", "clients", "outsiders"]
    assert all(
        claim["unit"] == "record" and claim["epsilon"] == pytest.approx(spent[1])
        for claim in claims
    )
    check_summary(everything, folders[0])
    artifacts = [r.artifact for r in everything if r.WhichOneof("record_type") == "artifact"]
    (config,) = [artifact for artifact in artifacts if artifact.type == "config"]
    assert [entry.path for entry in config.manifest.contents] == ["config.yaml"]

    run, _, everything = found[1]
    assert not any("privacy/epsilon" in row for row in history(everything))
    assert not list(run.glob("files/media/table/epsilon_by_client*"))
    assert json.loads((folders[1] / "summary.json").read_text())["privacy"]["epsilon"] is None


def history(everything: list[Any]) -> list[dict[str, Any]]:
    """Return the rows of an offline run."""
    return [
        values(record.history.item)
        for record in everything
        if record.WhichOneof("record_type") == "history"
    ]


def check_summary(everything: list[Any], folder: Path) -> None:
    """Assert that W&B's summary has the run's bytes and seconds, and not the last round's."""
    last: dict[str, Any] = {}
    for record in everything:
        if record.WhichOneof("record_type") == "summary":
            last |= values(record.summary.update)
    expected = json.loads((folder / "summary.json").read_text())
    rounds = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    for name in ("bytes_up", "bytes_down", "seconds", "entropy_bytes_up"):
        assert last[name] == pytest.approx(expected[name])
        assert last[name] > rounds[-1][name]
    metrics = [r.metric for r in everything if r.WhichOneof("record_type") == "metric"]
    assert {m.step_metric for m in metrics if m.glob_name} == {"round"}


@pytest.mark.slow
def test_wandb_has_the_curves_of_fusion_and_of_the_local_only_baseline_and_mlflow_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.chdir(tmp_path)
    given = [argument for argument in SMALL if argument != "baseline=none"]
    given += ["scenario=digits", "rounds=2", "run_dir=out", "report.wandb=offline"]
    given = [one for one in given if "audit" not in one and one != "scenario=privacy_budget"]
    assert main([*given, "report.mlflow=sqlite:///m.db", "report.name=mine"]) == 0
    rows = [json.loads(line) for line in Path("out/rounds.jsonl").read_text().splitlines()]
    names = [f"global_accuracy_after_{point}" for point in ("distillation", "training")]
    (path,) = Path("out").glob("wandb/offline-run-*/*.wandb")
    logged = history(finished(path))
    for name in names:
        assert [row[f"accuracy/{name}"] for row in logged] == [row[name] for row in rows]
    gain = "global_gain_after_training"
    alone = [row[names[1]] - row[gain] for row in rows]
    assert [row[f"accuracy/{names[1]}_local_only"] for row in logged] == pytest.approx(alone)
    (chart,) = Path("out").glob("wandb/off*/files/media/table/fused*/global_acc*.json")
    curves = json.loads(chart.read_text())["data"]
    assert [row for row in curves if "local only" in row] == [
        [n, "local only", pytest.approx(value)] for n, value in zip((1, 2), alone, strict=True)
    ]

    client = MlflowClient(tracking_uri="sqlite:///m.db")
    experiment = client.get_experiment_by_name("fedkd")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("mine", "FINISHED")
    assert run.data.params["strategy.name"] == "knfu"
    assert run.data.metrics["summary/bytes_up"] == sum(row["bytes_up"] for row in rows)
    found = client.get_metric_history(run.info.run_id, f"accuracy/{names[0]}")
    assert [(one.step, one.value) for one in found] == [(r["round"], r[names[0]]) for r in rows]
    found = client.get_metric_history(run.info.run_id, f"accuracy/{names[1]}_local_only")
    assert [one.value for one in found] == pytest.approx(alone)
    assert {f.path for f in client.list_artifacts(run.info.run_id)} >= {"config.yaml"}
