"""Canaries: records made to be memorized, each inserted into its client's training set by a fair
coin.

Everything here returns new values: an altered data set, an altered division, and the coins. Whoever
audits keeps the coins where no adversary and no client reads them
(``fedkd.storage.transcript.write_ground_truth``). A canary that is left out is left out: its row is
nobody's. Not for: text, whose canaries have an exposure.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from fedkd.data.division import Division
from fedkd.data.prepare import Prepared
from fedkd.errors import SettingError
from fedkd.runtime.seeding import numpy_stream
from fedkd.settings.validators import at_least, one_of

CanaryKind = Literal["mislabeled", "out_of_distribution", "blank"]
CANARIES: tuple[CanaryKind, ...] = ("mislabeled", "out_of_distribution", "blank")


@dataclass(frozen=True, kw_only=True)
class RecordCanaries:
    """Which canaries, and how many."""

    kind: CanaryKind = "mislabeled"
    """mislabeled: a record with another label. out_of_distribution: random pixels. blank: the same
    grey everywhere."""
    per_client: int = 20
    """Canaries tossed for by each client, >= 1; about half are inserted. Each takes one training
    record's place."""

    def __post_init__(self) -> None:
        one_of(CANARIES, kind=self.kind)
        at_least(1, per_client=self.per_client)


@dataclass(frozen=True)
class Coins:
    """What the auditor alone knows. ``rows`` are of the altered data set, ``labels`` those that
    were trained on.
    """

    rows: Int[np.ndarray, "n"]
    client_ids: Int[np.ndarray, "n"]
    labels: Int[np.ndarray, "n"]
    included: Bool[np.ndarray, "n"]


def plant(
    prepared: Prepared, division: Division, canaries: RecordCanaries, seed: int
) -> tuple[Prepared, Division, Coins]:
    """Return the data set with canaries in the place of some training records, who has which rows,
    and the coins.

    Candidates are drawn at random from each client's training rows and turned into canaries; then
    each is kept with probability 1/2, independently, or taken out of the division. Test sets and
    the public set stay as they are. The choice, what a canary looks like, and the coins come from
    streams of their own: knowing the data set does not tell the coins, but a client's number of
    records tells how many of its coins came up. Where a mechanism claims something a client
    therefore states its size before the coins, and DP-SGD is planned by it
    (``ClientContext.public_sizes``): one left out is a null record, which is what zero-out neighbors
    are. What is altered is a copy in memory, and its key is another. Raises SettingError where a
    client has no record left that is certainly its own.
    """
    images = prepared.images if canaries.kind == "mislabeled" else np.array(prepared.images)
    labels = np.array(prepared.labels)

    def choose(client: int, own: np.ndarray) -> np.ndarray:
        if len(own) <= canaries.per_client:
            raise SettingError(
                f"per_client={canaries.per_client} leaves client {client} no record of its own: it"
                f" has {len(own)}"
            )
        chosen = np.sort(
            numpy_stream(seed, "canaries", client, "choice").choice(own, canaries.per_client, False)
        )
        stream = numpy_stream(seed, "canaries", client, "content")
        if images is not prepared.images:
            images[chosen] = _pixels(canaries.kind, images[chosen], stream)
        labels[chosen] = _other_labels(labels[chosen], prepared.classes, stream)
        return chosen

    candidates = [choose(client, own) for client, own in enumerate(division.train)]
    coins = _toss(candidates, labels, seed, "canaries")
    key = f"{prepared.key}-canaries-{canaries.kind}-{canaries.per_client}-{seed}"
    altered = replace(prepared, key=key, images=images, labels=labels)
    return altered, without(division, coins), coins


def members_and_others(
    prepared: Prepared, division: Division, per_client: int | None, seed: int
) -> tuple[Division, Coins]:
    """Return a division in which each client lacks about half of its candidates, and the coins that
    took them out.

    Ordinary records as candidates, ``per_client`` of each client's training rows drawn at random
    (None: all but one): an average-case audit, which underestimates. Coins are independent, so that
    what is in and what is out are random parts of one pool. Raises SettingError where a client has
    no record left that is certainly its own.
    """
    candidates = []
    for client, own in enumerate(division.train):
        count = len(own) - 1 if per_client is None else per_client
        if count < 1 or len(own) <= count:
            raise SettingError(
                f"per_client={'null' if per_client is None else per_client} needs one record more"
                " than it tosses for,"
                f" and client {client} has {len(own)}"
            )
        candidates.append(
            np.sort(numpy_stream(seed, "members", client, "choice").choice(own, count, False))
        )
    coins = _toss(candidates, prepared.labels, seed, "members")
    return without(division, coins), coins


def without(division: Division, coins: Coins) -> Division:
    """Return a division without the candidates whose coins said so."""
    out = coins.rows[~coins.included]
    return replace(division, train=tuple(np.setdiff1d(own, out) for own in division.train))


def _toss(candidates: Sequence[np.ndarray], labels: np.ndarray, seed: int, kind: str) -> Coins:
    """Return a fair coin for every candidate, from a stream of each client."""
    kept = [
        numpy_stream(seed, kind, client, "coins").random(len(chosen)) < 0.5
        for client, chosen in enumerate(candidates)
    ]
    owners = [np.full(len(chosen), client) for client, chosen in enumerate(candidates)]
    rows = np.concatenate(candidates)
    return Coins(
        rows, np.concatenate(owners), np.asarray(labels[rows], np.int64), np.concatenate(kept)
    )


def _pixels(kind: CanaryKind, images: np.ndarray, stream: np.random.Generator) -> np.ndarray:
    if kind == "out_of_distribution":
        return stream.integers(0, 256, images.shape).astype(images.dtype)
    if kind == "blank":
        levels = stream.permutation(256)[np.arange(len(images)) % 256]
        return np.broadcast_to(levels.reshape(-1, 1, 1, 1), images.shape).astype(images.dtype)
    return images


def _other_labels(labels: np.ndarray, classes: int, stream: np.random.Generator) -> np.ndarray:
    """Return a uniformly random label other than each record's own."""
    return ((labels + stream.integers(1, classes, len(labels))) % classes).astype(labels.dtype)
