"""Clients of one process: Flower's app over their context, with batched training if chosen."""

from collections.abc import Callable, Sequence

import torch
from flwr.app import Message

from fedkd.errors import one_line
from fedkd.federation.batched_clients import Batch, batches_of_clients, train_batch
from fedkd.federation.context import ClientContext
from fedkd.flower.client_app import make_client_app
from fedkd.flower.engine_run import ClientPool, client_of
from fedkd.flower.records import read_download
from fedkd.messages import Download
from fedkd.runtime.standard_streams import notice


def client_pool(context: ClientContext) -> ClientPool:
    """Return the clients of a context as an engine takes them."""
    app = make_client_app(lambda _: context)
    if not context.batching.models:
        return ClientPool(app)

    def group(messages: Sequence[Message], at_once: int) -> list[list[Message]]:
        by_client = {client_of(message): message for message in messages}
        if any(message.metadata.message_type not in ("train", "evaluate") for message in messages):
            return [[message] for message in messages]
        return [
            [by_client[i] for i in batch]
            for batch in batches_of_clients(context, list(by_client), at_once)
        ]

    batches = Batches(context)

    def prepare(messages: Sequence[Message]) -> None:
        if context.architectures[client_of(messages[0])].name in context.batching.models:
            batches.train(
                lambda: [(client_of(message), _download(message, context)) for message in messages]
            )

    return ClientPool(app, group, prepare)


class Batches:
    """Trains batches of clients ahead of their messages, and leaves to the loop what fails.

    A client that raises then fails alone, when its own message is handled.
    """

    def __init__(self, context: ClientContext) -> None:
        """Begin with all models that the context trains in batches."""
        self._context = context
        self._at_most: dict[str, int] = {}
        """By the model's name: how many clients memory was found to be enough for; 1 is alone."""

    def train(self, batch: Callable[[], Batch]) -> None:
        """Train a batch of clients of one model, which are asked for within.

        Where memory is short it is halved, and stays so for later ones; what fails otherwise is
        not tried again. Both are said once.
        """
        name = ""
        try:
            clients = batch()
            name = self._context.architectures[clients[0][0]].name
            self._train_parts(name, clients)
        except BaseException as error:
            if self._context.stopped():
                raise
            if name and self._at_most.get(name) != 1:
                self._at_most[name] = 1
                notice(
                    f"clients of {name} train one by one from here on: together they failed"
                    f" ({one_line(error)})"
                )

    def _train_parts(self, name: str, clients: Batch) -> None:
        at_once = self._at_most.get(name, len(clients))
        if self._at_most.get(name) == 1:  # it was said: one by one
            return
        for start in range(0, len(clients), at_once):
            part = clients[start : start + at_once]
            try:
                train_batch(self._context, part)
            except torch.OutOfMemoryError:
                self._halve(name, len(part))
                self._train_parts(name, clients[start:])
                return

    def _halve(self, name: str, count: int) -> None:
        """Train half as many clients at once from here on."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._at_most[name] = half = -(-count // 2) if count > 2 else 1
        notice(
            f"memory is too short to train {count} clients of {name} together:"
            f" {f'at most {half} together' if half > 1 else 'one by one'} from here on"
        )


def _download(message: Message, context: ClientContext) -> Download:
    return read_download(message.content, context.kind, packed=context.codecs is not None)
