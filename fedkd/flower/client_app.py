"""The Flower ClientApp: reads a message, lets the client take part, writes the reply.

The client's id is its node's ``partition-id``. The app finds its workplace by the message: in
process it is given; on Flower's own engines it is built once a process from the scenario text that
every message carries.
"""

from collections.abc import Callable
from typing import cast

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedkd.federation.client import describe, take_part
from fedkd.federation.context import Workplace
from fedkd.flower.records import card_content, join, read_download, split, upload_content


def make_client_app(find_workplace: Callable[[Message], Workplace]) -> ClientApp:
    """Return the app. ``find_workplace`` returns what the clients of a message's run share on this
    machine.
    """
    app = ClientApp()

    def client_id(context: Context) -> int:
        return int(cast(int, context.node_config["partition-id"]))

    def answer(message: Message, context: Context) -> Message:
        place = find_workplace(message)
        contents = []
        for part in split(message.content):
            download = read_download(part, place.kind, packed=place.codecs is not None)
            contents.append(
                upload_content(take_part(place, client_id(context), download), place.kind)
            )
        return Message(contents[0] if len(contents) == 1 else join(*contents), reply_to=message)

    @app.query("describe")
    def _describe(message: Message, context: Context) -> Message:
        return Message(
            card_content(describe(find_workplace(message), client_id(context))), reply_to=message
        )

    app.train()(answer)
    app.evaluate()(answer)
    return app


def scenario_text(message: Message) -> str:
    """Return the text of the scenario that a message belongs to."""
    return cast(str, message.content["scenario"]["text"])
