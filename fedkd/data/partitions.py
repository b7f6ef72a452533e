"""Partitions by name: a settings class each, in front of flwr-datasets' partitioner of that kind.

``partitioner(clients, rows, seed)`` returns the partitioner; ``split`` runs it. The rows are
shuffled first, since some of flwr-datasets' partitioners cut contiguous pieces.
"""

import contextlib
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from fedkd.errors import SettingError, one_line
from fedkd.runtime.seeding import derive, numpy_stream
from fedkd.settings.import_paths import attribute_errors_to
from fedkd.settings.validators import at_least, positive


@runtime_checkable
class Partition(Protocol):
    """How rows are dealt to clients."""

    def partitioner(self, clients: int, rows: int, seed: int) -> Any:
        """Return the flwr-datasets partitioner for ``rows`` rows, with labels in column
        ``label``.
        """


@dataclass(frozen=True, kw_only=True)
class Iid:
    """Equal sizes, every client with the data set's own label distribution."""

    def partitioner(self, clients: int, rows: int, seed: int) -> Any:
        """Return an IidPartitioner."""
        from flwr_datasets.partitioner import IidPartitioner

        return IidPartitioner(num_partitions=clients)


@dataclass(frozen=True, kw_only=True)
class Dirichlet:
    """Label and quantity skew: each class is dealt by a Dirichlet draw over clients (Hsu et al.
    2019).
    """

    alpha: float = 0.5
    """Concentration, > 0: small is skewed, large approaches iid."""
    min_samples: int = 10
    """Fewest samples that a client may get; the draw is repeated until all have them."""
    self_balancing: bool = False
    """Give no more of a class to a client that already has its equal share of rows."""

    def __post_init__(self) -> None:
        positive(alpha=self.alpha)
        at_least(2, min_samples=self.min_samples)

    def partitioner(self, clients: int, rows: int, seed: int) -> Any:
        """Return a DirichletPartitioner. Raises SettingError where no draw could give everyone
        enough.
        """
        if clients * self.min_samples > rows:
            raise SettingError(
                f"partition.min_samples={self.min_samples} for each of clients={clients} is more"
                f" than the {rows}"
                " samples that are left for them, whatever alpha is; use at most"
                f" {rows // self.min_samples} clients,"
                " or a smaller min_samples"
            )
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
    """Each client holds rows of a few classes only (McMahan et al. 2017)."""

    classes_per_client: int = 2
    """Classes that a client holds, >= 1."""
    assignment: Literal["random", "deterministic", "first-deterministic"] = "first-deterministic"
    """How classes are given out; first-deterministic gives client i class i first, so that no class
    of as many as there are clients is left out. Rows of a class that nobody was given are left
    out."""

    def __post_init__(self) -> None:
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
    """Rows sorted by label, cut into equal shards, each client given a few (McMahan et al.
    2017).
    """

    shards_per_client: int = 2
    """Shards that a client gets, >= 1."""

    def __post_init__(self) -> None:
        at_least(1, shards_per_client=self.shards_per_client)

    def partitioner(self, clients: int, rows: int, seed: int) -> Any:
        """Return a ShardPartitioner."""
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
    """Label skew without quantity skew: equal sizes, each client's label distribution a Dirichlet
    draw.
    """

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
    """Quantity skew without label skew: sizes grow from client to client."""

    growth: Literal["linear", "square", "exponential"] = "linear"
    """Client i gets a share of i+1, (i+1)^2 or e^i."""

    def partitioner(self, clients: int, rows: int, seed: int) -> Any:
        """Return a LinearPartitioner, SquarePartitioner or ExponentialPartitioner."""
        from flwr_datasets import partitioner

        return {
            "linear": partitioner.LinearPartitioner,
            "square": partitioner.SquarePartitioner,
            "exponential": partitioner.ExponentialPartitioner,
        }[self.growth](num_partitions=clients)


@dataclass(frozen=True, kw_only=True)
class NaturalId:
    """One client for each value of a column of the data set (a writer, an author, a device).

    Where the column has more values than there are clients, that many of its values are drawn.
    """

    column: str
    """The data set's column that says whose row it is."""

    def partitioner(self, clients: int, rows: int, seed: int) -> Any:
        """Return a NaturalIdPartitioner."""
        from flwr_datasets.partitioner import NaturalIdPartitioner

        return NaturalIdPartitioner(partition_by=self.column)


@dataclass(frozen=True, kw_only=True)
class WholeIds:
    """Whole values of a column, such as topics or authors: the largest first, each to the client
    with the fewest rows.

    Every row is dealt. Nothing here is random: ties go to the value that sorts first and to the
    lower client id.
    """

    column: str = "label"
    """The data set's column whose values stay whole; label is the class, of texts the topic."""

    def partitioner(self, clients: int, rows: int, seed: int) -> Any:
        """Return a partitioner in the manner of flwr-datasets, which has none that balances
        sizes.
        """
        return _WholeIds(clients, self.column)


