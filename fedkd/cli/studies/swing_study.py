"""Settings of the study of swing in a federation, and the runs of any study of swing.

Every run is one of the product's own (``python -m fedkd.simulate scenario=swing_study SETTINGS``),
begun, gone on with or left alone as by ``fedkd compare``. Runs of one seed share texts, secrets,
initial weights and the order of batches, so that all else is paired. Not for: what the outcomes say
(``swing_report``).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from fedkd.cli import compare
from fedkd.cli.carrying_out import run_tasks
from fedkd.errors import RunError
from fedkd.report.comparison.run_reader import read_run

BASE = ("scenario=swing_study", "engine.workers=1")
SWING = ("privacy=swing", "privacy.detector=oracle")
EVERYWHERE = ("privacy=swing", "privacy.detector=everywhere")
ROUNDS = ("rounds=4", "train.epochs=8", "distill.epochs=5", "text_canaries.upload_history=true")
DECODERS = ("models=[decoder_small]",)
OUTCOMES = "outcomes.json"
MEAN, KNFU = ("dsfl", "strategy.aggregation=mean"), ("knfu",)


@dataclass(frozen=True)
class Setting:
    """A setting of the study, and the one that it is held against.

    ``label`` names its runs' folder; ``settings`` are what it changes in the scenario.
    """

    name: str
    label: str
    settings: tuple[str, ...] = ()
    strategy: tuple[str, ...] = MEAN
    against: str = "plain"

    @property
    def method(self) -> compare.Method:
        """The setting as a method of a comparison."""
        return compare.Method(self.label, self.strategy[0], (*self.strategy[1:], *self.settings))


SETTINGS = (
    Setting("plain", "plain"),
    Setting("swing, oracle", "oracle", SWING),
    Setting("swing, pattern", "pattern", ("privacy=swing", "privacy.detector=pattern")),
    Setting("swing, surprisal gap", "gap", ("privacy=swing", "privacy.detector=surprisal_gap")),
    Setting("swing, confidence", "confidence", ("privacy=swing", "privacy.detector=confidence")),
    Setting("temperature alone", "temperature", (*SWING, "privacy.noise=0")),
    Setting("noise alone", "noise", (*SWING, "privacy.max_temperature=1")),
    Setting(
        "uniform temperature 4",
        "uniform_temperature",
        (*EVERYWHERE, "privacy.noise=0", "privacy.max_temperature=4"),
    ),
    Setting("uniform noise 2", "uniform_noise", (*EVERYWHERE, "privacy.max_temperature=1")),
    Setting("dropped positions", "dropped", ("tokens.skip=oracle",)),
    Setting("top 1", "top1", ("codec=top_k", "codec.k=1")),
    Setting("own share 0.5", "own_share", ("tokens.label_share=0.5",)),
    Setting("KnFu, beta 10", "knfu", strategy=KNFU),
    Setting("KnFu, beta 100", "knfu_sharp", ("strategy.beta=100",), KNFU),
    Setting(
        "plain, never visited (P0)",
        "p0",
        ("text_canaries.visits=never", "text_canaries.visit_times=null"),
    ),
    Setting("plain, prefix visited (P1)", "p1", ("text_canaries.visits=prefix",)),
    Setting("plain, decoders", "decoders", DECODERS, against="plain, decoders"),
    Setting(
        "DP-SGD teachers",
        "dp_sgd",
        (
            *DECODERS,
            "privacy=dp_sgd",
            "privacy.epsilon=8",
            "privacy.delta=1e-3",
            "train.batch_size=24",
        ),
        against="plain, decoders",
    ),
    Setting("plain, 4 rounds", "rounds", ROUNDS, against="plain, 4 rounds"),
    Setting(
        "swing, 4 rounds, noise fixed",
        "rounds_fixed",
        (*ROUNDS, *SWING),
        against="plain, 4 rounds",
    ),
    Setting(
        "swing, 4 rounds, noise fresh",
        "rounds_fresh",
        (*ROUNDS, *SWING, "privacy.noise_per=release"),
        against="plain, 4 rounds",
    ),
)
Outcome = dict[str, Any]
Results = dict[tuple[str, int], Outcome]
"""Figures of a run by the name of its setting and its seed."""


@dataclass(frozen=True)
class SwingStudy:
    """Settings that are run over paired seeds, and what all of them have in common."""

    base: tuple[str, ...]
    settings: tuple[Setting, ...]

    @property
    def by_name(self) -> dict[str, Setting]:
        """The settings by name."""
        return {setting.name: setting for setting in self.settings}

    def cells(self, seeds: int, out: Path, only: Sequence[str] = ()) -> list[compare.Cell]:
        """Return the runs of some settings, of all by default, for seeds from 0 on.

        Raises SettingError.
        """
        methods = [self.by_name[name].method for name in only or self.by_name]
        return compare.plan(self.base, methods, [()], list(range(seeds)), out, 1)

    def carry_out(
        self, seeds: int, out: Path, jobs: int, console: Console, only: Sequence[str] = ()
    ) -> Results:
        """Run what is not done yet, write the figures, and return them.

        They are written to ``outcomes.json``. Raises RunError where a run failed.

        Args:
            seeds: How many paired seeds, from 0 on.
            out: The folder that takes the runs.
            jobs: Runs at a time.
            console: Is told how it goes.
            only: Settings by name; all of them by default.
        """
        planned = self.cells(seeds, out, only)
        failed = run_tasks([cell.task for cell in planned], jobs, console)
        if failed:
            raise RunError("; ".join(f"{outcome.task.name}: {outcome.error}" for outcome in failed))
        names = {setting.label: setting.name for setting in self.settings}
        found = {(names[c.method.label], c.seed): outcome_of(c.task.folder) for c in planned}
        rows = [{"setting": name, "seed": seed, **one} for (name, seed), one in found.items()]
        (out / OUTCOMES).write_text("\n".join(["[", ",\n".join(map(json.dumps, rows)), "]\n"]))
        return found


FEDERATION = SwingStudy(BASE, SETTINGS)


def read_outcomes(folder: Path) -> Results:
    """Return the figures that a study wrote into a folder. Raises RunError."""
    try:
        rows = json.loads((folder / OUTCOMES).read_text())
        return {(row.pop("setting"), row.pop("seed")): row for row in rows}
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise RunError(
            f"{folder / OUTCOMES} does not hold the figures of a study of swing:"
            f" {type(error).__name__}: {error}; fedkd reproduce writes it"
        ) from error


def outcome_of(folder: Path) -> Outcome:
    """Return the figures of a finished run, from its folder alone. Raises RunError."""
    run = read_run(folder)
    summary = json.loads((folder / "summary.json").read_text())
    exposure = summary["exposure"]
    clients = run.of_client("global_nll_after_distillation")[-1] / np.log(2)
    return {
        "ceiling": exposure["ceiling"],
        "chance": exposure["chance"],
        "exposures": {name: one["each"] for name, one in exposure["by_adversary"].items()},
        "sampling": {
            name: one["sampling"]
            for name, one in exposure["by_adversary"].items()
            if "sampling" in one
        },
        "controls": {
            name: one["held_out"]["mean"] for name, one in exposure["by_adversary"].items()
        },
        "student_bits": exposure["server_student_bits_per_token"],
        "bits_by_model": [exposure["server_student_bits_per_token"], *clients.tolist()],
        "detector": exposure["detector"],
        "weights": np.load(folder / "weights.npy")[-1].tolist(),
        "seconds": run.seconds,
    }
