"""Texts as rows of token ids of equal length, one block of columns for each vocabulary of a run.

Clients' models may each have a tokenizer of their own: predictions are by class, and need none in
common. A row then holds a text once for each tokenizer, side by side, and every model reads its
own columns. Not for: windows of next tokens (``fedkd.tasks.text.windows``).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from fedkd.data.cache import cached
from fedkd.data.texts import PreparedTexts
from fedkd.tasks.text.text_classifiers import TokenShape
from fedkd.tasks.text.vocabulary import Vocabulary, separator_of

FORMAT = 1


@runtime_checkable
class TextEncoder(Protocol):
    """Turns texts into token ids, of which one is for padding alone."""

    @property
    def size(self) -> int:
        """The number of token ids, padding included."""

    @property
    def padding(self) -> int:
        """The id that fills a row up."""

    @property
    def key(self) -> str:
        """A hash of everything that decides the ids of a text."""

    def encode_all(self, texts: Sequence[str], most: int) -> list[list[int]]:
        """Return each text's ids, the first ``most`` of them; one at least."""

    def describe(self) -> dict[str, object]:
        """Return what turns a text into ids, as plain values."""


@dataclass(frozen=True)
class VocabularyEncoder:
    """A vocabulary's tokens, with its separator for padding."""

    vocabulary: Vocabulary

    @property
    def size(self) -> int:
        """V."""
        return self.vocabulary.size

    @property
    def padding(self) -> int:
        """The separator."""
        return separator_of(self.vocabulary)

    @cached_property
    def _tokens(self) -> list[str]:
        return [self.vocabulary.token_bytes(token).hex() for token in range(self.size)]

    @property
    def key(self) -> str:
        """A hash of the tokens and of how texts are cut into them."""
        about = f"{type(self.vocabulary).__name__} {self._tokens}"
        return hashlib.sha256(about.encode()).hexdigest()[:32]

    def encode_all(self, texts: Sequence[str], most: int) -> list[list[int]]:
        """Return each text's first tokens; one without a token is a row of padding."""
        return [self.vocabulary.encode(text)[:most] or [self.padding] for text in texts]

    def describe(self) -> dict[str, object]:
        """Return each token's UTF-8 in hexadecimal; the last one is the padding."""
        return {"vocabulary": type(self.vocabulary).__name__.lower(), "tokens": self._tokens}


@dataclass(frozen=True)
class TokenColumns:
    """A vocabulary, and the columns that its tokens have in a row: ``start`` to below ``end``."""

    encoder: TextEncoder
    start: int
    end: int

    @property
    def shape(self) -> TokenShape:
        """What a factory of models is told."""
        return self.encoder.size, self.end - self.start, self.encoder.padding


def encode_all(prepared: PreparedTexts, block: TokenColumns) -> Int[np.ndarray, "n columns"]:
    """Return all rows of a data set in one vocabulary, as a read-only memory map.

    They are encoded once, into the cache, and mapped by every process of a machine.
    """
    length = block.end - block.start
    about = f"{FORMAT} {prepared.key} {block.encoder.key} {length}"

    def make(folder: Path) -> None:
        texts = prepared.texts(range(len(prepared.labels)))
        np.save(folder / "ids.npy", rows_of_ids(block.encoder, texts, length))

    key = hashlib.sha256(about.encode()).hexdigest()[:32]
    found: np.ndarray = np.load(cached("tokens", key, make) / "ids.npy", mmap_mode="r")
    return found


def rows_of_ids(
    encoder: TextEncoder, texts: Sequence[str], length: int
) -> Int[np.ndarray, "n {length}"]:
    """Return texts as rows of ids: cut behind ``length`` tokens, or filled up with padding."""
    ids = np.full((len(texts), length), encoder.padding, dtype=np.int32)
    for row, tokens in zip(ids, encoder.encode_all(texts, length), strict=True):
        row[: len(tokens)] = tokens
    return ids
