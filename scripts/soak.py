"""Soak a run: what grows with its rounds, and what a great number of clients takes.

    python scripts/soak.py --rounds 2000 --clients 3
    python scripts/soak.py --rounds 3 --clients 10000 participation=0.05 strategy=fedmd
    python scripts/soak.py --minutes 15 --rounds 1000 --clients 10000 participation=0.05
    python scripts/soak.py --rounds 200 --clients 4 privacy=dp_sgd privacy.epsilon=100

runs a federation of tiny clients into a folder, as the command does, with a checkpoint each round,
and prints a table of time, memory, descriptors, threads, files and bytes by round, with the slopes
of its second half. What a round writes must not depend on how many came before. Settings are those
of `python -m fedkd.simulate`. Not for: speed against other programs (``bench.py``).
"""

import argparse
import contextlib
import gc
import math
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from measuring import own_memory_gb, own_peak_gb

from fedkd.cli.command import compose
from fedkd.errors import FedkdError
from fedkd.experiment.run import run
from fedkd.experiment.run_report import RunReport
from fedkd.federation.round_records import RoundRecord
from fedkd.runtime.working_folder import search_here
from fedkd.scenario.scenario import Scenario
from fedkd.settings.validators import at_least, positive

POINTS = 12
"""Rows of the table."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What a process was and had done at the end of a round."""

    round: int
    seconds: float
    """Of the round, its record and checkpoint included."""
    report_ms: float
    """Of that, writing the record and the checkpoint."""
    written_kb: float
    """What this process wrote in the round, whatever became of it later."""
    memory_mb: float
    descriptors: int
    threads: int
    files: int
    """In the run's folder."""
    disk_mb: float
    """The size of the run's folder."""


class Enough(BaseException):
    """What ends a run whose time is up, after a round."""


class Soaking:
    """Takes a sample at the end of each round of a run in this process."""

    def __init__(self, folder: Path, rounds: int, seconds: float = math.inf) -> None:
        """Begin before the run.

        Args:
            folder: The run's folder.
            rounds: How many it will have. Files are counted in a few of them alone.
            seconds: After so long it ends with the round.
        """
        self._until = time.perf_counter() + seconds
        self.samples: list[Sample] = []
        self._folder = folder
        self._counted = {*np.linspace(1, rounds, min(rounds, 60)).round().astype(int).tolist()}
        self._files, self._disk = 0, 0.0
        self._before, self._written = time.perf_counter(), written()
        self._add = RunReport.add

    def run(self, scenario: Scenario) -> None:
        """Run a scenario to its last round, or until its time is up."""

        def add(report: RunReport, record: RoundRecord, *, is_last: bool = False) -> None:
            began = time.perf_counter()
            self._add(report, record, is_last=is_last)
            self.note(record.round, time.perf_counter() - began)
            if time.perf_counter() > self._until:
                raise Enough

        RunReport.add = add  # type: ignore[method-assign, assignment]
        try:
            with contextlib.suppress(Enough):
                run(scenario, self._folder)
        finally:
            RunReport.add = self._add  # type: ignore[method-assign]

    def note(self, round_number: int, report_seconds: float) -> None:
        """Take the sample of a round."""
        if round_number in self._counted:
            gc.collect()  # so that memory is what is held, not what waits to be collected
            sizes = [path.stat().st_size for path in self._folder.rglob("*") if path.is_file()]
            self._files, self._disk = len(sizes), sum(sizes) / 1e6
        now, bytes_now = time.perf_counter(), written()
        self.samples.append(
            Sample(
                round=round_number,
                seconds=now - self._before,
                report_ms=1000 * report_seconds,
                written_kb=(bytes_now - self._written) / 1e3,
                memory_mb=1000 * own_memory_gb("VmRSS"),
                descriptors=sum(1 for _ in Path("/proc/self/fd").iterdir()),
                threads=threading.active_count(),
                files=self._files,
                disk_mb=self._disk,
            )
        )
        self._before, self._written = time.perf_counter(), written()


