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
    "report.console=false",
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


@pytest.mark.slow
def test_a_sweep_over_budgets_is_in_wandb_offline_with_group_tags_and_what_was_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert main([*SMALL, "-m", "privacy.epsilon=4,inf", "seed=1", "report.tags=[mine]"]) == 0
    folders = sorted(Path("runs").glob("*_sweep/[01]"))
    assert len(folders) == 2
    found = []
    for folder in folders:
        (run,) = folder.glob("wandb/offline-run-*")
        (path,) = run.glob("*.wandb")
        everything = finished(path)
        (about,) = [
            record.run for record in everything if record.WhichOneof("record_type") == "run"
        ]
        rounds = [
            values(record.history.item)
            for record in everything
            if record.WhichOneof("record_type") == "history"
        ]
        assert about.run_group == "privacy_budget"
        found.append((run, about, rounds))
    budgets = [values(about.config.update)["privacy"]["epsilon"] for _, about, _ in found]
    assert budgets == [4.0, "inf"]
    assert [list(about.tags) for _, about, _ in found] == [
        ["mine", "privacy.epsilon=4"], ["mine", "privacy.epsilon=inf"]
    ]  # fmt: skip

    run, _, rounds = found[0]
    spent = [row["epsilon"] for row in rounds]
    assert 0 < spent[0] < spent[1] <= 4.0
    columns, rows = table(run, "epsilon_by_client")
    assert columns == ["round", "client", "epsilon"]
    assert [row[:2] for row in rows] == [
        [round_number, client] for round_number in (1, 2) for client in range(4)
    ]
    assert max(row[2] for row in rows) == pytest.approx(spent[1])
    columns, rows = table(run, "claims")
    claims = [dict(zip(columns, row, strict=True)) for row in rows]
    assert [claim["adversary"] for claim in claims] == ["server", "clients", "outsiders"]
    assert all(
        claim["unit"] == "record" and claim["epsilon"] == pytest.approx(spent[1])
        for claim in claims
    )

    run, _, rounds = found[1]
    assert not any("epsilon" in row for row in rounds)
    assert not list(run.glob("files/media/table/epsilon_by_client*"))
    assert json.loads((folders[1] / "summary.json").read_text())["privacy"]["epsilon"] is None
