"""Candidate records of an audit: canaries or ordinary records, each included by a fair coin.

A canary is a record made to be memorized. Functions return new values: an altered data set, an
altered division, and the candidates with their inclusion bits, which the audit stores where no
adversary and no client reads them (``fedkd.storage.transcript.write_ground_truth``). The row of a
candidate that is left out belongs to no client. Not for: text, whose canaries are secrets with an
exposure.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Int

from fedkd.data.division import Division
from fedkd.data.prepare import Labeled, Plantable
from fedkd.errors import SettingError
from fedkd.runtime.seeding import numpy_stream
from fedkd.settings.validators import at_least, check_choices

CanaryKind = Literal["mislabeled", "out_of_distribution", "blank"]
CANARIES: tuple[CanaryKind, ...] = get_args(CanaryKind)


@dataclass(frozen=True, kw_only=True)
class RecordCanaries:
    """Settings of canary records: what they look like, and how many each client has."""

    kind: CanaryKind = "mislabeled"
    """mislabeled: a record with another label. out_of_distribution: random values, of images
    pixels. blank: the same value everywhere, of images a grey."""
    per_client: int = 20
    """Canaries of each client, >= 1. Each replaces one training record; about half are included."""

    def __post_init__(self) -> None:
        check_choices(self)
        at_least(1, per_client=self.per_client)


@dataclass(frozen=True)
class Candidates:
    """The candidate records of all clients with their inclusion bits, for the auditor alone."""

    rows: Int[np.ndarray, "n"]
    """Rows of the altered data set."""
    client_ids: Int[np.ndarray, "n"]
    """The client that owns each candidate."""
    labels: Int[np.ndarray, "n"]
    """As trained on."""
    included: Bool[np.ndarray, "n"]
    """Inclusion bits: whether the owner trains on the candidate."""


def plant(
    prepared: Plantable, division: Division, canaries: RecordCanaries, seed: int
) -> tuple[Plantable, Division, Candidates]:
    """Return a data set with canaries, the division without excluded ones, and the candidates.

    Candidates are drawn at random from each client's training rows and turned into canaries. Each
    is then included with probability 1/2, independently, or taken out of the division. Test sets
    and the public set do not change. The choice, the content and the inclusion bits come from
    separate random streams: the data set does not reveal the bits, but a client's number of records
    reveals how many of its candidates are included. A client under a privacy claim therefore states
    its size before exclusion, and DP-SGD is planned by that size (``ClientContext.public_sizes``):
    an excluded candidate is a null record, as in the zero-out neighbor relation. The altered data
    set is a copy in memory with a key of its own. Raises SettingError for a client that would have
    no other record than candidates.

    Args:
        prepared: The data set.
        division: Its division among the clients.
        canaries: What canaries look like, and how many there are.
        seed: The run's seed.
    """
    changes = canaries.kind != "mislabeled"
    values = {name: np.array(array) for name, array in prepared.inputs.items() if changes}
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
        if changes:
            for name, made in prepared.unusual(canaries.kind, len(chosen), stream).items():
                values[name][chosen] = made
        labels[chosen] = _other_labels(labels[chosen], len(prepared.class_names), stream)
        return chosen

    chosen_rows = [choose(client, own) for client, own in enumerate(division.train)]
    candidates = _draw_inclusion(chosen_rows, labels, seed, "canaries")
    key = f"{prepared.key}-canaries-{canaries.kind}-{canaries.per_client}-{seed}"
    altered: Plantable = replace(prepared, key=key, labels=labels, **values)  # type: ignore[type-var]
    return altered, without(division, candidates), candidates


def members_and_others(
    prepared: Labeled, division: Division, per_client: int | None, seed: int
) -> tuple[Division, Candidates]:
    """Return the division without the excluded candidates, and the candidates: ordinary records.

    ``per_client`` of each client's training rows are drawn at random as candidates (None: all but
    one). This is an average-case audit, which underestimates. Inclusion bits are independent, so
    that included and excluded candidates are random parts of one pool. Raises SettingError for a
    client that would have no other record than candidates.

    Args:
        prepared: The data set.
        division: Its division among the clients.
        per_client: Candidates per client, or None.
        seed: The run's seed.
    """
    chosen_rows = []
    for client, own in enumerate(division.train):
        count = len(own) - 1 if per_client is None else per_client
        if count < 1 or len(own) <= count:
            raise SettingError(
                f"per_client={'null' if per_client is None else per_client} needs at least one"
                f" record that is no candidate, and client {client} has {len(own)} records"
            )
        chosen_rows.append(
            np.sort(numpy_stream(seed, "members", client, "choice").choice(own, count, False))
        )
    candidates = _draw_inclusion(chosen_rows, prepared.labels, seed, "members")
    return without(division, candidates), candidates


def without(division: Division, candidates: Candidates) -> Division:
    """Return a division without the candidates that are not included."""
    excluded = candidates.rows[~candidates.included]
    return replace(division, train=tuple(np.setdiff1d(own, excluded) for own in division.train))


def _draw_inclusion(
    chosen_rows: Sequence[np.ndarray], labels: np.ndarray, seed: int, stream: str
) -> Candidates:
    """Return candidates with inclusion bits of probability 1/2, from one stream per client.

    Args:
        chosen_rows: Each client's candidates, as rows of the data set.
        labels: All labels of the data set.
        seed: The run's seed.
        stream: The name of the random streams.
    """
    included = [
        numpy_stream(seed, stream, client, "coins").random(len(chosen)) < 0.5
        for client, chosen in enumerate(chosen_rows)
    ]
    owners = [np.full(len(chosen), client) for client, chosen in enumerate(chosen_rows)]
    rows = np.concatenate(chosen_rows)
    return Candidates(
        rows, np.concatenate(owners), np.asarray(labels[rows], np.int64), np.concatenate(included)
    )


def _other_labels(labels: np.ndarray, classes: int, stream: np.random.Generator) -> np.ndarray:
    """Return a uniformly random label other than each record's own."""
    return ((labels + stream.integers(1, classes, len(labels))) % classes).astype(labels.dtype)
