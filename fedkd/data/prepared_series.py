"""Series of several channels over one length: in memory, and prepared as an array that workers map.

Not for: reading files (``fedkd.data.column_files``), or scaling (``fedkd.tasks.encoders``).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from fedkd.errors import SettingError


@dataclass(frozen=True)
class SeriesRows:
    """A data set of series in memory, before it is prepared."""

    values: Float[np.ndarray, "n channels length"]
    labels: np.ndarray
    """[n], from 0."""
    train_size: int
    """The number of rows of the training split, which come first; the rest is the test split."""
    class_names: tuple[str, ...]
    columns: Mapping[str, np.ndarray]
    """Columns that are no inputs, [n] each, for partitions."""


@dataclass(frozen=True)
class PreparedSeries:
    """A prepared data set of series: read-only memory maps, training split first."""

    has_even_classes: ClassVar[bool] = False

    key: str
    values: Float[np.ndarray, "n channels length"]
    labels: np.ndarray
    """[n], from 0."""
    train_size: int
    class_names: tuple[str, ...]
    columns: Mapping[str, np.ndarray]

    @property
    def features(self) -> Mapping[str, Callable[[np.ndarray], np.ndarray]]:
        """Mean and standard deviation of a series, over its channels and steps."""
        return {
            "level": lambda rows: self.values[rows].mean(axis=(1, 2)),
            "spread": lambda rows: self.values[rows].std(axis=(1, 2)),
        }

    def only(self, rows: np.ndarray) -> "PreparedSeries":
        """Return some of the rows, in memory, without columns that are no inputs."""
        return replace(
            self,
            values=np.asarray(self.values[rows]),
            labels=np.asarray(self.labels[rows]),
            train_size=len(rows),
            columns={},
        )

    def noise(
        self, law: str, count: int, like: np.ndarray, stream: np.random.Generator
    ) -> "PreparedSeries":
        """Return series of independent random values in memory; their labels are 0.

        Args:
            law: ``uniform`` between the smallest and the largest value of each channel of the rows
                that they are like, or ``gaussian`` with its mean and standard deviation.
            count: How many.
            like: Rows of these series.
            stream: Draws the values.
        """
        if not len(like):
            raise SettingError(
                "public_data=noise is drawn like reserved rows; give public.reserved"
            )
        values = np.asarray(self.values[like], dtype=np.float64)
        low, high, mean, std = (
            statistic(values, axis=(0, 2), keepdims=True)[0]
            for statistic in (np.min, np.max, np.mean, np.std)
        )
        shape = (count, *values.shape[1:])
        gaussian = law == "gaussian"
        drawn = stream.normal(mean, std, shape) if gaussian else stream.uniform(low, high, shape)
        return replace(
            self,
            key=f"{self.key}-noise",
            values=drawn.astype(np.float32),
            labels=np.zeros(count, dtype=np.int64),
            train_size=count,
            columns={},
        )

    @property
    def inputs(self) -> Mapping[str, np.ndarray]:
        """The series."""
        return {"values": self.values}

    def unusual(
        self, kind: str, count: int, stream: np.random.Generator
    ) -> Mapping[str, np.ndarray]:
        """Return series of random values, or each flat at one level of its channels' ranges."""
        low, high = self.values.min(axis=(0, 2))[:, None], self.values.max(axis=(0, 2))[:, None]
        shape = (count, *self.values.shape[1:])
        if kind == "out_of_distribution":
            return {"values": stream.uniform(low, high, shape)}
        levels = stream.permutation(256)[np.arange(count) % 256] / 255
        return {"values": np.broadcast_to(low + levels[:, None, None] * (high - low), shape)}

    def like(self, other: "PreparedSeries", where: str) -> "PreparedSeries":
        """Return other series. Raises SettingError unless they have this one's shape.

        ``where`` names the setting of the other data set.
        """
        if other.values.shape[1:] != self.values.shape[1:]:
            channels, length = other.values.shape[1:]
            raise SettingError(
                f"{where}: the series have {channels} channels of length {length}, and"
                f" {self.values.shape[1]} of {self.values.shape[2]} in the clients' data set; cut"
                " them alike"
            )
        return other


def check_series(rows: SeriesRows, name: str) -> int:
    """Return the number of rows. Raises SettingError for values that are no finite series.

    ``name`` is the source's, for the message.
    """
    values = rows.values
    if not isinstance(values, np.ndarray) or values.ndim != 3 or values.dtype.kind not in "fiub":
        raise SettingError(
            f"data: {name} has series of shape {list(np.shape(values))}, expected an array of"
            " numbers [n, channels, length]"
        )
    if not np.isfinite(values).all():
        row, channel, step = np.argwhere(~np.isfinite(values))[0]
        raise SettingError(
            f"data: {name} has {values[row, channel, step]} in row {row + 1}, channel {channel},"
            f" step {step}; series have no missing values: fill them in, or leave the row out"
        )
    return len(values)


def write_series(rows: SeriesRows, folder: Path) -> None:
    """Write values for ``read_series``."""
    np.save(folder / "values.npy", rows.values.astype(np.float32))


def read_series(
    folder: Path,
    labels: np.ndarray,
    train_size: int,
    class_names: tuple[str, ...],
    columns: Mapping[str, np.ndarray],
) -> PreparedSeries:
    """Return the prepared series in a folder of the cache.

    Args:
        folder: The folder.
        labels: The class of each row.
        train_size: The rows of the training split.
        class_names: The names of the classes.
        columns: Columns that are no inputs.
    """
    return PreparedSeries(
        key=folder.name,
        values=np.load(folder / "values.npy", mmap_mode="r"),
        labels=labels,
        train_size=train_size,
        class_names=class_names,
        columns=columns,
    )
