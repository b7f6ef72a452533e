"""Accuracy by attacked fraction and fusion rule, and the fraction up to which fusion helps.

Also what each rule costs where nobody attacks, under mild and under strong label skew.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from fedkd.cli.studies.study import (
    ACCURACIES,
    FIGURES,
    Results,
    Study,
    carry_out,
    in_words,
    write_csv,
)
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
MILD = ("partition=dirichlet", "partition.alpha=1")
SKEWED = ("partition=inner_dirichlet", "partition.alpha=0.1")
COMMON = (
    "clients=10",
    "samples_per_client=50",
    "models=[mlp]",
    "public.size=300",
    "test.global_size=300",
    "rounds=5",
    "train.epochs=5",
    "distill.epochs=5",
    "distill.loss=kl",
)
BASE = (*MILD, *COMMON)
COSTS = "costs"
NAMES = (COSTS, *ATTACKS)
"""The parts of the report."""


def _methods(attack: str = "") -> str:
    return ", ".join(
        f"{name.replace(' ', '_')}=fedmd{attack}{rule}" for name, rule in RULES.items()
    )


CLEAN = Study(name="clean", title="", base=BASE, methods=f"local_only, {_methods()}", claims=())
STRONG = Study(
    name="strong_skew",
    title="",
    base=(*SKEWED, *COMMON),
    methods=f"local_only, {_methods()}",
    claims=(),
)
"""The same without attackers, where clients have few classes."""


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


def table(clean: Results, strong: Results, found: Mapping[str, Results]) -> str:
    """Return the table of balanced accuracy by attack, rule and fraction, with the break-even.

    Args:
        clean: Figures without attackers.
        strong: The same under strong skew.
        found: Figures by attack.
    """
    alone = clean["local_only", ""]["global_accuracy"]
    lines = [
        "| attack | rule | 0, strong skew | 0 | " + " | ".join(FRACTIONS) + " | pays up to |",
        "|---|---|" + "---:|" * (len(FRACTIONS) + 3),
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
            skewed = in_words(interval(list(100 * strong[label, ""]["global_accuracy"])), ".1f")
            lines.append(
                f"| {attack} | {name} | {skewed} | "
                + " | ".join(shown)
                + f" | {break_even(by_fraction, alone)} |"
            )
    return "\n".join(lines)


def costs(clean: Results, strong: Results) -> str:
    """Return the table of what each rule costs against the mean where nobody attacks."""
    lines = [
        "| rule | " + " | ".join(f"{skew}, {text}" for skew, _, text in _columns()) + " |",
        "|---|" + "---:|" * len(_columns()),
    ]
    for name in ("local only", *RULES):
        label, shown = name.replace(" ", "_"), []
        for skew, figure, _ in _columns():
            results = clean if skew == "mild" else strong
            own, mean = results[label, ""][figure], results["mean", ""][figure]
            difference = in_words(interval(list(100 * (own - mean))), "+.1f")
            shown.append(
                in_words(interval(list(100 * own)), ".1f")
                + ("" if name == "mean" else f" ({difference})")
            )
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _columns() -> list[tuple[str, str, str]]:
    return [(skew, figure, FIGURES[figure]) for skew in ("mild", "strong") for figure in ACCURACIES]


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


def report(seeds: int, out: Path, jobs: int, console: Console, only: Sequence[str] = NAMES) -> str:
    """Run the studies that are not complete, and return their tables in Markdown.

    Args:
        seeds: The number of seeds.
        out: The folder of the runs and figures.
        jobs: Runs at a time.
        console: Where progress is printed.
        only: The parts: what rules cost where nobody attacks, and the attacks.
    """
    clean = carry_out(CLEAN, seeds, out, jobs, console)
    strong = carry_out(STRONG, seeds, out, jobs, console)
    attacks = [attack for attack in ATTACKS if attack in only]
    found = {attack: carry_out(attacked(attack), seeds, out, jobs, console) for attack in attacks}
    for name, by_point in {"clean": clean, "strong_skew": strong, **found}.items():
        write_csv(by_point, out / f"{name}.csv")
    of_costs = ["## What a rule costs where nobody attacks"] if COSTS in only else []
    of_attacks = ["## Attacked fraction by fusion rule"] if attacks else []
    for point, results in clean.items():
        attacked_at = {attack: by_point[point] for attack, by_point in found.items()}
        if of_costs:
            of_costs += [f"After {point}:", costs(results, strong[point])]
        if of_attacks:
            of_attacks += [f"After {point}:", table(results, strong[point], attacked_at)]
    if of_costs:
        of_costs.append(
            f"Accuracy in %, means over clients, then over {seeds} paired seeds ± half of the 95 %"
            " t-interval; in parentheses the paired difference from the mean, in points. Mild"
            f" skew: `{' '.join(MILD)}`; strong: `{' '.join(SKEWED)}`."
        )
    if of_attacks:
        alone = next(iter(clean.values()))["local_only", ""]["global_accuracy"]
        of_attacks.append(
            f"Balanced test in %, means over honest clients, then over {seeds} paired seeds ± half"
            " of the 95 % t-interval. Local training alone:"
            f" {in_words(interval(list(100 * alone)), '.1f')} (all clients). Lie: `attacks.z=1.5`."
            " Pays up to: the largest fraction up to which the mean over seeds stays above local"
            " training."
        )
    text = "\n\n".join([*of_costs, *of_attacks])
    (out / "break_even.md").write_text(text + "\n")
    return text + "\n"
