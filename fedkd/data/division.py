"""Divide rows: the global test set, public rows, and each client's training and test split.

All are disjoint. The division is made once for a data set, partition and seed, and kept in the
cache, so that a sweep and later runs neither repeat it nor import the libraries that it takes.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np

from fedkd.data.cache import cached
from fedkd.data.corruptions import CorruptionName
from fedkd.data.partitions import Partition, split
from fedkd.data.prepare import Labeled
from fedkd.data.prepared_tables import of_rows
from fedkd.errors import SettingError
from fedkd.runtime.seeding import numpy_stream
from fedkd.settings.conditions import RunConditions
from fedkd.settings.import_paths import code_hash
from fedkd.settings.meaning import setting
from fedkd.settings.validators import at_least, at_most, check_choices, only_with, share

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Public:
    """The public set: unlabeled samples that every client and the server hold.

    ``public_data`` says where from.
    """

    size: int = 300
    """Public samples, or texts, whose token positions are the samples; >= 0. 0 only where the
    strategy needs none."""
    per_round: int | None = setting(None, affects="exchange")
    """Samples drawn from the public set each round, token positions where it is of texts; null uses
    all of it."""
    sampling: Literal["random", "core_set", "disagreement"] = setting("random", affects="exchange")
    """How per_round samples are chosen: at random, to cover the fused predictions, or where clients
    are farthest from the fused teacher. The last two ask about all samples in the first round."""
    augmented_views: int = 1
    """Views of each public sample that clients predict on, >= 1: the sample and moved copies. Each
    client then distills the view on which it disagrees most with its teacher; bytes grow with the
    views."""
    labeled: bool = False
    """Let strategies and public pre-training see the labels of the public set; needs
    public_data=same."""
    reserved: int | None = None
    """Rows of the clients' data set that no client gets, whose statistics normalize private
    samples; null is size. Public sets of several sizes or sources with the same number leave
    clients the same samples and the same baseline."""
    foreign_share: float | None = None
    """Share of the public samples that is of public_data, above 0 and at most 1, the rest being
    rows held back; null is all. With public_data=same it is an error."""
    corruption: CorruptionName | None = None
    """Make all public images worse: gaussian_noise, impulse_noise, blur, contrast or brightness;
    null leaves them."""
    severity: int | None = None
    """How much worse, 1 to 5 (the formulas are in fedkd/data/corruptions.py); needed by, and only
    for, a corruption."""

    def __post_init__(self) -> None:
        check_choices(self)
        at_least(0, size=self.size)
        if self.reserved is not None:
            at_least(0, reserved=self.reserved)
        if self.foreign_share is not None:
            share(foreign_share=self.foreign_share)
        if self.corruption is None:
            only_with(False, "corruption is null", severity=self.severity)
        else:
            only_with(self.size > 0, "size=0", corruption=self.corruption)
            if self.severity is None:
                raise SettingError(
                    f"severity must be given with corruption={self.corruption}, from 1 to 5"
                )
            at_least(1, severity=self.severity)
            at_most(5, severity=self.severity)
        if self.sampling != "random" and self.per_round is None:
            raise SettingError(
                f"sampling={self.sampling} would do nothing: all samples are asked about; give"
                " per_round"
            )
        at_least(1, augmented_views=self.augmented_views)
        if self.augmented_views > 1:
            only_with(self.size > 0, "size=0", augmented_views=self.augmented_views)
        if self.per_round is not None:
            at_least(1, per_round=self.per_round)

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return the conflict of views, sampling or labels with a strategy that cannot use them."""
        name = conditions.strategy
        answers = conditions.all_answer and not conditions.selects_queries
        if (self.sampling != "random" or self.augmented_views > 1) and not answers:
            views = f"public.augmented_views={self.augmented_views}"
            what = views if self.sampling == "random" else f"public.sampling={self.sampling}"
            return (
                f"{what} needs every client's predictions on every sample asked about, and"
                f" strategy={name} does not send them; leave it out"
            )
        if self.labeled and not conditions.public_labels and not conditions.pretrains:
            return (
                f"public.labeled=true would do nothing: strategy={name} does not use labels, and"
                " train.public_epochs=0"
            )
        return None

    @property
    def reserved_rows(self) -> int:
        """How many rows of the clients' data set no client gets."""
        return self.size if self.reserved is None else self.reserved

    def for_local_training(self) -> "Public":
        """Return the settings of clients who never see a public sample.

        The rows held back remain: they decide who has which samples, and how these are normalized.
        """
        return Public(size=self.reserved_rows)


