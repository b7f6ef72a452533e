"""A small federation on text for tests: embedded sentences, two clients, a second or two."""

import threading
from typing import Any

from torch import nn

from fedkd.experiment.build import Experiment, build
from fedkd.experiment.run import execute
from fedkd.federation.round_records import RoundRecord
from fedkd.scenario.scenario import Scenario
from fedkd.tasks.text.language_models import Decoder, Gru

TINY_TEXT: dict[str, Any] = {
    "name": "tiny_text",
    "data": {"name": "sentences", "texts": 70},
    "partition": {"name": "whole_ids"},
    "clients": 2,
    "models": ["tiny_text:small_gru", "tiny_text:small_decoder"],
    "tokens": {"context": 40, "vocabulary": "characters"},
    "rounds": 1,
    "public": {"size": 14},
    "test": {"global_size": 14},
    "strategy": "fedmd",
    "train": {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2},
    "distill": {"epochs": 1, "batch_size": 4, "learning_rate": 1e-2},
    "engine": {"name": "local", "workers": 1},
    "baseline": "none",
    "report": {"console": False, "plots": False},
}
CANARIES: dict[str, Any] = {
    "name": "form", "prefix": "pin ", "slots": "dd", "repeats": 6, "held_out": 4, "visit_times": 6
}  # fmt: skip


def small_gru(vocabulary_size: int, context: int) -> nn.Module:
    return Gru(vocabulary_size, width=16, hidden=32, layers=1)


def small_decoder(vocabulary_size: int, context: int) -> nn.Module:
    return Decoder(vocabulary_size, context, width=16, heads=2, layers=1)


def text_scenario(**changes: Any) -> Scenario:
    """Return the tiny scenario with top-level settings changed; sections are merged into the tiny
    ones."""
    plain = dict(TINY_TEXT)
    for key, value in changes.items():
        old = plain.get(key)
        merged = isinstance(value, dict) and isinstance(old, dict) and "name" not in value
        plain[key] = {**old, **value} if merged else value
    return Scenario.parse(plain)


def text_experiment(**changes: Any) -> Experiment:
    """Build the tiny scenario."""
    return build(text_scenario(**changes), threading.Event())


def text_records(**changes: Any) -> list[RoundRecord]:
    """Run the tiny scenario and return its records."""
    found: list[RoundRecord] = []
    execute(text_experiment(**changes), found.append, threading.Event())
    return found
