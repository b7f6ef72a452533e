"""Plant bugs, one at a time and each in a copy of the tree, and say which the fast tests catch.

    python scripts/planted_bugs.py                     # all bugs against all fast tests
    python scripts/planted_bugs.py --only ledger       # those whose package or file has that text
    python scripts/planted_bugs.py --tests tests/unit  # a part of the tests
    python scripts/planted_bugs.py --list              # only look whether each bug can be planted

The tests must pass without a bug. Those of the bug's own room come first, and the first failure
ends the search. Exit status: 0
where every bug was caught, 1 where one was not, 2 where a bug's line is no longer in its file.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("fedkd", "strategies", "scenarios", "scripts", "tests", "docs", "examples", ".github")
TIERS = ("tests/unit", "tests/runs")
DOCTESTS = ("fedkd",)
STATIC = ("tests/unit/test_house.py", "tests/unit/test_seams.py")
"""Tests of the code's plan, which read it and run nothing."""
PASSED, NO_TESTS = 0, 5
"""Exit statuses of pytest: all is well, and nothing was collected."""


@dataclass(frozen=True)
class Bug:
    """A change of one line that does harm."""

    package: str
    file: str
    line: str
    """A text that is in the file exactly once."""
    instead: str
    harm: str

    @property
    def room(self) -> str:
        """The folder of ``fedkd`` that the bug is in."""
        return self.file.split("/")[1]


BUGS = (
    Bug(
        "knowledge",
        "fedkd/knowledge/predictions.py",
        "ordered = sorted(uploads, key=lambda upload: upload.client_id)",
        "ordered = list(uploads)",
        "a cohort's clients are in the order in which they answered",
    ),
    Bug(
        "fusion",
        "fedkd/fusion/weights.py",
        "distance > last[:, None] + TIE",
        "distance >= last[:, None]",
        "the last of the nearest clients is dropped",
    ),
    Bug(
        "codecs",
        "fedkd/codecs/levels.py",
        "np.rint(steps, out=steps)",
        "np.floor(steps, out=steps)",
        "quantized numbers are a whole step off",
    ),
    Bug(
        "privacy ledger",
        "fedkd/privacy/ledger.py",
        "own[single] = max(times, own.get(single, 0))",
        "own[single] = times",
        "an old statement of a client takes back what it has spent",
    ),
    Bug(
        "privacy mechanism",
        "fedkd/privacy/mechanisms/gaussian.py",
        "finish(bounded + self.sigma_in(plan) * noise, plan.scale, values)",
        "finish(values + self.sigma_in(plan) * noise, plan.scale, values)",
        "noise is added to rows that were not bounded",
    ),
    Bug(
        "federation",
        "fedkd/federation/round_records.py",
        "_RESET = {m.name: m.default for m in MEASURES if not m.lasts}",
        "_RESET = {}",
        "an absent client shows the figures of the round before",
    ),
    Bug(
        "flower records",
        "fedkd/flower/records.py",
        '"start_over": download.start_over,',
        '"start_over": False,',
        "a client whose reply was lost keeps what its codec remembered",
    ),
    Bug(
        "storage",
        "fedkd/storage/checkpoint.py",
        "self.states.forget(client_id, before=self._before[client_id][0])",
        "self.states.forget(client_id, before=now[client_id][0])",
        "the checkpoint before the last has no states to go back to",
    ),
    Bug(
        "training",
        "fedkd/training/losses.py",
        "return temperature**2 * terms.sum() / terms.shape[0]",
        "return terms.sum() / terms.shape[0]",
        "distillation's gradient shrinks with the temperature",
    ),
    Bug(
        "report",
        "fedkd/report/record_rows.py",
        "return max(values)",
        "return sum(values)",
        "a run's epsilon is the sum over clients whose data is disjoint",
    ),
    Bug(
        "scenario",
        "fedkd/scenario/registry.py",
        "return cls, {**defaults(cls), **given}",
        "return cls, {**given, **defaults(cls)}",
        "a name does not stand for its own settings",
    ),
    Bug(
        "robustness",
        "fedkd/robustness/aggregators.py",
        "math.ceil(share * clients - 1e-9)",
        "math.floor(share * clients)",
        "a share of the clients is rounded down",
    ),
    Bug(
        "data",
        "fedkd/data/division.py",
        "train.append(np.sort(rest[validating:]))",
        "train.append(np.sort(rest))",
        "clients train on their validation samples",
    ),
    Bug(
        "audit",
        "fedkd/audit/bounds.py",
        "return 1 - (1 - confidence) / tests",
        "return confidence",
        "many tests of a claim are each as sure as one",
    ),
)


