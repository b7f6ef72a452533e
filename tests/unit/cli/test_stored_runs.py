"""A folder of runs: what varies, how each ended, and the comparison's own statistics."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats

from fedkd.cli import stored_runs
from fedkd.cli.stored_runs import StoredRuns
from fedkd.errors import RunWarning, SettingError
from fedkd.report.comparison.run_reader import Run

SHARP = (0.80, 0.82, 0.81, 0.83, 0.79)
PLAIN = (0.70, 0.73, 0.70, 0.74, 0.69)


def write(folder: Path, strategy: dict[str, Any], seed: int, accuracy: float, **other: Any) -> None:
    folder.mkdir(parents=True)
    config = {"name": "x", "seed": seed, "strategy": strategy, **other}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "summary.json").write_text(json.dumps({"status": "completed", "rounds": 1}))
    (folder / "accuracy").write_text(str(accuracy))


def read(folder: Path) -> Run:
    value = float((folder / "accuracy").read_text())
    names = [f"{where}_accuracy_after_training" for where in ("personal", "global")]
    return Run(
        rounds={"round": np.array([1.0]), **{name: np.array([value]) for name in names}},
        clients={name: np.array([[value, value]]) for name in names},
        architectures=("mlp", "mlp"),
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(stored_runs, "read_run", read)
    for seed, (sharp, plain) in enumerate(zip(SHARP, PLAIN, strict=True)):
        write(tmp_path / f"{2 * seed}", {"name": "knfu", "beta": 3.0}, seed, sharp)
        write(tmp_path / f"{2 * seed + 1}", {"name": "fedmd"}, seed, plain)
    return tmp_path


def test_methods_are_paired_by_seed_with_holms_correction(folder: Path) -> None:
    found = StoredRuns(folder).compare("strategy", reference="fedmd")
    row = found.frame.iloc[0]
    assert (row["method"], row["other"], row["seeds"]) == ("knfu", "fedmd", 5)
    assert row["personal_difference"] == pytest.approx(np.mean(SHARP) - np.mean(PLAIN))
    assert row["personal_p"] == pytest.approx(2 * stats.ttest_rel(SHARP, PLAIN).pvalue)
    assert row["global_verdict"] == "ahead"
    assert found.verdicts[0].startswith("knfu is ahead of fedmd on the clients' own distributions")
    assert found.methods["method"].tolist() == ["knfu", "fedmd"]
    assert "knfu" in found._repr_html_()


def test_any_setting_tells_methods_apart_and_what_else_differs_is_a_setting(folder: Path) -> None:
    for seed, accuracy in enumerate(PLAIN):
        write(folder / f"{10 + seed}", {"name": "knfu", "beta": 9.0}, seed, accuracy)
    found = StoredRuns(folder).compare("strategy.beta", reference=9)
    assert set(found.frame["method"]) == {"3.0"}
    assert found.frame["strategy"].tolist() == ["knfu"]
    with pytest.raises(SettingError, match=r"reference=7: it is none of"):
        StoredRuns(folder).compare("strategy.beta", reference=7)
    with pytest.raises(SettingError, match="after must be one of auto, distillation, training"):
        StoredRuns(folder).compare(after="never")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match=r"unknown setting in by 'strategi'; did you mean 'str"):
        StoredRuns(folder).compare("strategi")


def test_the_table_says_what_varies_and_how_each_run_ended(folder: Path) -> None:
    (folder / "3" / "summary.json").write_text(json.dumps({"status": "stopped", "stopped": "dull"}))
    runs = StoredRuns(folder)
    table = runs.table()
    assert table["run"].tolist() == [str(i) for i in range(10)]
    assert table["strategy"].tolist() == ["knfu", "fedmd"] * 5
    assert table.iloc[3][["status", "problem"]].tolist() == ["stopped", "dull"]
    with pytest.warns(RunWarning, match="left out of the comparison: 3: dull"):
        found = runs.compare()
    assert found.left_out == ("3: dull",)
    assert found.frame["seeds"].tolist() == [4]
    assert "cannot be told from" in found.verdicts[0]
