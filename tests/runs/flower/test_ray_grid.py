"""The Ray engine on real clusters on this machine: the figures of the local engine, whatever
happens to workers."""

import json
import re
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from flwr.serverapp import Grid
from tiny import records, scenario
from toys import fragile

from fedkd.errors import RunError
from fedkd.experiment.build import build
from fedkd.experiment.resume import resume
from fedkd.experiment.run import execute, run
from fedkd.federation.round_records import RoundRecord
from fedkd.flower.ray_grid import RayGrid

pytestmark = pytest.mark.slow


def ray_engine(**settings: Any) -> dict[str, Any]:
    return {"name": "ray", "workers": 2, **settings}


def test_the_grid_implements_all_of_flowers_grid() -> None:
    assert issubclass(RayGrid, Grid)


@pytest.mark.usefixtures("ray_and_trigger")
def test_the_knowledge_is_that_of_the_local_engine_at_any_number_of_workers() -> None:
    mixed = {
        "models": ["mlp", "cnn", "toys:dropping"],
        "clients": 6,
        "participation": 0.7,
        "public_data": "noise",
        "public": {"foreign_share": 0.5, "corruption": "gaussian_noise", "severity": 1},
    }
    engines = [
        *({"name": "local", "workers": workers} for workers in (1, 2, 4)),
        *(ray_engine(workers=workers) for workers in (1, 3)),
    ]
    found = {records(**mixed, engine=engine)[-1].knowledge_sha256 for engine in engines}
    assert len(found) == 1
    assert None not in found


@pytest.fixture
def trigger(ray_and_trigger: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that tells the next fragile client what to do."""
    monkeypatch.setenv("FEDKD_TEST_TRIGGER", str(ray_and_trigger))
    ray_and_trigger.unlink(missing_ok=True)
    return ray_and_trigger


def run_with(
    what: str | Mapping[int, str], trigger: Path, run_dir: Path | None = None, **changes: Any
) -> list[RoundRecord]:
    """Run four rounds in whose third a fragile client does ``what``, or what it says by round."""
    found: list[RoundRecord] = []
    stop = threading.Event()
    changes = {"models": ["mlp", "toys:fragile"], "rounds": 4, "engine": ray_engine(), **changes}
    experiment = build(scenario(**changes), stop, run_dir)
    then = {3: what} if isinstance(what, str) else what

    def on_round(record: RoundRecord) -> None:
        found.append(record)
        if record.round + 1 in then:
            trigger.write_text(then[record.round + 1])

    execute(experiment, on_round, stop)
    return found


def test_a_client_that_fails_in_any_way_is_recorded_and_back_in_the_next_round(
    trigger: Path,
) -> None:
    reasons = {
        "kill": r"its worker's process ended",
        "hard exit": r"its worker's process ended",
        "exit": r"SystemExit: 3",
        "raise": r"RuntimeError: as the test wants \(toys.py",
        "memory": r"RuntimeError: .*(memory|alloc)",
    }
    then = {3 + 2 * i: what for i, what in enumerate(reasons)}
    rounds = run_with(then, trigger, rounds=12)
    for record in rounds:
        reason = reasons.get(then.get(record.round, ""))
        failures = [] if reason is None else ["failed"]
        assert sorted(c.status for c in record.clients) == [*failures, *["ok"] * 4][:4]
        for failed in (c for c in record.clients if c.status == "failed"):
            assert failed.client_id in (1, 3)
            assert reason is not None
            assert re.search(reason, failed.reason), failed.reason
            assert record.weights is not None
            assert record.weights[failed.client_id].isnan().all()


@pytest.mark.daily(0)
def test_a_client_past_the_deadline_fails_and_costs_its_worker_only_where_it_hangs(
    trigger: Path,
) -> None:
    started = time.monotonic()
    rounds = run_with({3: "slow", 5: "hang"}, trigger, rounds=6, deadline=4.0)
    assert time.monotonic() - started < 60
    for at in (2, 4):
        (failed,) = [c for c in rounds[at].clients if c.status == "failed"]
        assert failed.reason == "missed the deadline of 4 s"
        assert [c.status for c in rounds[at + 1].clients] == ["ok"] * 4


def test_a_client_whose_worker_was_killed_goes_on_from_its_last_state(trigger: Path) -> None:
    """It was in the round that it failed in where it was before: as if it had been absent from that
    round."""
    rounds = run_with("kill", trigger, strategy="local_only", rounds=4)
    (failed,) = [c for c in rounds[2].clients if c.status == "failed"]
    trigger.unlink(missing_ok=True)
    alone = run_with("nothing", trigger, strategy="local_only", engine="local")
    trigger.unlink(missing_ok=True)
    before = {c.client_id: c for c in rounds[1].clients}[failed.client_id]
    after = {c.client_id: c for c in rounds[3].clients}[failed.client_id]
    assert failed.after_training == before.after_training
    assert after.train_loss is not None
    assert before.train_loss is not None
    assert after.train_loss < before.train_loss
    others = [i for i in range(4) if i != failed.client_id]
    for i in others:
        assert rounds[3].clients[i].after_training == alone[3].clients[i].after_training


def test_with_too_few_clients_the_run_ends_with_a_checkpoint_from_which_it_goes_on(
    trigger: Path, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {
        "models": ["mlp", "toys:fragile"], "rounds": 4, "engine": ray_engine(), "min_clients": 4,
    }  # fmt: skip
    run(scenario(**{**changes, "engine": "local"}), tmp_path / "whole")
    experiment = scenario(**changes)
    timer = threading.Thread(target=_pull_after_round, args=(tmp_path / "parts", 2, trigger))
    timer.start()
    with pytest.raises(
        RunError,
        match=r"3 of 4 clients answered, min_clients=4; client \d failed: its worker's process",
    ):
        run(experiment, tmp_path / "parts")
    timer.join()
    summary = resume(experiment, tmp_path / "parts")
    whole = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert summary["rounds"] == 4
    assert summary["knowledge_sha256"] == whole["knowledge_sha256"]
    assert summary["personal_accuracy_after_training"] == whole["personal_accuracy_after_training"]


def _pull_after_round(folder: Path, round_number: int, trigger: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        path = folder / "rounds.jsonl"
        if path.exists() and path.read_text().count("\n") >= round_number:
            trigger.write_text("kill")
            return
        time.sleep(0.002)


@pytest.mark.daily(0)
def test_a_client_that_ends_every_worker_fails_every_round_and_nobody_else_does(
    trigger: Path,
) -> None:
    rounds = run_with("nothing", trigger, models=["mlp", "mlp", "mlp", "toys:deadly"], rounds=2)
    trigger.unlink(missing_ok=True)
    assert [[c.status for c in r.clients] for r in rounds] == [["ok", "ok", "ok", "failed"]] * 2


def test_a_fragile_model_is_an_ordinary_one_without_a_trigger() -> None:
    assert sum(p.numel() for p in fragile((1, 8, 8), 10).parameters()) == 650
