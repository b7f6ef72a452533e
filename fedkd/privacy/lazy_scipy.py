"""SciPy's special functions, loaded when the first is called: 17 MB and 0.1 s that a run without
privacy is spared.
"""

from typing import Any

import numpy as np


def log_ndtr(x: Any) -> Any:
    """Return the logarithm of the standard normal distribution function, exact far into the lower
    tail.
    """
    from scipy.special import log_ndtr as found

    return found(x)


def logsumexp(terms: Any, axis: int | None = None) -> np.ndarray:
    """Return ``ln sum exp(terms)`` over all terms, or over an axis, without overflow."""
    from scipy.special import logsumexp as found

    return np.asarray(found(terms, axis=axis))
