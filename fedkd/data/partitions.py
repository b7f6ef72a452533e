"""Partitions of a data set among clients: a settings class for each of flwr-datasets' partitioners.

``partitioner(clients, rows, seed)`` returns the partitioner; ``split`` runs it. The rows are
shuffled first, since some of flwr-datasets' partitioners cut contiguous pieces.
"""

import contextlib
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from fedkd.errors import SettingError, one_line
from fedkd.runtime.seeding import derive, numpy_stream
from fedkd.settings.import_paths import attribute_errors_to
from fedkd.settings.validators import at_least, check_choices, positive, share


@runtime_checkable
class Partition(Protocol):
    """A rule that assigns rows to clients."""

    def partitioner(self, clients: int, rows: int, seed: int) -> Any:
        """Return the flwr-datasets partitioner; column ``label`` holds the labels."""


@dataclass(frozen=True, kw_only=True)
class Iid:
    """No skew: equal sizes, and every client has the data set's label distribution."""

    def partitioner(self, clients: int, rows: int, seed: int) -> Any:
        """Return an IidPartitioner."""
        from flwr_datasets.partitioner import IidPartitioner

        return IidPartitioner(num_partitions=clients)


@dataclass(frozen=True, kw_only=True)
class Dirichlet:
    """Label and quantity skew: Dirichlet shares of each class over clients (Hsu et al. 2019)."""

    alpha: float = 0.5
    """Concentration, > 0: small is skewed, large approaches iid."""
    min_samples: int = 10
    """Fewest samples of a client, >= 2; the draw is repeated until every client has so many."""
    self_balancing: bool = False
    """Assign no more of a class to a client that has its equal share of rows."""

    def __post_init__(self) -> None:
        positive(alpha=self.alpha)
        at_least(2, min_samples=self.min_samples)

    def partitioner(self, clients: int, rows: int, seed: int) -> Any:
        """Return a DirichletPartitioner. Raises SettingError if ``min_samples`` is impossible."""
        check_least_sizes(clients, self.min_samples, rows)
        from flwr_datasets.partitioner import DirichletPartitioner

        return DirichletPartitioner(
            num_partitions=clients,
            partition_by="label",
            alpha=self.alpha,
            min_partition_size=self.min_samples,
            self_balancing=self.self_balancing,
            seed=seed,
        )


@dataclass(frozen=True, kw_only=True)
class Pathological:
    """Label skew: each client holds a few classes only (McMahan et al. 2017)."""

    classes_per_client: int = 2
    """Classes per client, >= 1."""
    assignment: Literal["random", "deterministic", "first-deterministic"] = "first-deterministic"
    """How classes are assigned. first-deterministic assigns class i to client i first, so that
    with as many clients as classes no class is unused. Rows of unused classes are left out."""

    def __post_init__(self) -> None:
        check_choices(self)
        at_least(1, classes_per_client=self.classes_per_client)

    def partitioner(self, clients: int, rows: int, seed: int) -> Any:
        """Return a PathologicalPartitioner."""
        from flwr_datasets.partitioner import PathologicalPartitioner

        return PathologicalPartitioner(
            num_partitions=clients,
            partition_by="label",
            num_classes_per_partition=self.classes_per_client,
            class_assignment_mode=self.assignment,
            seed=seed,
        )


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Label skew: rows sorted by label and cut into shards, a few per client (McMahan 2017)."""

    shards_per_client: int = 2
    """Shards per client, >= 1."""

    def __post_init__(self) -> None:
        at_least(1, shards_per_client=self.shards_per_client)

    def partitioner(self, clients: int, rows: int, seed: int) -> Any:
        """Return a ShardPartitioner. Raises SettingError for more shards than rows."""
        from flwr_datasets.partitioner import ShardPartitioner

        shards = clients * self.shards_per_client
        if shards > rows:
            raise SettingError(
                f"partition.shards_per_client={self.shards_per_client} asks for {shards} shards of"
                f" {rows} rows"
            )
        return ShardPartitioner(
            num_partitions=clients,
            partition_by="label",
            num_shards_per_partition=self.shards_per_client,
            seed=seed,
        )


@dataclass(frozen=True, kw_only=True)
class InnerDirichlet:
    """Label skew without quantity skew: equal sizes, Dirichlet label distributions."""

    alpha: float = 0.5
    """Concentration, > 0: small is skewed."""

    def __post_init__(self) -> None:
        positive(alpha=self.alpha)

    def partitioner(self, clients: int, rows: int, seed: int) -> Any:
        """Return an InnerDirichletPartitioner."""
        from flwr_datasets.partitioner import InnerDirichletPartitioner

        return InnerDirichletPartitioner(
            partition_sizes=[rows // clients] * clients,
            partition_by="label",
            alpha=self.alpha,
            seed=seed,
        )


@dataclass(frozen=True, kw_only=True)
class SizeSkewed:
    """Quantity skew without label skew: sizes that grow with the client id."""

    growth: Literal["linear", "square", "exponential"] = "linear"
    """Client i's share is proportional to i+1, (i+1)^2 or e^i."""

    def __post_init__(self) -> None:
        check_choices(self)

    def partitioner(self, clients: int, rows: int, seed: int) -> Any:
        """Return a LinearPartitioner, SquarePartitioner or ExponentialPartitioner."""
        from flwr_datasets import partitioner

        return {
            "linear": partitioner.LinearPartitioner,
            "square": partitioner.SquarePartitioner,
            "exponential": partitioner.ExponentialPartitioner,
        }[self.growth](num_partitions=clients)


