"""What is known of rows that may look private: the names of detectors, and their hints.

Not for: the detectors' scores, which are ``fedkd.privacy.mechanisms.swing``'s.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from jaxtyping import Bool, Float
from torch import Tensor

Detector = Literal["confidence", "surprisal_gap", "pattern", "oracle", "everywhere"]
DETECTORS: tuple[Detector, ...] = get_args(Detector)


@dataclass(frozen=True)
class Hints:
    """What is known of the rows [N] that are released, apart from the rows: None where unknown.

    ``reference`` are the soft labels of a model that does not know the private data: of images the
    last teacher's, of text those of a model that learned public text alone. ``flagged``: where a
    secret could be said, for the oracle. ``matched``: whose next token is in the match of a
    pattern.
    """

    reference: Float[Tensor, "N C"] | None = None
    flagged: Bool[Tensor, "N"] | None = None
    matched: Bool[Tensor, "N"] | None = None
