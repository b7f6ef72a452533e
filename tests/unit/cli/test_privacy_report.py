"""The privacy report: what it plans, what it reads, what it says of runs, and that it goes on where
it was ended."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from fedkd.cli import privacy_report
from fedkd.cli.compare import parse_methods
from fedkd.errors import SettingError
from fedkd.report.comparison import budget_picture
from fedkd.report.comparison.budgets import Point, budget_text, check_alike, entries, table

SMALL = [
    "scenario=privacy_budget", "clients=4", "samples_per_client=20", "rounds=2", "public.size=40",
    "test.global_size=50", "baseline=none", "train.epochs=1", "distill.epochs=1",
    "report.wandb=disabled",
]  # fmt: skip


def planned(
    mechanisms: str, epsilons: str = "1,inf", seeds: tuple[int, ...] = (0,), *base: str
) -> Any:
    given = parse_methods(mechanisms, "--mechanisms", ("privacy", "seed"))
    return privacy_report.plan(
        [*SMALL, *base], given, privacy_report.parse_epsilons(epsilons), seeds, Path("out"), jobs=1
    )


def point(**changes: Any) -> Point:
    made: dict[str, Any] = {
        "label": "dp_sgd",
        "mechanism": "dp_sgd",
        "budget": 1.0,
        "seed": 0,
        "after": "distillation",
        "balanced": 0.5,
        "own": 0.6,
        "teacher": 0.7,
        "auc": 0.5,
        "tpr": 0.02,
        "attacker": "server",
        "unit": "record",
        "against": "server",
        "spent": 0.99,
        "delta": 1e-5,
        "accountant": "rdp",
        "sigma": 3.0,
    }
    return Point(**{**made, **changes})


@pytest.mark.slow
def test_every_mechanism_has_a_run_for_each_budget_and_seed_and_a_heuristic_one_for_each_seed() -> (
    None
):
    cells = planned("dp_sgd, swing, loud=gaussian privacy.sigma=3", "1,inf", (0, 5))
    assert [cell.task.name for cell in cells] == [
        "dp_sgd at epsilon 1, seed 0", "dp_sgd at epsilon 1, seed 5",
        "dp_sgd at epsilon inf, seed 0", "dp_sgd at epsilon inf, seed 5",
        "swing, seed 0", "swing, seed 5", "loud, seed 0", "loud, seed 5",
    ]  # fmt: skip
    assert len({cell.task.folder for cell in cells}) == len(cells)
    assert cells[2].task.scenario.privacy.value.epsilon == math.inf
    assert cells[-1].task.scenario.privacy.value.sigma == 3.0


@pytest.mark.slow
def test_the_attacker_is_the_one_that_the_mechanism_protects_from() -> None:
    by_label = {
        cell.label: cell.task.scenario
        for cell in planned("dp_sgd, swing, central_gaussian, gnmax, lnmax", "1,inf", (0,))
    }
    attackers = {label: found.audit.value.adversaries for label, found in by_label.items()}
    assert attackers == {
        "dp_sgd": ("server",),
        "swing": ("server",),
        "central_gaussian": ("clients",),
        "gnmax": ("clients",),
        "lnmax": ("clients",),
    }
    (chosen,) = planned("gnmax", "1", (0,), "audit.adversaries=[clients,lab]")
    assert chosen.task.scenario.audit.value.adversaries == ("clients", "lab")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["privacy=none"], "privacy=none cannot be set here"),
        (["--epsilons", "0,1"], "--epsilons must be above 0"),
        (["--epsilons", "one"], "--epsilons must be numbers"),
        (["--epsilons", "1,1.0"], "--epsilons names a budget twice"),
        (["--mechanisms", "dp_sgd,,swing"], "--mechanisms has an empty part"),
        (["--mechanisms", "dp_sgd seed=1"], "seed cannot be set here"),
        (["--mechanisms", "dp_sg"], "dp_sgd"),
        (["--runs", "nowhere"], "there is no finished run in or below it"),
        (["--seeds", "a"], "--seeds must be numbers"),
    ],
)
def test_bad_input_is_refused_before_anything_is_run(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = [] if "--runs" in arguments else SMALL
    assert privacy_report.main([*base, *arguments, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# What is said of runs.


def test_a_cost_is_paired_with_the_unprotected_run_of_its_seed_and_own_label() -> None:
    runs = [
        point(seed=0, balanced=0.5), point(seed=1, balanced=0.7),
        point(seed=0, balanced=0.8, budget=math.inf, spent=None),
        point(seed=1, balanced=0.9, budget=math.inf, spent=None),
        point(seed=1, balanced=0.6, label="swing", mechanism="swing", budget=None, spent=None),
    ]  # fmt: skip
    found = {(entry.label, entry.budget): entry for entry in entries(runs)}
    assert list(found) == [("dp_sgd", 1.0), ("dp_sgd", math.inf), ("swing", None)]
    assert found["dp_sgd", 1.0].figures["cost"].mean == pytest.approx(
        ((0.5 - 0.8) + (0.7 - 0.9)) / 2
    )
    assert found["dp_sgd", math.inf].figures["cost"].mean == 0
    assert found["swing", None].figures["cost"].mean == pytest.approx(0.6 - 0.9)
    alone = entries([point()])
    assert alone[0].figures["cost"].mean is None


def test_budgets_are_in_words_what_they_are() -> None:
    words = [
        budget_text(entries([one])[0])
        for one in (
            point(budget=0.5),
            point(budget=math.inf),
            point(budget=None, spent=None, mechanism="swing"),
            point(budget=None, spent=3.0),
            point(budget=None, spent=None, mechanism="none"),
        )
    ]
    assert words == ["0.5", "inf", "no claim", "noise given", "inf"]


def test_the_table_says_what_was_spent_on_the_worst_client_and_that_noise_is_simulated() -> None:
    runs = [
        point(seed=0, spent=0.97),
        point(seed=1, spent=0.99),
        point(
            seed=0,
            label="swing",
            mechanism="swing",
            budget=None,
            spent=None,
            delta=None,
            auc=math.nan,
            tpr=math.nan,
        ),
    ]
    made = table(entries(runs))
    lines = {line[0]: dict(zip(made.header, line, strict=True)) for line in made.lines}
    assert lines["dp_sgd"]["spent"] == "0.99 (rdp)"
    assert lines["dp_sgd"]["attack AUC"] == "0.50 ± 0.00"
    assert (lines["swing"]["epsilon"], lines["swing"]["spent"], lines["swing"]["attack AUC"]) == (
        "no claim",
        "–",
        "–",
    )
    for text in (made.markdown(), made.latex()):
        assert "this simulates privacy, it protects nobody" in text
    assert "delta 1e-05" in made.caption
    assert "attack AUC" not in table(entries([point(auc=math.nan, tpr=math.nan)])).header


def test_two_runs_of_one_seed_and_runs_that_differ_otherwise_are_refused() -> None:
    with pytest.raises(SettingError, match=r"two runs are dp_sgd at epsilon=1\.0 with seed 0"):
        entries([point(), point()])
    same = {
        "rounds": 3,
        "privacy.name": "dp_sgd",
        "seed": 0,
        "audit.name": "store",
        "audit.adversaries": ["server"],
    }
    other = {**same, "privacy.name": "gnmax", "seed": 1, "audit.adversaries": ["clients"]}
    check_alike({Path("a"): same, Path("b"): other})
    with pytest.raises(
        SettingError, match="a and c differ in more than privacy and seed: rounds is 3 and 4"
    ):
        check_alike({Path("a"): same, Path("b"): other, Path("c"): {**same, "rounds": 4}})


def test_the_picture_has_a_panel_for_each_figure_and_infinity_stands_apart() -> None:
    runs = [point(seed=s, budget=b, spent=None if b == math.inf else b, auc=0.5 + s / 10)
            for s in (0, 1) for b in (0.5, 8.0, math.inf)]  # fmt: skip
    runs.append(point(label="swing", mechanism="swing", budget=None, spent=None))
    figure = budget_picture.picture(entries(runs))
    assert [ax.get_ylabel().split("\n")[0] for ax in figure.axes] == [
        "Clients' accuracy", "Accuracy of fused", "Attack AUC", "Attack TPR (%)"
    ]  # fmt: skip
    bottom = figure.axes[-1]
    assert [text.get_text() for text in bottom.get_xticklabels()] == [
        "0.5",
        "8",
        "∞\n(unprotected)",
    ]
    places = bottom.get_xticks()
    assert places[2] > 2 * places[1]
    assert bottom.get_xscale() == "log"
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {
        "dp_sgd (record, against server)", "swing (no claim)", "guessing"
    }  # fmt: skip
    bare = budget_picture.picture(entries([point(auc=math.nan, tpr=math.nan)]))
    assert len(bare.axes) == 2


@pytest.mark.daily(0)
@pytest.mark.slow
def test_a_report_is_written_goes_on_and_is_the_same_when_its_runs_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    base = [*SMALL, "audit.per_client=4", "engine.workers=1"]
    command = [
        *base,
        "--mechanisms",
        "dp_sgd",
        "--epsilons",
        "4,inf",
        "--seeds",
        "0",
        "--out",
        "out",
    ]
    assert privacy_report.main(command) == 0
    for name in ("privacy.md", "privacy.tex", "privacy.csv", "privacy.png", "privacy.pdf"):
        assert (tmp_path / "out" / name).stat().st_size > 100
    first = Path("out/privacy.csv").read_text()
    capsys.readouterr()
    monkeypatch.setattr(Figure, "savefig", lambda *_, **__: None)
    assert privacy_report.main(command) == 0
    assert "2 runs, 2 of them done before" in capsys.readouterr().out
    assert privacy_report.main(["--runs", "out", "--out", "read"]) == 0
    assert Path("read/privacy.csv").read_text() == first
    with Path("read/privacy.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["budget"] for row in rows] == ["4.0", "inf"]
    summary = json.loads(Path("out/runs/dp_sgd/epsilon=4/seed0/summary.json").read_text())
    assert [row["spent"] for row in rows] == [str(summary["privacy"]["epsilon"]), ""]
    assert [row["auc"] == "" for row in rows] == [False, False]
