"""The apps for Flower's own engines: its simulation, or a SuperLink and SuperNodes.

``pyproject.toml`` names both apps; ``docs/deploy.md`` gives the commands. The rounds, the messages
and the run folder are those of ``python -m fedkd.simulate``, and so are the results: only who
carries the messages differs. A node stands for the client of its ``partition-id``. It divides the
data set as every other node does and takes its own part, so that parties are simulated here too.

A client's messages may each be handled by another process: what clients share is built once a
process, and the client's state is on disk between them, apart for each of Flower's runs.
"""

import os
import shlex
import shutil
import threading
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import cast

import torch
import yaml
from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp

from fedkd.cli.command import compose
from fedkd.data.cache import cache_folder
from fedkd.errors import SettingError
from fedkd.experiment.make_context import make_context
from fedkd.experiment.resume import resume
from fedkd.experiment.run import Driver, choose_run_dir, run
from fedkd.federation.context import ClientContext
from fedkd.flower.attributed_grid import AttributedGrid
from fedkd.flower.client_app import make_client_app, scenario_text
from fedkd.flower.node_states import KEPT, go_back, states_name
from fedkd.flower.strategy_adapter import FederatedDistillation
from fedkd.runtime.devices import set_deterministic
from fedkd.scenario.registry import create
from fedkd.scenario.scenario import Scenario
from fedkd.scenario.trust import foreign_imports
from fedkd.settings.import_paths import OWN_PACKAGES
from fedkd.settings.validators import user_path
from fedkd.storage.client_states import DiskStore
from fedkd.storage.leftovers import delete_unchanged

CONFIG = ("scenario", "overrides", "run-dir", "resume")
"""The keys of Flower's run configuration that are read."""
UNTOLD = "clients=2"
"""What ``overrides`` is where nobody gave any (pyproject.toml): the nodes that Flower simulates."""
ALLOWED = "allowed-imports"
"""The key of a node's configuration: modules, packages or import paths, between commas."""
ALLOWED_HERE = "FEDKD_ALLOWED_IMPORTS"
"""The environment variable with more of them, for the nodes of Flower's simulation."""
START_SECONDS = 60.0
"""What a phase may take beside its clients' own time."""
DAY = 24 * 3600.0
DAYS_OF_STATES = 7
"""Days after which a run's client states are deleted where its ServerApp could not do so."""


def configured(context: Context) -> tuple[Scenario, Path | None]:
    """Return the scenario and the run folder that Flower's run configuration names.

    Raises SettingError.

    ``scenario`` is the name of one that fedkd carries, or the path of a file; ``overrides`` is text
    such as ``"rounds=2 strategy.beta=3"``; ``run-dir`` is a folder, empty for a new one in
    ``runs``.
    """
    name, folder = _given(context, "scenario"), _given(context, "run-dir")
    is_file = name.endswith((".yaml", ".yml"))
    chosen = ["--config", name] if is_file else [f"scenario={name}"] if name else []
    scenario = compose([*chosen, *_overrides(context)])
    return scenario, user_path(folder, "run-dir") if folder else None


def resumed(context: Context) -> tuple[Scenario, Path] | None:
    """Return the scenario and the folder of the run that is to go on; None for a new run.

    Raises SettingError.

    ``resume`` is its folder; ``scenario`` is left aside then, and ``overrides`` is what may differ.
    """
    folder, run_dir = _given(context, "resume"), _given(context, "run-dir")
    if not folder:
        return None
    if run_dir:
        raise SettingError(f"run-dir={run_dir}: a run goes on in its own folder; leave run-dir out")
    told = [] if _given(context, "overrides") == UNTOLD else _overrides(context)
    return compose(told, resumed=folder), user_path(folder, "resume")


def _given(context: Context, key: str) -> str:
    return str(context.run_config.get(key, "")).strip()


def _overrides(context: Context) -> list[str]:
    given = _given(context, "overrides")
    try:
        return shlex.split(given)
    except ValueError as error:
        raise SettingError(f"overrides={given!r} cannot be read: {error}") from error


def on_flower(scenario: Scenario) -> Scenario:
    """Return the scenario without the settings of fedkd's own engines.

    Client states are on the nodes, which keep those of the last rounds: there is a checkpoint each
    round or none. The local-only baseline runs in this process. With privacy, clients keep what
    they measure.
    """
    return with_metrics_kept(scenario).changed(
        federation=replace(scenario.federation, run_dir=None, client_store="memory"),
        engine=create("engine", {"name": "local"}),
        checkpoint=replace(scenario.checkpoint, every=min(1, scenario.checkpoint.every)),
    )