@dataclass(frozen=True, kw_only=True)
class DirichletSizes:
    """Quantity skew without label skew: Dirichlet shares of all rows (Li et al. 2022)."""

    alpha: float = 0.5
    """Concentration, > 0: small is skewed, large approaches equal sizes."""
    min_samples: int = 10
    """Rows that every client has before the others are shared out, >= 2."""

    def __post_init__(self) -> None:
        positive(alpha=self.alpha)
        at_least(2, min_samples=self.min_samples)

    def partitioner(self, clients: int, rows: int, seed: int) -> Any:
        """Return a SizePartitioner. Raises SettingError if ``min_samples`` is impossible."""
        check_least_sizes(clients, self.min_samples, rows)
        from flwr_datasets.partitioner import SizePartitioner

        rest = rows - clients * self.min_samples
        shares = np.random.default_rng(seed).dirichlet([self.alpha] * clients)
        ends = np.round(np.cumsum(shares) * rest).astype(int)
        sizes = self.min_samples + np.diff(ends, prepend=0)
        return SizePartitioner(partition_sizes=sizes.tolist())


def _refuse_gaps(column: str, values: np.ndarray, rows: np.ndarray, why: str) -> None:
    """Raise SettingError for a column that has no value in some rows.

    Args:
        column: Its name.
        values: A value for each of the rows.
        rows: Where they are in the data set.
        why: What a value is needed for, in words.
    """
    missing = np.isnan(values) if values.dtype.kind == "f" else values.astype(str) == ""
    if missing.any():
        raise SettingError(
            f"partition.column={column} has no value in {int(missing.sum())} of {len(values)} rows,"
            f" the first of which is row {rows[missing.argmax()] + 1} of the training split; {why}:"
            " fill them in, leave the rows out, or take another column"
        )


@dataclass(frozen=True, kw_only=True)
class FeatureQuantiles:
    """Covariate shift: each client has a quantile of a column of numbers, sizes being equal.

    Client 0 has the smallest values. Beside its columns, a data set of images has brightness and
    contrast, the mean and the standard deviation of pixels, one of series level and spread, the
    same of its values, and one of texts length, in bytes.
    """

    column: str
    """The column of numbers: an input, or another column of the data set."""
    strictness: float = 1.0
    """How much of a row's rank is its value, and not chance: above 0 (iid) and at most 1. Rows are
    sorted by strictness * standardized value + (1 - strictness) * standard normal noise."""

    def __post_init__(self) -> None:
        share(strictness=self.strictness)

    def partitioner(self, clients: int, rows: int, seed: int) -> Any:
        """Return a ContinuousPartitioner."""
        from flwr_datasets.partitioner import ContinuousPartitioner

        return ContinuousPartitioner(
            num_partitions=clients,
            partition_by=self.column,
            strictness=self.strictness,
            seed=seed,
        )

    def check_column(self, values: np.ndarray, rows: np.ndarray) -> None:
        """Raise SettingError for a column that has no quantiles.

        ``values`` are those of ``rows`` of the data set.
        """
        if values.dtype.kind not in "iufb":
            raise SettingError(
                f"partition.column={self.column} holds text, and quantiles are of numbers;"
                " partition=whole_ids or natural_id deals by its values"
            )
        _refuse_gaps(self.column, values, rows, "quantiles are of numbers")