@dataclass(frozen=True, kw_only=True)
class EvaluationSets:
    """The test sets, a client's own and a balanced one, and a validation split."""

    private_fraction: float = 0.2
    """Share of a client's samples set aside to test it on its own label distribution, between 0 and
    1."""
    private_stratified: bool = False
    """Set aside this share of each class that a client has, rather than of all its samples."""
    private_size: int = 500
    """Most samples of a client's private test split, >= 1."""
    global_size: int = 1000
    """Samples of the balanced global test set: the same number of every class, of texts as nearly
    as topics allow."""
    validation_fraction: float = 0.0
    """Share of a client's training samples held out, to choose a round by instead of a test set; 0
    or more, below 1."""
    after: Literal["both", "distillation", "training"] = setting("both", affects="exchange")
    """At which of a round's two points clients measure their models: after learning from teachers,
    after private training, or both. One alone saves an evaluation a round, and leaves the columns
    of the other empty."""

    def __post_init__(self) -> None:
        check_choices(self)
        if not 0 < self.private_fraction < 1:
            raise SettingError(
                f"private_fraction must be above 0 and below 1, got {self.private_fraction}: a"
                " client trains on the rest"
            )
        at_least(1, private_size=self.private_size, global_size=self.global_size)
        at_least(0, validation_fraction=self.validation_fraction)
        if self.validation_fraction >= 1:
            raise SettingError(
                "validation_fraction must be 0 or more and below 1, got"
                f" {self.validation_fraction}: a client trains on the rest"
            )

    def key(self) -> dict[str, float]:
        """Return the settings of the sets for keys of caches, without a validation split of 0."""
        whole = asdict(self)
        del whole["after"]
        if self.validation_fraction == 0:
            del whole["validation_fraction"]
        if not self.private_stratified:
            del whole["private_stratified"]
        return whole


@dataclass(frozen=True)
class Division:
    """Rows of the prepared data set by role; all arrays of indices are disjoint and sorted.

    ``train``, ``test`` and ``validation`` are by client; ``validation`` is empty where nothing is
    held out.
    """

    global_test: np.ndarray
    held_back: np.ndarray
    """Public rows, which no client gets; the public set is made from them, or instead of them."""
    train: tuple[np.ndarray, ...]
    test: tuple[np.ndarray, ...]
    validation: tuple[np.ndarray, ...]

    def sha256(self, key: str) -> str:
        """Return a hash of which rows have which role; ``key`` is that of the data's content."""
        found = hashlib.sha256(key.encode())
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            for rows in value if isinstance(value, tuple) else (value,):
                found.update(f"{name} {len(rows)} ".encode())
                found.update(np.ascontiguousarray(rows, dtype="<i8").tobytes())
        return found.hexdigest()


def divide(
    prepared: Labeled,
    *,
    partition: Partition,
    clients: int,
    samples_per_client: int | None,
    public: Public,
    testing: EvaluationSets,
    seed: int,
) -> Division:
    """Return the rows of the test sets, the public set and every client.

    Args:
        prepared: The data set.
        partition: How its rows are dealt to clients.
        clients: K.
        samples_per_client: Most training samples of a client; None for no cap.
        public: The public set's settings.
        testing: The test sets' settings.
        seed: The scenario's.

    The cap takes a random part of what the partition dealt, so it keeps the client's label
    distribution; a client that was dealt less keeps what it has. The validation split is taken out
    of these training samples, one at least, except from a client that has only one. Raises
    SettingError where the sizes do not fit the data set.
    """
    about = {
        "format": FORMAT,
        "data": prepared.key,
        "partition": [type(partition).__module__, type(partition).__qualname__, _fields(partition)],
        "code": code_hash(type(partition)),
        "clients": clients,
        "samples_per_client": samples_per_client,
        "public": public.reserved_rows,
        "testing": testing.key(),
        "seed": seed,
        "flwr-datasets": version("flwr-datasets"),
    }
    key = hashlib.sha256(json.dumps(about, sort_keys=True, default=repr).encode()).hexdigest()[:32]

    def make(folder: Path) -> None:
        division = _divide(prepared, partition, clients, samples_per_client, public, testing, seed)
        parts = (*division.train, *division.test, *division.validation)
        bounds = np.cumsum([len(rows) for rows in parts])
        np.savez(
            folder / "division.npz",
            global_test=division.global_test,
            public=division.held_back,
            private=np.concatenate(parts),
            bounds=bounds[:-1],
        )

    with np.load(cached("divisions", key, make) / "division.npz") as stored:
        private = np.split(stored["private"], stored["bounds"])
        train, test, validation = (
            tuple(private[i * clients : (i + 1) * clients]) for i in range(3)
        )
        # A division that was cached before there was a validation split has none.
        return Division(
            stored["global_test"],
            stored["public"],
            train,
            test,
            validation or (np.arange(0),) * clients,
        )


def _fields(partition: Partition) -> Mapping[str, object]:
    return dict(sorted(vars(partition).items()))


