"""KT-pFL in a run: the effective neighbors of its clients settle."""

import itertools
import json
from pathlib import Path

from fedkd.cli.command import main


def test_effective_neighbors_settle_in_a_run(tmp_path: Path):
    """With a sum in place of the means and a fixed step they swung: 3.2 9.4 2.5 9.2 2.2 9.2 2.0."""
    code = main(
        [
            "scenario=knfu_digits",
            "strategy=ktpfl",
            "rounds=7",
            "train.epochs=20",
            "distill.epochs=2",
            "partition.alpha=0.3",
            "baseline=none",
            "report.console=false",
            "report.plots=false",
            f"run_dir={tmp_path / 'run'}",
        ]
    )
    assert code == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "rounds.jsonl").open()]
    neighbors = [row["effective_neighbors"] for row in rows]
    assert max(abs(b - a) for a, b in itertools.pairwise(neighbors[1:])) < 1
