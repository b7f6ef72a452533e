"""A small stored run, written as a run writes it but without running anything."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from fedkd.federation.round_records import ClientRecord, PointFigures, RoundRecord
from fedkd.report.folder import jsonable
from fedkd.report.record_rows import Baseline, RunPlan, client_rows, round_row
from fedkd.report.stored_plan import write_plan

CLIENTS, ROUNDS = 3, 2
ALONE = Baseline(
    personal_accuracy=np.full((ROUNDS, CLIENTS), 0.5),
    global_accuracy=np.full((ROUNDS, CLIENTS), 0.25),
)
SETTINGS: dict[str, Any] = {
    "name": "digits",
    "seed": 0,
    "rounds": ROUNDS,
    "baseline": "local_only",
    "strategy": {"name": "knfu", "beta": 10.0},
    "data": {"name": "digits"},
    "partition": {"name": "dirichlet", "alpha": 0.5},
    "audit": {"name": "canaries"},
}


def plan(**changes: Any) -> RunPlan:
    """Return the plan of the stored run with changes."""
    known = RunPlan(
        name="digits",
        title="knfu seed=0",
        scenario=SETTINGS,
        strategy="knfu",
        rounds=ROUNDS,
        architectures=("mlp", "cnn", "mlp"),
        parameters={"mlp": 10, "cnn": 20},
        train_sizes=(3, 4, 5),
        label_counts=np.array([[3, 0], [2, 2], [0, 5]]),
        class_names=("cat", "dog"),
        public_set="10 samples",
        examples="samples",
        dealt="samples",
        device="CPU",
        engine="local engine",
        loss="kl",
        exchanges=True,
        privacy={"mechanism": "none", "reason": "raw"},
        measured=("training", "distillation"),
        after="distillation",
        method="Teach.",
        exchanged="Clients send logits.",
    )
    return replace(known, **changes)


def records(gain: float = 0.2) -> list[RoundRecord]:
    """Return the records of both rounds: each client gains a little more than the last."""
    made = []
    for round_number in range(1, ROUNDS + 1):
        clients = tuple(
            ClientRecord(
                client_id=client,
                architecture=plan().architectures[client],
                train_size=3 + client,
                status="ok",
                after_distillation=PointFigures(
                    personal_accuracy=0.5 + gain + 0.01 * client,
                    global_accuracy=0.25 + gain + 0.01 * client,
                ),
                after_training=PointFigures(personal_accuracy=0.5, global_accuracy=0.25),
                bytes_up=100,
                bytes_down=200,
            )
            for client in range(CLIENTS)
        )
        weights = torch.tensor([[0.9, 0.1, 0.0], [0.1, 0.8, 0.1], [0.0, 0.2, 0.8]])
        made.append(
            RoundRecord(
                round=round_number,
                clients=clients,
                seconds=1.0,
                weights=weights,
                knowledge_sha256="ab",
            )
        )
    return made


def write_run(
    folder: Path,
    *,
    summary: dict[str, Any] | None = None,
    found: list[RoundRecord] | None = None,
    of: RunPlan | None = None,
    settings: dict[str, Any] | None = None,
) -> Path:
    """Write the files of the run into a folder, with changes, and return the folder."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(settings or SETTINGS))
    write_plan(of or plan(), folder)
    found = records() if found is None else found
    rows = [jsonable(round_row(record, ALONE)) for record in found]
    (folder / "rounds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = io.StringIO()
    lines = [row for record in found for row in client_rows(record, ALONE)]
    table = csv.DictWriter(text, list(lines[0]))
    table.writeheader()
    table.writerows(lines)
    (folder / "clients.csv").write_text(text.getvalue())
    np.save(folder / "weights.npy", np.stack([r.weights.numpy() for r in found]))  # type: ignore[union-attr]
    last: dict[str, Any] = dict(rows[-1]) if rows else {}
    whole = {
        "status": "completed",
        "after": "distillation",
        "is_reference": False,
        "measured_after": ["training", "distillation"],
        "baseline": "local_only",
        **last,
        "bytes_up": 600,
        "bytes_down": 1200,
        "seconds": 2.0,
        "privacy": {"mechanism": "none", "reason": "raw predictions"},
        "versions": {"fedkd": "0", "torch": "2"},
        **(summary or {}),
    }
    (folder / "summary.json").write_text(json.dumps(jsonable(whole)))
    return folder
