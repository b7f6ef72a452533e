"""Texts with topics, read from a folder or embedded, and their division among clients.

The embedded corpus is made by a small grammar, for tests and first steps: seven topics that share
their grammar and not their nouns. Not for: tokens (``fedkd.tasks.text.vocabulary``), secrets in the
text (``fedkd.tasks.text.text_canaries``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from fedkd.errors import SettingError
from fedkd.runtime.seeding import numpy_stream
from fedkd.settings.validators import at_least


@dataclass(frozen=True)
class Corpus:
    """``texts`` [n], none of them empty, and of each its topic: a subject, an author, or another
    natural id.
    """

    texts: tuple[str, ...]
    topics: tuple[str, ...]

    def take(self, rows: Sequence[int]) -> "Corpus":
        """Return some of the texts, with their topics."""
        return Corpus(tuple(self.texts[i] for i in rows), tuple(self.topics[i] for i in rows))


def read_corpus(
    path: str, text_column: str = "text", topic_column: str = "topic", split: str = "train"
) -> Corpus:
    """Read a data set with a column of texts and one of topics, in the layout of the Hugging Face
    hub.

    ``path`` is a local folder ({train}.parquet) or a hub id. Empty texts are left out. Raises
    SettingError where the folder, the split or a column is missing.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    folder = Path(path).expanduser()
    if path.startswith((".", "/", "~")) and not folder.is_dir():
        raise SettingError(
            f"text.path={path}: no such folder; give one that holds the data set as on the hub"
        )
    try:
        splits = load_dataset(str(folder) if folder.is_dir() else path)
    except (DatasetNotFoundError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SettingError(f"text.path={path} could not be read: {reason}") from error
    if split not in splits:
        raise SettingError(f"text.split={split}: the splits of {path} are {', '.join(splits)}")
    rows = splits[split]
    for setting, column in (("text_column", text_column), ("topic_column", topic_column)):
        if column not in rows.column_names:
            raise SettingError(
                f"text.{setting}={column}: the columns of {path} are {', '.join(rows.column_names)}"
            )
    pairs = [
        (str(x), str(y))
        for x, y in zip(rows[text_column], rows[topic_column], strict=True)
        if x and x.strip()
    ]
    if not pairs:
        raise SettingError(f"text.path={path}: column {text_column!r} holds no text")
    return Corpus(tuple(x for x, _ in pairs), tuple(y for _, y in pairs))


_NOUNS = {
    "garden": "rose tulip hedge pond robin spade seed lawn",
    "kitchen": "kettle onion ladle oven lentil spoon broth loaf",
    "harbor": "ferry anchor gull rope tide pier crane buoy",
    "railway": "train signal bridge guard tunnel ticket engine track",
    "workshop": "hammer bench lathe plank nail chisel drill vise",
    "night sky": "comet moon planet star meteor cloud lens dome",
    "orchestra": "violin drum flute cello horn harp bow score",
}
_ADJECTIVES = ["old", "small", "bright", "heavy", "quiet", "green", "broken", "new"]
_VERBS = ["waits", "leans", "shines", "rests", "turns", "moves", "shakes", "stays"]
_PLACES = ["beside", "behind", "under", "above", "near"]
_TIMES = ("in the morning", "after the rain", "before supper", "all week", "every spring")


def embedded_corpus(texts: int = 280, seed: int = 0) -> Corpus:
    """Return sentences of a small grammar, the seven topics in turn, 40 to 80 characters each."""
    at_least(1, texts=texts)
    stream = numpy_stream(seed, "embedded corpus")
    names = list(_NOUNS)

    def pick(words: Sequence[str]) -> str:
        return words[int(stream.integers(len(words)))]

    def sentence(topic: str) -> str:
        nouns = _NOUNS[topic].split()
        first = f"the {pick(_ADJECTIVES)} {pick(nouns)} {pick(_VERBS)}"
        return f"{first} {pick(_PLACES)} the {pick(_ADJECTIVES)} {pick(nouns)} {pick(_TIMES)}."

    topics = tuple(names[i % len(names)] for i in range(texts))
    return Corpus(tuple(sentence(topic) for topic in topics), topics)


def hold_out(corpus: Corpus, shares: Sequence[float], seed: int, name: str) -> tuple[Corpus, ...]:
    """Return disjoint random parts with the given shares of the texts, and what is left as the last
    part.

    Each part keeps the corpus' order. Raises SettingError where a part would be empty.
    """
    order = numpy_stream(seed, "text", name).permutation(len(corpus.texts))
    cuts = np.round(np.cumsum([0.0, *shares, 1.0 - sum(shares)]) * len(order)).astype(int)
    parts = [order[a:b] for a, b in pairwise(cuts)]
    if sum(shares) >= 1 or min(map(len, parts)) == 0:
        raise SettingError(
            f"shares {list(shares)} of {len(order)} texts leave a part empty: give less, or more"
            " texts"
        )
    return tuple(corpus.take(sorted(part.tolist())) for part in parts)


def by_topic(corpus: Corpus, clients: int) -> tuple[Corpus, ...]:
    """Return each client's texts: whole topics, the largest first, each to the client with the
    least text so far.

    With at least as many topics as clients nobody is empty. Ties go to the topic's name and to the
    lower client id: nothing here is random. Raises SettingError where there are fewer topics than
    clients.
    """
    at_least(1, clients=clients)
    sizes: dict[str, int] = {}
    for text, topic in zip(corpus.texts, corpus.topics, strict=True):
        sizes[topic] = sizes.get(topic, 0) + len(text)
    if len(sizes) < clients:
        raise SettingError(
            f"{len(sizes)} topics cannot be divided among {clients} clients; take fewer clients"
        )
    load, owner = [0] * clients, {}
    for topic in sorted(sizes, key=lambda t: (-sizes[t], t)):
        owner[topic] = min(range(clients), key=lambda i: (load[i], i))
        load[owner[topic]] += sizes[topic]
    rows: list[list[int]] = [[] for _ in range(clients)]
    for i, topic in enumerate(corpus.topics):
        rows[owner[topic]].append(i)
    return tuple(corpus.take(mine) for mine in rows)
