"""Rows of classes at 1 bit: the argmax. Compressed federated distillation sends these up (Sattler
et al. 2020).
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float, UInt

from fedkd.codecs.codec import Parts, take, to_float32
from fedkd.codecs.quantizer import NO_HEADER, Header, Layout, Rows
from fedkd.errors import UploadRejected


def label_type(classes: int) -> np.dtype:
    """Return the smallest type that holds all labels: a byte up to 256 classes, two up to 65,536,
    then four.

    >>> label_type(256), label_type(257)
    (dtype('uint8'), dtype('uint16'))
    """
    return np.min_scalar_type(classes - 1)


def labels_of(values: Float[np.ndarray, "N C"]) -> UInt[np.ndarray, "N 1"]:
    """Return each row's largest class; ties go to the lowest."""
    labels: np.ndarray = values.argmax(axis=1)[:, None]
    return labels.astype(label_type(values.shape[1]))


def rows_of_two_values(
    name: str, labels: UInt[np.ndarray, "N 1"], shape: tuple[int, ...], top: float, rest: float
) -> Float[np.ndarray, "N C"]:
    """Return rows that are ``top`` at the label and ``rest`` elsewhere; UploadRejected where a
    label is no class.
    """
    if (labels >= shape[1]).any():
        raise UploadRejected(f"{name} have the label {labels.max()}, of {shape[1]} classes")
    rows = np.full(shape, rest, np.float32)
    np.put_along_axis(rows, labels.astype(np.int64), top, axis=1)
    return rows


def take_labels(
    name: str, parts: Parts, layout: Layout, shape: tuple[int, ...]
) -> UInt[np.ndarray, "N 1"]:
    """Return the labels that came."""
    return take(name, parts, "labels", label_type(shape[1]), layout[0])[:, None]


@dataclass(frozen=True)
class LabelsOfProbs:
    """Soft labels as their argmax; they come back one-hot. CFD's constrained form at 1 bit (arXiv
    2012.00632).

    Labels are whole bytes, so that an order-0 coder counts labels; packed, the alphabet would be
    lost to it.
    """

    parts: ClassVar[tuple[str, ...]] = ("labels",)
    one_a_row: ClassVar[bool] = True
    name: str

    def code(self, values: np.ndarray, layout: Layout, kept: Header | None) -> tuple[Rows, Header]:
        """Return labels [N, 1]."""
        return labels_of(values), NO_HEADER

    def value(self, rows: Rows, header: Header, shape: tuple[int, ...]) -> np.ndarray:
        """Return one-hot rows."""
        return rows_of_two_values(self.name, rows, shape, 1.0, 0.0)

    def send(self, rows: Rows, header: Header) -> Parts:
        """Return the labels."""
        return {"labels": rows[:, 0]}

    def receive(self, parts: Parts, layout: Layout, shape: tuple[int, ...]) -> tuple[Rows, Header]:
        """Return the labels."""
        return take_labels(self.name, parts, layout, shape), NO_HEADER


@dataclass(frozen=True)
class LabelsOfLogits:
    """Logits as their argmax, with two numbers for the whole array.

    A label's logit comes back as the mean of all rows' largest, the others as the mean of all
    others: nearest in squares of what labels can say. The paper quantizes soft labels only; this is
    ours.
    """

    parts: ClassVar[tuple[str, ...]] = ("labels", "means")
    one_a_row: ClassVar[bool] = True
    name: str

    def code(self, values: np.ndarray, layout: Layout, kept: Header | None) -> tuple[Rows, Header]:
        """Return labels [N, 1] and the two means, the label's first."""
        logits = to_float32(values)
        largest = logits.max(axis=1).sum(dtype=np.float64)
        others = logits.sum(dtype=np.float64) - largest
        top = np.float32(largest / max(len(logits), 1))
        rest = np.float32(others / max(logits.size - len(logits), 1))
        # Where logits are all but equal, rounding must not hide which is the largest.
        return labels_of(logits), np.array(
            [max(top, np.nextafter(rest, np.float32(np.inf))), rest], np.float32
        )

    def value(self, rows: Rows, header: Header, shape: tuple[int, ...]) -> np.ndarray:
        """Return rows of two different logits."""
        return rows_of_two_values(self.name, rows, shape, float(header[0]), float(header[1]))

    def send(self, rows: Rows, header: Header) -> Parts:
        """Return the labels and the means."""
        return {"labels": rows[:, 0], "means": header}

    def receive(self, parts: Parts, layout: Layout, shape: tuple[int, ...]) -> tuple[Rows, Header]:
        """Return the labels and the means."""
        return take_labels(self.name, parts, layout, shape), take(
            self.name, parts, "means", np.float32, 2
        )
