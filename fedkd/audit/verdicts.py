"""Verdicts on a privacy claim, from a lower bound on epsilon.

A verdict ``consistent`` is no proof: a weak attack finds nothing in a broken mechanism. Not for:
finding the bound (``fedkd.audit.bounds``, ``fedkd.audit.one_run``).
"""

from typing import Literal, get_args

Verdict = Literal[
    "VIOLATION",
    "consistent (absent noise would show)",
    "consistent (absent noise would not show)",
    "consistent (power unknown)",
    "uninformative",
    "no claim",
]
WORST_FIRST: tuple[Verdict, ...] = get_args(Verdict)
"""All verdicts, the gravest first."""
LIMITS = (
    "A weak attack is no proof of safety: consistent means that this audit found nothing.",
    "Ordinary records and average-case canaries underestimate what the worst record loses.",
    "Black-box audits of DP-SGD are loose: even without any noise they have shown epsilon <= 0.67"
    " here.",
)
"""Notes printed below the verdicts of every audit."""


def judge(
    claimed: float | None, lower_bound: float, ceiling: float, power: float | None = None
) -> Verdict:
    """Return the verdict on a claimed epsilon.

    - ``no claim``: nothing is claimed (None).
    - ``VIOLATION``: the lower bound is above the claim.
    - ``uninformative``: not even a perfect attack could have shown a violation (the ceiling is at
      or below the claim).
    - ``consistent``: a violation could have been shown, and was not; never without what the same
      attacks show where the noise is absent, or that this is unknown.

    >>> judge(4.0, 5.8, 57.0), judge(4.0, 0.3, 3.5), judge(None, 9.0, 57.0)
    ('VIOLATION', 'uninformative', 'no claim')
    >>> judge(4.0, 3.7, 57.0), judge(4.0, 3.7, 57.0, power=9.1)
    ('consistent (power unknown)', 'consistent (absent noise would show)')

    Args:
        claimed: The claimed epsilon, or None.
        lower_bound: What was shown.
        ceiling: What could be shown at most.
        power: What the same attacks show without noise; None where that is not known.
    """
    if claimed is None:
        return "no claim"
    if lower_bound > claimed:
        return "VIOLATION"
    if ceiling <= claimed:
        return "uninformative"
    if power is None:
        return "consistent (power unknown)"
    if power > claimed:
        return "consistent (absent noise would show)"
    return "consistent (absent noise would not show)"


def in_words(power: float | None) -> str:
    """Return what an audit would have refuted, for a report.

    >>> in_words(1.5849)
    'without its noise the same attacks would have refuted claims below epsilon 1.58'
    >>> in_words(0.0)
    'even without its noise the same attacks would have refuted no claim'
    """
    if power is None:
        return "power unknown: audit.power=true runs it once more without its noise"
    if power <= 0:
        return "even without its noise the same attacks would have refuted no claim"
    return f"without its noise the same attacks would have refuted claims below epsilon {power:.2f}"
