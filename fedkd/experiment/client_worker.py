"""Create the clients of a worker process from the specification that it was sent."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import yaml

from fedkd.experiment.make_context import make_context
from fedkd.flower.engine_run import ClientPool, WorkerSpec
from fedkd.flower.process_clients import client_pool
from fedkd.runtime.devices import choose_device, set_deterministic
from fedkd.scenario.scenario import Scenario
from fedkd.storage.client_states import BackedStore, ClientStore, DiskStore, Layout, MemoryStore
from fedkd.storage.device_states import DeviceStore, fits


def create_clients(spec: WorkerSpec) -> ClientPool:
    """Return the clients that a specification describes.

    Their states are in files, so that another process can go on with them.
    """
    scenario = Scenario.parse(yaml.safe_load(spec.scenario))
    device = choose_device(spec.device or scenario.federation.device)
    set_deterministic(device)
    disk = DiskStore(spec.states, history=spec.history)

    def store(layouts: Mapping[str, Layout], architectures: Sequence[str]) -> ClientStore:
        if scenario.federation.client_store == "disk":
            return disk
        if fits(layouts, architectures, spec.owned, device):
            return DeviceStore(layouts, architectures, spec.owned, device, disk, at_once=True)
        memory = MemoryStore(layouts, architectures, spec.owned)
        return BackedStore(memory, disk, at_once=True)

    public = None if spec.public_inputs is None else torch.from_numpy(spec.public_inputs)
    context = make_context(scenario, store, threading.Event(), device=device, public_inputs=public)
    batching = replace(context.batching, fixed=spec.fixed_batches)
    return client_pool(replace(context, batching=batching))
