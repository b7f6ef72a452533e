"""Texts cut into windows of equal length, inputs [n, L] with the next token at each position.

A position (a cell of the window) is what a language model predicts on: n L rows over the
vocabulary. Not for: choosing texts (``fedkd.tasks.text.corpus``).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from fedkd.errors import SettingError
from fedkd.settings.validators import at_least
from fedkd.tasks.text.vocabulary import Vocabulary, separator_of

IGNORED = -100
"""The target of a position that nothing is learned from or measured at: what fills up a window."""


@dataclass(frozen=True)
class Windows:
    """``inputs`` [n, L] and ``targets`` [n, L], the tokens that follow.

    A target is ``IGNORED`` where none follows.
    """

    inputs: Int[Tensor, "n L"]
    targets: Int[Tensor, "n L"]

    def to(self, device: torch.device) -> "Windows":
        """Return the windows on a device."""
        return Windows(self.inputs.to(device), self.targets.to(device))

    @property
    def real(self) -> Bool[Tensor, "n L"]:
        """Which positions have a target."""
        return self.targets != IGNORED

    @property
    def positions(self) -> int:
        """How many positions have a target."""
        return int(self.real.sum())


def windows(
    vocabulary: Vocabulary, texts: Sequence[str], context: int, *, whose: str = "the text"
) -> Windows:
    """Return texts packed into windows of ``context`` positions, one text after the other.

    A separator stands before and behind each. A text of at most ``context`` tokens is never cut, so
    that every token of it is predicted from all that precede it; a longer one is cut into pieces
    that share no context. What is left of a window is ignored. Raises SettingError where there is
    no text, naming ``whose`` it is.

    >>> from fedkd.tasks.text.vocabulary import Characters
    >>> cut = windows(Characters("ab"), ["ab", "ab"], context=4)
    >>> cut.inputs.tolist(), cut.targets.tolist()
    ([[2, 0, 1, 2], [2, 0, 1, 2]], [[0, 1, 2, -100], [0, 1, 2, -100]])

    Args:
        vocabulary: turns texts into tokens.
        texts: what is cut; empty ones are left out.
        context: positions of a window, >= 2.
        whose: names the texts in an error.
    """
    at_least(2, context=context)
    separator = separator_of(vocabulary)
    if not any(texts):
        raise SettingError(
            f"{whose} is empty: there is nothing to make windows of; give it texts, or leave it out"
        )
    rows: list[list[int]] = []
    row: list[int] = []
    for text in filter(None, texts):
        tokens = vocabulary.encode(text)
        # A row's context + 1 tokens make `context` positions: the first is an input only, the last
        # a target only.
        if row and len(row) + 1 + len(tokens) > context + 1:
            rows.append(_ended(row, separator, context))
            row = []
        row += [separator, *tokens]
        while len(row) > context + 1:
            rows.append(row[: context + 1])
            row = row[context:]  # the last target is the next input
    if len(row) > 1 or not rows:
        rows.append(_ended(row, separator, context))
    targets = torch.tensor([[*row[1:], *[IGNORED] * (context + 1 - len(row))] for row in rows])
    inputs = torch.tensor([[*row[:-1], *[separator] * (context + 1 - len(row))] for row in rows])
    return Windows(inputs, targets)


def windows_of_each(
    vocabulary: Vocabulary,
    texts: Sequence[str],
    context: int,
    *,
    most: int | None = None,
    whose: str = "the text",
) -> tuple[Windows, int]:
    """Return windows that hold one text each, and the most that any text has.

    A text is cut as ``windows`` cuts it, and what is left of its last window is ignored; its
    windows behind the first ``most`` are left out. Taking a text away changes no other's windows.

    >>> from fedkd.tasks.text.vocabulary import Characters
    >>> cut, largest = windows_of_each(Characters("ab"), ["a", "ababa"], context=4)
    >>> cut.inputs.tolist(), largest
    ([[2, 0, 2, 2], [2, 0, 1, 0], [1, 0, 2, 2]], 2)

    Args:
        vocabulary: turns texts into tokens.
        texts: what is cut; empty ones are left out.
        context: positions of a window, >= 2.
        most: windows of a text, >= 1; None keeps all.
        whose: names the texts in an error.
    """
    each = [windows(vocabulary, [text], context, whose=whose) for text in filter(None, texts)]
    if not each:
        return windows(vocabulary, texts, context, whose=whose), 0  # raises
    inputs = torch.cat([text.inputs[:most] for text in each])
    targets = torch.cat([text.targets[:most] for text in each])
    return Windows(inputs, targets), max(len(text.inputs[:most]) for text in each)


def _ended(row: list[int], separator: int, context: int) -> list[int]:
    return [*row, separator] if len(row) <= context else row