def written() -> int:
    """Return the bytes that this process has handed to the system to write."""
    (line,) = [
        text for text in Path("/proc/self/io").read_text().splitlines() if text.startswith("wchar")
    ]
    return int(line.split()[1])


def scenario_of(rounds: int, clients: int, settings: Sequence[str] = ()) -> Scenario:
    """Return the scenario of a soak: digits, perceptrons, a few samples a client.

    Args:
        rounds: Its rounds.
        clients: Its clients.
        settings: What differs, as the command takes it.
    """
    return compose(
        [
            f"rounds={rounds}",
            f"clients={clients}",
            "data=workload:NoisyDigits",
            f"data.train_rows={8 * clients + 400}",
            "partition=iid",
            "samples_per_client=5",
            "models=[workload:small_mlp]",
            "public.size=40",
            "test.global_size=20",
            "test.private_size=1",
            "train.epochs=1",
            "train.batch_size=8",
            "distill.epochs=1",
            "distill.batch_size=20",
            "engine.workers=1",
            "device=cpu",
            "baseline=none",
            "report.console=false",
            "report.plots=false",
            *settings,
        ]
    )


def slopes(samples: Sequence[Sample]) -> dict[str, float]:
    """Return by how much each figure grows a round, over the second half of the rounds.

    The slope is Theil's and Sen's: the median of the slopes between pairs a quarter of the rounds
    apart or more, which a single slow round does not move.

    >>> still = {"report_ms": 0.0, "written_kb": 0.0, "descriptors": 9, "threads": 1, "files": 7}
    >>> found = slopes(
    ...     [
    ...         Sample(round=i, seconds=2.0, memory_mb=100 + 0.5 * i, disk_mb=i / 10, **still)
    ...         for i in range(1, 41)
    ...     ]
    ... )
    >>> found["memory_mb"], round(found["disk_mb"], 3), found["seconds"]
    (0.5, 0.1, 0.0)
    """
    half = samples[len(samples) // 2 :]
    apart = max(1, len(half) // 2)
    found = {}
    for name in asdict(samples[0]):
        values = [float(getattr(sample, name)) for sample in half]
        steps = [
            (later - earlier) / apart
            for earlier, later in zip(values[:-apart], values[apart:], strict=True)
        ]
        found[name] = float(np.median(steps)) if steps else 0.0
    return {name: slope for name, slope in found.items() if name != "round"}


def table(samples: Sequence[Sample]) -> str:
    """Return the samples of a few rounds, and the slopes, as a Markdown table."""
    names = list(asdict(samples[0]))
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    wanted = np.linspace(0, len(samples) - 1, min(POINTS, len(samples))).round().astype(int)
    for index in wanted:
        cells = [_shown(value) for value in asdict(samples[index]).values()]
        lines.append(f"| {' | '.join(cells)} |")
    if len(samples) > 3:
        grown = [f"{1000 * slope:+.3g}" for slope in slopes(samples).values()]
        lines.append(f"| **per 1,000 rounds** | {' | '.join(grown)} |")
    return "\n".join(lines)


def _shown(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", metavar="key=value")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=1e6, help="ends it after the round")
    parser.add_argument("--out", type=Path, help="the run's folder; a temporary one without it")
    given = parser.parse_intermixed_args(arguments)
    search_here()
    try:
        at_least(1, **{"--rounds": given.rounds, "--clients": given.clients})
        positive(**{"--minutes": given.minutes})
        scenario = scenario_of(given.rounds, given.clients, given.settings)
        with tempfile.TemporaryDirectory() as spare:
            soaking = Soaking(given.out or Path(spare) / "run", given.rounds, 60 * given.minutes)
            soaking.run(scenario)
    except FedkdError as error:
        print(f"soak: {error}", file=sys.stderr)
        return 2
    print(table(soaking.samples))
    print(f"\nPeak memory: {1000 * own_peak_gb():.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