@dataclass(frozen=True, kw_only=True)
class NaturalId:
    """A natural partition: one client per value of a column (a writer, an author, a device).

    Of a column with more values than clients, that many values are drawn at random.
    """

    column: str
    """The data set's column of owners."""

    def partitioner(self, clients: int, rows: int, seed: int) -> Any:
        """Return a NaturalIdPartitioner."""
        from flwr_datasets.partitioner import NaturalIdPartitioner

        return NaturalIdPartitioner(partition_by=self.column)

    def check_column(self, values: np.ndarray, rows: np.ndarray) -> None:
        """Raise SettingError for rows without an owner; ``rows`` are those of the values."""
        _refuse_gaps(self.column, values, rows, "each row needs an owner")


@dataclass(frozen=True, kw_only=True)
class WholeIds:
    """A balanced assignment of whole values of a column, such as topics or authors, to clients.

    The value with the most rows comes first, and goes to the client with the fewest rows. Every row
    is assigned. It is deterministic: ties go to the value that sorts first and to the lower id.
    """

    column: str = "label"
    """The data set's column whose values are not divided; label is the class, or a text's topic."""

    def partitioner(self, clients: int, rows: int, seed: int) -> Any:
        """Return a partitioner with flwr-datasets' interface; the library has no such rule."""
        return _WholeIds(clients, self.column)

    def check_column(self, values: np.ndarray, rows: np.ndarray) -> None:
        """Raise SettingError for rows without a value; ``rows`` are those of the values."""
        _refuse_gaps(self.column, values, rows, "rows are dealt by it")


@dataclass(frozen=True, kw_only=True)
class NWay:
    """Label skew: each client has a drawn number of drawn classes, as many rows of each.

    FedProto's partition (Tan et al. 2022, arXiv 2105.00243): n classes, evenly from max(2, ways -
    spread) to min(C, ways + spread), and k rows of each, evenly from samples_per_class -
    samples_spread to samples_per_class. Other rows are left out.
    """

    ways: int = 3
    """Classes of a client in the mean, >= 2."""
    spread: int = 2
    """Most by which a client's number of classes differs from ways, >= 0."""
    samples_per_class: int = 12
    """Most rows of each of its classes, test split included, >= 1; FedProto's MNIST has 140."""
    samples_spread: int = 0
    """Most by which a client's rows of a class may be fewer, >= 0."""

    def __post_init__(self) -> None:
        at_least(2, ways=self.ways)
        at_least(0, spread=self.spread, samples_spread=self.samples_spread)
        at_least(1, samples_per_class=self.samples_per_class)
        if self.samples_spread >= self.samples_per_class:
            raise SettingError(
                f"partition.samples_spread={self.samples_spread} must be below"
                f" partition.samples_per_class={self.samples_per_class}"
            )

    def partitioner(self, clients: int, rows: int, seed: int) -> Any:
        """Return a partitioner with flwr-datasets' interface; the library has no such rule."""
        return _NWay(clients, self, seed)


def check_least_sizes(clients: int, min_samples: int, rows: int) -> None:
    """Raise SettingError where not every client can have ``min_samples`` of so many rows."""
    if clients * min_samples > rows:
        raise SettingError(
            f"partition.min_samples={min_samples} for each of clients={clients} is more"
            f" than the {rows} samples that are left for them, at any alpha; use at most"
            f" {rows // min_samples} clients, or a smaller min_samples"
        )