def changed(bug: Bug) -> str:
    """Return the text of the bug's file with the bug in it.

    Raises:
        LookupError: The line is not in the file exactly once.
    """
    path = ROOT / bug.file
    text = path.read_text() if path.is_file() else ""
    found = text.count(bug.line)
    if found != 1:
        raise LookupError(
            f"{bug.package}: {bug.file} should have this line once, has it {found} times:"
            f" {bug.line!r}; follow the change in scripts/planted_bugs.py"
        )
    return text.replace(bug.line, bug.instead)


def copy_tree(folder: Path) -> None:
    """Copy all that tests read into an empty folder, without the tests of this script."""
    ignored = shutil.ignore_patterns("__pycache__", "test_planted_bugs.py")
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=ignored, symlinks=True)
    for path in ROOT.glob("*"):
        if path.is_file():
            shutil.copy2(path, folder / path.name)


def stages(bug: Bug, tests: Sequence[str]) -> list[list[str]]:
    """Return the tests in the order of calls: first those of the bug's room.

    Unit tests and whole runs never share a call, since only the former enforce shapes.
    """
    if tests:
        return [[test] for test in tests]
    own = [tier for tier in (f"{tier}/{bug.room}" for tier in TIERS) if (ROOT / tier).is_dir()]
    return [*([folder] for folder in own), [TIERS[0], *DOCTESTS], [TIERS[1]]]


def first_failure(bug: Bug, tests: Sequence[str], workers: str) -> str:
    """Return the test that catches a bug, or nothing.

    Raises:
        LookupError: The bug's line is not in its file exactly once.
        RuntimeError: The tests cannot be run.
    """
    with tempfile.TemporaryDirectory(prefix="planted-") as name:
        folder = Path(name)
        copy_tree(folder)
        (folder / bug.file).write_text(changed(bug))
        for paths in stages(bug, tests):
            command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", workers, *paths]
            done = subprocess.run(
                [*command, "-m", "not slow", "--tb=no", *(f"--ignore={file}" for file in STATIC)],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(folder)},
                capture_output=True,
                text=True,
                check=False,
            )
            marks = ("FAILED tests", "FAILED fedkd", "ERROR tests", "ERROR fedkd")
            failed = [x for x in done.stdout.splitlines() if x.startswith(marks)]
            if failed:
                return failed[-1]
            if done.returncode not in (PASSED, NO_TESTS):
                raise RuntimeError(f"pytest cannot run: {done.stdout}{done.stderr}")
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Plant the bugs that were asked for, print a line on each, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", default="", help="bugs whose package or file has this text")
    parser.add_argument("--tests", nargs="*", default=[], help="default: all fast tests")
    parser.add_argument("--workers", default="auto", help="processes of pytest-xdist")
    parser.add_argument("--list", action="store_true", help="look for their lines, but run no test")
    given = parser.parse_args(arguments)
    bugs = [bug for bug in BUGS if given.only in bug.package or given.only in bug.file]
    missed = 0
    for bug in bugs:
        try:
            if given.list:
                changed(bug)
                print(f"{bug.package}: {bug.file}: {bug.harm}")
                continue
            caught = first_failure(bug, given.tests, given.workers)
        except LookupError as error:
            print(error.args[0], file=sys.stderr)
            return 2
        missed += not caught
        print(f"{bug.package}: {bug.harm}: {caught or 'NOT CAUGHT'}", flush=True)
    if not given.list:
        print(f"{len(bugs) - missed} of {len(bugs)} bugs were caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
