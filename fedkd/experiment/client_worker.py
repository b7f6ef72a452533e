"""Create the clients of a worker process from an order that travelled there."""

import threading
from collections.abc import Mapping, Sequence

import torch
import yaml

from fedkd.experiment.build import workplace
from fedkd.flower.job import Crew, Order
from fedkd.flower.process_clients import crew
from fedkd.runtime.devices import choose_device, settle
from fedkd.scenario.scenario import Scenario
from fedkd.storage.client_states import BackedStore, ClientStore, DiskStore, Layout, MemoryStore


def hire(order: Order) -> Crew:
    """Return the clients that an order describes. Their states are in files, so that another
    process can go on.
    """
    scenario = Scenario.parse(yaml.safe_load(order.scenario))
    device = choose_device(scenario.federation.device)
    settle(device)
    disk = DiskStore(order.states, history=order.history)

    def store(layouts: Mapping[str, Layout], architectures: Sequence[str]) -> ClientStore:
        if scenario.federation.state == "disk":
            return disk
        return BackedStore(MemoryStore(layouts, architectures, order.owned), disk)

    public = None if order.public_inputs is None else torch.from_numpy(order.public_inputs)
    return crew(workplace(scenario, store, threading.Event(), device=device, public_inputs=public))
