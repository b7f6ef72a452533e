"""The public texts of a run: rows held back, texts of another data set, or both."""

from dataclasses import dataclass
from typing import cast

import numpy as np

from fedkd.data.prepare import Source, prepare
from fedkd.data.public import check_foreign, count_foreign, in_public_words
from fedkd.data.texts import PreparedTexts
from fedkd.errors import SettingError
from fedkd.runtime.seeding import numpy_stream
from fedkd.tasks.task import TaskSetup


@dataclass(frozen=True)
class PublicTexts:
    """The rows of a data set that are public, and of which data set they are."""

    prepared: PreparedTexts
    rows: np.ndarray

    @property
    def texts(self) -> list[str]:
        """The texts, in the order of their rows."""
        return self.prepared.texts(self.rows)


def public_parts(setup: TaskSetup, prepared: PreparedTexts) -> tuple[PublicTexts, ...]:
    """Return the public texts: rows held back, texts of another data set, or both."""
    foreign = count_foreign(setup.public, setup.public_source)
    rows, own = setup.division.held_back, setup.public.size - foreign
    if own < len(rows):
        permuted = numpy_stream(setup.seed, "public", "own").permutation(rows)
        rows = np.sort(permuted[:own])
    parts = (PublicTexts(prepared, rows),) if len(rows) or not foreign else ()
    if not foreign:
        return parts
    with in_public_words():
        other = prepare(cast(Source, setup.public_source))
    if not isinstance(other, PreparedTexts):
        raise SettingError(
            "public_data holds no texts, and the clients' data set does; give a source of texts, or"
            " public_data=same"
        )
    check_foreign(other, prepared.key, foreign, "texts")
    stream = numpy_stream(setup.seed, "public", "others")
    drawn = np.sort(stream.permutation(other.train_size)[:foreign])
    return (*parts, PublicTexts(other, drawn))