def with_metrics_kept(scenario: Scenario) -> Scenario:
    """Return the scenario with what ``report.client_metrics=auto`` is on Flower's engines.

    With privacy it is none: messages go to nodes of others, and no claim covers what a client
    measures on its private data.
    """
    report = scenario.report
    if report.client_metrics != "auto" or scenario.privacy.name == "none":
        return scenario
    return scenario.changed(report=replace(report, client_metrics="none"))


def admit(message: Message, node: Context) -> None:
    """Raise SettingError for a message whose scenario imports what this node does not allow.

    Whoever submits a run writes its scenario, and importing runs code. A node allows fedkd's own
    modules, and those that its operator names: in the node's configuration, or for all nodes of a
    machine in the environment.
    """
    named = f"{node.node_config.get(ALLOWED, '')},{os.environ.get(ALLOWED_HERE, '')}"
    allowed = (*OWN_PACKAGES, *(name.strip() for name in named.split(",") if name.strip()))
    stored = yaml.safe_load(scenario_text(message))
    if not isinstance(stored, dict):
        raise SettingError("the message's scenario must hold settings, as in 'clients: 10'")
    foreign = foreign_imports(stored, allowed)
    if foreign:
        raise SettingError(
            f"this node imports nothing but fedkd's own, and the run asks for {', '.join(foreign)};"
            f" the node's operator allows it with --node-config '{ALLOWED}=\"MODULE\"'"
        )


def receive(message: Message, node: Context) -> None:
    """Raise SettingError for a message that this node refuses; go back where a run is resumed."""
    admit(message, node)
    if "resumed" in message.content:
        client_id = int(cast(int, node.node_config["partition-id"]))
        go_back(message, client_id, DiskStore(states_folder(states_name(message))))


def find_context(message: Message) -> ClientContext:
    """Return what the clients of the message's run share on this machine, built once a process."""
    context = _context(scenario_text(message), states_name(message))
    set_deterministic(context.device)  # as on fedkd's own engines: the same sums everywhere
    return context


@lru_cache(maxsize=1)
def _context(text: str, states: str) -> ClientContext:
    # A node settles for itself what leaves it, whatever engine the message was written for.
    scenario = with_metrics_kept(Scenario.parse(yaml.safe_load(text)))
    newest = KEPT if scenario.checkpoint.every else 1
    return make_context(
        scenario, DiskStore(states_folder(states), newest=newest), threading.Event()
    )


def states_folder(run_id: int | str) -> Path:
    """Return the folder of a run's client states; those of runs that ended long ago are deleted."""
    folder = cache_folder() / "flower"
    own = folder / str(run_id)
    delete_unchanged((other for other in folder.glob("*") if other != own), DAYS_OF_STATES * DAY)
    return own


def patience(scenario: Scenario) -> float | None:
    """Return the seconds after which a phase goes on without the clients that did not answer.

    None without a deadline: as long as it takes. Clients may be simulated one after the other, and
    what a process needs to start is no part of a client's own time.
    """
    deadline = scenario.protocol.deadline
    return None if deadline is None else START_SECONDS + deadline * scenario.federation.clients


client_app = make_client_app(find_context, receive)
server_app = ServerApp()


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the configured scenario on Flower's nodes, or go on with a run, and write its folder."""
    torch.set_num_threads(1)
    going_on = resumed(context)
    scenario, folder = going_on or configured(context)
    # A SuperLink's working folder is easily forgotten.
    path = choose_run_dir(scenario, folder).absolute()
    used = {str(context.run_id)}

    def start(strategy: FederatedDistillation) -> object:
        if strategy.nodes is not None:
            used.add(strategy.nodes.name)
        # SuperNodes work on one message after the other; Flower's simulation does not.
        attributed = AttributedGrid(grid, in_order=type(grid).__name__ == "HttpGrid")
        return strategy.start(cast(Grid, attributed), timeout=patience(scenario))

    driver = Driver("flower", start, str(context.run_id))
    go_on = resume if going_on else run
    try:
        go_on(on_flower(scenario), path, driver)
    except BaseException:
        if not any((path / "checkpoints").glob("*.checkpoint")):
            _delete_states(used)
        raise
    _delete_states(used)


def _delete_states(runs: Iterable[str]) -> None:
    """Delete the client states of runs that will not go on, as far as they are on this machine."""
    for run_id in runs:
        shutil.rmtree(states_folder(run_id), ignore_errors=True)
