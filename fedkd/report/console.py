"""The console report of a run: its plan, a progress bar, a line per round, and the final table."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich.box import SIMPLE
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
from fedkd.report.report_settings import Verbosity
from fedkd.report.run_output import Brief, RunOutput
from fedkd.settings.measuring_points import MeasuringPoint, column
from fedkd.settings.metric_names import METRIC_NAMES

MOST_CLIENTS_LISTED = 20
SIGN_OF_LIFE = 15.0
"""Seconds after which a file, where no bar shows how far a run is, gets a line of progress."""
PLAN, CLAIMS = "plan", "claims"
"""What the first run of a sweep prints for all."""
WORDS = {"personal": "own", "global": "balanced"}
"""Words for readers, by the columns' prefixes."""


class RunConsole(Protocol):
    """Shows a run while it goes on: ``fedkd.report.console``, or another in its place."""

    def say(self, text: str) -> None:
        """Show a line."""

    def plan(self, plan: RunPlan, folder: str) -> None:
        """Show what will run, with its warnings, and the folder of its results."""

    def start(self, what: str, messages: int) -> None:
        """Begin to show progress over so many client messages."""

    def advance(self) -> None:
        """Show that a message was answered."""

    def round(self, row: Mapping[str, Any], rounds: int) -> None:
        """Show a finished round by its row."""

    def stop(self) -> None:
        """End to show progress."""

    def summary(
        self,
        plan: RunPlan,
        summary: Mapping[str, Any],
        last: RoundRecord | None,
        baseline: Baseline | None,
        folder: str,
        drawn: bool,
    ) -> None:
        """Show what the run came to.

        Args:
            plan: The run's.
            summary: The run's.
            last: The record of the last round, or None without rounds.
            baseline: Local-only training, or None.
            folder: The folder of the results.
            drawn: Whether plots were drawn.
        """


LONGEST_MODEL = 32
"""Letters of a model's name in the table of clients: longer ones end in an ellipsis."""