class _NWay:
    def __init__(self, clients: int, settings: NWay, seed: int) -> None:
        self.num_partitions, self._settings, self._seed = clients, settings, seed
        self.dataset: Any = None
        self._parts: list[np.ndarray] = []

    def load_partition(self, partition_id: int) -> Mapping[str, np.ndarray]:
        if not self._parts:
            self._parts = self._deal()
        return {"row": self._parts[partition_id]}

    def _deal(self) -> list[np.ndarray]:
        labels, rows = np.asarray(self.dataset["label"]), np.asarray(self.dataset["row"])
        settings, stream = self._settings, np.random.default_rng(self._seed)
        classes, left = np.unique(labels), {c: rows[labels == c] for c in np.unique(labels)}
        if settings.ways > len(classes):
            raise ValueError(f"ways={settings.ways} is more than the {len(classes)} classes.")
        fewest = max(2, settings.ways - settings.spread)
        most = min(len(classes), settings.ways + settings.spread)
        least = settings.samples_per_class - settings.samples_spread
        parts = []
        for _ in range(self.num_partitions):
            own = stream.choice(classes, stream.integers(fewest, most + 1), replace=False)
            size = int(stream.integers(least, settings.samples_per_class + 1))
            for label in own:
                if len(left[label]) < size:
                    raise ValueError(f"class {label} has too few rows left, {size} were wanted.")
            parts.append(np.concatenate([left[label][:size] for label in own]))
            left |= {label: left[label][size:] for label in own}
        return parts


class _WholeIds:
    def __init__(self, clients: int, column: str) -> None:
        self.num_partitions, self._column = clients, column
        self.dataset: Any = None

    def load_partition(self, partition_id: int) -> Mapping[str, np.ndarray]:
        values, rows = np.asarray(self.dataset[self._column]), np.asarray(self.dataset["row"])
        names, sizes = np.unique(values, return_counts=True)
        if len(names) < self.num_partitions:
            raise ValueError(f"column {self._column} has {len(names)} values only.")
        load, own = [0] * self.num_partitions, []
        for negative_size, name in sorted(zip((-sizes).tolist(), names.tolist(), strict=True)):
            owner = min(range(self.num_partitions), key=lambda i: (load[i], i))
            load[owner] -= negative_size
            own += [name] if owner == partition_id else []
        return {"row": rows[np.isin(values, own)]}


PARTITIONS: dict[str, type[Partition]] = {
    "iid": Iid,
    "dirichlet": Dirichlet,
    "pathological": Pathological,
    "shard": Shard,
    "inner_dirichlet": InnerDirichlet,
    "size_skewed": SizeSkewed,
    "dirichlet_sizes": DirichletSizes,
    "feature_quantiles": FeatureQuantiles,
    "natural_id": NaturalId,
    "whole_ids": WholeIds,
    "n_way": NWay,
}