def _divide(
    prepared: Labeled,
    partition: Partition,
    clients: int,
    samples_per_client: int | None,
    public: Public,
    testing: EvaluationSets,
    seed: int,
) -> Division:
    train_rows = np.arange(prepared.train_size)
    test_rows = np.arange(prepared.train_size, len(prepared.labels))
    test_pool = test_rows if len(test_rows) else train_rows
    others = 0 if len(test_rows) else public.reserved_rows + 2 * clients
    global_test = _global_test(prepared, test_pool, testing.global_size, others, seed)
    pool = np.setdiff1d(train_rows, global_test)
    reserved_rows = public.reserved_rows
    if reserved_rows >= len(pool):
        raise _too_many_reserved(public, len(pool), clients)
    pool = numpy_stream(seed, "public", "choice").permutation(pool)
    held_back, private = np.sort(pool[:reserved_rows]), np.sort(pool[reserved_rows:])
    columns = of_rows(prepared.columns, private, getattr(prepared, "features", {}))
    train, test, validation = [], [], []
    for client, part in enumerate(
        split(partition, clients, prepared.labels[private], columns, seed, private)
    ):
        rows = numpy_stream(seed, "client", client, "split").permutation(private[part])
        if testing.private_stratified:
            rows, held_out = _stratified(rows, prepared.labels[rows], testing.private_fraction)
        else:
            held_out = round(testing.private_fraction * len(rows))
        held_out = min(len(rows) - 1, max(1, held_out))
        test.append(np.sort(rows[:held_out][: testing.private_size]))
        rest = rows[held_out:][:samples_per_client]
        validating = _validating(testing.validation_fraction, len(rest))
        validation.append(np.sort(rest[:validating]))
        train.append(np.sort(rest[validating:]))
    return Division(global_test, held_back, tuple(train), tuple(test), tuple(validation))


def _stratified(rows: np.ndarray, labels: np.ndarray, fraction: float) -> tuple[np.ndarray, int]:
    """Return the rows with those set aside first, a ``fraction`` of each class, and their number.

    Among those set aside, and among the others, they stay in sequence.
    """
    aside = np.zeros(len(rows), dtype=bool)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        aside[own[: round(fraction * len(own))]] = True
    return np.concatenate([rows[aside], rows[~aside]]), int(aside.sum())


def _validating(fraction: float, size: int) -> int:
    """Return how many of a client's training samples are held out: all but one at most."""
    return min(size - 1, max(1, round(fraction * size))) if fraction else 0


def _too_many_reserved(public: Public, samples: int, clients: int) -> SettingError:
    """Return the error for public samples that leave none of so many to the clients."""
    setting = "size" if public.reserved is None else "reserved"
    most = samples - 2 * clients
    cure = f"use at most {most}, so that each of {clients} clients has two"
    if most < 0:
        cure = f"{clients} clients need two each: lower clients or test.global_size first"
    return SettingError(
        f"public.{setting}={public.reserved_rows} leaves nothing for the clients: there are"
        f" {samples} training samples; {cure}"
    )


def _global_test(
    prepared: Labeled, pool: np.ndarray, size: int, others: int, seed: int
) -> np.ndarray:
    """Return the rows of the balanced test set.

    Args:
        prepared: The data set.
        pool: The rows that they are drawn from.
        size: How many there are.
        others: Rows of the pool that must be left for the public set and the clients.
        seed: The scenario's.
    """
    if prepared.has_even_classes:
        return _balanced(prepared, pool, size, others, seed)
    return _nearly_balanced(prepared, pool, size, seed)


def _nearly_balanced(prepared: Labeled, pool: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Return ``size`` rows of ``pool``, as many of each class as there can be without half of any.

    Topics and classes of tables are of very different sizes: a small one gives half of
    its rows at most.
    """
    stream, ranked = numpy_stream(seed, "test", "global"), []
    for label in range(len(prepared.class_names)):
        rows = stream.permutation(pool[prepared.labels[pool] == label])
        ranked += [(rank, label, row) for rank, row in enumerate(rows[: len(rows) // 2].tolist())]
    if len(ranked) < size:
        raise SettingError(
            f"test.global_size={size} is more than half of the samples of each class; use at most"
            f" {len(ranked)}"
        )
    return np.sort(np.array([row for *_, row in sorted(ranked)[:size]], dtype=np.int64))


def _balanced(prepared: Labeled, pool: np.ndarray, size: int, others: int, seed: int) -> np.ndarray:
    """Return ``size`` rows of ``pool`` (rounded down to a multiple of C), as many of each class.

    Args:
        prepared: The data set.
        pool: The rows that they are drawn from.
        size: How many there are.
        others: Rows of the pool that must be left.
        seed: The scenario's.
    """
    classes = len(prepared.class_names)
    each = size // classes
    if each == 0:
        raise SettingError(
            f"test.global_size={size} is less than one sample for each of {classes} classes; use at"
            f" least {classes}"
        )
    rows = [pool[prepared.labels[pool] == label] for label in range(classes)]
    sizes = [len(of_class) for of_class in rows]
    smallest = min(range(classes), key=lambda label: sizes[label])
    if sizes[smallest] < each:
        room = (len(pool) - others) // classes
        most = classes * min(sizes[smallest], room if room > 0 else sizes[smallest])
        raise SettingError(
            f"test.global_size={size} needs {each} samples of every class, but there are"
            f" {sizes[smallest]} of class {prepared.class_names[smallest]!r}; "
            + (f"use at most {most}" if most else "leave the class out of the data set")
        )
    stream = numpy_stream(seed, "test", "global")
    return np.sort(np.concatenate([stream.choice(r, each, replace=False) for r in rows]))
