"""The codec ``top_k``, which sends the k largest values of each row of classes."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from fedkd.codecs.codec import (
    Arrays,
    Codec,
    Coded,
    Parts,
    are_rows_of_classes,
    check_parts,
    decode_each,
    encode_each,
    is_coded,
    nothing_coded,
    renormalized,
    shape_part,
    take_part,
    take_shape,
    to_float32,
    too_large,
    without_values,
)
from fedkd.codecs.labels import label_type
from fedkd.codecs.top_k_mask import top_k_mask
from fedkd.errors import SettingError, UploadRejected
from fedkd.settings.validators import at_least


@dataclass(frozen=True, kw_only=True)
class TopK(Codec):
    """Send the k largest values of each row of ``probs`` or ``logits`` [N, C], with their classes.

    Soft labels: the probability that the k classes lack to 1 is spread equally over the other
    classes, and nothing more travels. Logits: the others come back as the logarithm of their mean
    exponential, which travels, so that the softmax at the k classes stays the same (at temperature
    1). Ties go to the lowest class; the argmax stays.
    """

    stateful: ClassVar[bool] = False

    k: int = 3
    """Number of classes of each row that are sent, >= 1 and fewer than there are."""

    def __post_init__(self) -> None:
        at_least(1, k=self.k)

    def objection(self, arrays: Arrays) -> str | None:
        """Return an objection where an array has no rows of classes, or not more than k classes."""
        for name, array in arrays.items():
            if is_coded(array) and not are_rows_of_classes(name, array.shape):
                shape = list(array.shape)
                return f"it codes rows of probs or logits, and {name} of shape {shape} are none"
            if is_coded(array) and array.shape[1] <= self.k:
                return f"k={self.k} would drop nothing of {array.shape[1]} classes"
        return nothing_coded(arrays) or too_large(arrays)

    def encode(self, arrays: Arrays, memory: Arrays | None) -> tuple[Coded, None]:
        """Return the shape, largest values and their classes of each coded array.

        Raises SettingError on an objection.
        """
        why_not = self.objection(arrays)
        if why_not:
            raise SettingError(f"top_k cannot code these arrays: {why_not}")
        return without_values(arrays) or encode_each(arrays, self._encode), None

    def decode(self, arrays: Arrays, memory: Arrays | None) -> tuple[Coded, None]:
        """Return the arrays, the coded ones as float32."""
        return decode_each(arrays, self._decode), None

    def _encode(self, name: str, array: np.ndarray) -> Parts:
        values = to_float32(array)
        mask = top_k_mask(values, self.k)
        classes = np.nonzero(mask)[1].astype(label_type(values.shape[1]))
        parts = {"shape": shape_part(values.shape), "classes": classes, "kept": values[mask]}
        return {**parts, "rest": log_mean_exp(values, ~mask)} if name == "logits" else parts

    def _decode(self, name: str, parts: Parts) -> np.ndarray:
        shape = take_shape(name, parts)
        if not are_rows_of_classes(name, shape) or shape[1] <= self.k:
            raise UploadRejected(
                f"{name} of shape {list(shape)} came as the {self.k} largest of each row"
            )
        check_parts(
            name, parts, {"shape", "classes", "kept"} | ({"rest"} if name == "logits" else set())
        )
        rows, width = shape
        sent = rows * self.k
        classes = take_part(name, parts, "classes", label_type(width), sent).reshape(rows, self.k)
        largest = take_part(name, parts, "kept", np.float32, sent).reshape(rows, self.k)
        if (classes >= width).any() or (classes[:, 1:] <= classes[:, :-1]).any():
            raise UploadRejected(
                f"the classes of {name} must be below {width} and ascend in each row"
            )
        if name == "logits":
            rest = take_part(name, parts, "rest", np.float32, rows)
        else:
            rest = self._spread(largest, width)
        values = np.repeat(rest[:, None], width, axis=1)
        np.put_along_axis(values, classes.astype(np.int64), largest, axis=1)
        return renormalized(name, values)

    def _spread(self, largest: Float[np.ndarray, "N k"], width: int) -> Float[np.ndarray, "N"]:
        """Return the probability of each class that was not sent, at most that of one that was."""
        if (largest < 0).any():
            raise UploadRejected("probs must be >= 0")
        rest = np.maximum(1.0 - largest.sum(axis=1, dtype=np.float64), 0.0) / (width - self.k)
        spread: np.ndarray = np.minimum(rest, largest.min(axis=1))
        return spread.astype(np.float32)


def log_mean_exp(logits: Float[np.ndarray, "N C"], mask: np.ndarray) -> Float[np.ndarray, "N"]:
    """Return the logarithm of the mean exponential of each row's logits where ``mask`` is true.

    The mask must be true at least once in each row.

    >>> log_mean_exp(np.array([[0.0, 0.0, 9.0]]), np.array([[True, True, False]])).tolist()
    [0.0]
    """
    masked = np.where(mask, logits, -np.inf)
    highest = masked.max(axis=1, keepdims=True)
    means = np.exp(masked - highest).sum(axis=1) / mask.sum(axis=1)
    logits_of_means: np.ndarray = highest[:, 0] + np.log(means)
    return logits_of_means.astype(np.float32)
