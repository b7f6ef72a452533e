"""Assignment of clients to workers, and of workers to parts of GPUs, before anything is started."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from fedkd.errors import SettingError


@dataclass(frozen=True)
class Slot:
    """A worker to start: its part of a GPU (0: none; above 1: whole GPUs) and its clients."""

    gpus: Fraction
    clients: tuple[int, ...] = ()


def tiles(share: float) -> Fraction:
    """Return a share of a GPU as a fraction. Raises SettingError unless it tiles GPUs.

    It must be 0, 1/n, or a whole number: other shares leave a rest that no worker of their kind can
    use, and a scheduler that waits for ever.

    >>> tiles(0.5), tiles(2), tiles(0.33333)
    (Fraction(1, 2), Fraction(2, 1), Fraction(1, 3))
    """
    if share >= 1 and share == int(share):
        return Fraction(int(share))
    if 0 < share < 1:
        parts = round(1 / share)
        if abs(parts * share - 1) <= 1e-3:
            return Fraction(1, parts)
        raise SettingError(
            f"a share of {share:g} does not tile a GPU: {int(1 / share)} workers of it leave a"
            " rest of"
            f" {1 - int(1 / share) * share:.2g}; give 1/n, such as {1 / parts:.4g} or"
            f" {1 / (parts + 1):.4g}"
        )
    if share == 0:
        return Fraction(0)
    raise SettingError(f"a share of a GPU must be 1/n or a whole number, got {share:g}")


def fits(shares: Sequence[Fraction], gpus: int) -> bool:
    """Return whether workers with these shares fit on ``gpus`` GPUs.

    A fractional share must lie on one GPU.

    >>> half, third = Fraction(1, 2), Fraction(1, 3)
    >>> fits([half, half, third, third, third], 2), fits([half, third, third], 1)
    (True, False)
    """
    free = [Fraction(1)] * gpus
    for share in sorted(shares, reverse=True):
        if share >= 1:
            empty = [i for i, rest in enumerate(free) if rest == 1][: int(share)]
            if len(empty) < share:
                return False
            for i in empty:
                free[i] = Fraction(0)
        elif share > 0:
            first = next((i for i, rest in enumerate(free) if rest >= share), None)
            if first is None:
                return False
            free[first] -= share
    return True


Unit = tuple[int, ...]
"""Clients that must have one worker: those that are trained together on a GPU, or one alone."""


def deal(units: Mapping[Unit, float], workers: int) -> list[tuple[int, ...]]:
    """Return each worker's clients: the costliest first, each to the worker with least to do.

    The last worker to finish then takes at most 4/3 of the best possible time (Graham 1969, SIAM J.
    Appl. Math. 17). ``units`` are clients that have one worker, and what they cost.

    >>> deal({(0,): 1.0, (1,): 5.0, (2,): 3.0, (3,): 2.0}, 2)
    [(1, 0), (2, 3)]
    >>> deal({(0, 1): 6.0, (2,): 3.0, (3,): 2.0}, 2)
    [(0, 1), (2, 3)]
    """
    loads = [0.0] * workers
    dealt: list[list[int]] = [[] for _ in range(workers)]
    for unit in sorted(units, key=lambda unit: (-units[unit], unit)):
        least = min(range(workers), key=lambda w: (loads[w], w))
        dealt[least].extend(unit)
        loads[least] += units[unit]
    return [tuple(clients) for clients in dealt]


def _units(
    clients: Sequence[int], costs: Sequence[float], together: Sequence[Unit]
) -> dict[Unit, float]:
    """Return clients as they are dealt, with what each unit costs."""
    joined = {i for unit in together for i in unit}
    units = [unit for unit in together if unit[0] in clients]
    units += [(i,) for i in clients if i not in joined]
    return {unit: sum(costs[i] for i in unit) for unit in units}


def assign_workers(
    architectures: Sequence[str],
    costs: Sequence[float],
    *,
    workers: int | None,
    cores: int,
    gpus: int,
    gpus_per_client: Mapping[str, float] | None,
    together: Sequence[Unit] = (),
) -> list[Slot]:
    """Return the workers to start, with their clients. Raises SettingError where none fit.

    Without ``gpus_per_client`` all workers are alike: one a core, or one a GPU, or as many as asked
    for, with equal parts of the GPUs. With it, architectures of one share form a pool, every pool
    gets a worker, and further ones go where there is most to do for each, as long as they fit on
    the GPUs.

    Args:
        architectures: By client id.
        costs: Seconds of a round, by client id.
        workers: How many to start; None leaves it open.
        cores: CPU cores there are.
        gpus: GPUs to use; 0 is none.
        gpus_per_client: Part of a GPU that a client takes, by architecture.
        together: Clients of one architecture that must have one worker.
    """
    if gpus_per_client is None:
        units = _units(range(len(architectures)), costs, together)
        count = min(workers or (gpus or cores), len(units))
        share = (
            Fraction(0)
            if gpus == 0
            else Fraction(1)
            if count <= gpus
            else Fraction(1, -(-count // gpus))
        )
        return [Slot(share, dealt) for dealt in deal(units, count)]
    pools = {
        share: _units(clients, costs, together)
        for share, clients in _pools(architectures, gpus_per_client).items()
    }
    return [
        Slot(share, dealt)
        for share, count in _sizes(pools, workers, cores, gpus).items()
        for dealt in deal(pools[share], count)
    ]


def _pools(
    architectures: Sequence[str], gpus_per_client: Mapping[str, float]
) -> dict[Fraction, list[int]]:
    """Return the clients by their architecture's share."""
    names = sorted(set(architectures))
    for name in gpus_per_client:
        if name not in names:
            raise SettingError(
                f"gpus_per_client names {name}, but the models are {', '.join(names)}"
            )
    missing = [name for name in names if name not in gpus_per_client]
    if missing:
        raise SettingError(
            f"gpus_per_client must name every model; {', '.join(missing)} is missing (0 is no GPU)"
        )
    pools: dict[Fraction, list[int]] = {}
    for client_id, name in enumerate(architectures):
        pools.setdefault(tiles(gpus_per_client[name]), []).append(client_id)
    return pools


def _sizes(
    pools: Mapping[Fraction, Mapping[Unit, float]],
    workers: int | None,
    cores: int,
    gpus: int,
) -> dict[Fraction, int]:
    """Return how many workers each pool gets."""
    sizes = dict.fromkeys(pools, 1)
    most = workers or max(cores, len(pools))
    if most < len(pools):
        raise SettingError(
            f"workers={most}, but gpus_per_client has {len(pools)} different shares; each needs one"
        )
    if not fits(list(sizes), gpus):
        shares = ", ".join(f"{float(share):g}" for share in sizes)
        raise SettingError(
            f"one worker of each share ({shares}) does not fit on {gpus} GPUs; lower the shares"
        )
    load = {share: sum(units.values()) for share, units in pools.items()}
    while sum(sizes.values()) < most:
        larger = [
            share
            for share in pools
            if sizes[share] < len(pools[share])
            and fits(list(Counter({**sizes, share: sizes[share] + 1}).elements()), gpus)
        ]
        if not larger:
            break
        sizes[max(larger, key=lambda share: load[share] / sizes[share])] += 1
    if workers is not None and sum(sizes.values()) < min(workers, sum(map(len, pools.values()))):
        raise SettingError(
            f"workers={workers} do not fit on {gpus} GPUs; at most {sum(sizes.values())} do"
        )
    return sizes
