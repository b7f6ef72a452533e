"""The Flower ClientApp: reads a message, runs the client's local update, writes the reply.

The client's id is its node's ``partition-id``. The app finds the clients' context by the message:
in process it is given; on Flower's own engines it is built once a process from the scenario text
that every message carries.
"""

from collections.abc import Callable
from typing import cast

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedkd.federation.client import describe, take_part
from fedkd.federation.context import ClientContext
from fedkd.flower.records import card_content, join, read_download, split, upload_content


def make_client_app(
    find_context: Callable[[Message], ClientContext],
    admit: Callable[[Message, Context], None] = lambda message, node: None,
) -> ClientApp:
    """Return the app. ``find_context`` returns the context of a message's clients.

    ``admit`` is called before it, and raises SettingError for a message that the node refuses.
    """
    app = ClientApp()

    def client_id(node: Context) -> int:
        return int(cast(int, node.node_config["partition-id"]))

    def answer(message: Message, node: Context) -> Message:
        admit(message, node)
        context = find_context(message)
        contents = []
        for part in split(message.content):
            download = read_download(part, context.kind, packed=context.codecs is not None)
            contents.append(
                upload_content(take_part(context, client_id(node), download), context.kind)
            )
        return Message(contents[0] if len(contents) == 1 else join(*contents), reply_to=message)

    @app.query("describe")
    def _describe(message: Message, node: Context) -> Message:
        admit(message, node)
        return Message(
            card_content(describe(find_context(message), client_id(node))), reply_to=message
        )

    @app.query("present")
    def _present(message: Message, node: Context) -> Message:
        return Message(RecordDict(), reply_to=message)

    app.train()(answer)
    app.evaluate()(answer)
    return app


def scenario_text(message: Message) -> str:
    """Return the text of a message's scenario."""
    return cast(str, message.content["scenario"]["text"])
