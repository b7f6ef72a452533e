"""What the studies of swing say of figures that are made up to be plain."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import swing_page
from scipy import stats

from fedkd.cli.studies import swing_kd_report, swing_report
from fedkd.cli.studies.swing_figures import SwingClaim, SwingFigures, judge, over_seeds, percent
from fedkd.cli.studies.swing_kd_study import ONE_TEACHER
from fedkd.cli.studies.swing_report import neighbors, validity
from fedkd.cli.studies.swing_study import FEDERATION, OUTCOMES, read_outcomes
from fedkd.errors import RunError


def figures(leak: float, bits: float, own: float = math.log2(998), weights: float = 1 / 3) -> dict:
    """A run whose every secret leaks about ``leak`` bits above a chance of 1."""
    spread = np.random.default_rng(0).normal(0, 0.1, 60)
    spread[:30] -= spread[:30].mean()
    views = {name: (1 + leak + spread[:n]).tolist() for name, n in
             {"server_uploads": 30, "server_student": 30, "peers": 60}.items()}  # fmt: skip
    rest = (1 - weights) / 2
    return {
        "exposures": {"own_model": [own] * 30, **views},
        "controls": {"own_model": 1.0, "server_student": 1.0},
        "sampling": {"server_student": {"low": 0.9 + leak, "high": 1.1 + leak}},
        "ceiling": math.log2(998),
        "chance": 1.0,
        "student_bits": bits,
        "bits_by_model": [bits, bits + 0.1, bits - 0.1, bits],
        "detector": {"recall": 1.0, "precision": 0.5},
        "weights": [[rest + weights * (i == j) for j in range(3)] for i in range(3)],
        "seconds": 1.0,
    }


def federation(seeds: int) -> dict:
    return {
        (name, seed): figures(leak + 0.02 * seed, bits)
        for seed in range(seeds)
        for name, leak, bits in (
            ("plain", 4.0, 2.0),
            ("swing, oracle", 0.4, 2.001),
            ("temperature alone", 2.0, 2.1),
            ("KnFu, beta 10", 5.0, 2.0),
        )
    }


def one_teacher(seeds: int) -> dict:
    """Swing leaves 0.5 of 4 bits above a chance of 1: it cuts 87 % of those, 70 % of exposure."""
    return {
        (name, seed): figures(leak + 0.02 * seed, bits + 0.001 * seed)
        for seed in range(seeds)
        for name, leak, bits in (
            ("plain", 4.0, 2.0),
            ("swing, T 10, noise 2", 0.5, 2.01),
            ("swing, T 100, noise 5", 2.5, 2.2),
            ("dropped positions", 0.4, 2.0),
        )
    }


def test_cuts_and_losses_are_paired_by_seed_with_what_a_setting_is_held_against() -> None:
    found = SwingFigures(FEDERATION, federation(3))
    assert found.cut("temperature alone", "server_student") == pytest.approx([0.5] * 3, abs=0.01)
    of_all = found.cut("temperature alone", "server_student", above_chance=False)
    assert of_all == pytest.approx([0.4] * 3, abs=0.01)
    assert found.loss("temperature alone") == pytest.approx([0.1] * 3)
    assert found.excess("plain", "server_student") == pytest.approx([4.0, 4.02, 4.04])


def test_an_interval_is_over_seeds_however_many_secrets_there_are() -> None:
    """Three seeds at 1, 2 and 3: t is 4.30 and s 1, though each seed has 30 secrets."""
    results = {("plain", seed): figures(seed + 1.0, 2.0) for seed in range(3)}
    found = over_seeds(SwingFigures(FEDERATION, results).excess("plain", "server_student"))
    assert found == pytest.approx((2.0, 2 - 2.4841, 2 + 2.4841), abs=1e-3)


def test_fewer_than_five_seeds_are_not_judged() -> None:
    text = swing_report.summary(federation(3))
    assert not {"holds", "NOT", "shown"} & set(text.replace("*", " ").split())
    assert "5 seeds would be judged; these are not" in text
    judged = swing_report.summary(federation(5))
    assert (
        "Cut by swing, oracle of the excess exposure to the server's student: 89 % [88, 90]; 80 %"
        " or more: **holds**" in judged
    )
    assert "Loss by temperature alone in bits a token: +0.100" in judged
    assert "0.01 or less: **does NOT hold**" in judged


def test_a_verdict_is_corrected_for_the_number_of_claims() -> None:
    """p is 0.02 for one claim alone, and 0.08 among four."""
    values = np.array([0.81, 0.83, 0.82, 0.84, 0.805])
    claim = SwingClaim("Cut", values, 0.8, percent)
    assert 0.0125 < stats.ttest_1samp(values, 0.8).pvalue < 0.05
    assert "**holds**" in judge([claim])[0]
    assert all("**not shown**" in line for line in judge([claim] * 4))
    assert (
        "80 % or more: **does NOT hold**"
        in judge([SwingClaim("Cut", values - 0.5, 0.8, percent)])[0]
    )


@pytest.mark.slow
def test_one_teachers_report_judges_both_readings_of_the_claim(tmp_path: Path) -> None:
    text = swing_kd_report.write(one_teacher(5), tmp_path)
    for part in (
        "| 69 % [69, 70], does NOT hold (p < 0.001) | 87 % [86, 87], holds (p < 0.001) |",
        "+0.010 [+0.010, +0.010] | matched |",
        "+0.200 [+0.200, +0.200] | worse |",
        "Not run: swing, T 1, noise 2",
        "are at most 0.20 bits apart",
    ):
        assert part in text
    assert {x.name for x in tmp_path.iterdir()} == {
        f"swing_kd.{suffix}" for suffix in ("md", "csv", "png", "pdf")
    }
    assert "does NOT hold (p" not in swing_kd_report.summary(one_teacher(4))


def test_a_study_without_a_leak_or_without_memory_is_void() -> None:
    assert "valid" in validity(SwingFigures(FEDERATION, federation(2)))[0]
    for void in (figures(0.5, 2.0), figures(4.0, 2.0, own=5.0)):
        assert "VOID" in validity(SwingFigures(FEDERATION, {("plain", 0): void}))[0]


def test_the_nearest_neighbors_secrets_are_those_of_its_owner() -> None:
    """Client 0 is nearest to 2, 1 to 0 and 2 to 1; only what leaks between them is more by 3."""
    plain = figures(4.0, 2.0)
    nearest, leaks = {0: 2, 1: 0, 2: 1}, []
    for i in range(3):
        for _ in range(10):  # the forms of secrets
            leaks += [3.0 if j == nearest[i] else 0.0 for j in range(3) if j != i]
    peers = (np.array(plain["exposures"]["peers"]) + leaks).tolist()
    weights = [
        [0.5 if i == j else 0.4 if j == nearest[i] else 0.1 for j in range(3)] for i in range(3)
    ]
    knfu = {**plain, "weights": weights, "exposures": {**plain["exposures"], "peers": peers}}
    results = {("plain", 0): plain, ("KnFu, beta 10", 0): knfu}
    claim = neighbors(SwingFigures(FEDERATION, results), "KnFu, beta 10")
    assert claim.values == pytest.approx([3.0])
    assert "its weight there 0.40, the mean's 0.33" in claim.text


def test_the_page_is_printed_from_what_both_studies_wrote(tmp_path: Path) -> None:
    for name, results in (("kd", one_teacher(5)), ("federation", federation(3))):
        (tmp_path / name).mkdir()
        rows = [{"setting": s, "seed": n, **one} for (s, n), one in results.items()]
        (tmp_path / name / OUTCOMES).write_text(json.dumps(rows))
    text = swing_page.page(read_outcomes(tmp_path / "kd"), read_outcomes(tmp_path / "federation"))
    assert (
        "| swing, T 10 and noise 2 | 69 % [69, 70], does NOT hold | 87 % [86, 87], holds |" in text
    )
    with pytest.raises(RunError, match="figures of a study of swing"):
        read_outcomes(tmp_path)


@pytest.mark.daily(0)
@pytest.mark.slow
@pytest.mark.parametrize("study", [FEDERATION, ONE_TEACHER])
def test_the_studys_settings_are_runs_of_the_product(study, tmp_path: Path) -> None:
    assert len(study.by_name) == len(study.settings)
    assert all(s.against in study.by_name for s in study.settings)
    planned = study.cells(1, tmp_path)
    assert len({cell.task.folder for cell in planned}) == len(planned) == len(study.settings)
    (name,) = {cell.task.scenario.name for cell in planned}
    assert name in study.base[0]