class _WholeIds:
    def __init__(self, clients: int, column: str) -> None:
        self.num_partitions, self._column = clients, column
        self.dataset: Any = None

    def load_partition(self, partition_id: int) -> Mapping[str, np.ndarray]:
        values, rows = np.asarray(self.dataset[self._column]), np.asarray(self.dataset["row"])
        names, sizes = np.unique(values, return_counts=True)
        if len(names) < self.num_partitions:
            raise ValueError(f"column {self._column} has {len(names)} values only.")
        load, mine = [0] * self.num_partitions, []
        for size, name in sorted(zip((-sizes).tolist(), names.tolist(), strict=True)):
            owner = min(range(self.num_partitions), key=lambda i: (load[i], i))
            load[owner] -= size
            mine += [name] if owner == partition_id else []
        return {"row": rows[np.isin(values, mine)]}


PARTITIONS: dict[str, type[Partition]] = {
    "iid": Iid,
    "dirichlet": Dirichlet,
    "pathological": Pathological,
    "shard": Shard,
    "inner_dirichlet": InnerDirichlet,
    "size_skewed": SizeSkewed,
    "natural_id": NaturalId,
    "whole_ids": WholeIds,
}


def split(
    partition: Partition,
    clients: int,
    labels: np.ndarray,
    columns: Mapping[str, np.ndarray],
    seed: int,
) -> list[np.ndarray]:
    """Return the rows of each client: ``clients`` disjoint arrays of indices into ``labels``, each
    sorted.

    Labels are [n]; ``columns`` hold [n] values each. Raises SettingError where the partition cannot
    be made or leaves a client with fewer than two rows (one to train on, one to test on).
    """
    rows = len(labels)
    if clients * 2 > rows:
        raise SettingError(
            f"clients={clients} is more than the {rows} samples that are left for them allow (two"
            " each);"
            " lower clients, public.size or test.global_size"
        )
    from datasets import Dataset

    order = numpy_stream(seed, "partition", "order").permutation(rows)
    chosen = {"row": order, "label": labels[order]}
    wanted = getattr(partition, "column", None)
    if wanted is not None and wanted != "label":
        if wanted not in columns:
            known = ", ".join(["label", *columns])
            raise SettingError(f"partition.column={wanted}: the data set's columns are {known}")
        chosen[wanted] = columns[wanted][order]
    name = type(partition).__name__
    if not callable(getattr(partition, "partitioner", None)):
        raise SettingError(
            f"partition: {name} has no method partitioner; a partition has partitioner(clients,"
            " rows, seed)"
            " (docs/extending.md)"
        )
    with attribute_errors_to(partition, "partition", SettingError):
        partitioner = partition.partitioner(
            clients, rows, derive(seed, "partition", "draw") % 2**32
        )
    if not callable(getattr(partitioner, "load_partition", None)):
        raise SettingError(
            f"partition: {name}.partitioner returned a {type(partitioner).__name__}, expected a"
            " partitioner of"
            " flwr_datasets, or one like it (docs/extending.md)"
        )
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stderr(io.StringIO()),
        ):  # progress bars and notices
            warnings.simplefilter("ignore")
            partitioner.dataset = Dataset.from_dict(chosen)
            available = partitioner.num_partitions
            if available < clients:
                raise SettingError(
                    f"clients={clients}, but the partition has {available} parts only"
                )
            parts = list(range(available))
            if available > clients:
                parts = (
                    numpy_stream(seed, "partition", "parts")
                    .choice(available, clients, replace=False)
                    .tolist()
                )
            dealt = [
                np.sort(np.asarray(partitioner.load_partition(i)["row"], dtype=np.int64))
                for i in sorted(parts)
            ]
    except SettingError:
        raise
    except (ValueError, IndexError, ZeroDivisionError) as error:
        reason = " ".join(str(error).split())
        raise SettingError(
            f"partition: {name} cannot deal {rows} rows to {clients} clients: {reason}"
            " Use fewer clients, or a partition that asks for less (a larger alpha, a smaller"
            " min_samples)"
        ) from error
    except Exception as error:  # a user's own partitioner may raise anything
        raise SettingError(f"partition: {name} failed: {one_line(error)}") from error
    everyone = np.sort(np.concatenate(dealt))
    if len(everyone) and (
        everyone[0] < 0 or everyone[-1] >= rows or (everyone[1:] == everyone[:-1]).any()
    ):
        raise SettingError(
            f"partition: {name} dealt a row twice, or one that is not among the {rows}"
        )
    small = [i for i, part in enumerate(dealt) if len(part) < 2]
    if small:
        raise SettingError(
            f"partition leaves {len(small)} of {clients} clients without training data (client"
            f" {small[0]} has"
            f" {len(dealt[small[0]])} samples, 2 are needed); use fewer clients, a larger alpha or"
            " another partition"
        )
    return dealt
