"""A node that lies, for ``fault_table.py``: its client's replies are changed as a file says.

Python imports this by itself in every process of a node that has this folder on its PYTHONPATH. The
file is named by the environment variable FEDKD_LIE.
"""

import os
import sys
from pathlib import Path
from typing import Any

VARIABLE = "FEDKD_LIE"
OTHER_CLIENT = 0


def changed(content: Any, told: str, kept: Path) -> Any:
    """Return a reply's content as a liar sends it, or as it is.

    Args:
        content: The reply's.
        told: What the file says.
        kept: The file of an earlier reply.
    """
    from flwr.app import ConfigRecord, MetricRecord, RecordDict
    from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
    from flwr.proto.recorddict_pb2 import RecordDict as Proto

    if not any(name.endswith("about") for name in content):
        return content  # a card
    if not told:
        kept.write_bytes(recorddict_to_proto(content).SerializeToString())
        return content
    if told == "sends an earlier upload again":
        return recorddict_from_proto(Proto.FromString(kept.read_bytes()))
    lies = RecordDict(dict(content.items()))
    for name in content:
        if name.endswith("about") and told == "uploads in another's name":
            lies[name] = ConfigRecord({**content[name], "client_id": OTHER_CLIENT})
        if name.endswith("metrics") and told == "sends what is malformed":
            lies[name] = MetricRecord({"seconds": [1.0, 2.0], "\x1b[31m": 1.0})
    return lies


def install(path: Path) -> None:
    """Change what this process's client app replies."""
    from flwr.app import Message
    from flwr.clientapp import ClientApp

    call = ClientApp.__call__

    def lying(self: Any, message: Any, context: Any) -> Any:
        reply = call(self, message, context)
        if reply.has_error():
            return reply
        told = path.read_text() if path.exists() else ""
        content = changed(reply.content, told, path.with_name(f"{path.name}.before"))
        return reply if content is reply.content else Message(content, reply_to=message)

    ClientApp.__call__ = lying  # type: ignore[method-assign]


if VARIABLE in os.environ and any("flwr-clientapp" in word for word in sys.orig_argv):
    install(Path(os.environ[VARIABLE]))
