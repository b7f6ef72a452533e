"""A small data set of texts with classes for tests, and a federation on it: half a second."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fedkd.data.texts import TextRows

ANIMALS, TRAFFIC = ("cat", "dog", "hen", "owl"), ("bus", "car", "tram", "van")
VERBS, PLACES = ("waits", "stands", "turns", "stops"), ("here", "there", "outside", "in town")


@dataclass(frozen=True, kw_only=True)
class TinyLabels:
    """Sentences of which one word says the class; the place is a natural id."""

    task: ClassVar[str] = "labeled_texts"

    def content_key(self) -> str:
        return "tiny-labels"

    def load(self) -> TextRows:
        rows = [
            (f"the {noun} {verb} {place}", label, place)
            for label, nouns in enumerate((ANIMALS, TRAFFIC))
            for noun in nouns
            for verb in VERBS
            for place in PLACES
        ]
        texts, labels, places = zip(*rows, strict=True)
        columns = {"place": np.array(places)}
        return TextRows(texts, np.array(labels), len(texts), ("animals", "traffic"), columns)


TINY_LABELS: dict[str, Any] = {
    "name": "tiny_labels",
    "data": "tiny_labels:TinyLabels",
    "partition": {"name": "iid"},
    "clients": 2,
    "models": ["bag", "text_cnn(width=16,filters=16)"],
    "tokens": {"context": 8},
    "rounds": 1,
    "public": {"size": 32},
    "test": {"global_size": 16},
    "strategy": "knfu",
    "train": {"epochs": 6, "batch_size": 8, "learning_rate": 1e-2},
    "distill": {"epochs": 2, "batch_size": 8, "learning_rate": 1e-2},
    "engine": {"name": "local", "workers": 1},
    "baseline": "none",
    "report": {"console": False, "plots": False},
}
