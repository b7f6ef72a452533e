"""Streams whose noise is smaller than it should be, or absent: for audits alone.

What an audit could find is seen where a mechanism runs as it is and its noise is left out.
"""

from typing import Any

import numpy as np

from fedkd.errors import SettingError

SCALED = frozenset({"standard_normal", "normal", "laplace", "random"})
"""What draws noise, or the coin that is compared with a probability."""
UNSCALED = frozenset({"integers", "permutation", "permuted", "shuffle", "choice", "bit_generator"})
"""What draws things that have no size, and is left as it is."""


class ScaledNoise(np.random.Generator):
    """A random stream with noise of ``factor`` times its size, 0 for none.

    Numbers between 0 and 1 are scaled too, so that a coin falls on the side below its probability
    more often: randomized response tells the truth, a Poisson sample takes all. Any other
    distribution is refused by name: its noise could not be left out.
    """

    def __init__(self, stream: np.random.Generator, factor: float) -> None:
        """Wrap a stream, which is drawn from as if nothing were scaled."""
        super().__init__(stream.bit_generator)
        self._factor = factor

    def __getattribute__(self, name: str) -> Any:
        """Return a method of the stream; SettingError for one that cannot be scaled."""
        known = name.startswith("_") or name in SCALED or name in UNSCALED
        if not known and hasattr(np.random.Generator, name):
            raise SettingError(
                f"a mechanism draws its noise by the stream's {name}, which an audit cannot scale;"
                f" it can where {', '.join(sorted(SCALED))} are used"
            )
        return super().__getattribute__(name)

    def standard_normal(self, *shape: Any, **named: Any) -> Any:
        """Return scaled normal noise."""
        return self._factor * super().standard_normal(*shape, **named)

    def normal(self, loc: Any = 0.0, scale: Any = 1.0, size: Any = None) -> Any:
        """Return normal noise whose deviation is scaled."""
        return loc + self._factor * super().normal(0.0, scale, size)

    def laplace(self, loc: Any = 0.0, scale: Any = 1.0, size: Any = None) -> Any:
        """Return Laplace noise whose scale is scaled."""
        return loc + self._factor * super().laplace(0.0, scale, size)

    def random(self, *shape: Any, **named: Any) -> Any:
        """Return scaled numbers between 0 and 1."""
        return self._factor * super().random(*shape, **named)
