"""Vocabularies: from text to tokens and back, by bytes, characters, byte-pair pieces or words.

All clients share one vocabulary, since a prediction is a row over it. It is built on public text:
one that is built on private text would itself say what that holds. Not for: cutting tokens into
windows (``fedkd.tasks.text.windows``).
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

from fedkd.data.byte_level import BYTE_OF
from fedkd.errors import SettingError
from fedkd.settings.optional_libraries import require


@runtime_checkable
class Vocabulary(Protocol):
    """Token ids 0 .. size - 1, of which the last, or ``separator``, is the separator.

    It stands before, between and behind texts.
    """

    @property
    def size(self) -> int:
        """V, the separator included."""

    def encode(self, text: str) -> list[int]:
        """Return a text's tokens, without separators; SettingError where a token is missing."""

    def token_bytes(self, token: int) -> bytes:
        """Return a token as UTF-8 bytes, empty for the separator.

        They may be a part of a character.
        """


def separator_of(vocabulary: Vocabulary) -> int:
    """Return the id of the separator: the last one, but for a vocabulary that has another."""
    return int(getattr(vocabulary, "separator", vocabulary.size - 1))


def decode(vocabulary: Vocabulary, tokens: Iterable[int]) -> str:
    """Return the text of tokens, with U+FFFD for bytes that make no character.

    >>> decode(Bytes(), Bytes().encode("a bay"))
    'a bay'
    """
    return b"".join(vocabulary.token_bytes(token) for token in tokens).decode(errors="replace")


@dataclass(frozen=True)
class Bytes:
    """One token for each byte of UTF-8, 257 with the separator, for any text."""

    @property
    def size(self) -> int:
        """257."""
        return 257

    def encode(self, text: str) -> list[int]:
        """Return the text's bytes."""
        return list(text.encode())

    def token_bytes(self, token: int) -> bytes:
        """Return the byte itself."""
        return bytes([token]) if token < 256 else b""


@dataclass(frozen=True)
class Characters:
    """One token for each character of ``alphabet``: a few dozen, which travel and train fast."""

    alphabet: str

    def __post_init__(self) -> None:
        if len(set(self.alphabet)) != len(self.alphabet) or not self.alphabet:
            raise SettingError(
                f"an alphabet must hold each of its characters once, got {self.alphabet!r}"
            )

    @property
    def size(self) -> int:
        """The number of characters and 1."""
        return len(self.alphabet) + 1

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {character: i for i, character in enumerate(self.alphabet)}

    def encode(self, text: str) -> list[int]:
        """Return the text's characters; SettingError names one that the alphabet lacks."""
        try:
            return [self._ids[character] for character in text]
        except KeyError as error:
            raise SettingError(
                f"the vocabulary has no token for {error.args[0]!r}, which is in {text[:40]!r};"
                " build it of texts and"
                " canary formats that hold every character, or take bytes"
            ) from None

    def token_bytes(self, token: int) -> bytes:
        """Return the character's bytes."""
        return self.alphabet[token].encode() if token < len(self.alphabet) else b""


@dataclass(frozen=True, eq=False)
class BytePairs:
    """Byte-pair pieces over bytes (Sennrich et al. 2016, arXiv 1508.07909), for any text.

    ``tokenizer`` is one of the ``tokenizers`` library with byte-level pieces; the separator is
    added behind its own. A canary's candidates then differ in their number of tokens, which
    exposure allows for.
    """

    tokenizer: Any

    @property
    def size(self) -> int:
        """The tokenizer's pieces and the separator."""
        return int(self.tokenizer.get_vocab_size()) + 1

    def encode(self, text: str) -> list[int]:
        """Return the text's pieces."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def token_bytes(self, token: int) -> bytes:
        """Return the piece's bytes."""
        if token == self.size - 1:
            return b""
        return bytes(BYTE_OF[character] for character in self.tokenizer.id_to_token(token))


def learn_byte_pairs(texts: Sequence[str], size: int) -> BytePairs:
    """Return byte-pair pieces learned from ``texts``, ``size`` of them with the separator.

    There are fewer if the texts have no more. The same texts give the same pieces. Raises
    SettingError for fewer than 257, or where ``tokenizers`` is missing.
    """
    if size < 257:
        raise SettingError(
            "a vocabulary of byte pairs must have >= 257 tokens (all bytes, a separator), got"
            f" {size}"
        )
    require("tokenizers", "a vocabulary of byte pairs")
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size - 1,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return BytePairs(tokenizer)


@dataclass(frozen=True)
class Words:
    """One token for each known word or sign, one for all unknown ones: for classes, not for text.

    Upper and lower case are one, and how words are joined is lost, so that no text comes back.
    """

    known: tuple[str, ...]

    @property
    def size(self) -> int:
        """The known words, the unknown word and the separator."""
        return len(self.known) + 2

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.known)}

    def encode(self, text: str) -> list[int]:
        """Return the text's words and signs; what is unknown has the last id but one."""
        return [self._ids.get(word, len(self.known)) for word in words_of(text)]

    def token_bytes(self, token: int) -> bytes:
        """Return the word, empty for an unknown one."""
        return self.known[token].encode() if token < len(self.known) else b""


def words_of(text: str) -> list[str]:
    """Return a text's words and signs in lower case.

    >>> words_of("It's 3 o'clock.")
    ['it', "'", 's', '3', 'o', "'", 'clock', '.']
    """
    return re.findall(r"\w+|[^\w\s]", text.lower())


def learn_words(texts: Iterable[str], size: int) -> Words:
    """Return the commonest words of ``texts``, ``size`` tokens with the two that are no words.

    Equally common ones are taken by the alphabet. Raises SettingError for fewer than 3 tokens.

    >>> learn_words(["a b a", "c b a"], size=4).known
    ('a', 'b')
    """
    if size < 3:
        raise SettingError(
            f"a vocabulary of words must have >= 3 tokens (a word, the unknown one, a separator),"
            f" got {size}"
        )
    counts = Counter(word for text in texts for word in words_of(text))
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return Words(tuple(ranked[: size - 2]))