class ConsoleReport:
    """Prints and logs a run's progress and results, as much of them as is asked for."""

    def __init__(
        self,
        verbosity: Verbosity = "normal",
        folder: Path | None = None,
        brief: Brief | None = None,
        instead: RunConsole | None = None,
    ) -> None:
        """Open the report of a run.

        Args:
            verbosity: How much is printed.
            folder: The run's, for its log; None logs nothing.
            brief: What the runs of a sweep share, of each of which little is printed.
            instead: Shows the run in place of the standard output; the log is written anyway.
        """
        self.output = RunOutput("silent" if instead else verbosity, folder, brief)
        self._instead = instead
        self._brief = Brief() if brief is None else brief
        self._last_line = time.monotonic()
        self._progress: Progress | None = None
        self._task: Any = None
        self._points: tuple[MeasuringPoint, ...] = ()
        """The points that are measured, the one that is reported first before the other."""
        self._claimed = ""
        """The unit and adversary of the epsilon in round lines, in words."""

    def say(self, text: str) -> None:
        """Print a line."""
        self._say(text, "normal")

    def warn(self, text: str) -> None:
        """Print a line that also stands for a run in a sweep."""
        self._say(text, "brief")

    def _say(self, text: str, level: str) -> None:
        self.output.print(text, level=level)
        if self._instead is not None:
            self._instead.say(text)

    def detail(self, text: str) -> None:
        """Print a line for those who want to know all."""
        self.output.print(text, level="verbose")

    def progress(self, text: str, *, now: bool = False) -> None:
        """Say how far something long is, where no bar shows it: at once, or every few seconds."""
        if not now and time.monotonic() - self._last_line < SIGN_OF_LIFE:
            return
        self._last_line = time.monotonic()
        if self.output.is_watched:
            self.output.log(text)
        else:
            self.output.print(text, level="brief")

    def plan(self, plan: RunPlan, folder: str) -> None:
        """Print the warnings and the settings of the run, and the folder of its results."""
        if self._instead is not None:
            self._instead.plan(plan, folder)
        if self._brief.heading:
            self.output.print(f"{self._brief.heading}: {folder}", level="quiet")
        for warning in plan.warnings:
            self._once(f"Warning: {warning}", style="yellow")
        self._points = plan.reported
        if plan.privacy.get("adversary"):
            author = plan.privacy.get("declared_by")
            word = f", as {author} declares" if author else ""
            whose = f"{plan.privacy['unit']}, against {plan.privacy['adversary']}"
            self._claimed = f" ({whose}{word})"
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_column()
        table.add_column(overflow="fold")
        sizes = sorted(plan.train_sizes)
        models = ", ".join(
            f"{plan.architectures.count(name)} x {name}{size_in_words(plan.parameters[name])}"
            for name in dict.fromkeys(plan.architectures)
        )
        data = plan.scenario["data"]
        rows = {
            "scenario": f"{plan.name}, seed {plan.scenario['seed']}",
            "strategy": _settings(plan.scenario["strategy"])
            + (f"; distillation loss {plan.loss}" if plan.exchanges else ""),
            "data": f"{data['name']}, {len(plan.class_names)} classes; "
            f"partition {_settings(plan.scenario['partition'])}",
            "clients": f"{plan.clients} with {_in_words(sizes)} training {plan.examples}"
            f"{_dealt_in_words(plan)}: {models}",
            **({"shift": plan.shift} if plan.shift else {}),
            **_component_lines(plan, "heads"),
            "public set": plan.public_set,
            "rounds": f"{plan.rounds}, {plan.scenario['round_order']}",
            "measured": f"after {' and after '.join(plan.reported)}"
            + plan.measurement
            + ("" if plan.sends_metrics else "; the figures stay with the clients"),
            **_threat_lines(plan),
            "privacy": f"{plan.privacy['mechanism']}: {plan.privacy['reason']}",
            "runs on": f"{plan.engine}, {plan.device}",
            "results": folder,
        }
        for name, text in rows.items():
            table.add_row(f"[bold]{name}[/bold]", text.replace("[", "\\["))
        first = PLAN not in self._brief.said
        self._brief.said.add(PLAN)
        self.output.print(table, level="brief" if first else "normal")

    def _once(self, text: str, *, style: str | None = None) -> None:
        """Print a line in quiet runs too, though in one run of a sweep alone."""
        if text in self._brief.said:
            self.output.log(text)
        else:
            self.output.print(text, level="quiet", style=style)
            self._brief.said.add(text)

    def start(self, what: str, messages: int) -> None:
        """Start the progress bar over client messages (an estimate, as clients may fail)."""
        self._last_line = time.monotonic()
        if self._instead is not None:
            self._instead.start(what, messages)
        if not self.output.prints("brief") or not self.output.is_watched:
            return
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("messages"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.output.console,
            transient=True,
        )
        self._task = self._progress.add_task(what, total=messages)
        self._progress.start()

    def advance(self) -> None:
        """Advance the progress bar by one message."""
        if self._instead is not None:
            self._instead.advance()
        if self._progress is not None:
            self._progress.advance(self._task)

    def round(self, row: Mapping[str, Any], rounds: int) -> None:
        """Print a round's line; of a run in a sweep now and then, where no bar shows it."""
        if self._instead is not None:
            self._instead.round(row, rounds)
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
        line = "  ".join(parts)
        if not self.output.is_brief():
            self.output.print(line)
            return
        self.output.log(line)
        if not self.output.is_watched and time.monotonic() - self._last_line >= SIGN_OF_LIFE:
            self.output.console.print(line, markup=False)
            self._last_line = time.monotonic()

    def clients(self, record: RoundRecord, points: tuple[MeasuringPoint, ...]) -> None:
        """Print what every client did in a round, for those who want to know all."""
        if not self.output.logs("verbose"):
            return
        for client in record.clients:
            parts = [f"  client {client.client_id} ({client.architecture})", client.status]
            parts += [client.reason] if client.reason else []
            for point in points:
                found = client.after(point)
                if found.personal_accuracy is not None and found.global_accuracy is not None:
                    own, balanced = 100 * found.personal_accuracy, 100 * found.global_accuracy
                    parts.append(f"after {point}: own {own:.1f}, balanced {balanced:.1f}")
            parts.append(f"taught by {teachers(record, client.client_id)}")
            parts.append(f"up {size(client.bytes_up)}, down {size(client.bytes_down)}")
            parts.append(f"{client.seconds:.2f} s")
            self.detail("  ".join(parts))

    def stop(self) -> None:
        """Stop the progress bar."""
        if self._instead is not None:
            self._instead.stop()
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
        if self._instead is not None:
            self._instead.summary(plan, summary, last, baseline, folder, drawn)
        if last is None:
            return
        if self.output.is_brief():
            self._brief_summary(plan, summary)
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
        self.output.print(table)
        if plan.clients <= MOST_CLIENTS_LISTED:
            self.output.print(_clients_table(last, baseline, plan))
        for line in metric_lines(summary, plan.reported):
            self.output.print(line)
        for line in text_lines(summary):
            self.output.print(line, style="bold" if line.startswith("VOID") else None)
        sentence = verdict(summary, plan.strategy, plan.reported)
        if sentence:
            self.output.print(sentence, style="bold" if "BEHIND" in sentence else None)
        for claim in summary["privacy"].get("text", []):
            self.output.print(f"Privacy: {claim}")
        # The heading of a run in a sweep has said where its results are.
        level = "normal" if self._brief.heading else "quiet"
        self.output.print(f"Results{' and plots' if drawn else ''}: {folder}", level=level)

    def _brief_summary(self, plan: RunPlan, summary: Mapping[str, Any]) -> None:
        """Print the results of a run in a sweep in a line, and claims of the first one for all."""
        parts = [accuracies_at(summary, plan.after)]
        if (privacy := summary["privacy"]).get("epsilon") is not None:
            parts.append(f"epsilon {rounded_up(privacy['epsilon'])}{self._claimed}")
        parts.append(f"up {size(summary['bytes_up'])}, down {size(summary['bytes_down'])}")
        parts.append(f"{summary['seconds']:.0f} s")
        console = self.output.console
        console.print(f"  {'  '.join(part for part in parts if part)}", markup=False)
        claims = privacy.get("text", [])
        if claims and CLAIMS not in self._brief.said:
            self._brief.said.add(CLAIMS)
            for claim in claims:
                console.print(f"  Privacy: {claim}", markup=False)
            console.print("  Each run's console.log has its own claims.", markup=False)


