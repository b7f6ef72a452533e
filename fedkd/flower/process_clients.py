"""Clients of one process: Flower's app over their context, with batched training if chosen."""

from collections.abc import Sequence

from flwr.app import Message

from fedkd.federation.batched_clients import batches_of_clients, train_batch
from fedkd.federation.context import ClientContext
from fedkd.flower.client_app import make_client_app
from fedkd.flower.engine_run import ClientPool, client_of
from fedkd.flower.records import read_download
from fedkd.messages import Download


def client_pool(context: ClientContext) -> ClientPool:
    """Return the clients of a context as an engine takes them."""
    app = make_client_app(lambda _: context)
    if not context.batch_clients:
        return ClientPool(app)

    def group(messages: Sequence[Message], at_once: int) -> list[list[Message]]:
        by_client = {client_of(message): message for message in messages}
        if any(message.metadata.message_type not in ("train", "evaluate") for message in messages):
            return [[message] for message in messages]
        return [
            [by_client[i] for i in batch]
            for batch in batches_of_clients(context, list(by_client), at_once)
        ]

    def prepare(messages: Sequence[Message]) -> None:
        if len(messages) > 1:
            try:
                train_batch(
                    context,
                    [(client_of(message), _download(message, context)) for message in messages],
                )
            except BaseException:
                # A client that raises fails alone, when its own message is handled.
                if context.stopped():
                    raise

    return ClientPool(app, group, prepare)


def _download(message: Message, context: ClientContext) -> Download:
    return read_download(message.content, context.kind, packed=context.codecs is not None)
