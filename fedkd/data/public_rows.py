"""The public set of tables and series, as rows: those of the clients' data set, then foreign ones.

``fedkd.data.public`` has the same for images, with what can be done to pixels.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from fedkd.data.division import Public
from fedkd.data.prepare import prepare
from fedkd.data.prepared_series import PreparedSeries
from fedkd.data.prepared_tables import PreparedTable
from fedkd.data.public import (
    NoiseImages,
    PublicSource,
    Same,
    check_foreign,
    count_foreign,
    in_public_words,
)
from fedkd.errors import SettingError
from fedkd.runtime.seeding import numpy_stream

P = TypeVar("P", PreparedTable, PreparedSeries)


@dataclass(frozen=True)
class PublicRows(Generic[P]):
    """Public samples by id: rows of the clients' own data set first, then foreign ones."""

    own: np.ndarray
    """Rows of the clients' data set."""
    foreign: P | None
    """A data set of their form with the foreign samples alone; None where there are none."""
    labels: np.ndarray | None
    """None with foreign samples, whose classes are not those of the clients' data set."""

    @property
    def size(self) -> int:
        """The number of samples N."""
        return len(self.own) + (0 if self.foreign is None else len(self.foreign.labels))


def choose_public_rows(
    settings: Public, source: PublicSource, prepared: P, reserved: np.ndarray, seed: int
) -> PublicRows[P]:
    """Return the public set.

    Args:
        settings: Of the public set.
        source: Where foreign samples come from, or ``Same``.
        prepared: The clients' data set.
        reserved: Its rows that no client holds.
        seed: Of all random streams.

    Raises:
        SettingError: The source has other columns, or too few samples.
    """
    foreign = count_foreign(settings, source)
    own = reserved
    if settings.size - foreign < len(reserved):
        permuted = numpy_stream(seed, "public", "own").permutation(reserved)
        own = np.sort(permuted[: settings.size - foreign])
    if not foreign:
        return PublicRows(own, None, np.asarray(prepared.labels[own], dtype=np.int64))
    if isinstance(source, NoiseImages):
        stream = numpy_stream(seed, "public", "noise")
        return PublicRows(own, prepared.noise(source.law, foreign, reserved, stream), None)
    assert not isinstance(source, Same), "has no foreign samples"
    with in_public_words():
        other = prepare(source)
        if type(other) is not type(prepared):
            kinds = {PreparedTable: "a table", PreparedSeries: "series"}
            raise SettingError(
                f"public_data: it is {kinds.get(type(other), 'no table and no series')}, and the"
                f" clients' data set is {kinds[type(prepared)]}; give rows of the same columns"
            )
        check_foreign(other, prepared.key, foreign)
        stream = numpy_stream(seed, "public", "others")
        rows = np.sort(stream.permutation(other.train_size)[:foreign])
        return PublicRows(own, prepared.like(other, "public_data").only(rows), None)