def metric_lines(summary: Mapping[str, Any], points: Sequence[MeasuringPoint]) -> list[str]:
    """Return a line for each point with the metrics that the run was asked for, in %.

    >>> figures = {"personal_auroc_after_training": 0.75, "global_auroc_after_training": 0.5}
    >>> metric_lines(figures, ["training"])
    ['After training, own and balanced: auroc 75.0 and 50.0']
    """
    lines = []
    for point in points:
        found = [
            f"{name} {' and '.join(_percent(summary.get(f)) or '-' for f in of)}"
            for name in METRIC_NAMES
            if (of := [column(f"{where}_{name}", point) for where in WORDS])[0] in summary
        ]
        if found:
            lines.append(f"After {point}, {' and '.join(WORDS.values())}: {', '.join(found)}")
    return lines


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
            min_width=26 if name == "taught by" else None,
            max_width=LONGEST_MODEL if name == "model" else None,
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


def size_in_words(parameters: int | None) -> str:
    """Return a model's size, to stand behind its name; "" where it is not known.

    >>> size_in_words(650), size_in_words(0)
    (' (650 parameters)', ' (an estimator)')
    """
    if parameters is None:
        return ""
    return f" ({parameters:,} parameters)" if parameters else " (an estimator)"


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


def _in_words(sizes: Sequence[int]) -> str:
    """Return sorted numbers in words.

    >>> _in_words([3, 5, 5, 9]), _in_words([4, 4])
    ('3 to 9 (median 5)', '4')
    """
    if sizes[0] == sizes[-1]:
        return str(sizes[0])
    return f"{sizes[0]} to {sizes[-1]} (median {int(np.median(sizes))})"


def _dealt_in_words(plan: RunPlan) -> str:
    """Return what clients were dealt, where several examples are made of one; empty elsewhere."""
    if plan.dealt == plan.examples:
        return ""
    return f" of {_in_words(sorted(plan.label_counts.sum(axis=1).tolist()))} {plan.dealt}"


def _settings(choice: Mapping[str, Any]) -> str:
    fields = [f"{k}={v}" for k, v in choice.items() if k != "name" and v is not None]
    return str(choice["name"]) + (f" ({', '.join(fields)})" if fields else "")


def _spreads(figures: Mapping[str, Any], point: MeasuringPoint) -> list[str]:
    return [
        _spread(figures.get(column(name, point)), figures.get(column(f"{name}_std", point)))
        for name in ACCURACIES
    ]


def _spread(mean: float | None, std: float | None) -> str:
    return "" if mean is None or std is None else f"{100 * mean:.1f} ±{100 * std:.1f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _points(value: float | None) -> str:
    return "" if value is None else f"{100 * value:+.1f}"


def _both(local: float | None, global_: float | None) -> str:
    if local is None and global_ is None:
        return ""
    return " / ".join("-" if value is None else f"{100 * value:.0f}%" for value in (local, global_))
