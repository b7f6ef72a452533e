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
import time
from contextlib import suppress
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
from fedkd.experiment.run import Driver, choose_run_dir, run
from fedkd.federation.context import ClientContext
from fedkd.flower.attributed_grid import AttributedGrid
from fedkd.flower.client_app import make_client_app, scenario_text
from fedkd.flower.strategy_adapter import FederatedDistillation
from fedkd.runtime.devices import set_deterministic
from fedkd.scenario.registry import create
from fedkd.scenario.scenario import Scenario
from fedkd.scenario.trust import foreign_imports
from fedkd.settings.import_paths import OWN_PACKAGES
from fedkd.settings.validators import user_path
from fedkd.storage.client_states import DiskStore

CONFIG = ("scenario", "overrides", "run-dir")
"""The keys of Flower's run configuration that are read."""
ALLOWED = "allowed-imports"
"""The key of a node's configuration: modules, packages or import paths, between commas."""
ALLOWED_HERE = "FEDKD_ALLOWED_IMPORTS"
"""The environment variable with more of them, for the nodes of Flower's simulation."""
START_SECONDS = 60.0
"""What a phase may take beside its clients' own time."""
DAYS_OF_STATES = 7
"""Days after which a run's client states are deleted where its ServerApp could not do so."""


def configured(context: Context) -> tuple[Scenario, Path | None]:
    """Return the scenario and the run folder that Flower's run configuration names.

    Raises SettingError.

    ``scenario`` is the name of one that fedkd carries, or the path of a file; ``overrides`` is text
    such as ``"rounds=2 strategy.beta=3"``; ``run-dir`` is a folder, empty for a new one in
    ``runs``.
    """
    given = {key: str(context.run_config.get(key, "")).strip() for key in CONFIG}
    name = given["scenario"]
    is_file = name.endswith((".yaml", ".yml"))
    chosen = ["--config", name] if is_file else [f"scenario={name}"] if name else []
    try:
        overrides = shlex.split(given["overrides"])
    except ValueError as error:
        raise SettingError(f"overrides={given['overrides']!r} cannot be read: {error}") from error
    folder = given["run-dir"]
    return compose([*chosen, *overrides]), user_path(folder, "run-dir") if folder else None


def on_flower(scenario: Scenario) -> Scenario:
    """Return the scenario without the settings of fedkd's own engines and checkpoints.

    Client states are on the nodes, so that a run here cannot be resumed. The local-only baseline
    runs in this process. With privacy, clients keep what they measure.
    """
    return with_metrics_kept(scenario).changed(
        federation=replace(scenario.federation, run_dir=None, client_store="memory"),
        engine=create("engine", {"name": "local"}),
        checkpoint=replace(scenario.checkpoint, every=0),
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


def find_context(message: Message) -> ClientContext:
    """Return what the clients of the message's run share on this machine, built once a process."""
    context = _context(scenario_text(message), message.metadata.run_id)
    set_deterministic(context.device)  # as on fedkd's own engines: the same sums everywhere
    return context


@lru_cache(maxsize=1)
def _context(text: str, run_id: int) -> ClientContext:
    # A node settles for itself what leaves it, whatever engine the message was written for.
    scenario = with_metrics_kept(Scenario.parse(yaml.safe_load(text)))
    return make_context(scenario, DiskStore(states_folder(run_id)), threading.Event())


def states_folder(run_id: int) -> Path:
    """Return the folder of a run's client states; those of runs that ended long ago are deleted."""
    folder = cache_folder() / "flower"
    oldest = time.time() - DAYS_OF_STATES * 24 * 3600
    for other in folder.glob("*"):
        with suppress(OSError):  # another process was faster
            written = max(path.stat().st_mtime for path in (other, *other.glob("*")))
            if other.name != str(run_id) and written < oldest:
                shutil.rmtree(other, ignore_errors=True)
    return folder / str(run_id)


def patience(scenario: Scenario) -> float | None:
    """Return the seconds after which a phase goes on without the clients that did not answer.

    None without a deadline: as long as it takes. Clients may be simulated one after the other, and
    what a process needs to start is no part of a client's own time.
    """
    deadline = scenario.protocol.deadline
    return None if deadline is None else START_SECONDS + deadline * scenario.federation.clients


client_app = make_client_app(find_context, admit)
server_app = ServerApp()


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the configured scenario on Flower's nodes and write its run folder."""
    torch.set_num_threads(1)
    scenario, folder = configured(context)
    # A SuperLink's working folder is easily forgotten.
    path = choose_run_dir(scenario, folder).absolute()

    def start(strategy: FederatedDistillation) -> object:
        return strategy.start(cast(Grid, AttributedGrid(grid)), timeout=patience(scenario))

    try:
        run(on_flower(scenario), path, Driver("flower", start))
    finally:
        shutil.rmtree(states_folder(context.run_id), ignore_errors=True)
