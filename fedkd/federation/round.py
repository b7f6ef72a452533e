"""One round of federated distillation, from the selection of clients to its record."""

from collections.abc import Generator, Iterable, Mapping

from fedkd.federation.replies import Reply, with_missing
from fedkd.federation.round_records import RoundRecord
from fedkd.federation.server import Server
from fedkd.messages import Download

Downloads = Mapping[int, Download]
"""By client id, in ascending order."""
Round = Generator[Downloads, Iterable[Reply], RoundRecord]
"""A round in progress: it yields downloads, is sent their replies, and returns its record."""


def federated_round(server: Server, round_number: int) -> Round:
    """Run one round: yield its first and its last downloads, take the replies, return the record.

    Whoever drives it carries the messages, and may begin the next round before it sends the last
    replies of this one. Raises RunError where fewer clients are left than ``min_clients``.
    """
    selection = server.select(round_number)
    downloads = server.first_downloads(selection)

    replies = yield downloads  # clients train, and upload what they know
    server.recorder.open(selection, downloads)
    request, uploads = server.request(selection), server.aggregator.gather(selection.trainers)
    for reply in with_missing(replies, downloads):
        upload = server.account(reply.client_id, server.receive(reply), request)
        server.aggregator.take(uploads, reply.client_id, server.accept(upload, request))
    server.require_answers(selection)
    aggregate = server.aggregator.fuse(uploads, request, asked=len(selection.trainers))
    if aggregate is not None:
        server.publish(aggregate, request)
    downloads = server.last_downloads(selection)

    replies = yield downloads  # clients learn from their teachers, and measure themselves
    server.recorder.note_sent(downloads)
    for reply in with_missing(replies, downloads):
        server.receive(reply)
    server.require_answers(selection)
    return server.recorder.close(round_number, server.accounting.epsilons())


def finish(steps: Round, replies: Iterable[Reply]) -> RoundRecord:
    """Send a round the replies to its last downloads, and return its record."""
    try:
        steps.send(replies)
    except StopIteration as end:
        record: RoundRecord = end.value
        return record
    raise AssertionError("a round has two sets of downloads")
