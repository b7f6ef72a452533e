"""A study of methods in one round: what each makes of a single exchange, with models or votes.

DENSE's runs also tell what its ensemble and the average of the same models would have had.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from fedkd.cli.studies.study import (
    ByPoint,
    Study,
    StudyClaim,
    carry_out,
    write_reports,
)
from fedkd.report.comparison.run_reader import read_run

METHODS = Study(
    name="one shot",
    title="One round: what a single exchange is worth",
    data="mnist",
    base=(
        *("clients=5", "test.global_size=1000", "test.private_size=100"),
        *("partition=dirichlet", "partition.alpha=0.5", "samples_per_client=200"),
        *("models=[mlp]", "rounds=1", "train.epochs=20", "public.size=500", "distill.epochs=10"),
    ),
    methods="local_only, fedavg, feddf, dense, fedkt, ensemble=feddf_logits, knfu",
    claims=tuple(
        StudyClaim(said, "global_accuracy", (ours, ""), (theirs, ""))
        for said, ours, theirs in (
            ("DENSE is above FedAvg", "dense", "fedavg"),
            ("FedDF is above FedAvg", "feddf", "fedavg"),
            ("FedDF is above DENSE", "feddf", "dense"),
            ("FedKT is above local training", "fedkt", "local_only"),
            ("The distilled ensemble is above FedKT", "ensemble", "fedkt"),
            ("KnFu is above the distilled ensemble", "knfu", "ensemble"),
        )
    ),
    figures=("personal_accuracy", "global_accuracy", "bytes_up"),
    remark="`ensemble` is feddf_logits: clients distil the mean of all logits on 500 public"
    " samples. FedDF and KnFu learn on these too, FedKT's clients by their votes; FedAvg and"
    " DENSE use none. FedAvg, FedDF and DENSE give all clients one model, and all start from the"
    " same weights. A perceptron has no BatchNorm: DENSE has no statistics to hold its inputs to.",
)

AT_SERVER = Study(
    name="one shot at the server",
    title="One round at DENSE's server: the ensemble, the average and the student",
    base=(),
    methods="",
    claims=tuple(
        StudyClaim(said, "global_accuracy", (ours, ""), (theirs, ""))
        for said, ours, theirs in (
            ("DENSE's ensemble is above the average of its models", "ensemble", "average"),
            ("DENSE's student is above the average that it begins with", "student", "average"),
        )
    ),
    figures=("global_accuracy",),
    remark="Of the same models as in DENSE's runs above. Published (DENSE's released code,"
    " CIFAR-10, five clients, Dirichlet 0.5, 400 epochs of local training): clients 55 to 62,"
    " FedAvg 30.93, ensemble 71.81.",
)

ONE_SHOT = (METHODS, AT_SERVER)
COLUMNS = {
    "ensemble": "strategy/ensemble_accuracy",
    "average": "strategy/average_accuracy_mlp",
    "student": "strategy/server_accuracy_mlp",
}
"""By method: what a run of DENSE calls its accuracy."""


def report(
    seeds: int, out: Path, jobs: int, console: Console, data: Path | None, names: Sequence[str]
) -> str:
    """Carry out the study, and return its reports with the verdicts of one family.

    Args:
        seeds: The number of seeds.
        out: The folder of all studies.
        jobs: Runs at a time.
        console: Where progress is printed.
        data: A folder of data sets, or None for the hub.
        names: The reports that are asked for.
    """
    found = [(METHODS, carry_out(METHODS, seeds, out, jobs, console, data))]
    cells = METHODS.cells(seeds, out, jobs, data)
    folders = [cell.task.folder for cell in cells if cell.method.label == "dense"]
    found.append((AT_SERVER, figures_at_server(folders)))
    asked = [(study, by_point) for study, by_point in found if study.name in names]
    return "\n".join(write_reports(asked, out))


def figures_at_server(folders: Sequence[Path]) -> ByPoint:
    """Return the accuracies at the server in the last round of DENSE's runs, one a seed."""
    runs = [read_run(folder) for folder in folders]
    return {
        "distillation": {
            (method, ""): {
                "global_accuracy": np.array([run.of_round(name)[-1] for run in runs], dtype=float)
            }
            for method, name in COLUMNS.items()
        }
    }
