"""Two rounds and then four are four rounds, whatever travels and is remembered between rounds."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tiny import scenario

from fedkd.experiment.resume import resume
from fedkd.experiment.run import run
from fedkd.experiment.stored_run import StoredRun

CASES: dict[str, dict[str, Any]] = {
    "teachers of the round before": {
        "strategy": {"name": "fedmd"},
        "round_order": "distill_first",
        "participation": 0.5,
        "dropout": 0.2,
    },
    "weights": {"strategy": {"name": "fedavg"}, "models": ["mlp"]},
    "caches": {"strategy": {"name": "scarlet"}},
    "optimizers and codecs that remember": {
        "strategy": {"name": "dsfl"},
        "codec": {"name": "delta"},
        "train": {"optimizer_state": "kept"},
    },
    "noise that is given": {
        "strategy": {"name": "knfu"},
        "privacy": {"name": "dp_sgd", "noise_multiplier": 1.0},
    },
}


@pytest.mark.parametrize("case", CASES)
def test_more_rounds_are_those_of_a_longer_run(case: str, tmp_path: Path) -> None:
    settings = {**CASES[case], "baseline": "local_only"}
    run(scenario(rounds=4, **settings), tmp_path / "whole")
    run(scenario(rounds=2, **settings), tmp_path / "parts")
    parts, whole = StoredRun(tmp_path / "parts"), StoredRun(tmp_path / "whole")
    resume(scenario(rounds=4, **settings), tmp_path / "parts")
    for table in ("rounds", "clients"):
        pd.testing.assert_frame_equal(
            getattr(parts, table).drop(columns="seconds"),
            getattr(whole, table).drop(columns="seconds"),
            check_exact=True,
        )
    assert parts.summary["privacy"] == whole.summary["privacy"]
