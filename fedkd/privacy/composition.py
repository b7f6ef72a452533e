"""Compose events to an epsilon: exactly for Gaussian noise, else by RDP or PLD.

Every accountant's answer is an upper bound, so that the smallest of those that apply is one too.
That holds for events that were fixed in advance, as a scenario fixes them; noise chosen from
earlier outputs is not counted rightly here.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from fedkd.privacy import distributions
from fedkd.privacy.events import DpSgdSteps, Event, NoClaim, NoisyVotes
from fedkd.privacy.gaussian_dp import check_delta, epsilon_at
from fedkd.privacy.renyi import ORDERS, epsilon_from

Accountant = Literal["auto", "prv", "pld"]
Counted = Sequence[tuple[Event, int]]
"""Events and how many times each."""


def epsilon_of(events: Counted, delta: float, accountant: Accountant = "auto") -> tuple[float, str]:
    """Return the epsilon >= 0 of all ``events`` at ``delta``, and its accountant's name.

    ``auto`` is exact for Gaussian noise, and the best of RDP and, where all events are pure, the
    plain sum otherwise. ``prv`` (DP-SGD alone, on records of one example) and ``pld`` (with the
    extra; no votes) are used where they apply, if they say less, up to an epsilon of 200: beyond,
    they take minutes and gigabytes, and PRV overflows. Without events epsilon is 0; with a NoClaim
    it is infinite. Order does not matter.

    >>> from fedkd.privacy.events import GaussianRows
    >>> row = GaussianRows(rows=1, sensitivity=1.0, sigma=1.0)
    >>> epsilon, accountant = epsilon_of([(row, 1)], 1e-5)
    >>> round(epsilon, 4), accountant
    (4.3772, 'exact')
    """
    check_delta(delta)
    merged = merge(events)
    found = [_automatic(merged, delta)]
    if found[0][0] > distributions.LARGEST:
        return found[0]
    alone = all(isinstance(event, DpSgdSteps) and event.group == 1 for event, _ in merged)
    if accountant == "prv" and merged and alone:
        history = [
            (e.noise_multiplier, e.sample_rate, n) for e, n in merged if isinstance(e, DpSgdSteps)
        ]
        found.append((distributions.prv_epsilon(history, delta), "prv"))
    if (
        accountant == "pld"
        and merged
        and not any(isinstance(e, NoisyVotes | NoClaim) for e, _ in merged)
    ):
        losses = [event.loss(times) for event, times in merged]
        if all(loss is not None for loss in losses):
            found.append((distributions.pld_epsilon(losses, delta), "pld"))
    return min(found, key=lambda pair: pair[0])


def merge(events: Counted) -> list[tuple[Event, int]]:
    """Return the smallest events with their counts, without those that never happened."""
    counts: dict[Event, int] = {}
    for event, times in events:
        single, count = event.split()
        counts[single] = counts.get(single, 0) + count * times
    return [(event, count) for event, count in counts.items() if count]


def _automatic(merged: Counted, delta: float) -> tuple[float, str]:
    if not merged:
        return 0.0, "exact"
    mus = [(event.mu, times) for event, times in merged]
    found = []
    if all(mu is not None for mu, _ in mus):
        total = math.sqrt(sum(times * mu**2 for mu, times in mus if mu is not None))
        found.append((epsilon_at(total, delta), "exact"))
    if not found or any(isinstance(event, NoisyVotes) for event, _ in merged):
        costs = np.zeros(len(ORDERS))
        for event, times in merged:
            costs = costs + times * event.cost()
        found.append((epsilon_from(costs, delta), "rdp"))
    pure = sum(times * event.pure for event, times in merged)
    if pure < math.inf:
        found.append((pure, "sum"))
    return min(found, key=lambda pair: pair[0])
