"""Tables and series in whole runs: from a file of one's own, and with foreign public rows."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny import mean, records

from fedkd.cli.command import main
from fedkd.errors import SettingError

PAGE = (Path(__file__).parents[3] / "docs" / "extending.md").read_text()


def patients(count: int, seed: int) -> pd.DataFrame:
    """Return patients whose class is nearly what their numbers and categories say."""
    stream = np.random.default_rng(seed)
    age, smokes = stream.normal(50, 10, count), stream.choice(["no", "yes"], count)
    ill = age + 20 * (smokes == "yes") > 60
    age[::9] = np.nan
    columns = {"ward": stream.choice(list("abcd"), count), "age": age, "smokes": smokes}
    return pd.DataFrame({**columns, "label": np.where(ill, "ill", "well")})


def test_a_table_of_ones_own_is_learned_with_a_public_file(tmp_path: Path) -> None:
    patients(400, 0).to_csv(tmp_path / "own.csv", index=False)
    patients(60, 1).drop(columns=["label", "ward"]).to_csv(tmp_path / "public.csv", index=False)
    settings = {
        "data": {"name": "csv", "path": str(tmp_path / "own.csv"), "leave_out": ["ward"]},
        "public_data": {"name": "csv", "path": str(tmp_path / "public.csv")},
        "partition": {"name": "natural_id", "column": "ward"},
        "models": ["mlp"],
        "samples_per_client": None,
        "train": {"epochs": 4, "batch_size": 8, "learning_rate": 0.01},
    }
    last = records(**settings)[-1]
    assert mean(last, "global_accuracy_after_training") > 0.75
    patients(60, 1).assign(pulse=60).to_csv(tmp_path / "public.csv", index=False)
    with pytest.raises(SettingError, match="public_data: the table has the column pulse, ward"):
        records(**settings)


def test_clients_that_scale_by_their_own_rows_exchange_the_same_public_ids() -> None:
    changed = {"data": "breast_cancer", "models": ["mlp"]}
    shared, own = (records(**changed, preprocessing={"fit": fit})[-1] for fit in ("public", "own"))
    assert [c.bytes_up for c in own.clients] == [c.bytes_up for c in shared.clients]
    name = "global_nll_after_training"
    assert mean(own, name) != mean(shared, name)


@pytest.mark.slow
def test_series_are_learned_with_noise_as_the_public_set() -> None:
    changed = {"models": ["cnn1d"], "public_data": {"name": "noise", "law": "gaussian"}}
    last = records(data={"name": "digit_series"}, train={"epochs": 6}, **changed)[-1]
    assert mean(last, "personal_accuracy_after_training") > 0.3


@pytest.mark.slow
def test_the_table_of_the_page_on_own_parts_runs_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"`make_table.py` writes.*?```python\n(.*?)```", PAGE, re.DOTALL)
    Path("make_table.py").write_text(code)
    subprocess.run([sys.executable, "make_table.py"], check=True)
    commands = re.findall(r"^fedkd run breast_cancer (.* data.path=patients.csv .*)$", PAGE, re.M)
    quick = ["rounds=2", "baseline=none", "report.plots=false", "report.console=false"]
    for i, command in enumerate(commands):
        asked = ["scenario=breast_cancer", *shlex.split(command), *quick, f"run_dir=run{i}"]
        assert main(asked) == 0
        assert (
            json.loads(Path(f"run{i}/summary.json").read_text())["global_accuracy_after_training"]
            > 0.6
        )
    assert len(commands) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("data", "strategy"), [("wine", "fedmd"), ("digit_series", "fd")])
def test_a_run_goes_on_to_the_same_bits(tmp_path: Path, data: str, strategy: str) -> None:
    asked = [f"data={data}", f"strategy={strategy}", "models=[mlp]", "clients=2", "public.size=30"]
    asked += ["samples_per_client=20", "test.global_size=30", "train.epochs=1", "distill.epochs=1"]
    asked += ["engine.workers=1", "report.plots=false", "report.console=false"]
    asked += ["baseline=none", "scenario=digits"]
    whole, part = tmp_path / "whole", tmp_path / "part"
    assert main([*asked, "rounds=3", f"run_dir={whole}"]) == 0
    assert main([*asked, "rounds=2", f"run_dir={part}"]) == 0
    assert main([f"resume={part}", "rounds=3"]) == 0
    assert _figures(whole) == _figures(part)


def _figures(run: Path) -> list[object]:
    rows = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]
