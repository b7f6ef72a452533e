"""Studies: claims judged by hand-made figures, and every study's runs planned with checked scenarios."""

import re
from pathlib import Path

import numpy as np
import pytest
from break_even import ATTACKS, CLEAN, attacked, break_even
from orderings import FEDMD, ORDERINGS
from studies import Claim, Study, table

RESULTS = {
    ("ours", ""): {"global_accuracy": np.array([0.80, 0.82, 0.81]), "bytes_up": np.array([10.0, 10.0, 10.0])},
    ("theirs", ""): {"global_accuracy": np.array([0.70, 0.71, 0.70]), "bytes_up": np.array([120.0, 110.0, 130.0])},
    ("wild", ""): {"global_accuracy": np.array([0.10, 0.95, 0.60]), "bytes_up": np.array([1.0, 1.0, 1.0])},
}


def judged(figure: str, ours: str, theirs: str, least: float) -> str:
    text = Claim("It is so", figure, (ours, ""), (theirs, ""), least).judge(RESULTS)
    return re.search(r"\*\*(.*)\*\*", text).group(1)


def test_verdicts_are_those_of_the_paired_interval() -> None:
    # Differences 10, 11, 11 points: mean 10.67, s 0.577, half 4.303 * 0.577 / sqrt(3) = 1.43.
    assert judged("global_accuracy", "ours", "theirs", 9.0) == "holds"
    assert judged("global_accuracy", "ours", "theirs", 9.5) == "not shown"
    assert judged("global_accuracy", "ours", "theirs", 12.5) == "does NOT hold"
    assert judged("global_accuracy", "ours", "wild", 0.0) == "not shown"
    assert judged("global_accuracy", "theirs", "ours", -12.5) == "holds"
    # Ratios 12, 11, 13: mean 12, half 2.48.
    assert judged("bytes_up", "ours", "theirs", 9.0) == "holds"
    assert judged("bytes_up", "ours", "theirs", 10.0) == "not shown"


def test_tables_have_a_line_for_each_method_and_setting() -> None:
    study = Study(name="s", title="S", base=(), methods="", claims=(), figures=("global_accuracy", "bytes_up"))
    lines = table(study, RESULTS).splitlines()
    assert lines[2] == "| – | ours | 81.0 ± 2.5 | 10 |"
    assert len(lines) == 2 + 3


@pytest.mark.parametrize("study", [*ORDERINGS, FEDMD, CLEAN, *map(attacked, ATTACKS)], ids=lambda study: study.name)
def test_every_study_plans_valid_runs_that_its_claims_speak_of(study: Study) -> None:
    cells = study.cells(3, Path("out"), jobs=2)
    made = {(cell.method.label, ", ".join(value for _, value in cell.setting)) for cell in cells}
    assert {key for claim in study.claims for key in (claim.ours, claim.theirs)} <= made
    assert len(cells) == 3 * len(made)


def test_break_even_is_the_last_fraction_before_the_first_loss() -> None:
    alone = np.array([0.5, 0.5])
    values = {"0": np.array([0.9, 0.9]), "0.1": np.array([0.4, 0.5]), "0.2": np.array([0.9, 0.9])}
    assert break_even(values, alone) == "0"
    assert break_even({"0": np.array([0.4])}, alone) == "never"
