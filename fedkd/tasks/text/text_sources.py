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
    refuses: ClassVar[Mapping[str, str]] = {
        "text_column": "it is now data.inputs, as for all kinds of data",
        "topic_column": "it is now data.target, as for all kinds of data",
    }

    path: str
    """Hub id (`fancyzhx/ag_news`) or local folder that datasets.load_dataset reads."""
    target: str | None = None
    """Column of topics, authors, or another natural id of a text; null is `topic`."""
    inputs: tuple[str, ...] | None = None
    """Column of texts, one; null is `text`. Rows with an empty one are left out."""
    train_split: str = "train"
    """Split that the private sets and the public set are cut from."""
    test_split: str | None = None
    """Split that the global test set is drawn from; null cuts it from the training split."""

    def __post_init__(self) -> None:
        if self.inputs is not None and len(self.inputs) != 1:
            raise SettingError(
                f"inputs must name one column of texts, got [{','.join(self.inputs)}]"
            )

    @property
    def _columns(self) -> tuple[str, str]:
        """The columns of texts and of topics."""
        text = "text" if self.inputs is None else self.inputs[0]
        return text, "topic" if self.target is None else self.target

    def content_key(self) -> str:
        """Return a hash of the rows that the data set library holds and of the columns chosen."""
        return content_key(self, self.path, self._content_hash)

    def _content_hash(self) -> str:
        return splits_hash(("texts", *self._columns), self._splits)

    def load(self) -> TextRows:
        """Read every text with its topic."""
        splits, (text, topic) = self._splits, self._columns
        train = splits["train"]
        self._check(train)
        with_text = {
            role: [i for i, x in enumerate(d[text]) if x and x.strip()]
            for role, d in splits.items()
        }
        if not with_text["train"]:
            raise SettingError(f"data.path={self.path}: column {text!r} holds no text")

        def values(name: str) -> np.ndarray:
            return np.concatenate(
                [np.asarray(d[name])[with_text[role]] for role, d in splits.items()]
            )

        found, labels = np.unique(values(topic), return_inverse=True)
        known = getattr(train.features[topic], "names", None)  # those of classes that are numbers
        names = [str(value if known is None else known[value]) for value in found.tolist()]
        others = {
            name: values(name)
            for name in train.column_names
            if name not in (text, topic)
            and getattr(train.features[name], "dtype", "") in ("string", "int64", "int32")
        }
        texts = tuple(str(splits[role][text][i]) for role in splits for i in with_text[role])
        return TextRows(
            texts, labels.astype(np.int64), len(with_text["train"]), tuple(names), others
        )

    def _check(self, train: Any) -> None:
        """Raise SettingError for columns that are not there, or hold no texts or ids."""
        text, topic = self._columns
        for setting, column in (("inputs", text), ("target", topic)):
            if column not in train.column_names:
                raise SettingError(
                    f"data.{setting}={column}: the columns of {self.path} are"
                    f" {', '.join(train.column_names)}"
                )
        if text == topic:
            raise SettingError(f"data.inputs and data.target are both {text}; name two columns")
        held = getattr(train.features[text], "dtype", "lists")
        if held not in ("string", "large_string"):
            raise SettingError(f"data.inputs={text} holds {held}, expected texts")

    @property
    def _splits(self) -> Mapping[str, Any]:
        layout = "train.csv, train.jsonl or train.txt"
        return open_splits(self.path, self.train_split, self.test_split, "fancyzhx/ag_news", layout)


TEXT_DATA: dict[str, type | Named] = {
    "sentences": Sentences,
    "scipy_docs": ScipyDocs,
    "ag_news": Named(
        HubTexts, {"path": "fancyzhx/ag_news", "target": "label", "test_split": "test"}
    ),
    "texts": HubTexts,
}
