"""Studies: claims judged by hand-made figures, and every study's runs planned with checked
scenarios."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from study_plans import combinations, planned

from fedkd.cli.compare import parse_grid, parse_methods
from fedkd.cli.studies import one_shot
from fedkd.cli.studies.break_even import (
    ATTACKS,
    CLEAN,
    FRACTIONS,
    RULES,
    STRONG,
    attacked,
    break_even,
    costs,
)
from fedkd.cli.studies.break_even import table as attacks_table
from fedkd.cli.studies.families import FAMILIES
from fedkd.cli.studies.one_shot import AT_SERVER, COLUMNS, METHODS, figures_at_server
from fedkd.cli.studies.orderings import FEDMD, ORDERINGS
from fedkd.cli.studies.plugins import CHOICE, PLUGINS
from fedkd.cli.studies.study import Study, StudyClaim, judged, read_csv, reports, table, write_csv
from fedkd.cli.studies.teachers import TEACHERS
from fedkd.errors import RunError

RESULTS = {
    ("ours", ""): {
        "global_accuracy": np.array([0.80, 0.82, 0.81, 0.80, 0.82]),
        "bytes_up": np.array([10.0, 10.0, 10.0, 10.0, 10.0]),
    },
    ("theirs", ""): {
        "global_accuracy": np.array([0.70, 0.71, 0.70, 0.69, 0.72]),
        "bytes_up": np.array([120.0, 110.0, 130.0, 120.0, 120.0]),
    },
    ("wild", ""): {
        "global_accuracy": np.array([0.10, 0.95, 0.60, 0.90, 0.20]),
        "bytes_up": np.array([1.0, 1.0, 1.0, 1.0, 1.0]),
    },
}


def verdict_of(figure: str, ours: str, theirs: str, least: float, seeds: int = 5) -> str:
    results = {
        key: {name: values[:seeds] for name, values in of.items()} for key, of in RESULTS.items()
    }
    claim = StudyClaim("It is so", figure, (ours, ""), (theirs, ""), least)
    [text], tested = judged([(claim, {"training": results})])
    assert tested == (1 if seeds >= 5 else 0)
    return re.search(r"\*\*(.*)\*\*", text).group(1)


def test_verdicts_are_those_of_the_paired_test() -> None:
    # Differences 10, 11, 11, 11, 10 points: mean 10.6, s 0.55, half 2.776 * 0.55 / sqrt(5) = 0.68.
    assert verdict_of("global_accuracy", "ours", "theirs", 9.9) == "holds"
    assert verdict_of("global_accuracy", "ours", "theirs", 10.0) == "not shown"
    assert verdict_of("global_accuracy", "ours", "theirs", 11.3) == "does NOT hold"
    assert verdict_of("global_accuracy", "ours", "wild", 0.0) == "not shown"
    assert verdict_of("global_accuracy", "theirs", "ours", -11.3) == "holds"
    # Ratios 12, 11, 13, 12, 12: mean 12, half 0.88.
    assert verdict_of("bytes_up", "ours", "theirs", 11.1) == "holds"
    assert verdict_of("bytes_up", "ours", "theirs", 11.2) == "not shown"


def test_fewer_than_five_seeds_give_an_interval_and_no_verdict() -> None:
    assert verdict_of("global_accuracy", "ours", "theirs", 0.0, 4) == "too few seeds for a verdict"


def test_claims_of_a_report_are_one_family_over_both_points() -> None:
    narrow = {  # 0.5, 1.5, 0.4, 1.2 and 0.3 points: p 0.03 alone
        ("a", ""): {"global_accuracy": 0.01 * np.array([50.5, 51.5, 50.4, 51.2, 50.3])},
        ("b", ""): {"global_accuracy": np.full(5, 0.5)},
    }
    claim = StudyClaim("A leads", "global_accuracy", ("a", ""), ("b", ""))
    [alone], one = judged([(claim, {"training": narrow})])
    [both], two = judged([(claim, {"distillation": narrow, "training": narrow})])
    assert (one, two) == (1, 2)
    assert "**holds** (a less b: +0.8 ± 0.7 points; p 0.0" in alone
    assert both.count("**not shown**") == 2
    study = Study(
        name="s", title="S", base=(), methods="", claims=(claim,), figures=("global_accuracy",)
    )
    [text] = reports([(study, {"distillation": narrow, "training": narrow})])
    assert "Holm's correction over 2 tests" in text
    first, second = reports([(study, {"training": narrow})] * 2)
    assert "Holm's correction over 2 tests" in first
    assert "**not shown**" in second


def test_reports_of_stored_figures_are_those_of_the_runs(tmp_path: Path) -> None:
    by_point = {"distillation": RESULTS, "training": RESULTS}
    write_csv(by_point, tmp_path / "s.csv")
    claims = (
        StudyClaim("Ours leads", "global_accuracy", ("ours", ""), ("theirs", "")),
        StudyClaim("Nobody has it", "global_accuracy", ("ours", ""), ("absent", "")),
    )
    study = Study(name="s", title="S", base=(), methods="", claims=claims, figures=("bytes_up",))
    [text] = reports([(study, by_point)])
    assert [text] == reports([(study, read_csv(tmp_path / "s.csv"))])
    assert "Ours leads" in text
    assert "Nobody has it" not in text
    (tmp_path / "s.csv").write_text("after,setting\nnoon,x\n")
    with pytest.raises(RunError, match=r"s\.csv holds no figures of a study"):
        read_csv(tmp_path / "s.csv")
    with pytest.raises(RunError, match=r"t\.csv, the figures of a study, cannot be read: No such"):
        read_csv(tmp_path / "t.csv")


def test_tables_have_a_line_for_each_method_and_setting() -> None:
    study = Study(
        name="s", title="S", base=(), methods="", claims=(), figures=("global_accuracy", "bytes_up")
    )
    lines = table(study, RESULTS).splitlines()
    assert lines[2] == "| – | ours | 81.0 ± 1.2 | 10 |"
    assert len(lines) == 2 + 3


@pytest.mark.daily(6)
@pytest.mark.fast(0)
@pytest.mark.parametrize(
    "study",
    [
        *ORDERINGS,
        *PLUGINS,
        *FAMILIES,
        *TEACHERS,
        METHODS,
        FEDMD,
        CLEAN,
        STRONG,
        attacked("sign_flip"),
        *(
            pytest.param(attacked(attack), marks=pytest.mark.slow)
            for attack in ATTACKS
            if attack != "sign_flip"
        ),
    ],
    ids=lambda study: study.name,
)
def test_every_study_plans_valid_runs_that_its_claims_speak_of(study: Study) -> None:
    cells = planned(study)
    assert {
        key for claim in study.claims for key in (claim.ours, claim.theirs, *(claim.beyond or ()))
    } <= combinations(study)
    labels, grid = len(parse_methods(study.methods)), len(parse_grid(study.grid))
    assert len(cells) == 3 * (labels + grid - 1)


def test_the_servers_figures_are_the_last_rounds_of_each_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of two runs whose figures are the run's number and the figure's place, in tenths."""
    names = list(COLUMNS.values())

    def read(folder: Path) -> Any:
        last = {name: int(folder.name) / 10 + i / 100 for i, name in enumerate(names)}
        return SimpleNamespace(of_round=lambda name: np.array([0.0, last[name]]))

    monkeypatch.setattr(one_shot, "read_run", read)
    found = figures_at_server([Path("1"), Path("2")])["distillation"]
    assert found["average", ""]["global_accuracy"].tolist() == pytest.approx([0.11, 0.21])
    assert {key for claim in AT_SERVER.claims for key in (claim.ours, claim.theirs)} <= set(found)


