"""Solve for noise: the extreme parameter whose cost stays within a budget.

The answer never exceeds the budget.
"""

import math
from collections.abc import Callable


def largest_below(budget: float, cost: Callable[[float], float], steps: int = 60) -> float:
    """Return about the largest x > 0 with ``cost(x) <= budget``.

    The cost grows with x, and holds at the answer.

    >>> round(largest_below(9.0, lambda x: x**2), 9)
    3.0
    """
    low, high = 0.0, 1.0
    while cost(high) <= budget:
        low, high = high, 2 * high
    while low == 0.0:
        middle = high / 2
        low, high = (middle, high) if cost(middle) <= budget else (0.0, middle)
    for _ in range(steps):
        middle = (low + high) / 2
        if high - low <= 1e-12 * high:
            break
        low, high = (middle, high) if cost(middle) <= budget else (low, middle)
    return low


def smallest_below(budget: float, cost: Callable[[float], float], tolerance: float = 1e-3) -> float:
    """Return about the smallest x > 0 with ``cost(x) <= budget``.

    The cost falls with x; the answer is at most ``2 tolerance`` too large.

    For costs that take long: it asks for about ten.

    >>> 1 / 9 <= smallest_below(9.0, lambda x: 1 / x) <= 1.002 / 9
    True
    """
    from scipy.optimize import brentq  # takes a third of a second to import

    known: dict[float, float] = {}

    def excess(log_x: float) -> float:
        if log_x not in known:
            known[log_x] = math.log(max(cost(math.exp(log_x)), 1e-300) / budget)
        return known[log_x]

    low, high = 0.0, 0.0
    while excess(high) > 0:
        low, high = high, high + 0.7
    while excess(low) <= 0:
        low, high = low - 0.7, low
    found = float(brentq(excess, low, high, xtol=tolerance))
    while excess(found) > 0:
        found += tolerance / 2
    return math.exp(found)
