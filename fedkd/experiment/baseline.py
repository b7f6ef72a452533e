"""The local-only baseline of a run: the same clients, data, models, seed and training, alone.

It is computed once and cached by all that its figures depend on, so that the runs of a sweep over
strategies, privacy or distillation share it. What that is follows from what settings declare
(``fedkd.settings.meaning``).
"""

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from fedkd import __version__
from fedkd.data.cache import cached, is_cached
from fedkd.experiment.build import Experiment, build
from fedkd.federation.round_records import RoundRecord
from fedkd.models.libraries import library_versions, model_contents
from fedkd.privacy.mechanisms.mechanism import overrides
from fedkd.report.record_rows import ACCURACIES, VALIDATION, Baseline
from fedkd.scenario.registry import GROUPS, Component, create, with_value
from fedkd.scenario.scenario import SECTIONS, TOP, Scenario, fingerprint, meaning_of
from fedkd.settings.import_paths import code_hash
from fedkd.settings.schema import defaults, dotted, flat

Execute = Callable[[Experiment, Callable[[RoundRecord], None]], None]

PRIVATE_BASELINE = "local_only_private"
FORMAT = 2


def local_only_baseline(
    experiment: Experiment, stop: threading.Event, execute: Execute
) -> Baseline:
    """Return the baseline's accuracies, from the cache or by running it.

    ``execute`` runs an experiment and hands its records on.
    """

    def make(folder: Path) -> None:
        records: list[RoundRecord] = []
        execute(build(baseline_scenario(experiment.scenario), stop), records.append)
        validated = experiment.scenario.test.validation_fraction > 0
        names = (*ACCURACIES, VALIDATION) if validated else ACCURACIES
        arrays = {
            name: [[getattr(c.after_training, name) for c in record.clients] for record in records]
            for name in names
        }
        (folder / "baseline.json").write_text(json.dumps(arrays))

    folder = cached("baselines", baseline_key(experiment), make)
    stored = json.loads((folder / "baseline.json").read_text(encoding="utf-8"))
    return Baseline(**{name: np.array(values, dtype=np.float64) for name, values in stored.items()})


def is_computed(experiment: Experiment) -> bool:
    """Return whether the baseline has been computed before."""
    return is_cached("baselines", baseline_key(experiment))


def baseline_key(experiment: Experiment) -> str:
    """Return the baseline's name in the cache: a hash of all that its figures depend on."""
    scenario, context = experiment.scenario, experiment.context
    own_code = (
        type(scenario.partition.value),
        type(scenario.heads.value),
        type(context.task),
        *(context.task.factory(name) for name in context.traits),
    )
    if is_private(scenario):
        own_code = (*own_code, type(scenario.privacy.value))
    parts = {
        "format": FORMAT,
        "settings": baseline_settings(scenario),
        "planting": scenario.audit.value.planting,
        "data": context.prepared.key,
        "code": [code_hash(thing) for thing in own_code],
        "device": experiment.plan.device,
        "versions": [__version__, version("torch"), version("flwr-datasets")],
    }
    libraries = library_versions(context.traits, scenario.adapters.value.packages)
    if libraries:
        parts["libraries"] = libraries
    contents = model_contents(context.architectures)
    if contents:
        parts["models"] = contents
    made_of = scenario.heads.value.content_key()
    if made_of is not None:
        parts["heads"] = made_of
    if context.start is not None:
        parts["start"] = context.start.sha256
    return fingerprint(parts)


def baseline_settings(scenario: Scenario) -> dict[str, object]:
    """Return the settings that the figures of the baseline depend on, by dotted name."""
    return {
        name: value
        for name, value in flat(baseline_scenario(scenario).to_dict()).items()
        if meaning_of(name).affects == "figures" or is_private(scenario)
    }


def is_private(scenario: Scenario) -> bool:
    """Return whether the baseline's clients train with the run's privacy mechanism."""
    mechanism = scenario.privacy.value
    trains = overrides(mechanism, "train_privately") and not mechanism.is_unlimited
    return scenario.federation.baseline == PRIVATE_BASELINE and trains


def baseline_scenario(scenario: Scenario) -> Scenario:
    """Return the scenario of the baseline.

    What affects the exchange alone has its default, or what its group names for a baseline. Without
    a run folder nothing is stored or attacked.
    """
    groups: dict[str, object] = {name: _component(scenario, name) for name in GROUPS}
    public = scenario.public
    if scenario.train.public_epochs == 0:  # else clients are pre-trained on public samples
        public = public.for_local_training()
    sections = {**{name: getattr(scenario, name) for name in (*TOP, *SECTIONS)}, "public": public}
    alone = {
        name: replace(value, **_without_exchange("" if name in TOP else name, type(value)))
        for name, value in sections.items()
    }
    if is_private(scenario):  # a mechanism acts in training, by what bounds a record's examples
        groups["privacy"], alone["tokens"] = scenario.privacy, scenario.tokens
        section = alone["federation"]
        alone["federation"] = replace(section, baseline=PRIVATE_BASELINE)
    return scenario.changed(**groups, **alone)


def _component(scenario: Scenario, name: str) -> Component[object]:
    """Return the component that the baseline has."""
    component: Component[object] = getattr(scenario, name)
    instead = GROUPS[name].in_baseline
    if instead is not None:
        return create(name, {"name": instead})
    if hasattr(component.value, "alone"):  # heads are others for clients whom nobody teaches
        return with_value(component, component.value.alone())
    return component


def _without_exchange(where: str, cls: type) -> Mapping[str, object]:
    """Return the defaults of those settings of a section that affect the exchange alone."""
    return {
        name: cls.__dataclass_fields__[name].default  # type: ignore[attr-defined]
        for name in defaults(cls)
        if meaning_of(dotted(where, name)).affects == "exchange"
    }