def test_break_even_is_the_last_fraction_before_the_first_loss() -> None:
    alone = np.array([0.5, 0.5])
    values = {"0": np.array([0.9, 0.9]), "0.1": np.array([0.4, 0.5]), "0.2": np.array([0.9, 0.9])}
    assert break_even(values, alone) == "0"
    assert break_even({"0": np.array([0.4])}, alone) == "never"


def of_rules(mean: float, others: float, setting: str = "") -> dict[tuple[str, str], Any]:
    """Figures of the rules of fusion and of local training, the mean's apart."""
    labels = ["local_only", *(name.replace(" ", "_") for name in RULES)]
    values = {label: np.array([others, others]) for label in labels} | {
        "mean": np.array([mean] * 2)
    }
    return {
        (label, setting): {"personal_accuracy": value, "global_accuracy": value / 2}
        for label, value in values.items()
    }


def test_what_a_rule_costs_is_told_under_mild_and_strong_skew() -> None:
    text = costs(of_rules(0.8, 0.8), of_rules(0.8, 0.6))
    rows = {row.split(" | ")[0].strip("| "): row for row in text.splitlines()}
    assert (
        "80.0 ± 0.0 (+0.0 ± 0.0) | 40.0 ± 0.0 (+0.0 ± 0.0) |"
        " 60.0 ± 0.0 (-20.0 ± 0.0) | 30.0 ± 0.0 (-10.0 ± 0.0)"
    ) in rows["Cronus"]
    assert set(rows) >= {"local only", *RULES}


