"""Runs from Python: callbacks, more rounds to the bit, objects, what a folder gives back."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from finished import finished_run
from tiny import TINY
from torch import Tensor, nn

import fedkd
from fedkd.cli.command import main
from fedkd.cli.stored_runs import StoredRuns
from fedkd.experiment.stored_run import StoredRun
from fedkd.fusion import mix, uniform_weights
from fedkd.messages import Fusion
from fedkd.settings import session_objects

SMALL: dict[str, Any] = {
    **{key: value for key, value in TINY.items() if key not in ("name", "report")},
    "models": ["mlp"],
    "clients": 3,
    "report": {"plots": False},
    "progress": False,
}


def run(folder: Path, **changes: Any) -> StoredRun:
    return fedkd.run("digits", **{**SMALL, "run_dir": folder, **changes})


def right(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(dim=-1) == labels).double().mean())


class Fails:
    """Measures, and fails in the second round."""

    def on_round(self, view: fedkd.RoundView) -> None:
        figures = view.measure("right", right)
        column = f"global_accuracy_after_{'distillation'}"
        if view.clients[0][column] is not None:
            assert np.allclose(figures, [row[column] for row in view.clients], atol=1e-6)
        if view.round == 2:
            view.record("before", 1)
            raise ValueError("what was\nthis?")


def figures(run: StoredRun) -> pd.DataFrame:
    return run.rounds.drop(columns=["seconds", "own/right", "own/before"], errors="ignore")


@pytest.mark.slow
def test_rounds_that_are_added_are_those_of_a_longer_run(tmp_path: Path) -> None:
    """With a baseline, after a callback that failed, from the command and from Python."""
    settings = {"baseline": "local_only", "strategy": "knfu"}
    whole = run(tmp_path / "whole", rounds=4, **settings)
    parts = tmp_path / "parts"
    with pytest.raises(
        fedkd.RunError, match=r"on_round: Fails failed in round 2: ValueError: what"
    ) as error:
        run(parts, rounds=3, on_round=[Fails()], **settings)
    assert "\n" not in str(error.value)
    assert "to go on" in str(error.value)
    assert StoredRun(parts).status == "failed"
    assert main([f"resume={parts}", "report.console=false"]) == 0
    found = fedkd.resume(parts, rounds=4, progress=False)
    assert found.status == whole.status == "completed"
    pd.testing.assert_frame_equal(figures(found), figures(whole), check_exact=True)
    apart = ["seconds"]
    pd.testing.assert_frame_equal(
        found.clients.drop(columns=apart), whole.clients.drop(columns=apart), check_exact=True
    )
    assert np.array_equal(found.weights, whole.weights, equal_nan=True)  # type: ignore[arg-type]
    assert found.summary["knowledge_sha256"] == whole.summary["knowledge_sha256"]
    assert found.config == whole.config
    assert found.rounds["own/right"].notna().tolist() == [True, True, False, False]
    assert found.rounds["own/before"][1] == 1
    with pytest.raises(fedkd.SettingError, match=r"rounds=2: .* begun with 4 rounds"):
        fedkd.resume(parts, rounds=2)


def test_a_callback_stops_a_run_whose_folder_says_so_and_which_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its strategy and model are objects that no file names."""

    class Mean:
        def __init__(self, function: Any) -> None:
            self.function = function

        def fuse(self, cohort: Any, state: Any) -> Fusion:
            weights = uniform_weights(len(cohort.probs))
            return Fusion(weights=weights, teachers=mix(weights, self.function(cohort.probs)))

    def stops(view: fedkd.RoundView) -> None:
        view.stop("good enough")

    rule, make = (
        Mean(lambda x: x),
        lambda shape, classes: nn.Sequential(nn.Flatten(), nn.Linear(64, classes)),
    )
    monkeypatch.setattr(session_objects, "_held", {})
    folder = tmp_path / "run"
    given: dict[str, Any] = {"strategy": rule, "models": [make]}
    found = run(folder, on_round=stops, **given)
    assert (found.status, found.summary["stopped"], len(found.rounds)) == (
        "stopped",
        "good enough",
        1,
    )
    assert found.summary["only_in_session"] == [
        "models=fedkd.session:lambda",
        "strategy=fedkd.session:Mean",
    ]
    assert (folder / "config.yaml").read_text().startswith("# This file alone cannot repeat")
    with pytest.MonkeyPatch.context() as patch:  # as in another process
        patch.setattr(session_objects, "_held", {})
        assert main([f"resume={folder}"]) == 2
        with pytest.raises(fedkd.SettingError, match=r"fedkd\.resume\(FOLDER, strategy=THE_SAME\)"):
            fedkd.resume(folder, progress=False, models=[make])
        found = fedkd.resume(folder, progress=False, **given)
    assert (found.status, len(found.rounds)) == ("completed", 2)
    assert "stopped" not in found.summary


@pytest.mark.filterwarnings("ignore::fedkd.errors.RunWarning")
def test_a_budget_for_so_many_rounds_is_not_stretched(tmp_path: Path) -> None:
    found = run(
        tmp_path / "run",
        rounds=1,
        strategy="fedmd",
        privacy={"name": "gaussian", "epsilon": 50.0, "clip_norm": 1.0},
    )
    before = (found.folder / "config.yaml").read_bytes()
    with pytest.raises(
        fedkd.SettingError, match=r"rounds=3: .* solved for epsilon=50 over 1 rounds"
    ):
        fedkd.resume(found.folder, rounds=3, progress=False)
    assert (found.folder / "config.yaml").read_bytes() == before
    assert fedkd.load(found.folder).status == "completed"


