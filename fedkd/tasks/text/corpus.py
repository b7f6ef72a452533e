"""The embedded corpus: sentences of a small grammar, for tests and first steps.

Its seven topics share their grammar and not their nouns. Not for: other sources of text
(``fedkd.tasks.text.text_sources``), tokens (``fedkd.tasks.text.vocabulary``).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fedkd.runtime.seeding import numpy_stream
from fedkd.settings.validators import at_least


@dataclass(frozen=True)
class Corpus:
    """Texts [n], none of them empty, and the topic of each."""

    texts: tuple[str, ...]
    topics: tuple[str, ...]


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
_PREPOSITIONS = ["beside", "behind", "under", "above", "near"]
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
        return (
            f"{first} {pick(_PREPOSITIONS)} the {pick(_ADJECTIVES)} {pick(nouns)} {pick(_TIMES)}."
        )

    topics = tuple(names[i % len(names)] for i in range(texts))
    return Corpus(tuple(sentence(topic) for topic in topics), topics)
