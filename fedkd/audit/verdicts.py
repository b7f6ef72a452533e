"""Verdicts on a privacy claim, from a lower bound on epsilon.

The verdict ``consistent`` is no proof: a weak attack finds nothing in a broken mechanism. Not for:
finding the bound (``fedkd.audit.bounds``, ``fedkd.audit.one_run``).
"""

from typing import Literal

Verdict = Literal["VIOLATION", "consistent", "uninformative", "no claim"]
LIMITS = (
    "A weak attack is no proof of safety: consistent means that this audit found nothing.",
    "Ordinary records and average-case canaries underestimate what the worst record loses.",
    "Black-box audits of DP-SGD are loose: even without any noise they have shown epsilon <= 0.67"
    " here.",
)
"""Notes printed below the verdicts of every audit."""


def judge(claimed: float | None, lower_bound: float, ceiling: float) -> Verdict:
    """Return the verdict on a claimed epsilon.

    - ``no claim``: nothing is claimed (None).
    - ``VIOLATION``: the lower bound is above the claim.
    - ``uninformative``: not even a perfect attack could have shown a violation (the ceiling is at
      or below the claim).
    - ``consistent``: a violation could have been shown, and was not.

    >>> judge(4.0, 5.8, 57.0), judge(4.0, 3.7, 57.0), judge(4.0, 0.3, 3.5), judge(None, 9.0, 57.0)
    ('VIOLATION', 'consistent', 'uninformative', 'no claim')
    """
    if claimed is None:
        return "no claim"
    if lower_bound > claimed:
        return "VIOLATION"
    return "uninformative" if ceiling <= claimed else "consistent"
