"""Small federations for tests: digits, four clients, two rounds, a second or less."""

import threading
from typing import Any

from fedkd.experiment.build import build
from fedkd.experiment.run import execute
from fedkd.federation.round_records import BY_NAME, RoundRecord
from fedkd.scenario.scenario import Scenario

TINY: dict[str, Any] = {
    "name": "tiny",
    "clients": 4,
    "samples_per_client": 20,
    "models": ["mlp", "cnn"],
    "rounds": 2,
    "public": {"size": 40},
    "test": {"global_size": 50, "private_size": 20},
    "train": {"epochs": 1, "batch_size": 8},
    "distill": {"epochs": 1, "batch_size": 20},
    "engine": {"name": "local", "workers": 1},
    "baseline": "none",
    "report": {"console": False, "plots": False},
}


def scenario(**changes: Any) -> Scenario:
    """Return the tiny scenario with top-level settings changed; sections are merged into the tiny
    ones."""
    plain = dict(TINY)
    for key, value in changes.items():
        old = plain.get(key)
        merged = isinstance(value, dict) and isinstance(old, dict) and "name" not in value
        plain[key] = {**old, **value} if merged else value
    return Scenario.parse(plain)


def records(**changes: Any) -> list[RoundRecord]:
    """Run the tiny scenario and return its records."""
    found: list[RoundRecord] = []
    stop = threading.Event()
    execute(build(scenario(**changes), stop), found.append, stop)
    return found


def mean(record: RoundRecord, name: str) -> float:
    """Return the mean of a figure over a round's clients, by the name of its column."""
    values = [BY_NAME[name].of(client) for client in record.clients]
    return sum(values) / len(values)
