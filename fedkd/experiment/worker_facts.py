"""What a run asks of the device that works before it begins: its name, what is fast there.

Clients work in this process, or in others that have the GPUs. Not for: who trains together in a
round (``fedkd.federation.batched_clients``).
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import yaml

from fedkd.errors import SettingError, unknown_name
from fedkd.experiment.make_context import make_context
from fedkd.experiment.round_costs import round_costs
from fedkd.federation.batched_clients import (
    has_convolutions,
    is_faster,
    reason_unbatched,
    reason_ungraphed,
    wants_products,
)
from fedkd.federation.context import ClientContext
from fedkd.flower.engine_run import WorkerSpec
from fedkd.runtime.devices import choose_device, describe_device, deterministic
from fedkd.scenario.scenario import BATCHING, Federation, Scenario
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
    """Return the scenario with the models named whose clients train in batched calls, and how.

    Raises SettingError for a model whose clients cannot be.
    """
    federation = scenario.federation
    names = list(dict.fromkeys(architecture.name for architecture in context.architectures))
    _check_names(federation, names)
    _check_how(context, federation)
    if federation.batch_clients == "never":
        return scenario
    # As engines train: threads would round otherwise, and spoil so short a trial by waiting.
    with deterministic(context.device):
        wanted = federation.batch_clients
        asked = tuple(names) if wanted == "auto" else wanted
        products = _products(context, federation, asked)
        if wanted == "auto":
            asked = tuple(
                name
                for name in names
                if reason_unbatched(context, name, products=name in products) is None
                and is_faster(context, name, products=name in products)
            )
        else:
            for name in wanted:
                _check_batch(context, name, products=name in products)
        chosen = replace(federation, batch_clients=asked)
        if federation.product_convolutions == "auto":
            taken = tuple(name for name in products if name in asked)
            chosen = replace(chosen, product_convolutions=taken)
        chosen = replace(chosen, step_graphs=_graphs(context, chosen, products))
    return scenario.changed(federation=chosen)


def _check_names(federation: Federation, names: Sequence[str]) -> None:
    """Raise SettingError for a model that a setting names and the run has not."""
    for setting in BATCHING:
        asked = getattr(federation, setting)
        for name in asked if isinstance(asked, tuple) else ():
            if name not in names:
                raise unknown_name(f"model in {setting}", name, names)


def _products(
    context: ClientContext, federation: Federation, names: Sequence[str]
) -> tuple[str, ...]:
    """Return the models of some names whose convolutions are to be products of matrices."""
    wanted = federation.product_convolutions
    if isinstance(wanted, tuple):
        return wanted
    return tuple(name for name in names if wanted == "auto" and wants_products(context, name))


def _check_batch(context: ClientContext, name: str, *, products: bool) -> None:
    """Raise SettingError where clients of a model cannot be trained together.

    ``products``: whether its convolutions would be products of matrices.
    """
    if (reason := reason_unbatched(context, name, products=products)) is not None:
        raise SettingError(f"batch_clients: clients of {name} cannot be trained together: {reason}")


def _graphs(
    context: ClientContext, federation: Federation, products: Sequence[str]
) -> Literal["never"] | tuple[str, ...]:
    """Return the models whose steps a GPU replays; SettingError for one whose it cannot.

    ``federation`` names the models whose clients train together, ``products`` those of them whose
    convolutions are products of matrices.
    """
    wanted, found = federation.step_graphs, list[str]()
    if wanted == "never":
        return wanted
    for name in federation.batch_clients:
        if wanted == "auto" or name in wanted:
            reason = reason_ungraphed(
                context, name, products=name in products, pays=wanted == "auto"
            )
            if reason is None:
                found.append(name)
            elif wanted != "auto":
                raise SettingError(f"step_graphs: steps of {name} cannot be replayed: {reason}")
    return tuple(found) if wanted == "auto" else wanted


def _check_how(context: ClientContext, federation: Federation) -> None:
    """Raise SettingError where a model is named for what would change nothing of it."""
    batches = federation.batch_clients
    for setting in BATCHING[1:]:
        wanted = getattr(federation, setting)
        for name in wanted if isinstance(wanted, tuple) else ():
            if batches == "never" or (isinstance(batches, tuple) and name not in batches):
                raise SettingError(
                    f"{setting}={name} changes nothing: clients of {name} train one by one; set"
                    f" batch_clients=[{name}] too"
                )
    wanted = federation.product_convolutions
    for name in wanted if isinstance(wanted, tuple) else ():
        if not has_convolutions(context, name):
            raise SettingError(
                f"product_convolutions: {name} has no convolution of images in one group, padded"
                " with zeros; leave it out"
            )
