"""A study of plug-ins in miniature: its runs, its figures at both points, and its report."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from fedkd.cli import carrying_out
from fedkd.cli.studies.plugins import GATE
from fedkd.cli.studies.study import carry_out, reports
from fedkd.experiment.jobs import Outcome, RunTask
from fedkd.experiment.jobs import carry_out as carry_out_task


@pytest.mark.slow
def test_a_miniature_reports_harm_and_the_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def here(tasks: Sequence[RunTask], jobs: int, on_end: Any) -> list[Outcome]:
        for task in tasks:
            carry_out_task(task)
            on_end(Outcome(task))
        return [Outcome(task) for task in tasks]

    monkeypatch.setattr(carrying_out, "run_all", here)
    small = (
        "clients=3",
        "rounds=1",
        "train.epochs=1",
        "distill.epochs=1",
        "public.size=40",
        "test.global_size=50",
    )
    study = replace(GATE, base=(*GATE.base, *small), figures=("personal_negative_transfer", "gap"))
    results = carry_out(study, 2, tmp_path, 1, Console(quiet=True))
    assert list(results) == ["distillation", "training"]
    for figures in (figures for at in results.values() for figures in at.values()):
        assert all(np.isfinite(figures[name]).all() for name in study.figures)
    assert "- " + study.claims[0].text in reports([(study, results)])[0]
