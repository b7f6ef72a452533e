"""What a run asks of the device that works before it begins: its name, what is fast there.

Clients work in this process, or in others that have the GPUs. Not for: who trains together in a
round (``fedkd.federation.batched_clients``).
"""

import threading
from dataclasses import dataclass, replace

import yaml

from fedkd.errors import SettingError, unknown_name
from fedkd.experiment.make_context import make_context
from fedkd.experiment.round_costs import round_costs
from fedkd.federation.batched_clients import is_faster, reason_unbatched
from fedkd.federation.context import ClientContext
from fedkd.flower.engine_run import WorkerSpec
from fedkd.runtime.devices import choose_device, describe_device, deterministic
from fedkd.scenario.scenario import Scenario
from fedkd.storage.client_states import MemoryStore
from fedkd.training.precision import describe_precision


@dataclass(frozen=True, kw_only=True)
class WorkerFacts:
    """What a process with a GPU says of itself and of a scenario's clients there."""

    device: str
    """Its name in words."""
    precision: str
    """What models compute in there, in words."""
    scenario: Scenario
    """The scenario with the models named whose clients are trained together there."""
    costs: tuple[float, ...]
    """The seconds that a round costs each client, by client id."""


def facts(spec: WorkerSpec) -> WorkerFacts:
    """Return what this process says of itself. Raises SettingError for what cannot be done here."""
    scenario = Scenario.parse(yaml.safe_load(spec.scenario))
    device = choose_device(spec.device or scenario.federation.device)
    store, stop = MemoryStore({}, (), ()), threading.Event()
    context = make_context(scenario, store, stop, device=device)
    scenario = choose_batches(scenario, context)
    with deterministic(device):
        costs = tuple(round_costs(context))
    return WorkerFacts(
        device=describe_device(device, device.type),
        precision=describe_precision(context.precision, device),
        scenario=scenario,
        costs=costs,
    )


def choose_batches(scenario: Scenario, context: ClientContext) -> Scenario:
    """Return the scenario with the models named whose clients are trained in batched calls.

    Raises SettingError for a model whose clients cannot be.
    """
    wanted = scenario.federation.batch_clients
    names = list(dict.fromkeys(architecture.name for architecture in context.architectures))
    if isinstance(wanted, tuple):
        for name in wanted:
            if name not in names:
                raise unknown_name("model in batch_clients", name, names)
            if (reason := reason_unbatched(context, name)) is not None:
                raise SettingError(
                    f"batch_clients: clients of {name} cannot be trained together: {reason}"
                )
    elif wanted == "auto":
        with deterministic(
            context.device
        ):  # as engines train; threads that wait for one another spoil so short a trial
            wanted = tuple(
                n for n in names if reason_unbatched(context, n) is None and is_faster(context, n)
            )
    else:
        return scenario
    return scenario.changed(federation=replace(scenario.federation, batch_clients=wanted))
