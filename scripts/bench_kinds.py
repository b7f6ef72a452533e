"""Benchmarks of kinds of data beside images, each against the plain PyTorch loop.

The loop has its inputs in memory. Both measure accuracy and likelihood of each model on two test
sets, after training and after distillation of every round. fedkd's encoding of the table, once a
run, is counted.
"""

import threading
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from measuring import Row, seconds, shown
from workload import plain_loop, workload

from fedkd.data.prepared_tables import TableRows, TableSchema
from fedkd.experiment.build import build
from fedkd.experiment.run import execute
from fedkd.runtime.devices import deterministic
from fedkd.scenario.scenario import Scenario

FEATURES, CLASSES = 40, 10
TRAIN_ROWS, TEST_ROWS = 25_000, 5_000


@dataclass(frozen=True, kw_only=True)
class SyntheticTable:
    """Random numbers, a tenth of them missing, and four columns of categories."""

    task: ClassVar[str] = "tables"

    def content_key(self) -> str:
        """Return a constant key."""
        return "synthetic-table"

    def load(self) -> TableRows:
        """Return random rows with random labels."""
        stream, count = np.random.default_rng(0), TRAIN_ROWS + TEST_ROWS
        numbers = stream.normal(50, 10, (count, FEATURES))
        numbers[stream.random(numbers.shape) < 0.1] = np.nan
        schema = TableSchema(
            tuple(f"number_{i}" for i in range(FEATURES)),
            tuple(f"category_{i}" for i in range(4)),
            (tuple("abcdef"),) * 4,
        )
        codes = stream.integers(0, 6, (count, 4)).astype(np.int32)
        labels = stream.integers(0, CLASSES, count)
        return TableRows(
            numbers, codes, schema, labels, TRAIN_ROWS, tuple(map(str, range(CLASSES))), {}
        )


def table_workload(rounds: int, batch_clients: str = "never") -> Scenario:
    """Return workload W on a table, with perceptrons 64-128-10."""
    whole = workload(None, rounds, 1, models=["mlp"]).to_dict()
    whole["batch_clients"] = batch_clients
    return Scenario.parse({**whole, "data": "bench_kinds:SyntheticTable"})


def rows(turns: int, rounds: int = 5) -> list[Row]:
    """Return rows of the table: CPU seconds of fedkd, one by one and together, over the loop's."""
    stop, found = threading.Event(), []
    title = f"W on a table of {FEATURES} numbers and 4 categories, perceptrons, fedkd / plain loop"
    for batch_clients, name in (
        ("never", title),
        ("auto", "the same with batch_clients=auto, which trains clients in one call"),
    ):
        scenario, ratios = table_workload(rounds, batch_clients), []
        build(scenario, stop)  # prepares the data and the division
        for _ in range(turns + 1):
            loop = plain_loop(build(scenario, stop), rounds, measures=True)
            with deterministic(torch.device("cpu")):
                loop_cpu = seconds(loop)[0]
            experiment = build(scenario, stop)
            cpu = seconds(partial(execute, experiment, lambda _: None, stop))[0]
            ratios.append(cpu / loop_cpu)
        found.append((name, shown(ratios[1:]), "<= 1.10"))
    return found
