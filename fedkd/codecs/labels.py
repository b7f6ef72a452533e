"""One-bit quantizers of soft labels and logits, which send each row's argmax (CFD's uplink).

Compressed federated distillation: Sattler et al. 2020, arXiv 2012.00632.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float, UInt

from fedkd.codecs.codec import Parts, take_part, to_float32
from fedkd.codecs.quantizer import NO_HEADER, Header, Layout, Rows
from fedkd.errors import UploadRejected


def label_type(classes: int) -> np.dtype:
    """Return the smallest integer type that holds all labels.

    One byte up to 256 classes, two up to 65,536, then four.

    >>> label_type(256), label_type(257)
    (dtype('uint8'), dtype('uint16'))
    """
    return np.min_scalar_type(classes - 1)


def labels_of(values: Float[np.ndarray, "N C"]) -> UInt[np.ndarray, "N 1"]:
    """Return each row's class of the largest value; ties go to the lowest class."""
    labels: np.ndarray = values.argmax(axis=1)[:, None]
    return labels.astype(label_type(values.shape[1]))


def rows_of_two_values(
    name: str, labels: UInt[np.ndarray, "N 1"], shape: tuple[int, ...], top: float, rest: float
) -> Float[np.ndarray, "N C"]:
    """Return rows that are ``top`` at the label and ``rest`` elsewhere.

    Raises UploadRejected where a label is no class.

    Args:
        name: The array's name, for the error.
        labels: Each row's label.
        shape: The rows' shape [N, C].
        top: Value at the label.
        rest: Value at all other classes.
    """
    if (labels >= shape[1]).any():
        raise UploadRejected(f"{name} have the label {labels.max()}, of {shape[1]} classes")
    rows = np.full(shape, rest, np.float32)
    np.put_along_axis(rows, labels.astype(np.int64), top, axis=1)
    return rows


def take_labels(
    name: str, parts: Parts, layout: Layout, shape: tuple[int, ...]
) -> UInt[np.ndarray, "N 1"]:
    """Return the labels that came, as one column.

    Args:
        name: The array's name, for the error.
        parts: The parts that came.
        layout: How many rows are expected.
        shape: The array's shape, which says how many classes there are.
    """
    return take_part(name, parts, "labels", label_type(shape[1]), layout[0])[:, None]


@dataclass(frozen=True)
class LabelsOfProbs:
    """Code soft labels as their argmax; they come back one-hot.

    CFD's constrained quantizer at 1 bit (arXiv 2012.00632). Labels are whole bytes, so that an
    order-0 entropy coder counts labels; packed, it could not tell one from another.
    """

    parts: ClassVar[tuple[str, ...]] = ("labels",)
    one_code_per_row: ClassVar[bool] = True
    name: str

    def code(
        self, values: np.ndarray, layout: Layout, previous: Header | None
    ) -> tuple[Rows, Header]:
        """Return the labels [N, 1]."""
        return labels_of(values), NO_HEADER

    def value(self, rows: Rows, header: Header, shape: tuple[int, ...]) -> np.ndarray:
        """Return the one-hot rows of the labels."""
        return rows_of_two_values(self.name, rows, shape, 1.0, 0.0)

    def send(self, rows: Rows, header: Header) -> Parts:
        """Return the labels as a part."""
        return {"labels": rows[:, 0]}

    def receive(self, parts: Parts, layout: Layout, shape: tuple[int, ...]) -> tuple[Rows, Header]:
        """Return the labels that came."""
        return take_labels(self.name, parts, layout, shape), NO_HEADER


@dataclass(frozen=True)
class LabelsOfLogits:
    """Code logits as their argmax, with two means for the whole array.

    The logit at the label comes back as the mean of all rows' largest logits, the others as the
    mean of all others: with labels alone, the least squared error. The paper quantizes soft labels
    only; this is ours.
    """

    parts: ClassVar[tuple[str, ...]] = ("labels", "means")
    one_code_per_row: ClassVar[bool] = True
    name: str

    def code(
        self, values: np.ndarray, layout: Layout, previous: Header | None
    ) -> tuple[Rows, Header]:
        """Return the labels [N, 1] and the two means, that of the largest logits first."""
        logits = to_float32(values)
        largest = logits.max(axis=1).sum(dtype=np.float64)
        others = logits.sum(dtype=np.float64) - largest
        top = np.float32(largest / max(len(logits), 1))
        rest = np.float32(others / max(logits.size - len(logits), 1))
        # Where logits are all but equal, rounding must not hide which is the largest.
        top = max(top, np.nextafter(rest, np.float32(np.inf)))
        return labels_of(logits), np.array([top, rest], np.float32)

    def value(self, rows: Rows, header: Header, shape: tuple[int, ...]) -> np.ndarray:
        """Return the rows, each of the two means."""
        return rows_of_two_values(self.name, rows, shape, float(header[0]), float(header[1]))

    def send(self, rows: Rows, header: Header) -> Parts:
        """Return the labels and the means as parts."""
        return {"labels": rows[:, 0], "means": header}

    def receive(self, parts: Parts, layout: Layout, shape: tuple[int, ...]) -> tuple[Rows, Header]:
        """Return the labels and the means that came."""
        means = take_part(self.name, parts, "means", np.float32, 2)
        return take_labels(self.name, parts, layout, shape), means
