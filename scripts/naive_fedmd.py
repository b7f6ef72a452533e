"""FedMD on Flower's own simulation, without fedkd, for ``bench_flower.py`` to compare with.

A DataLoader over tensors, predictions as Flower arrays, and each client's weights in Flower's
``Context.state``, as in Flower's own examples. Two actors of one CPU each, one intra-op thread in
each. The clients' tensors are in files, prepared before. The app is not defined in the script that
runs it, since Flower would then send the whole app with every message.
"""

import json
import logging
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from measuring import MARK
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fedkd.models.factory import find_factory

ACTORS = 2
torch.set_num_threads(1)

client_app = ClientApp()


@cache
def load_config(folder: str) -> Any:
    """Return the settings of a run."""
    return json.loads((Path(folder) / "config.json").read_text())


@cache
def load_shared(folder: str, name: str) -> list[Tensor]:
    """Return the tensors that all clients share: the public inputs, or the global test set."""
    return list(torch.load(Path(folder) / f"{name}.pt"))


def load_private(folder: str, client: int) -> list[Tensor]:
    """Return a client's training inputs and labels, then those of its own test set."""
    return list(torch.load(Path(folder) / f"client_{client}.pt"))


def load_model(config: Any, client: int, context: Context) -> nn.Module:
    """Return the client's model with its last weights, or initial ones in its first round."""
    model = find_factory(config["models"][client])(tuple(config["input_shape"]), config["classes"])
    if "model" in context.state:
        weights = context.state["model"]
        assert isinstance(weights, ArrayRecord)
        model.load_state_dict(weights.to_torch_state_dict())
    return model


def predict(model: nn.Module, x: Tensor) -> Tensor:
    """Return the model's logits [n, C]."""
    model.eval()
    with torch.no_grad():
        return torch.cat(
            [model(batch) for (batch,) in DataLoader(TensorDataset(x), batch_size=256)]
        )


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the model's accuracy on samples."""
    return (predict(model, x).argmax(1) == y).float().mean().item()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Train on private data and answer with predictions on the public set."""
    folder, client = (
        str(message.content["config"]["folder"]),
        int(context.node_config["partition-id"]),
    )
    config = load_config(folder)
    model = load_model(config, client, context)
    x, y, *_ = load_private(folder, client)
    optimizer = torch.optim.Adam(model.parameters(), lr=config["train_learning_rate"])
    model.train()
    for _ in range(config["train_epochs"]):
        for inputs, labels in DataLoader(
            TensorDataset(x, y), batch_size=config["train_batch_size"], shuffle=True
        ):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
    (public,) = load_shared(folder, "public")
    logits = predict(model, public)
    context.state["model"] = ArrayRecord(model.state_dict())
    return Message(
        RecordDict({"knowledge": ArrayRecord({"logits": Array(logits.numpy())})}), reply_to=message
    )


@client_app.evaluate()
def distill(message: Message, context: Context) -> Message:
    """Distill the mean of logits and answer with both accuracies."""
    folder, client = (
        str(message.content["config"]["folder"]),
        int(context.node_config["partition-id"]),
    )
    config = load_config(folder)
    model = load_model(config, client, context)
    teacher = message.content["teacher"]
    assert isinstance(teacher, ArrayRecord)
    temperature = config["temperature"]
    target = torch.softmax(torch.from_numpy(teacher["logits"].numpy()) / temperature, dim=-1)
    (public,) = load_shared(folder, "public")
    optimizer = torch.optim.Adam(model.parameters(), lr=config["distill_learning_rate"])
    model.train()
    for _ in range(config["distill_epochs"]):
        batches = DataLoader(
            TensorDataset(public, target), batch_size=config["distill_batch_size"], shuffle=True
        )
        for inputs, probs in batches:
            optimizer.zero_grad()
            log_probs = F.log_softmax(model(inputs) / temperature, dim=-1)
            (temperature**2 * F.kl_div(log_probs, probs, reduction="batchmean")).backward()
            optimizer.step()
    context.state["model"] = ArrayRecord(model.state_dict())
    x, y = load_shared(folder, "test")
    *_, own_x, own_y = load_private(folder, client)
    found: dict[str, Any] = {
        "global_accuracy": accuracy(model, x, y),
        "personal_accuracy": accuracy(model, own_x, own_y),
    }
    return Message(RecordDict({"metrics": MetricRecord(found)}), reply_to=message)


def make_server_app(folder: str, rounds: int, clients: int) -> ServerApp:
    """Return a server app: each round it collects predictions and sends back their mean."""
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        config = ConfigRecord({"folder": folder})
        while len(list(grid.get_node_ids())) < clients:
            time.sleep(0.1)
        for round_number in range(1, rounds + 1):
            replies = send_to_all(grid, "train", RecordDict({"config": config}), clients)
            logits = [reply.content["knowledge"]["logits"].numpy() for reply in replies]  # type: ignore[union-attr]
            teacher = ArrayRecord({"logits": Array(np.mean(logits, axis=0))})
            replies = send_to_all(
                grid, "evaluate", RecordDict({"config": config, "teacher": teacher}), clients
            )
            accuracies = [float(reply.content["metrics"]["global_accuracy"]) for reply in replies]  # type: ignore[arg-type]
            print(f"{MARK}round {round_number}", flush=True)
        print(np.mean(accuracies), flush=True)

    return server_app


def send_to_all(grid: Grid, kind: str, content: RecordDict, clients: int) -> list[Message]:
    """Send all clients the same content, and return their replies.

    Raises RuntimeError if a client failed.

    Args:
        grid: Flower's connection to the clients.
        kind: The type of the message.
        content: The content.
        clients: The number of clients.
    """
    nodes = list(grid.get_node_ids())
    messages = [Message(content, message_type=kind, dst_node_id=node) for node in nodes]
    replies = list(grid.send_and_receive(messages))
    if len(replies) != clients or any(reply.has_error() for reply in replies):
        raise RuntimeError(
            f"{kind}: {len(replies)} replies of {clients}, some of which may be errors"
        )
    return replies


def run(folder: str, rounds: int, clients: int) -> None:
    """Run the simulation."""
    from flwr.simulation import run_simulation

    logging.getLogger("flwr").setLevel(logging.ERROR)
    run_simulation(
        server_app=make_server_app(folder, rounds, clients),
        client_app=client_app,
        num_supernodes=clients,
        backend_config={
            # "local" starts a new cluster, even if one runs on this machine.
            "init_args": {"address": "local", "num_cpus": ACTORS},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )
