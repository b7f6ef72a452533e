"""The local-only twin of a run: the same clients, data, models, seed and training, without any
exchange.

Computed once and cached by everything that it depends on, so that the runs of a sweep over
strategies, privacy or distillation share it.
"""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from fedkd import __version__
from fedkd.data.cache import cache_folder, cached
from fedkd.data.division import Public
from fedkd.data.prepare import holds_texts
from fedkd.experiment.build import Experiment, build
from fedkd.federation.round_records import RoundRecord
from fedkd.report.record_rows import ACCURACIES, VALIDATION, Baseline
from fedkd.scenario.registry import Component, create
from fedkd.scenario.scenario import Scenario, fingerprint
from fedkd.settings.import_paths import code_hash
from fedkd.settings.schema import to_values
from fedkd.training.hyperparameters import DistillationSettings

Execute = Callable[[Experiment, Callable[[RoundRecord], None]], None]

FORMAT = 1


def local_only_twin(experiment: Experiment, stop: threading.Event, execute: Execute) -> Baseline:
    """Return the twin's accuracies, running it where no equal one is cached. ``execute`` runs an
    experiment.
    """

    def make(folder: Path) -> None:
        records: list[RoundRecord] = []
        execute(build(_twin(experiment.scenario), stop), records.append)
        names = (
            ACCURACIES
            if experiment.scenario.test.validation_fraction == 0
            else (*ACCURACIES, VALIDATION)
        )
        arrays = {
            name: [[getattr(c, name) for c in record.clients] for record in records]
            for name in names
        }
        (folder / "baseline.json").write_text(json.dumps(arrays))

    stored = json.loads(
        (cached("baselines", twin_key(experiment), make) / "baseline.json").read_text()
    )
    return Baseline(**{name: np.array(values, dtype=np.float64) for name, values in stored.items()})


def is_cached(experiment: Experiment) -> bool:
    """Return whether the twin has been computed before."""
    return (cache_folder() / "baselines" / twin_key(experiment)).exists()


def twin_key(experiment: Experiment) -> str:
    """Return what names the twin: all that its figures depend on, and nothing that they do not."""
    whole = _twin(experiment.scenario).to_dict()
    for irrelevant in (
        "name",
        "description",
        "run_dir",
        "baseline",
        "strategy",
        "engine",
        "privacy",
        "attacks",
        "robust",
        "codec",
        "audit",
        "distill",
        "public_data",
        "report",
        "round_order",
        "device",
        "client_store",
        "checkpoint",
    ):
        del whole[irrelevant]
    if not holds_texts(experiment.scenario.data.value):
        del whole["tokens"], whole["text_canaries"]
    whole["public"] = {name: value for name, value in whole["public"].items() if value is not None}
    whole["test"] = experiment.scenario.test.key()
    planting = experiment.scenario.audit.value.planting
    parts = {
        "format": FORMAT,
        **({} if planting is None else {"planting": planting}),
        "scenario": whole,
        "data": experiment.context.prepared.key,
        "code": [
            code_hash(type(experiment.scenario.partition.value)),
            *(
                code_hash(experiment.context.task.factory(name))
                for name in experiment.context.traits
            ),
            code_hash(type(experiment.scenario.heads.value)),
        ],
        "device": experiment.plan.device,
        "versions": [__version__, version("torch"), version("flwr-datasets")],
    }
    return fingerprint(parts)


def _alone(heads: Component) -> Component:
    """Return the choice of heads for clients whom nobody teaches."""
    value = heads.value.alone()
    return replace(
        heads,
        value=value,
        fields={name: to_values(getattr(value, name, heads.fields[name])) for name in heads.fields},
    )


def _twin(scenario: Scenario) -> Scenario:
    # What an audit plants stays: the twin has the same records. Without a run folder nothing is
    # stored or attacked. Unless it pre-trains on them, the public samples do not reach the twin.
    # The rows held back do: they decide who has which samples, and how these are normalized.
    pretrains = scenario.train.public_epochs > 0
    public = scenario.public
    public = (
        replace(public, per_round=None, sampling="random")
        if pretrains
        else Public(size=public.reserved_rows)
    )
    return scenario.changed(
        strategy=create("strategy", {"name": "local_only"}),
        heads=_alone(scenario.heads),
        public_data=create("public_data", {"name": "same"}),
        attacks=create("attacks", {"name": "none"}),
        robust=create("robust", {"name": "none"}),
        codec=create("codec", {"name": "own"}),
        privacy=create("privacy", {"name": "none"}),
        distill=DistillationSettings(),
        public=public,
    )
