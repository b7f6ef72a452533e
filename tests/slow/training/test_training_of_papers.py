"""Runs whose training is as papers have it: resumed, on both engines, with absent clients."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tiny import scenario

from fedkd.errors import SettingError
from fedkd.experiment.resume import resume
from fedkd.experiment.run import run
from fedkd.experiment.stored_run import StoredRun

PAPER: dict[str, Any] = {
    "strategy": {"name": "fedmd"},
    "models": ["mlp"],
    "precision": "bf16",
    "participation": 0.5,
    "train": {
        "schedule": "warmup_cosine",
        "warm_up_rounds": 0.5,
        "steps": 3,
        "clip_grad_norm": 1.0,
        "label_smoothing": 0.1,
    },
    "distill": {"schedule": "cosine", "epochs": 0.5, "clip_grad_norm": 1.0},
}
STEP: dict[str, Any] = {
    "strategy": {"name": "fedmd"},
    "models": ["mlp"],
    "train": {"schedule": "step", "decay_every": 1},
}


def assert_same_tables(one: Path, other: Path) -> None:
    for table in ("rounds", "clients"):
        pd.testing.assert_frame_equal(
            getattr(StoredRun(one), table).drop(columns="seconds"),
            getattr(StoredRun(other), table).drop(columns="seconds"),
            check_exact=True,
        )


def test_workers_agree_to_the_bit_on_training_as_papers_have_it(tmp_path: Path) -> None:
    run(scenario(rounds=2, **PAPER), tmp_path / "one")
    run(scenario(rounds=2, **PAPER, engine={"name": "local", "workers": 1}), tmp_path / "two")
    assert_same_tables(tmp_path / "one", tmp_path / "two")


def test_a_schedule_by_steps_goes_on_for_more_rounds_and_a_cosine_is_refused(
    tmp_path: Path,
) -> None:
    run(scenario(rounds=4, **STEP), tmp_path / "whole")
    run(scenario(rounds=2, **STEP), tmp_path / "parts")
    resume(scenario(rounds=4, **STEP), tmp_path / "parts")
    assert_same_tables(tmp_path / "whole", tmp_path / "parts")
    cosine = {**STEP, "train": {"schedule": "cosine"}}
    run(scenario(rounds=2, **cosine), tmp_path / "cosine")
    with pytest.raises(SettingError, match="its learning rate follows a schedule over all"):
        resume(scenario(rounds=4, **cosine), tmp_path / "cosine")


def test_dp_sgd_counts_steps_and_refuses_what_it_does_itself(tmp_path: Path) -> None:
    private = {"privacy": {"name": "dp_sgd", "noise_multiplier": 1.0}, "strategy": "knfu"}
    spent = {}
    for steps in (1, 4):
        train = {"steps": steps, "schedule": "cosine"}
        run(scenario(rounds=2, **private, train=train), tmp_path / str(steps))
        spent[steps] = StoredRun(tmp_path / str(steps)).summary["privacy"]
    assert spent[1] != spent[4]
    with pytest.raises(SettingError, match=r"clip_grad_norm=1 would do nothing: privacy=dp_sgd"):
        run(scenario(rounds=2, **private, train={"clip_grad_norm": 1.0}), tmp_path / "clipped")
    with pytest.raises(SettingError, match="precision=bf16: privacy=dp_sgd clips gradients"):
        run(scenario(rounds=2, **private, precision="bf16"), tmp_path / "rounded")


def test_clients_of_a_schedule_are_not_trained_together(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="learning rate changes with its own batches"):
        run(scenario(rounds=2, **STEP, batch_clients=["mlp"]), tmp_path)
