"""Accuracy by attacked fraction and fusion rule, and the fraction up to which fusion helps."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from rich.console import Console
from studies import Results, Study, carry_out, in_words, write_csv

from fedkd.report.comparison.statistics import interval

RULES = {
    "mean": "",
    "median": " robust=median",
    "trimmed mean": " robust=trimmed_mean robust.trim=0.3",
    "geometric median": " robust=geometric_median",
    "Krum": " robust=krum robust.tolerate=0.3",
    "Cronus": " robust=cronus robust.tolerate=0.3",
}
FRACTIONS = ("0.1", "0.2", "0.3", "0.4", "0.5")
ATTACKS = {"colluding": "", "sign_flip": "", "lie": " attacks.z=1.5"}
"""Overrides of each attack. ``lie`` has one z at every fraction, since with few attackers none
follows from their number."""
BASE = (
    "clients=10",
    "partition=dirichlet",
    "partition.alpha=1",
    "samples_per_client=50",
    "models=[mlp]",
    "public.size=300",
    "test.global_size=300",
    "rounds=5",
    "train.epochs=5",
    "distill.epochs=5",
    "distill.loss=kl",
)


def _methods(attack: str = "") -> str:
    return ", ".join(
        f"{name.replace(' ', '_')}=fedmd{attack}{rule}" for name, rule in RULES.items()
    )


CLEAN = Study(name="clean", title="", base=BASE, methods=f"local_only, {_methods()}", claims=())


def attacked(attack: str) -> Study:
    """Return the study of one attack, by fusion rule and fraction."""
    return Study(
        name=attack,
        title="",
        base=BASE,
        methods=_methods(f" attacks={attack}{ATTACKS[attack]}"),
        grid=(f"attacks.fraction={','.join(FRACTIONS)}",),
        claims=(),
    )


def table(clean: Results, found: Mapping[str, Results]) -> str:
    """Return the table of balanced accuracy by attack, rule and fraction, with the break-even."""
    alone = clean["local_only", ""]["global_accuracy"]
    lines = [
        "| attack | rule | 0 | " + " | ".join(FRACTIONS) + " | pays up to |",
        "|---|---|" + "---:|" * (len(FRACTIONS) + 2),
    ]
    for attack, results in found.items():
        for name in RULES:
            label = name.replace(" ", "_")
            by_fraction = {"0": clean[label, ""]["global_accuracy"]}
            by_fraction |= {
                fraction: results[label, fraction]["global_accuracy"] for fraction in FRACTIONS
            }
            shown = [
                in_words(interval(list(100 * values)), ".1f") for values in by_fraction.values()
            ]
            lines.append(
                f"| {attack} | {name} | "
                + " | ".join(shown)
                + f" | {break_even(by_fraction, alone)} |"
            )
    return "\n".join(lines)


def break_even(by_fraction: Mapping[str, np.ndarray], alone: np.ndarray) -> str:
    """Return the largest fraction up to which fusion beats local training in the mean over seeds.

    >>> accuracies = {"0": np.array([0.9]), "0.1": np.array([0.8]), "0.2": np.array([0.2])}
    >>> break_even(accuracies, np.array([0.5]))
    '0.1'
    """
    reached = "never"
    for fraction, values in by_fraction.items():
        if values.mean() <= alone.mean():
            break
        reached = fraction
    return reached


def report(seeds: int, out: Path, jobs: int, console: Console) -> str:
    """Run the studies that are not complete, and return the table in Markdown.

    Args:
        seeds: The number of seeds.
        out: The folder of the runs and figures.
        jobs: Runs at a time.
        console: Where progress is printed.
    """
    clean = carry_out(CLEAN, seeds, out, jobs, console)
    found = {attack: carry_out(attacked(attack), seeds, out, jobs, console) for attack in ATTACKS}
    for name, results in {"clean": clean, **found}.items():
        write_csv(results, out / f"{name}.csv")
    alone = in_words(interval(list(100 * clean["local_only", ""]["global_accuracy"])), ".1f")
    text = "\n\n".join([
        "## Attacked fraction by fusion rule",
        table(clean, found),
        f"Balanced test in %, means over honest clients, then over {seeds} paired seeds ± half of"
        " the 95 % t-interval."
        f" Local training alone: {alone} (all clients). Lie: `attacks.z=1.5`."
        " Pays up to: the largest fraction up to which the mean over seeds stays above local"
        " training.",
    ])  # fmt: skip
    (out / "break_even.md").write_text(text + "\n")
    return text + "\n"
