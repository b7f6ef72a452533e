"""The clients of one process: made here for the local engine, and in another process from an order.

``hire`` is called by its name on whatever machine an engine has started a process on; all that it takes travels.
"""

import threading
from collections.abc import Mapping, Sequence

import torch
import yaml

from fedkd.app.client_app import make_client_app
from fedkd.build import workplace
from fedkd.client import Workplace
from fedkd.engines.job import Crew, Order
from fedkd.scenario import Scenario
from fedkd.state import BackedStore, ClientStore, DiskStore, Layout, MemoryStore


def crew(place: Workplace) -> Crew:
    """Return a workplace's clients as an engine takes them."""
    return Crew(make_client_app(lambda _: place))


def hire(order: Order) -> Crew:
    """Return the clients that an order describes. Their states are in files, so that another process can go on."""
    scenario = Scenario.parse(yaml.safe_load(order.scenario))
    disk = DiskStore(order.states, history=order.history)

    def store(layouts: Mapping[str, Layout], architectures: Sequence[str]) -> ClientStore:
        if scenario.federation.state == "disk":
            return disk
        return BackedStore(MemoryStore(layouts, architectures, order.owned), disk)

    public = None if order.public_inputs is None else torch.from_numpy(order.public_inputs)
    return crew(workplace(scenario, store, threading.Event(), public_inputs=public))
