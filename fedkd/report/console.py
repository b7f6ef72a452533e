"""The console report of a run: its plan, a progress bar, a line per round, and the final table."""

from collections.abc import Mapping
from typing import IO, Any, cast

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from fedkd.federation.round_records import RoundRecord
from fedkd.privacy.claims import rounded_up
from fedkd.report.record_rows import ACCURACIES, Baseline, RunPlan, client_rows, verdict
from fedkd.runtime.standard_streams import FullableOutput
from fedkd.settings.measuring_points import MeasuringPoint, column

MOST_CLIENTS_LISTED = 20
NO_TERMINAL_WIDTH = 100
WORDS = {"personal": "own", "global": "balanced"}
"""Words for readers, by the columns' prefixes."""


def open_console() -> Console:
    """Return a console on the standard output, of a width of its own where that is no terminal."""
    output = cast(IO[str], FullableOutput())
    console = Console(file=output, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console = Console(file=output, highlight=False, soft_wrap=True, width=NO_TERMINAL_WIDTH)
    return console


class ConsoleReport:
    """Prints a run's progress and results. With ``quiet`` it prints warnings only."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._console = open_console()
        self._progress: Progress | None = None
        self._task: Any = None
        self._points: tuple[MeasuringPoint, ...] = ()
        """The points that are measured, the one that is reported first before the other."""
        self._claimed = ""
        """The unit and adversary of the epsilon in round lines, in words."""

    def say(self, text: str) -> None:
        """Print a line."""
        if not self._quiet:
            self._console.print(text, markup=False)

    def plan(self, plan: RunPlan, folder: str) -> None:
        """Print the warnings and the settings of the run, and the folder of its results."""
        for warning in plan.warnings:
            self._console.print(f"Warning: {warning}", style="yellow", markup=False)
        self._points = plan.reported
        if plan.privacy.get("adversary"):
            author = plan.privacy.get("declared_by")
            word = f", as {author} declares" if author else ""
            whose = f"{plan.privacy['unit']}, against {plan.privacy['adversary']}"
            self._claimed = f" ({whose}{word})"
        if self._quiet:
            return
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        sizes = sorted(plan.train_sizes)
        models = ", ".join(
            f"{plan.architectures.count(name)} x {name} ({plan.parameters[name]:,} parameters)"
            for name in dict.fromkeys(plan.architectures)
        )
        data = plan.scenario["data"]
        rows = {
            "scenario": f"{plan.name}, seed {plan.scenario['seed']}",
            "strategy": _settings(plan.scenario["strategy"])
            + (f"; distillation loss {plan.loss}" if plan.exchanges else ""),
            "data": f"{data['name']}, {len(plan.class_names)} classes; "
            f"partition {_settings(plan.scenario['partition'])}",
            "clients": f"{plan.clients} with {sizes[0]} to {sizes[-1]} training {plan.examples}"
            f" (median {int(np.median(sizes))}): {models}",
            **_component_lines(plan, "heads"),
            "public set": plan.public_set,
            "rounds": f"{plan.rounds}, {plan.scenario['round_order']}",
            "measured": f"after {' and after '.join(plan.reported)}"
            + ("" if plan.sends_metrics else "; the figures stay with the clients"),
            **_threat_lines(plan),
            "privacy": f"{plan.privacy['mechanism']}: {plan.privacy['reason']}",
            "runs on": f"{plan.engine}, {plan.device}",
            "results": folder,
        }
        for name, text in rows.items():
            table.add_row(f"[bold]{name}[/bold]", text.replace("[", "\\["))
        self._console.print(table)

    def start(self, what: str, messages: int) -> None:
        """Start the progress bar over client messages (an estimate, as clients may fail)."""
        if self._quiet:
            return
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("messages"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._progress.add_task(what, total=messages)
        self._progress.start()

    def advance(self) -> None:
        """Advance the progress bar by one message."""
        if self._progress is not None:
            self._progress.advance(self._task)

    def round(self, row: Mapping[str, Any], rounds: int) -> None:
        """Print a round's line."""
        if self._quiet:
            return
        parts = [f"round {row['round']:>{len(str(rounds))}}/{rounds}"]
        parts += [text for point in self._points if (text := accuracies_at(row, point))]
        if row["effective_neighbors"] is not None:
            parts.append(f"neighbors {row['effective_neighbors']:.1f}")
        if row["epsilon"] is not None:
            parts.append(f"epsilon {rounded_up(row['epsilon'])}{self._claimed}")
        parts.append(f"up {size(row['bytes_up'])}, down {size(row['bytes_down'])}")
        parts.append(f"{row['seconds']:.1f} s")
        for status in ("rejected", "failed"):
            if row[status]:
                first = row[status][0]
                parts.append(
                    f"{len(row[status])} {status} (client {first['client']}: {first['reason']})"
                )
        self._console.print("  ".join(parts), markup=False)

    def stop(self) -> None:
        """Stop the progress bar."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def summary(
        self,
        plan: RunPlan,
        summary: Mapping[str, Any],
        last: RoundRecord | None,
        baseline: Baseline | None,
        folder: str,
        drawn: bool,
    ) -> None:
        """Print the final table, the table of clients, the verdict and the privacy claims.

        Args:
            plan: The run's.
            summary: The run's, as in ``summary.json``.
            last: The record of the last round, or None without rounds.
            baseline: Local-only training, or None.
            folder: The folder of the results.
            drawn: Whether plots were drawn.
        """
        if self._quiet or last is None:
            return
        table = Table(
            title=f"Round {last.round}: accuracy in %, mean ± s.d. over clients",
            title_justify="left",
            box=SIMPLE,
            padding=(0, 1, 0, 0),
        )
        for name in ("", "after", "own distribution", "balanced test", "worse off", "up", "down"):
            left = name in ("", "after")
            table.add_column(name, justify="left" if left else "right", no_wrap=True)
        traffic = (size(summary["bytes_up"]), size(summary["bytes_down"]))
        for point in plan.reported:
            harmed = (
                summary[column(f"{where}_negative_transfer", point)]
                for where in ("personal", "global")
            )
            table.add_row(plan.strategy, point, *_spreads(summary, point), _both(*harmed), *traffic)
            traffic = ("", "")
        if baseline is not None:
            alone = _spreads(summary["local_only"], "training")
            table.add_row(summary["baseline"], "training", *alone, "", "0 B", "0 B")
        self._console.print(table)
        if plan.clients <= MOST_CLIENTS_LISTED:
            self._console.print(_clients_table(last, baseline, plan))
        for line in text_lines(summary):
            self._console.print(
                line, style="bold" if line.startswith("VOID") else None, markup=False
            )
        sentence = verdict(summary, plan.strategy, plan.reported)
        if sentence:
            self._console.print(
                sentence, style="bold" if "LOSES" in sentence else None, markup=False
            )
        for claim in summary["privacy"].get("text", []):
            self._console.print(f"Privacy: {claim}", markup=False)
        self._console.print(f"Results{' and plots' if drawn else ''}: {folder}", markup=False)


def text_lines(summary: Mapping[str, Any]) -> list[str]:
    """Return the lines about text: bits per token, and each adversary's exposure of secrets.

    There are none in a run on images.
    """
    bits, exposure = summary.get("bits_per_token"), summary.get("exposure")
    lines = []
    if bits is not None:
        known = [f"{value:.3f} on the {name}" for name, value in bits.items() if value is not None]
        lines.append(f"Accuracies are of next tokens. Bits a token: {', '.join(known)}.")
    if exposure is not None:
        lines.append(
            f"Exposure of secrets in bits, {exposure['ceiling']:.1f} at most,"
            f" {exposure['chance']:.2f} by chance:"
        )
        for name, found in exposure["by_adversary"].items():
            inserted, held_out = found["inserted"], found["held_out"]
            sampled = found.get("sampling")
            between = f" ({sampled['low']:.2f} to {sampled['high']:.2f})" if sampled else ""
            lines.append(
                f"  {name:<15} mean {inserted['mean']:5.2f}{between}  median"
                f" {inserted['median']:5.2f}  of"
                f" {inserted['count']};  held out {held_out['mean']:5.2f}"
            )
        if exposure["detector"] is not None:
            shares = [
                f"{k} {'-' if v is None else f'{v:.2f}'}" for k, v in exposure["detector"].items()
            ]
            lines.append(f"  detector of secrets' context: {', '.join(shares)}")
        if exposure["void"] is not None:
            lines.append(f"VOID: {exposure['void']}.")
    return lines


def _threat_lines(plan: RunPlan) -> dict[str, str]:
    """Return the lines about attackers and the robust aggregator."""
    lines = _component_lines(plan, "attacks", "robust")
    if plan.attackers:
        lines["attacks"] += (
            f" by clients {', '.join(map(str, plan.attackers))}, who do not count in what follows"
        )
    return lines


def _component_lines(plan: RunPlan, *names: str) -> dict[str, str]:
    """Return a line for each of these settings that is not "none"."""
    return {
        name: _settings(plan.scenario[name])
        for name in names
        if plan.scenario[name]["name"] != "none"
    }


def accuracies_at(row: Mapping[str, Any], point: MeasuringPoint) -> str:
    """Return a round's accuracies at a point in words, with their gains; empty without any."""
    parts = []
    for where in ("personal", "global"):
        mean = row[column(f"{where}_accuracy", point)]
        if mean is not None:
            gain, std = row[column(f"{where}_gain", point)], column(f"{where}_accuracy_std", point)
            gain_text = "" if gain is None else f" ({100 * gain:+.1f})"
            parts.append(f"{WORDS[where]} {100 * mean:.1f} ±{100 * row[std]:.1f}{gain_text}")
    return f"after {point}: {', '.join(parts)}" if parts else ""


def _clients_table(last: RoundRecord, baseline: Baseline | None, plan: RunPlan) -> Table:
    table = Table(
        title=f"By client after {plan.after}: gain over {plan.scenario['baseline']} in points;"
        " who teaches it in the last round",
        title_justify="left",
        box=SIMPLE,
        padding=(0, 1, 0, 0),
    )
    for name in ("client", "model", plan.examples, "own %", "gain", "bal. %", "gain", "taught by"):
        table.add_column(
            name,
            justify="left" if name in ("model", "taught by") else "right",
            no_wrap=name != "taught by",
        )
    for row in client_rows(last, baseline):
        table.add_row(
            f"{row['client']}{' (attacks)' if row['attacker'] else ''}",
            row["architecture"],
            str(row["train_size"]),
            *(
                shown(row[column(f"{where}_{figure}", plan.after)])
                for where in ("personal", "global")
                for figure, shown in (("accuracy", _percent), ("gain", _points))
            ),
            teachers(last, row["client"]),
        )
    return table


def teachers(record: RoundRecord, client_id: int, most: int = 3) -> str:
    """Return a client's strongest teachers with their weights: ``#3 41%, itself 30%``.

    It is "nobody" without weights, and "all alike" with equal ones. ``most`` teachers are named.
    """
    if record.weights is None or record.weights[client_id].isnan().all():
        return "nobody"
    weights = record.weights[client_id].tolist()
    if max(weights) - min(weights) < 1e-6 and len(weights) > 1:
        return "all alike"
    strongest = sorted(range(len(weights)), key=lambda j: -weights[j])[:most]
    return ", ".join(
        f"{'itself' if j == client_id else f'#{j}'} {100 * weights[j]:.0f}%"
        for j in strongest
        if weights[j] >= 0.005
    )


def size(count: int | float) -> str:
    """Return a number of bytes in a readable unit.

    >>> size(312), size(1_250_000)
    ('312 B', '1.2 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def _settings(choice: Mapping[str, Any]) -> str:
    fields = [f"{k}={v}" for k, v in choice.items() if k != "name" and v is not None]
    return str(choice["name"]) + (f" ({', '.join(fields)})" if fields else "")


def _spreads(figures: Mapping[str, Any], point: MeasuringPoint) -> list[str]:
    return [
        _spread(figures[column(name, point)], figures[column(f"{name}_std", point)])
        for name in ACCURACIES
    ]


def _spread(mean: float | None, std: float | None) -> str:
    return "" if mean is None or std is None else f"{100 * mean:.1f} ±{100 * std:.1f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _points(value: float | None) -> str:
    return "" if value is None else f"{100 * value:+.1f}"


def _both(local: float | None, global_: float | None) -> str:
    return "" if local is None or global_ is None else f"{100 * local:.0f}% / {100 * global_:.0f}%"
