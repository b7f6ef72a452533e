"""Canaries: made-up secrets of known form in clients' texts, to measure what models give away.

A format is a prefix, slots that each take one character of an alphabet, and a suffix; a secret is
the index of one filling. Secrets are drawn by named streams, some of them held out: a control that
nobody ever trained on. Not for: measuring (``fedkd.tasks.text.exposure``).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from jaxtyping import Int
from torch import Tensor

from fedkd.errors import SettingError
from fedkd.runtime.seeding import numpy_stream
from fedkd.settings.setting_types import describe_type
from fedkd.settings.validators import at_least
from fedkd.tasks.text.exposure import MOST_CANDIDATES
from fedkd.tasks.text.tokens import PAD, stack_sequences
from fedkd.tasks.text.vocabulary import Vocabulary, separator_of

DIGITS = "0123456789"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
Visits = Literal["never", "prefix", "fillings", "secrets"]


@dataclass(frozen=True)
class CanaryFormat:
    """A text with slots: a prefix, one character for each slot's alphabet, and a suffix.

    >>> pin = CanaryFormat("my pin is ", (DIGITS,) * 5)
    >>> pin.size, pin.text(42)
    (100000, 'my pin is 00042')
    """

    prefix: str
    slots: tuple[str, ...]
    suffix: str = ""

    def __post_init__(self) -> None:
        if not self.prefix:
            raise SettingError(
                "a canary format needs a prefix: without one every text would be its context"
            )
        if (
            not self.slots
            or not all(len(set(x)) == len(x) >= 1 for x in self.slots)
            or self.size < 2
        ):
            raise SettingError(
                "a canary format needs slots of distinct characters that allow two fillings or more"
            )

    @property
    def size(self) -> int:
        """|R|, the number of fillings."""
        return math.prod(map(len, self.slots))

    def text(self, index: int) -> str:
        """Return the text of filling ``index``, 0 to size - 1; the last slot varies fastest."""
        if not 0 <= index < self.size:
            raise SettingError(
                f"a filling of this canary format is 0 to {self.size - 1}, got {index}"
            )
        filling = []
        for alphabet in reversed(self.slots):
            index, letter = divmod(index, len(alphabet))
            filling.append(alphabet[letter])
        return self.prefix + "".join(reversed(filling)) + self.suffix

    def texts(self, indices: Iterable[int]) -> list[str]:
        """Return the texts of several fillings."""
        return [self.text(index) for index in indices]


@dataclass(frozen=True)
class Canary:
    """One secret: filling ``index`` of a format, in the text of ``client`` ``repeats`` times.

    A held-out secret, a control, has no client and 0 repeats. ``form`` numbers the format, from 0.
    """

    index: int
    client: int | None
    repeats: int
    form: int = 0


def draw_canaries(
    form: CanaryFormat, repeats: Sequence[int], seed: int, *, held_out: int = 0, per_client: int = 1
) -> tuple[Canary, ...]:
    """Return the canaries of each client, then the controls; all secrets differ.

    Secrets come from the stream "canaries". Raises SettingError where nothing would be inserted or
    measured.

    Args:
        form: the format of the secrets.
        repeats: how often client i's text holds each of its secrets; with 0 it has none.
        seed: of the stream.
        held_out: how many controls there are.
        per_client: how many secrets a client has.
    """
    at_least(0, held_out=held_out)
    for count in repeats:
        at_least(0, repeats=count)
    at_least(1, per_client=per_client)
    owners = [i for i, count in enumerate(repeats) if count for _ in range(per_client)]
    if not owners and not held_out:
        raise SettingError(
            "repeats of 0 for every client and held_out=0 leave no canary to measure"
        )
    if len(owners) + held_out > form.size // 2:
        raise SettingError(
            f"{len(owners) + held_out} canaries are more than half of the {form.size} fillings"
        )
    drawn = (
        numpy_stream(seed, "canaries")
        .choice(form.size, len(owners) + held_out, replace=False)
        .tolist()
    )
    inserted = [Canary(index, i, repeats[i]) for index, i in zip(drawn, owners, strict=False)]
    return (*inserted, *(Canary(index, None, 0) for index in drawn[len(owners) :]))


def insert(
    texts: Sequence[str], form: CanaryFormat, canaries: Iterable[Canary], client: int, seed: int
) -> tuple[str, ...]:
    """Return a client's texts with its canaries among them, at random positions.

    Each canary is ``repeats`` texts of its own.

    Args:
        texts: the client's own.
        form: the format of the canaries.
        canaries: those of all clients.
        client: whose are inserted.
        seed: of the stream that draws the positions.
    """
    mine = [
        form.text(canary.index)
        for canary in canaries
        if canary.client == client
        for _ in range(canary.repeats)
    ]
    return _scatter(texts, mine, seed, "canaries", "client", client)


def add_contexts(
    texts: Sequence[str],
    form: CanaryFormat,
    canaries: Iterable[Canary],
    level: Visits,
    seed: int,
    *,
    times: int | None = None,
) -> tuple[str, ...]:
    """Return public texts with the secrets' context among them, at random positions.

    - ``never`` (P0): no public text holds the prefix. Distillation without any protection then
      leaks next to nothing, and every protection "wins": use it as a control only.
    - ``prefix`` (P1): the prefix alone. A teacher is asked for the first character of the secret.
    - ``fillings`` (P2): the prefix with random fillings, none of them a canary's, held out or not.
    - ``secrets`` (P3): the clients' own secrets, one after the other, as where a teacher's training
      text is what it is asked about.

    Raises SettingError where the texts already hold the prefix, or ``times`` would do nothing, is
    missing, or leaves a secret out.

    Args:
        texts: the public ones.
        form: the format whose prefix is visited.
        canaries: all of the format.
        level: never, prefix or fillings.
        seed: of the stream that draws fillings and positions.
        times: how many texts are added; None with ``never``.
    """
    if level not in get_args(Visits):
        raise SettingError(f"visits must be {describe_type(Visits)}, got {level!r}")
    if any(form.prefix in text for text in texts):
        raise SettingError(
            f"the public text already holds the canary's prefix {form.prefix!r}: take another"
            " format"
        )
    if level == "never":
        if times is not None:
            raise SettingError(
                f"times={times} would do nothing: the public text never visits the canary's context"
            )
        return tuple(texts)
    if times is None:
        raise SettingError(
            f"times must be given where the public text visits the canary's context ({level})"
        )
    at_least(1, times=times)
    if level == "prefix":
        return _scatter(texts, [form.prefix] * times, seed, "canaries", "public")
    if level == "secrets":
        held = [canary.index for canary in canaries if canary.client is not None]
        if times < len(held):
            raise SettingError(
                f"visit_times={times} would leave out some of the {len(held)} secrets of a context,"
                f" which visits=secrets puts into public text; give {len(held)} or more"
            )
        own = [held[i % len(held)] for i in range(times)]
        return _scatter(texts, form.texts(own), seed, "canaries", "public")
    others = draw_references(
        form, times, {canary.index for canary in canaries}, seed, "public fillings"
    )
    return _scatter(texts, form.texts(others), seed, "canaries", "public")


def draw_references(
    form: CanaryFormat, count: int, without: set[int], seed: int, name: str
) -> list[int]:
    """Return different fillings, drawn from the stream ("canaries", name).

    Args:
        form: the format that is filled.
        count: how many fillings.
        without: fillings that are not drawn.
        seed: of the stream.
        name: of the stream.
    """
    if count + len(without) > form.size:
        raise SettingError(
            f"{count} references besides {len(without)} canaries are more than {form.size} fillings"
        )
    drawn = (
        numpy_stream(seed, "canaries", name)
        .choice(form.size, count + len(without), replace=False)
        .tolist()
    )
    return [index for index in drawn if index not in without][:count]


def candidate_sequences(
    form: CanaryFormat, vocabulary: Vocabulary, context: int, indices: Iterable[int] | None = None
) -> Int[Tensor, "n L"]:
    """Return fillings as token sequences for ``log_perplexity``: the separator, then the text.

    A tokenizer may split fillings into different numbers of tokens, or merge the prefix's end with
    a filling: whole texts are encoded, and shorter rows end in ``PAD``. Raises SettingError where
    one is longer than the context, in which case a model would never see it whole, and for more
    than a million fillings.

    Args:
        form: the format that is filled.
        vocabulary: turns texts into tokens.
        context: the most tokens of a filling.
        indices: of the fillings; all by default.
    """
    if indices is None:
        if form.size > MOST_CANDIDATES:
            raise SettingError(
                f"{form.size:,} fillings are too many to enumerate; give the references of"
                " draw_references instead"
            )
        indices = range(form.size)
    separator = separator_of(vocabulary)
    sequences = stack_sequences(
        [[separator, *vocabulary.encode(form.text(index))] for index in indices]
    )
    longest = sequences.shape[1] - 1
    if longest > context:
        worst = int((sequences != PAD).sum(dim=1).argmax())
        raise SettingError(
            f"a canary of {longest} tokens (filling {worst}) does not fit in a context of"
            f" {context}; lengthen the context or shorten the canary"
        )
    return sequences


def alphabet_of(form: CanaryFormat) -> str:
    """Return every character that a canary of this format may hold."""
    return "".join(sorted({*form.prefix, *form.suffix, *"".join(form.slots)}))


def _scatter(
    texts: Sequence[str], more: Sequence[str], seed: int, *path: str | int
) -> tuple[str, ...]:
    """Return ``texts`` one after the other with ``more`` among them, at drawn positions."""
    count = len(texts) + len(more)
    drawn = (
        set(numpy_stream(seed, *path).choice(count, len(more), replace=False).tolist())
        if more
        else set()
    )
    old, new = iter(texts), iter(more)
    return tuple(next(new) if position in drawn else next(old) for position in range(count))
