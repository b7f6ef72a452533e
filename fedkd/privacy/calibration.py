"""Solving for noise: the largest parameter whose cost stays within a budget. The answer never exceeds the budget."""

from collections.abc import Callable


def largest_below(budget: float, cost: Callable[[float], float], steps: int = 60) -> float:
    """Return about the largest x > 0 with ``cost(x) <= budget``, for a cost that grows with x; the cost holds there.

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


def smallest_below(budget: float, cost: Callable[[float], float]) -> float:
    """Return about the smallest x > 0 with ``cost(x) <= budget``, for a cost that falls with x; the cost holds there.

    >>> round(smallest_below(9.0, lambda x: 1 / x), 9)
    0.111111111
    """
    return 1 / largest_below(budget, lambda inverse: cost(1 / inverse))
