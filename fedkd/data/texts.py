"""Data sets of texts: in memory, and prepared as one array of bytes that every worker maps.

``fedkd.data.prepare`` has the same for images. A text's class is its topic, or another natural id.
Not for: reading texts (``fedkd.tasks.text.text_sources``) or tokens
(``fedkd.tasks.text.vocabulary``).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from fedkd.errors import SettingError


@dataclass(frozen=True)
class TextRows:
    """A data set of texts in memory, before it is prepared."""

    texts: tuple[str, ...]
    """None of them empty, those of the training split first."""
    labels: np.ndarray
    """[n], from 0."""
    train_size: int
    """The number of rows of the training split; the rest is the test split."""
    class_names: tuple[str, ...]
    columns: Mapping[str, np.ndarray]
    """Other columns of numbers or text, [n] each, for partitions by a natural id."""


@dataclass(frozen=True)
class PreparedTexts:
    """A prepared data set of texts: read-only memory maps, training split first.

    Row i is the text whose UTF-8 is ``content[ends[i - 1] : ends[i]]``.
    """

    has_even_classes: ClassVar[bool] = False

    key: str
    content: np.ndarray
    ends: np.ndarray
    labels: np.ndarray
    train_size: int
    class_names: tuple[str, ...]
    columns: Mapping[str, np.ndarray]

    @property
    def features(self) -> Mapping[str, Callable[[np.ndarray], np.ndarray]]:
        """The length of a text, in bytes."""
        return {"length": lambda rows: np.diff(self.ends, prepend=0)[rows]}

    @property
    def inputs(self) -> Mapping[str, np.ndarray]:
        """No arrays of values: an audit plants other labels, and texts as they are."""
        return {}

    def unusual(
        self, kind: str, count: int, stream: np.random.Generator
    ) -> Mapping[str, np.ndarray]:
        """Raise SettingError: there are no texts that are random or blank.

        Args:
            kind: What such records would be.
            count: How many.
            stream: Draws them.
        """
        raise SettingError(
            f"audit.kind={kind} is not for texts; say audit.kind=mislabeled, or audit=members"
        )

    def text(self, row: int) -> str:
        """Return a row's text."""
        start = int(self.ends[row - 1]) if row else 0
        return bytes(self.content[start : int(self.ends[row])]).decode()

    def texts(self, rows: Iterable[int]) -> list[str]:
        """Return the texts of rows."""
        return [self.text(int(row)) for row in rows]


def write_texts(texts: Sequence[str], folder: Path) -> None:
    """Write texts for ``PreparedTexts`` to map. Raises SettingError for an empty text."""
    empty = [i for i, text in enumerate(texts) if not text.strip()]
    if empty:
        raise SettingError(
            f"data: text {empty[0]} is empty; a source of texts leaves such rows out"
        )
    encoded = [text.encode() for text in texts]
    np.save(folder / "texts.npy", np.frombuffer(b"".join(encoded), dtype=np.uint8))
    np.save(folder / "ends.npy", np.cumsum([len(text) for text in encoded], dtype=np.int64))
