"""Data sets of texts by name. Their classes are topics, or another natural id."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fedkd.data.hub_splits import content_key, open_splits, splits_hash
from fedkd.data.sources import Named
from fedkd.data.texts import TextRows
from fedkd.errors import SettingError
from fedkd.settings.validators import at_least
from fedkd.tasks.text.corpus import embedded_corpus
from fedkd.tasks.text.scipy_docs import ScipyDocs


@dataclass(frozen=True, kw_only=True)
class Sentences:
    """Sentences of a small grammar in seven topics, embedded: nothing is downloaded."""

    task: ClassVar[str] = "texts"

    texts: int = 700
    """Number of sentences, >= 70."""

    def __post_init__(self) -> None:
        at_least(70, texts=self.texts)

    def content_key(self) -> str:
        """Return the key of the prepared form: the grammar never changes."""
        return f"sentences-1-{self.texts}"

    def load(self) -> TextRows:
        """Write the sentences; the global test set is cut from them."""
        corpus = embedded_corpus(self.texts)
        names, labels = np.unique(np.array(corpus.topics), return_inverse=True)
        return TextRows(
            corpus.texts, labels.astype(np.int64), self.texts, tuple(map(str, names)), {}
        )


@dataclass(frozen=True, kw_only=True)
class HubTexts:
    """A data set of texts of the Hugging Face hub, or a local folder in the same layout."""

    task: ClassVar[str] = "texts"

    path: str
    """Hub id (`fancyzhx/ag_news`) or local folder that datasets.load_dataset reads."""
    text_column: str = "text"
    """Column of texts. Rows with an empty one are left out."""
    topic_column: str = "topic"
    """Column of topics, authors, or another natural id of a text."""
    train_split: str = "train"
    """Split that the private sets and the public set are cut from."""
    test_split: str | None = None
    """Split that the global test set is drawn from; null cuts it from the training split."""

    def content_key(self) -> str:
        """Return a hash of the rows that the data set library holds and of the columns chosen."""
        return content_key(self, self.path, self._content_hash)

    def _content_hash(self) -> str:
        return splits_hash(("texts", self.text_column, self.topic_column), self._splits)

    def load(self) -> TextRows:
        """Read every text with its topic."""
        splits = self._splits
        train = splits["train"]
        for setting, column in (
            ("text_column", self.text_column),
            ("topic_column", self.topic_column),
        ):
            if column not in train.column_names:
                raise SettingError(
                    f"data.{setting}={column}: the columns of {self.path} are"
                    f" {', '.join(train.column_names)}"
                )
        with_text = {
            role: [i for i, x in enumerate(d[self.text_column]) if x and x.strip()]
            for role, d in splits.items()
        }
        if not with_text["train"]:
            raise SettingError(f"data.path={self.path}: column {self.text_column!r} holds no text")

        def values(name: str) -> np.ndarray:
            return np.concatenate(
                [np.asarray(d[name])[with_text[role]] for role, d in splits.items()]
            )

        found, labels = np.unique(values(self.topic_column), return_inverse=True)
        known = getattr(
            train.features[self.topic_column], "names", None
        )  # those of classes that are numbers
        names = [str(value if known is None else known[value]) for value in found.tolist()]
        others = {
            name: values(name)
            for name in train.column_names
            if name not in (self.text_column, self.topic_column)
            and getattr(train.features[name], "dtype", "") in ("string", "int64", "int32")
        }
        texts = tuple(
            str(splits[role][self.text_column][i]) for role in splits for i in with_text[role]
        )
        return TextRows(
            texts, labels.astype(np.int64), len(with_text["train"]), tuple(names), others
        )

    @property
    def _splits(self) -> Mapping[str, Any]:
        layout = "train.csv, train.jsonl or train.txt"
        return open_splits(self.path, self.train_split, self.test_split, "fancyzhx/ag_news", layout)


TEXT_DATA: dict[str, type | Named] = {
    "sentences": Sentences,
    "scipy_docs": ScipyDocs,
    "ag_news": Named(
        HubTexts, {"path": "fancyzhx/ag_news", "topic_column": "label", "test_split": "test"}
    ),
    "texts": HubTexts,
}
