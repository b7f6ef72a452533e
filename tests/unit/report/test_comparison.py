"""Comparisons over run folders that are written here, with statistics worked out by hand."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd.errors import RunError
from fedkd.report.comparison.figures import (
    BASELINE,
    Line,
    Options,
    Setting,
    baselines_of,
    compare,
    figures,
)
from fedkd.report.comparison.pictures import accuracy, draw
from fedkd.report.comparison.run_reader import Run, baseline_run, read_run, status
from fedkd.report.comparison.statistics import Interval, Paired, holm, interval, paired
from fedkd.report.comparison.tables import Table, tables, write_csv

ONE: Setting = (("partition.alpha", "1"),)
OPTIONS = Options(after="distillation", last=2, reach=0.6)


def write_run(
    folder: Path,
    balanced: Any,
    twin: Any = None,
    *,
    own: Any = None,
    validation: Any = None,
    twin_validation: Any = None,
    sent: int = 100,
    ece: float | None = None,
    after: str = "distillation",
) -> Path:
    """Write the folder of a run of an MLP and a CNN with these accuracies [R, 2], and those of its
    twin [R, 2]."""
    folder.mkdir(parents=True)
    columns = {"global_accuracy": balanced, "personal_accuracy": balanced if own is None else own}
    tables: dict[str, Any] = {
        name: np.array(values, dtype=float) for name, values in columns.items()
    }
    for name in ("global", "personal"):
        tables[f"{name}_gain"] = (
            None if twin is None else tables[f"{name}_accuracy"] - np.array(twin)
        )
    tables["validation_accuracy"] = (
        None if validation is None else np.array(validation, dtype=float)
    )
    if validation is not None and twin_validation is not None:
        tables["validation_gain"] = tables["validation_accuracy"] - np.array(twin_validation)
    tables = {f"{name}_after_{after}": values for name, values in tables.items()}
    rounds, clients = [], []
    for r in range(len(balanced)):
        row = {
            name: None if values is None else float(values[r].mean())
            for name, values in tables.items()
        }
        rounds.append(
            {
                "round": r + 1,
                **row,
                "bytes_up": sent,
                "bytes_down": 2 * sent,
                f"global_ece_after_{after}": ece,
                "knowledge_sha256": "c0ffee",
                "failed": [],
            }
        )
        for i, name in enumerate(("mlp", "cnn")):
            cells = {
                column: "" if values is None else repr(float(values[r, i]))
                for column, values in tables.items()
            }
            clients.append(
                {
                    "round": r + 1,
                    "client": i,
                    "architecture": name,
                    "status": "ok",
                    **cells,
                    "reason": "",
                }
            )
    (folder / "rounds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rounds))
    with (folder / "clients.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(clients[0]))
        table.writeheader()
        table.writerows(clients)
    summary = {
        "status": "completed",
        "versions": {"torch": "2.8"},
        "seconds": 1.5,
        "after": after,
        "measured_after": [after],
        "is_reference": False,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def ending(folder: Path, gain: float, **others: Any) -> Run:
    """Return a run of one round whose two clients gain alike on a twin at 0.5."""
    return read_run(write_run(folder, [[0.5 + gain] * 2], [[0.5] * 2], **others))


@pytest.fixture
def lines(tmp_path: Path) -> list[Line]:
    """Two methods of three seeds: gains of 0.1, 0.2, 0.3, and of 0.30, 0.31, 0.32."""
    gains = {"mild": (0.1, 0.2, 0.3), "sure": (0.30, 0.31, 0.32)}
    runs = {
        (method, ONE): {
            seed: ending(tmp_path / method / str(seed), gain) for seed, gain in enumerate(of)
        }
        for method, of in gains.items()
    }
    return compare(runs, OPTIONS)


def test_gains_have_their_means_intervals_and_p_values_by_hand(lines: list[Line]) -> None:
    """Mild: mean 0.2, s 0.1, t = 0.2 / (0.1 / sqrt 3) = sqrt 12; sure: mean 0.31, s 0.01, t = 31
    sqrt 3.

    With two degrees of freedom p is 1 - t / sqrt(t^2 + 2), and the 0.975 quantile 4.3027. Holm
    doubles the lesser p.
    """
    mild, sure = lines
    assert mild.figures["global_gain"].mean == pytest.approx(0.2)
    assert mild.figures["global_gain"].half == pytest.approx(
        4.302653 * 0.1 / math.sqrt(3), rel=1e-6
    )
    assert sure.figures["personal_gain"].half == pytest.approx(
        4.302653 * 0.01 / math.sqrt(3), rel=1e-6
    )
    p_mild, p_sure = (1 - t / math.sqrt(t**2 + 2) for t in (math.sqrt(12), 31 * math.sqrt(3)))
    assert mild.tests["global_accuracy"].t == pytest.approx(p_mild)
    assert sure.tests["global_accuracy"].t == pytest.approx(p_sure)
    assert mild.holm["global_accuracy"] == pytest.approx(p_mild)
    assert sure.holm["global_accuracy"] == pytest.approx(2 * p_sure)
    assert mild.tests["global_accuracy"].wilcoxon == pytest.approx(2 / 2**3)


def test_the_table_says_what_the_files_say(lines: list[Line], tmp_path: Path) -> None:
    table = tables(lines, baselines_of(lines, OPTIONS), OPTIONS)[0]
    assert table.header[:6] == (
        "partition.alpha",
        "method",
        "seeds",
        "own distribution",
        "gain",
        "p",
    )
    assert table.lines[0] == (
        "1",
        "mild",
        "3",
        "70.0 ± 24.8",
        "+20.0 ± 24.8",
        "0.074",
        "0",
        "70.0 ± 24.8",
        "+20.0 ± 24.8",
        "0.074",
        "0",
    )
    assert table.lines[1][5] == "<0.001"
    assert table.lines[2][:4] == ("1", BASELINE, "3", "50.0 ± 0.0")
    assert "Holm's correction over the 2 tests" in table.caption
    write_csv({OPTIONS: lines}, tmp_path)
    with (tmp_path / "comparison.csv").open(newline="") as file:
        first = next(csv.DictReader(file))
    assert first["after"] == "distillation"
    assert float(first["global_gain"]) == pytest.approx(0.2)
    assert float(first["global_gain_p_holm"]) == pytest.approx(0.0741799, rel=1e-5)
    with (tmp_path / "runs.csv").open(newline="") as file:
        gains = [float(row["personal_gain"]) for row in csv.DictReader(file)]
    assert gains == pytest.approx([0.1, 0.2, 0.3, 0.30, 0.31, 0.32])


def test_a_method_at_its_twin_s_level_is_not_shown_to_differ(tmp_path: Path) -> None:
    """The gains 0.1, -0.1, 0 have mean 0, so that t is 0 and p is 1."""
    runs = {seed: ending(tmp_path / str(seed), gain) for seed, gain in enumerate((0.1, -0.1, 0.0))}
    (line,) = compare({("even", ONE): runs}, OPTIONS)
    assert line.tests["global_accuracy"].t == pytest.approx(1.0)


def test_the_best_round_is_chosen_by_validation_and_never_by_a_test(tmp_path: Path) -> None:
    """The second round is best on both tests; validation says the first, and the third ties with
    it."""
    run = read_run(
        write_run(
            tmp_path / "run",
            balanced=[[0.4, 0.6], [0.9, 0.9], [0.7, 0.7]],
            own=[[0.2, 0.2], [1.0, 1.0], [0.3, 0.3]],
            validation=[[0.8, 0.8], [0.1, 0.1], [0.6, 1.0]],
            twin=[[0.1, 0.1], [0.2, 0.2], [0.3, 0.3]],
            twin_validation=[[0.1, 0.1], [0.3, 0.3], [0.2, 0.2]],
        )
    )
    found = figures(run.at("distillation"), Options(after="distillation", last=2))
    assert found["global_accuracy_validation_best"] == pytest.approx(0.5)
    assert found["personal_accuracy_validation_best"] == pytest.approx(0.2)
    assert found["global_gain_validation_best"] == pytest.approx(
        0.5 - 0.2
    )  # the twin's best round is its second
    assert found["global_accuracy_mean_of_last"] == pytest.approx(0.8)
    assert found["global_gain_mean_of_last"] == pytest.approx(0.8 - 0.25)
    assert found["global_accuracy"] == pytest.approx(0.7)
    assert found["global_gain"] == pytest.approx(0.4)


def test_without_a_validation_split_the_table_says_why_no_round_is_chosen(
    lines: list[Line],
) -> None:
    table = next(t for t in tables(lines, [], OPTIONS) if "by the choice of the round" in t.title)
    assert not any("validation" in name for name in table.header)
    assert "test.validation_fraction=0" in table.caption


def test_harmed_clients_are_counted_in_all_and_by_architecture(tmp_path: Path) -> None:
    """The MLP loses in both runs, the CNN in one: 3 of 4, 2 of 2 and 1 of 2."""
    twins = [[0.5, 0.5]]
    runs = {
        0: read_run(write_run(tmp_path / "0", [[0.4, 0.6]], twins)),
        1: read_run(write_run(tmp_path / "1", [[0.4, 0.4]], twins)),
    }
    (line,) = compare({("some", ONE): runs}, OPTIONS)
    found = {
        name: line.figures[f"global_negative_transfer{name}"].mean for name in ("", "_mlp", "_cnn")
    }
    assert found == {"": 0.75, "_mlp": 1.0, "_cnn": 0.5}
    table = next(t for t in tables([line], [], OPTIONS) if "architecture" in t.title)
    assert table.header == ("partition.alpha", "method", "all clients", "mlp", "cnn")
    assert table.lines == (("1", "some", "75 / 75", "100 / 100", "50 / 50"),)


def test_bytes_are_counted_to_the_first_round_that_reaches_an_accuracy(tmp_path: Path) -> None:
    """300 bytes a round; 0.6 is reached in the second round of one run and never in the other."""
    runs = {
        0: read_run(write_run(tmp_path / "0", [[0.5, 0.5], [0.6, 0.6], [0.4, 0.4]])),
        1: read_run(write_run(tmp_path / "1", [[0.5, 0.5], [0.5, 0.6], [0.4, 0.4]])),
    }
    (line,) = compare({("some", ONE): runs}, OPTIONS)
    assert line.figures["global_bytes_to_reach"] == Interval(600.0, None, 1)
    assert (line.figures["bytes_up"].mean, line.figures["bytes_down"].mean) == (300.0, 600.0)
    table = next(t for t in tables([line], [], OPTIONS) if t.title == "Communication")
    assert table.lines == (("1", "some", "300 B", "600 B", "600 B (1/2)", "600 B (1/2)"),)
    higher = Options(after="distillation", last=1, reach=0.9)
    (never,) = compare({("some", ONE): runs}, higher)
    table = next(t for t in tables([never], [], higher) if t.title == "Communication")
    assert table.lines[0][-1] == "never (0/2)"


def test_the_twin_is_its_run_less_the_gains_and_is_left_out_beside_a_method_that_sends_nothing(
    tmp_path: Path,
) -> None:
    run = read_run(write_run(tmp_path / "run", [[0.5, 0.7], [0.8, 0.8]], [[0.1, 0.3], [0.4, 0.2]]))
    alone = baseline_run(run.at("distillation"))
    assert alone is not None
    assert alone.of_round("global_accuracy") == pytest.approx([0.2, 0.3])
    silent = read_run(write_run(tmp_path / "alone", [[0.1, 0.3], [0.4, 0.2]], sent=0))
    assert baseline_run(silent.at("distillation")) is None
    both = compare({("some", ONE): {0: run}, ("alone", ONE): {0: silent}}, OPTIONS)
    assert [line.method for line in baselines_of(both[:1], OPTIONS)] == [BASELINE]
    assert baselines_of(both, OPTIONS) == []
    private = compare({("some", ONE): {0: replace(run, baseline="local_only_private")}}, OPTIONS)
    assert [line.method for line in baselines_of([*both[:1], *private], OPTIONS)] == [
        BASELINE,
        "local-only baseline, private",
    ]
    assert both[1].tests["global_accuracy"] == Paired(None, None)


def test_one_seed_has_neither_interval_nor_test(tmp_path: Path) -> None:
    (line,) = compare({("some", ONE): {0: ending(tmp_path / "0", 0.1, ece=0.25)}}, OPTIONS)
    made = {table.title: table for table in tables([line], [], OPTIONS)}
    assert made[
        "Accuracy after distillation in the last round, and gain over local-only training"
    ].lines[0][3:6] == (
        "60.0",
        "+10.0",
        "–",
    )
    assert not any(title.startswith("Tests of the gain") for title in made)
    assert made["Calibration after distillation in the last round"].lines[0][2:4] == ("25.0", "–")


def test_lines_of_a_setting_stand_together(tmp_path: Path) -> None:
    other: Setting = (("partition.alpha", "0.1"),)
    run = ending(tmp_path / "run", 0.1)
    runs = {(method, setting): {0: run} for method in ("a", "b") for setting in (ONE, other)}
    table = tables(compare(runs, OPTIONS), [], OPTIONS)[0]
    assert [line[:2] for line in table.lines] == [
        ("1", "a"),
        ("1", "b"),
        ("0.1", "a"),
        ("0.1", "b"),
    ]


def test_latex_is_a_booktabs_table_with_what_is_special_escaped() -> None:
    table = Table(
        "Gains",
        "100 % of a_b",
        ("method", "gain"),
        (("fed_md & co", "−1.0 ± 0.5"), ("x^y", "–")),
        1,
    )
    text = table.latex()
    assert r"\toprule" in text
    assert r"\begin{tabular}{lr}" in text
    assert r"fed\_md \& co & $-$1.0 $\pm$ 0.5 \\" in text
    assert r"x\textasciicircum{}y & -- \\" in text
    assert r"100 \% of a\_b" in text
    assert text.isascii()


def test_every_table_is_ascii_in_latex_and_of_equal_width_in_markdown(lines: list[Line]) -> None:
    for table in tables(lines, baselines_of(lines, OPTIONS), OPTIONS):
        assert table.latex().isascii()
        assert (
            len({line.count("|") for line in table.markdown().splitlines() if line.startswith("|")})
            == 1
        )


@pytest.mark.slow
def test_pictures_show_means_by_round_and_by_bytes(lines: list[Line], tmp_path: Path) -> None:
    drawn = draw(lines, baselines_of(lines, OPTIONS), tmp_path, {ONE: "_one"})
    assert [path.name for path in drawn] == [
        "accuracy_by_round_one.png",
        "accuracy_by_bytes_one.png",
    ]
    assert all(path.stat().st_size > 5000 and path.with_suffix(".pdf").exists() for path in drawn)


def test_a_curve_stands_at_the_bytes_that_its_rounds_had_cost_and_local_training_is_a_level(
    tmp_path: Path,
) -> None:
    runs = {
        seed: read_run(
            write_run(tmp_path / str(seed), [[0.2 + d] * 2, [0.6 + d] * 2], [[0.1] * 2, [0.3] * 2])
        )
        for seed, d in enumerate((0.0, 0.1))
    }
    some = compare({("some", ONE): runs}, OPTIONS)
    styles = {"some": ("#0072B2", "o", "-")}
    figure = accuracy(some, baselines_of(some, OPTIONS), styles, "bytes", "")
    by_label = {line.get_label(): line for line in figure.axes[0].get_lines()}
    assert by_label["some"].get_xdata() == pytest.approx([300, 600])
    assert by_label["some"].get_ydata() == pytest.approx([25, 65])
    assert by_label[BASELINE].get_ydata() == pytest.approx([30, 30])
    assert "(B)" in figure.axes[0].get_xlabel()


def test_a_folder_without_a_finished_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nowhere does not hold a finished run"):
        read_run(tmp_path / "nowhere")
    folder = write_run(tmp_path / "run", [[0.5, 0.5]])
    assert status(folder) == "completed"
    (folder / "clients.csv").write_text("round,client,architecture\n2,0,mlp\n")
    with pytest.raises(RunError, match="not of the same rounds"):
        read_run(folder)
    (folder / "summary.json").write_text("{")
    with pytest.raises(RunError, match=r"summary\.json cannot be read"):
        status(folder)
    assert status(tmp_path / "nowhere") is None


def test_an_unknown_figure_is_no_number_and_has_no_part_in_a_mean() -> None:
    assert interval([math.nan, 0.5, 0.7]) == interval([0.5, 0.7])
    assert interval([math.nan]) == Interval(None, None, 0)
    assert paired([1.0, math.nan, 3.0, 4.0], [0.0, 0.0, 1.0, 1.0]) == paired(
        [1.0, 3.0, 4.0], [0.0, 1.0, 1.0]
    )


def test_differences_without_spread_have_no_t_and_those_that_are_all_zero_are_no_evidence() -> None:
    assert paired([0.3, 0.6, 0.9], [0.1, 0.4, 0.7]) == Paired(
        None, 0.25
    )  # 0.2 each, up to rounding
    assert paired([0.1 + 0.2, 0.5], [0.3, 0.5]) == Paired(1.0, 1.0)
    assert paired([0.1], [0.0]) == Paired(None, None)


def test_wilcoxon_of_five_gains_of_one_sign_is_one_sixteenth() -> None:
    assert paired([1.0, 2.0, 3.0, 4.0, 6.0], [0.0] * 5).wilcoxon == pytest.approx(2 / 2**5)


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_never_makes_a_p_value_smaller(p_values: list[float]) -> None:
    corrected = holm(list(p_values))
    pairs = sorted(zip(p_values, corrected, strict=True))  # type: ignore[type-var]
    assert all(p <= c <= 1 for p, c in pairs if c is not None)
    assert [c for _, c in pairs] == sorted(c for c in corrected if c is not None)
    assert min(c for c in corrected if c is not None) == pytest.approx(
        min(1, len(p_values) * min(p_values))
    )


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=8), st.floats(-1, 1))
def test_intervals_move_and_stretch_with_their_figures(values: list[float], shift: float) -> None:
    plain, moved = interval(values), interval([10 * v + shift for v in values])
    assert moved.mean == pytest.approx(10 * plain.mean + shift, abs=1e-9)  # type: ignore[operator]
    assert moved.half == pytest.approx(10 * plain.half, abs=1e-9)  # type: ignore[operator]
