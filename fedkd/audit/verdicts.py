"""Claimed against measured: what one lower bound says of one claim.

Not for: how the bound was found. A verdict ``consistent`` is no proof: a weak attack finds nothing
in a broken mechanism.
"""

from dataclasses import dataclass
from typing import Literal

from fedkd.errors import SettingError

Verdict = Literal["VIOLATION", "consistent", "uninformative", "no claim"]
LIMITS = (
    "A weak attack is no proof of safety: consistent means that this audit found nothing.",
    "Ordinary records and average-case canaries underestimate what the worst record loses.",
    "Black-box audits of DP-SGD are loose: even without any noise they have shown epsilon <= 0.67"
    " here.",
)
"""What every audit prints below its verdicts."""


@dataclass(frozen=True)
class AuditedClaim:
    """What a run claims. ``epsilon`` None is no claim; unit and adversary say what it is about."""

    mechanism: str
    unit: str
    neighbors: str
    adversary: str
    epsilon: float | None
    delta: float | None

    def __post_init__(self) -> None:
        if self.epsilon is not None:
            if not self.epsilon >= 0:
                raise SettingError(f"a claimed epsilon must be >= 0, got {self.epsilon}")
            if self.delta is None or not 0 <= self.delta < 1:
                raise SettingError(
                    f"epsilon={self.epsilon} is claimed without a delta in [0, 1), got {self.delta}"
                )


def judge(claimed: float | None, lower_bound: float, ceiling: float) -> Verdict:
    """Return the verdict on a claimed epsilon.

    - ``no claim``: nothing is claimed (None).
    - ``VIOLATION``: the lower bound is above the claim.
    - ``uninformative``: not even a perfect attack could have shown a violation (ceiling at or below the claim).
    - ``consistent``: a violation could have been shown, and was not.

    >>> judge(4.0, 5.8, 57.0), judge(4.0, 3.7, 57.0), judge(4.0, 0.3, 3.5), judge(None, 9.0, 57.0)
    ('VIOLATION', 'consistent', 'uninformative', 'no claim')
    """
    if claimed is None:
        return "no claim"
    if lower_bound > claimed:
        return "VIOLATION"
    return "uninformative" if ceiling <= claimed else "consistent"
