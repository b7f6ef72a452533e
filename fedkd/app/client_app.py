"""The Flower ClientApp: reads a message, lets the client take part, writes the reply.

The client's id is its node's ``partition-id``. The app finds its workplace by the scenario text that every message
carries: in process it is given; on Flower's own engines it is built once a process from that text.
"""

from collections.abc import Callable
from typing import cast

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedkd.app.records import card_content, read_download, upload_content
from fedkd.client import Workplace, describe, take_part


def make_client_app(find_workplace: Callable[[str], Workplace]) -> ClientApp:
    """Return the app. ``find_workplace`` maps a scenario's text to what its clients share on this machine."""
    app = ClientApp()

    def place_of(message: Message) -> Workplace:
        return find_workplace(cast(str, message.content["scenario"]["text"]))

    def client_id(context: Context) -> int:
        return int(cast(int, context.node_config["partition-id"]))

    def answer(message: Message, context: Context) -> Message:
        upload = take_part(place_of(message), client_id(context), read_download(message.content))
        return Message(upload_content(upload), reply_to=message)

    @app.query("describe")
    def _describe(message: Message, context: Context) -> Message:
        return Message(card_content(describe(place_of(message), client_id(context))), reply_to=message)

    app.train()(answer)
    app.evaluate()(answer)
    return app