def test_the_table_of_attacks_has_a_column_under_strong_skew_without_attackers() -> None:
    attacked_runs = {
        key: value for fraction in FRACTIONS for key, value in of_rules(0.2, 0.4, fraction).items()
    }
    text = attacks_table(of_rules(0.8, 0.8), of_rules(0.8, 0.6), {"lie": attacked_runs})
    assert "| lie | Cronus | 30.0 ± 0.0 | 40.0 ± 0.0 | 20.0 ± 0.0" in text


def test_a_claim_beyond_another_difference_is_judged_by_the_difference_of_both() -> None:
    results = {
        ("a", "0.75"): {"global_accuracy": np.array([0.80, 0.81, 0.80, 0.81, 0.80])},
        ("b", "0.75"): {"global_accuracy": np.array([0.70, 0.70, 0.70, 0.70, 0.70])},
        ("a", "0.25"): {"global_accuracy": np.array([0.90, 0.92, 0.90, 0.92, 0.90])},
        ("b", "0.25"): {"global_accuracy": np.array([0.70, 0.71, 0.70, 0.71, 0.70])},
    }
    claim = StudyClaim(
        "It grows",
        "global_accuracy",
        ("a", "0.75"),
        ("b", "0.75"),
        0.0,
        (("a", "0.25"), ("b", "0.25")),
    )
    # 10 - 20 and 11 - 21 points.
    [text], _ = judged([(claim, {"training": results})])
    assert (
        "**does NOT hold** (a less b, beyond that at 0.25: -10.0 ± 0.0 points; p < 0.001)" in text
    )


@pytest.mark.slow
@pytest.mark.fast(1)
@pytest.mark.parametrize("study", PLUGINS, ids=lambda study: study.name)
def test_methods_of_a_plug_in_hold_the_same_data_and_ask_about_equally_much(study: Study) -> None:
    by_setting: dict[Any, list[Any]] = {}
    for cell in planned(study):
        by_setting.setdefault((cell.setting, cell.seed), []).append(cell.task.scenario)
    for first, *others in by_setting.values():
        for other in others:
            for name in ("data", "partition", "federation", "test", "train", "protocol"):
                assert getattr(first, name) == getattr(other, name)
            assert first.public.size == other.public.size
    if study is CHOICE:
        for scenario in next(iter(by_setting.values())):
            public, rounds = scenario.public, scenario.protocol.rounds
            first_round = public.per_round if public.sampling == "random" else public.size
            assert first_round + (rounds - 1) * public.per_round == 400
