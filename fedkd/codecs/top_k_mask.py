"""Selection of the largest values of each row, the same on every machine."""

import numpy as np
from jaxtyping import Bool, Float, Int


def top_k_mask(
    values: Float[np.ndarray, "N C"], counts: Int[np.ndarray, "N"] | int
) -> Bool[np.ndarray, "N C"]:
    """Return a mask of the ``counts`` (0 to C) largest values of each row.

    Ties go to the lowest class. Found by the value of the last one, which does not depend on how a
    library orders equal values.

    >>> top_k_mask(np.array([[0.2, 0.4, 0.2, 0.2]]), 2).tolist()
    [[True, True, False, False]]
    """
    rows, classes = values.shape
    if isinstance(counts, int):
        counts = np.full(rows, counts)
        ordered = np.partition(values, classes - counts[:1].clip(min=1), axis=1) if rows else values
    else:
        ordered = np.sort(values, axis=1)
    last = np.take_along_axis(ordered, classes - counts.clip(min=1)[:, None], axis=1)
    above, ties = values > last, values == last
    wanted = (counts - above.sum(axis=1))[:, None]
    if (ties.sum(axis=1, keepdims=True) > wanted).any():
        ties &= np.cumsum(ties, axis=1) <= wanted
    mask: np.ndarray = above | ties
    return mask
