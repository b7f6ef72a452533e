"""Replies of clients to a round's downloads, as the server takes them in."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from fedkd.messages import MessageSize, Upload


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One client's reply: an upload, or the reason why there is none.

    ``size`` is that of its arrays as they travelled. ``rejected`` says that something came, but
    could not be read as an upload.
    """

    client_id: int
    upload: Upload | None
    size: MessageSize = field(default_factory=MessageSize)
    error: str = ""
    rejected: bool = False


def with_missing(replies: Iterable[Reply], asked: Iterable[int]) -> Iterator[Reply]:
    """Yield the first reply of each asked client as it comes, then a failed one where none did.

    >>> [(r.client_id, r.error) for r in with_missing([Reply(client_id=1, upload=None)], [0, 1])]
    [(1, ''), (0, 'did not answer')]
    """
    missing = set(asked)
    for reply in replies:
        if reply.client_id in missing:
            missing.remove(reply.client_id)
            yield reply
    for client_id in sorted(missing):
        yield Reply(client_id=client_id, upload=None, error="did not answer")
