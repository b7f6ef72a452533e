"""Settings of the study of swing distillation on text, and their runs.

Every run is one of the product's own (``python -m fedkd.simulate scenario=swing_study SETTINGS``),
begun, gone on with or left alone by ``compare.py``. Runs of one seed share texts, secrets, initial
weights and the order of batches, so that all else is paired. Not for: what the outcomes say
(``swing_report``).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import compare
import numpy as np
from rich.console import Console

from fedkd.errors import RunError
from fedkd.report.comparison.run_reader import read_run

BASE = ("scenario=swing_study", "engine.workers=1")
SWING = ("privacy=swing", "privacy.detector=oracle")
EVERYWHERE = ("privacy=swing", "privacy.detector=everywhere")
ROUNDS = ("rounds=4", "train.epochs=8", "distill.epochs=5", "text_canaries.upload_history=true")
DECODERS = ("models=[decoder_small]",)
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
BY_NAME = {setting.name: setting for setting in SETTINGS}
Outcome = dict[str, Any]
Results = dict[tuple[str, int], Outcome]
"""Figures of a run by the name of its setting and its seed."""


def cells(seeds: int, out: Path, only: Sequence[str] = tuple(BY_NAME)) -> list[compare.Cell]:
    """Return the runs of some settings for seeds from 0 on. Raises SettingError."""
    methods = [BY_NAME[name].method for name in only]
    return compare.plan(BASE, methods, [()], list(range(seeds)), out, 1)


def carry_out(
    seeds: int,
    out: Path,
    jobs: int,
    console: Console,
    only: Sequence[str] = tuple(BY_NAME),
) -> Results:
    """Run what is not done yet and return the figures. Raises RunError where a run failed.

    Args:
        seeds: how many paired seeds, from 0 on.
        out: the folder that takes the runs.
        jobs: runs at a time.
        console: is told how it goes.
        only: settings by name; all of them by default.
    """
    planned = cells(seeds, out, only)
    failed = compare.run_cells(planned, jobs, console)
    if failed:
        raise RunError("; ".join(f"{outcome.task.name}: {outcome.error}" for outcome in failed))
    names = {BY_NAME[name].label: name for name in only}
    return {(names[c.method.label], c.seed): outcome_of(c.task.folder) for c in planned}


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
        "controls": {
            name: one["held_out"]["mean"] for name, one in exposure["by_adversary"].items()
        },
        "bits_by_model": [exposure["server_student_bits_per_token"], *clients.tolist()],
        "detector": exposure["detector"],
        "weights": np.load(folder / "weights.npy")[-1].tolist(),
        "seconds": run.seconds,
    }
