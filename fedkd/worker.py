"""The clients of one process: made here for the local engine, and in another process from an order.

``hire`` is called by its name on whatever machine an engine has started a process on; all that it takes travels.
"""

import contextlib
import threading
from collections.abc import Mapping, Sequence

import torch
import yaml
from flwr.app import Message

from fedkd.app.client_app import make_client_app
from fedkd.app.records import read_download
from fedkd.build import workplace
from fedkd.devices import choose_device, settle
from fedkd.engines.job import Crew, Order, client_of
from fedkd.messages import Download
from fedkd.rehearsal import companies, rehearse
from fedkd.scenario import Scenario
from fedkd.state import BackedStore, ClientStore, DiskStore, Layout, MemoryStore
from fedkd.workplace import Workplace


def crew(place: Workplace) -> Crew:
    """Return a workplace's clients as an engine takes them."""
    app = make_client_app(lambda _: place)
    if not place.together:
        return Crew(app)

    def group(messages: Sequence[Message], at_once: int) -> list[list[Message]]:
        by_client = {client_of(message): message for message in messages}
        if any(message.metadata.message_type not in ("train", "evaluate") for message in messages):
            return [[message] for message in messages]
        return [[by_client[i] for i in company] for company in companies(place, list(by_client), at_once)]

    def prepare(messages: Sequence[Message]) -> None:
        if len(messages) > 1:
            with contextlib.suppress(Exception):  # whoever is to blame fails alone, in the visit that comes
                rehearse(place, [(client_of(message), _download(message, place)) for message in messages])

    return Crew(app, group, prepare)


def _download(message: Message, place: Workplace) -> Download:
    return read_download(message.content, place.kind, packed=place.codecs is not None)


def hire(order: Order) -> Crew:
    """Return the clients that an order describes. Their states are in files, so that another process can go on."""
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