def split(
    partition: Partition,
    clients: int,
    labels: np.ndarray,
    columns: Mapping[str, np.ndarray],
    seed: int,
    positions: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Return each client's rows: disjoint sorted arrays of indices into ``labels``.

    Raises SettingError if the partition fails, or leaves a client with fewer than two rows (one to
    train on, one to test on).

    Args:
        partition: The partition.
        clients: The number of clients.
        labels: The rows' labels, [n].
        columns: The data set's other columns, [n] each.
        seed: Of all random streams.
        positions: Where each row is in the data set, for errors; None is where it is here.
    """
    rows = len(labels)
    if clients * 2 > rows:
        raise SettingError(
            f"clients={clients} is more than the {rows} samples that are left for them allow (two"
            " each); lower clients, public.size or test.global_size"
        )
    _check_column(partition, columns, np.arange(rows) if positions is None else positions)
    table = _shuffled_table(partition, labels, columns, seed)
    partitioner = _make_partitioner(partition, clients, rows, seed)
    parts = _run_partitioner(partitioner, table, clients, seed, type(partition).__name__)
    _check_parts(parts, rows, type(partition).__name__)
    return parts


def _check_column(
    partition: Partition, columns: Mapping[str, np.ndarray], positions: np.ndarray
) -> None:
    """Raise SettingError for a partition by a column that there is not, or that does not suit it.

    ``positions`` says where each row is in the data set.
    """
    column = getattr(partition, "column", None)
    if column is None or column == "label":
        return
    if column not in columns:
        known = ", ".join(["label", *columns])
        raise SettingError(f"partition.column={column}: the data set's columns are {known}")
    check = getattr(partition, "check_column", None)
    if check is not None:
        check(columns[column], positions)


def _shuffled_table(
    partition: Partition, labels: np.ndarray, columns: Mapping[str, np.ndarray], seed: int
) -> dict[str, np.ndarray]:
    """Return the columns that the partition needs, rows shuffled: "row", "label" and its own.

    Args:
        partition: The partition.
        labels: The rows' labels.
        columns: The data set's other columns.
        seed: Of the permutation.
    """
    permutation = numpy_stream(seed, "partition", "order").permutation(len(labels))
    table = {"row": permutation, "label": labels[permutation]}
    column = getattr(partition, "column", None)
    if column is not None and column != "label":
        table[column] = columns[column][permutation]
    return table


def _make_partitioner(partition: Partition, clients: int, rows: int, seed: int) -> Any:
    """Return the partition's partitioner. Raises SettingError if a user's partition has none.

    Args:
        partition: The partition.
        clients: The number of clients.
        rows: The number of rows.
        seed: Of the partitioner.
    """
    name = type(partition).__name__
    if not callable(getattr(partition, "partitioner", None)):
        raise SettingError(
            f"partition: {name} has no method partitioner; a partition has partitioner(clients,"
            " rows, seed) (docs/extending.md)"
        )
    draw_seed = derive(seed, "partition", "draw") % 2**32
    with attribute_errors_to(partition, "partition", SettingError):
        partitioner = partition.partitioner(clients, rows, draw_seed)
    if not callable(getattr(partitioner, "load_partition", None)):
        raise SettingError(
            f"partition: {name}.partitioner returned a {type(partitioner).__name__}, expected a"
            " partitioner of flwr_datasets, or one like it (docs/extending.md)"
        )
    return partitioner


def _run_partitioner(
    partitioner: Any, table: Mapping[str, np.ndarray], clients: int, seed: int, name: str
) -> list[np.ndarray]:
    """Return the rows of each part, sorted. Raises SettingError if the library raises anything.

    Args:
        partitioner: A partitioner of flwr-datasets, or one like it.
        table: The columns to partition.
        clients: The number of parts; of a partitioner with more parts, this many are drawn.
        seed: Of that draw.
        name: The partition's, for messages.
    """
    from datasets import Dataset

    try:
        # flwr-datasets prints progress bars and notices.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            partitioner.dataset = Dataset.from_dict(dict(table))
            available = partitioner.num_partitions
            if available < clients:
                raise SettingError(
                    f"clients={clients}, but the partition has {available} parts only"
                )
            chosen = list(range(available))
            if available > clients:
                stream = numpy_stream(seed, "partition", "parts")
                chosen = stream.choice(available, clients, replace=False).tolist()
            return [
                np.sort(np.asarray(partitioner.load_partition(i)["row"], dtype=np.int64))
                for i in sorted(chosen)
            ]
    except SettingError:
        raise
    except (ValueError, IndexError, ZeroDivisionError) as error:
        reason = " ".join(str(error).split())
        raise SettingError(
            f"partition: {name} cannot deal {len(table['row'])} rows to {clients} clients: {reason}"
            " Use fewer clients, or a partition that asks for less (a larger alpha, a smaller"
            " min_samples or samples_per_class)"
        ) from error
    except Exception as error:  # a user's own partitioner may raise anything
        raise SettingError(f"partition: {name} failed: {one_line(error)}") from error


def _check_parts(parts: Sequence[np.ndarray], rows: int, name: str) -> None:
    """Raise SettingError unless the parts are disjoint sets of two or more of ``rows`` rows.

    ``name`` is the partition's, for the message.
    """
    dealt = np.sort(np.concatenate(parts))
    if len(dealt) and (dealt[0] < 0 or dealt[-1] >= rows or (dealt[1:] == dealt[:-1]).any()):
        raise SettingError(
            f"partition: {name} dealt a row twice, or one that is not among the {rows}"
        )
    small = [i for i, part in enumerate(parts) if len(part) < 2]
    if small:
        raise SettingError(
            f"partition leaves {len(small)} of {len(parts)} clients without training data (client"
            f" {small[0]} has {len(parts[small[0]])} samples, 2 are needed); use fewer clients, a"
            " larger alpha or another partition"
        )