def test_a_folder_gives_back_tables_models_and_pictures() -> None:
    found = fedkd.load(finished_run(strategy={"name": "knfu"}))
    assert isinstance(found, StoredRun)
    assert found.rounds["round"].tolist() == [1, 2]
    assert list(found.clients["client"]) == [0, 1, 2, 3] * 2
    assert found.clients["status"].eq("ok").all()
    assert found.weights is not None
    assert found.weights.shape == (2, 4, 4)
    last = found.clients[found.clients["round"] == 2]
    inputs, labels = found.experiment.context.global_test
    for client, model in enumerate(found.models):
        assert not model.training
        with torch.no_grad():
            accuracy = right(model(inputs), labels)
        assert accuracy == pytest.approx(
            last["global_accuracy_after_distillation"].iloc[client], abs=1e-6
        )
    picture = found.plot("accuracy")._repr_png_()  # type: ignore[attr-defined]
    assert picture.startswith(b"\x89PNG")
    with pytest.raises(fedkd.SettingError, match=r"unknown plot 'gain'.*Known: accuracy"):
        found.plot("gain")
    with pytest.raises(fedkd.SettingError, match="client must be from 0 to 3, got 4"):
        found.model(4)
    with pytest.raises(fedkd.SettingError, match="client must be from 0 to 3, got '1'"):
        found.model("1")  # type: ignore[arg-type]
    assert "knfu, seed 0, completed, 2 of 2 rounds" in repr(found)


@pytest.mark.slow
def test_an_exported_model_loads_without_fedkd_and_answers_alike(tmp_path: Path) -> None:
    found = StoredRun(finished_run(strategy={"name": "knfu"}))
    folder = fedkd.export(found, 1, tmp_path / "model")
    code = (
        "import json, sys, torch; from load_model import load; model = load();"
        "x = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8);"
        "print(json.dumps([model(x).tolist(), sorted(n for n in sys.modules if 'fedkd' in n)]))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={"PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    answer, modules = json.loads(said.stdout)
    assert modules == []
    x = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)
    assert torch.allclose(found.model(1)(x), torch.tensor(answer))
    card = (folder / "README.md").read_text()
    assert "Nothing is claimed for this model" in card
    with pytest.raises(fedkd.SettingError, match="is not empty"):
        fedkd.export(found, 1, folder)


def test_a_folder_of_runs_names_what_is_damaged_or_unfinished(tmp_path: Path) -> None:
    for name, strategy in (("a", "knfu"), ("b", "fedmd"), ("c", "fedmd")):
        shutil.copytree(finished_run(strategy={"name": strategy}), tmp_path / name)
    (tmp_path / "c" / "rounds.jsonl").write_text("{}\n")
    (tmp_path / "b" / "summary.json").unlink()
    (tmp_path / "b" / "checksums.json").unlink()
    runs = fedkd.load(tmp_path)
    assert isinstance(runs, StoredRuns)
    table = runs.table().set_index("run")
    assert table["status"].to_dict() == {"a": "completed", "b": "running", "c": "damaged"}
    assert "rounds.jsonl" in table["problem"]["c"]
    assert table["strategy"]["a"] == "knfu"
    assert table["personal_accuracy_after_distillation"].notna().tolist() == [True, False, False]
    with pytest.warns(fedkd.RunWarning, match=r"left out of the comparison: b: .*; c: .*damaged"):
        found = runs.compare()
    assert (len(found.frame), len(found.left_out)) == (0, 2)
    assert runs["a"].folder == runs[0].folder == tmp_path / "a"


@pytest.mark.slow
def test_a_run_begins_with_the_models_of_another_and_its_baseline_does_too(tmp_path: Path) -> None:
    changes = {"models": ["mlp", "cnn"], "clients": 4, "baseline": "local_only"}
    before = StoredRun(finished_run(strategy={"name": "knfu"}))
    found = run(tmp_path / "run", strategy="fedmd", start_from=before, rounds=1, **changes)
    assert found.summary["start_from"]["strategy"] == "knfu"
    assert found.config["start_from"] == str(before.folder.resolve())
    gains = found.clients["global_gain_after_training"]
    assert gains.abs().max() < 1e-9  # the first training is that of the baseline, from one start
    fresh = run(tmp_path / "fresh", strategy="fedmd", rounds=1, **changes)
    assert found.summary["knowledge_sha256"] != fresh.summary["knowledge_sha256"]
    for wrong, said in (
        ({"clients": 3}, "that run has 4 clients, this one 3"),
        ({"models": ["cnn"]}, "the model of client 0 there is no cnn"),
        ({"seed": 1}, "another split of the same data"),
        ({"privacy": {"name": "gaussian", "sigma": 9.0, "clip_norm": 1.0}}, "a claim would not"),
        ({"audit": "store"}, "with audit=store these models"),
        ({"start_from": tmp_path}, "no run's folder"),
    ):
        given = {**changes, "strategy": "fedmd", "start_from": before, **wrong}
        with pytest.raises(fedkd.SettingError, match=said):
            run(tmp_path / "wrong", **given)
