"""The first exchange of a run: which node is which client."""

import time
from collections.abc import Sequence

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedkd.errors import RunError, UploadRejected, printable
from fedkd.federation.server import Server
from fedkd.flower.reply_decoder import read_card
from fedkd.messages import ClientCard

NODE_PATIENCE_SECONDS = 60.0


def introduce(
    grid: Grid, server: Server, question: RecordDict, timeout: float | None
) -> dict[int, int]:
    """Ask every node which client it is, register the clients, and return their nodes by client id.

    A client that the server leaves out has none.

    Args:
        grid: Carries the messages.
        server: Registers the clients.
        question: What every node is asked.
        timeout: Seconds to wait for answers; None is as long as it takes.

    Raises:
        RunError: There are more or fewer nodes than clients, or no client can take part.
    """
    clients = server.participation.clients
    nodes = _connected(grid, clients)
    asked = [
        Message(question, dst_node_id=node, message_type="query.describe", group_id="0")
        for node in nodes
    ]
    cards: dict[int, ClientCard] = {}
    unusable = dict.fromkeys(nodes, "a node did not answer")
    for message in grid.send_and_receive(asked, timeout=timeout):
        node = message.metadata.src_node_id
        if unusable.pop(node, None) is None:  # nobody was asked there, or it has answered before
            continue
        try:
            if message.has_error():
                raise UploadRejected(error_text(message))
            cards[node] = read_card(message.content, clients)
        except UploadRejected as rejected:
            unusable[node] = printable(str(rejected))
    server.register(list(cards.values()), list(unusable.values()))
    return {
        card.client_id: node
        for node, card in cards.items()
        if card.client_id not in server.participation.left_out
    }


def error_text(message: Message) -> str:
    """Return why a client failed, as its node says."""
    return message.error.reason or f"error {message.error.code} without a reason"


def _connected(grid: Grid, expected: int) -> Sequence[int]:
    """Wait until so many nodes are connected, and return their ids."""
    deadline = time.monotonic() + NODE_PATIENCE_SECONDS
    while len(nodes := list(grid.get_node_ids())) < expected:
        if time.monotonic() > deadline:
            raise RunError(
                f"only {len(nodes)} of {expected} clients connected in"
                f" {NODE_PATIENCE_SECONDS:.0f} s;"
                " start a node for each client, or set clients to the number of nodes"
            )
        time.sleep(0.2)
    if len(nodes) > expected:
        raise RunError(
            f"{len(nodes)} nodes are connected, but clients={expected}; set clients={len(nodes)}"
        )
    return nodes
