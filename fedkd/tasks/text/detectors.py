"""Detectors that read a text: which token positions may hold a secret, and how good scores are.

A position stands for the *next* token: a mark is about what a model is going to say there. Not for:
detectors that compare predictions, nor what a score does (``fedkd.privacy.mechanisms.swing``).
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fedkd.errors import SettingError
from fedkd.tasks.text.text_canaries import CanaryFormat
from fedkd.tasks.text.vocabulary import Vocabulary
from fedkd.tasks.text.windows import IGNORED, Windows

PATTERNS: tuple[str, ...] = (r"\d", r"[\w.+-]+@[\w-]+(\.[\w-]+)*", r"\b(Mr|Mrs|Ms|Dr)\.? [A-Z]\w+")
"""Digits, e-mail addresses, and names behind a title."""


def mark(
    vocabulary: Vocabulary, text: Windows, patterns: Sequence[str] = PATTERNS
) -> Bool[Tensor, "n L"]:
    """Return the positions whose next token lies in a match of a regular expression, or in part.

    It is searched in each window by itself; ``^`` and ``$`` mean its ends. A secret that the text
    does not hold, but whose context it visits, is not found.
    """
    return _marked(vocabulary, text, [(_compiled(pattern), 0) for pattern in patterns], reach=0)


def mark_contexts(
    vocabulary: Vocabulary, text: Windows, forms: Sequence[CanaryFormat]
) -> Bool[Tensor, "n L"]:
    """Return the positions at which a secret of some formats could be said: the oracle.

    Those are, behind each occurrence of a format's prefix, the next tokens up to the last slot, for
    any text that stands there, but no farther than its next separator.
    """
    flagged = torch.zeros_like(text.targets, dtype=torch.bool)
    for form in forms:
        reach = sum(max(len(letter.encode()) for letter in alphabet) for alphabet in form.slots)
        prefix = re.compile(re.escape(form.prefix).encode())
        flagged |= _marked(vocabulary, text, [(prefix, 1)], reach=reach)
    return flagged


def _marked(
    vocabulary: Vocabulary,
    text: Windows,
    patterns: Sequence[tuple[re.Pattern[bytes], int]],
    reach: int,
) -> Bool[Tensor, "n L"]:
    """Return positions whose target overlaps a match, or the ``reach`` bytes that follow it.

    Args:
        vocabulary: of the text's tokens.
        text: windows of tokens.
        patterns: regular expressions, each with 1 where the bytes that follow it count, else 0.
        reach: how many bytes follow.
    """
    flagged = torch.zeros_like(text.targets, dtype=torch.bool)
    for row, (inputs, targets) in enumerate(
        zip(text.inputs.tolist(), text.targets.tolist(), strict=True)
    ):
        tokens = [inputs[0], *(target for target in targets if target != IGNORED)]
        # A separator is a byte that no UTF-8 text has, so that no match runs across it.
        pieces = [vocabulary.token_bytes(token) or b"\xff" for token in tokens]
        ends = torch.tensor([len(piece) for piece in pieces]).cumsum(0).tolist()
        line = b"".join(pieces)
        spans = []
        for pattern, follows in patterns:
            for match in pattern.finditer(line):
                if follows:
                    stop = line.find(b"\xff", match.end())
                    last = (
                        len(line) if stop < 0 else stop + 1
                    )  # the separator in the place of a slot counts
                    spans.append((match.end(), min(match.end() + reach, last)))
                else:
                    spans.append(match.span())
        for position, (piece, end) in enumerate(zip(pieces[1:], ends[1:], strict=True)):
            flagged[row, position] = any(end - len(piece) < b and a < end for a, b in spans)
    return flagged


def _compiled(pattern: str) -> re.Pattern[bytes]:
    try:
        return re.compile(pattern.encode())
    except re.error as error:
        raise SettingError(f"patterns: {pattern!r} is no regular expression: {error}") from error


@dataclass(frozen=True)
class Found:
    """Recall and precision of scores: shares in [0, 1], NaN as a share of nothing."""

    recall: float
    precision: float


def compare_scores(
    scores: Float[Tensor, "N"], truth: Bool[Tensor, "N"], threshold: float = 0.5
) -> Found:
    """Return recall and precision of the positions with a score of at least ``threshold``.

    >>> compare_scores(torch.tensor([0.9, 0.6, 0.1]), torch.tensor([True, False, True]))
    Found(recall=0.5, precision=0.5)
    """
    found = scores >= threshold
    both = int((found & truth).sum())

    def out_of(count: int) -> float:
        return both / count if count else math.nan

    return Found(recall=out_of(int(truth.sum())), precision=out_of(int(found.sum())))
