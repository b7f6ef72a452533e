"""Which token positions may hold a secret: scores in [0, 1] for swing, by four detectors, and how
well they find them.

A position stands for the *next* token: its score is about what the model is going to say there.
``mark`` and the oracle read the text; ``surprisal_gap`` and ``confidence`` compare the model that
is going to release its predictions with a reference that never saw private text. The last two are
reconstructions: the paper (Li et al. 2022, arXiv 2212.08349) sets temperatures by how likely a
position holds private information, and its abstract does not say how that is found. Not for: what a
score does (``fedkd.privacy.adaptive_temperature``).
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
    """Return the positions whose next token lies, wholly or in part, in a match of a regular
    expression.

    It is searched in each window by itself; ``^`` and ``$`` mean its ends. A secret that the text
    does not hold, but whose context it visits, is not found.
    """
    return _marked(vocabulary, text, [(_compiled(pattern), 0) for pattern in patterns], reach=0)


def mark_context(vocabulary: Vocabulary, text: Windows, form: CanaryFormat) -> Bool[Tensor, "n L"]:
    """Return the positions at which a secret of a format could be said: the oracle, which others
    are held to.

    Those are, behind each occurrence of the format's prefix, the next tokens up to the last slot,
    whatever the text says there, but no farther than its next separator.
    """
    reach = sum(max(len(character.encode()) for character in alphabet) for alphabet in form.slots)
    return _marked(
        vocabulary, text, [(re.compile(re.escape(form.prefix).encode()), 1)], reach=reach
    )


def _marked(
    vocabulary: Vocabulary,
    text: Windows,
    patterns: Sequence[tuple[re.Pattern[bytes], int]],
    reach: int,
) -> Bool[Tensor, "n L"]:
    """Return positions whose target overlaps a match, or with ``reach`` the bytes that follow
    it.
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
        for place, (piece, end) in enumerate(zip(pieces[1:], ends[1:], strict=True)):
            flagged[row, place] = any(end - len(piece) < b and a < end for a, b in spans)
    return flagged


def _compiled(pattern: str) -> re.Pattern[bytes]:
    try:
        return re.compile(pattern.encode())
    except re.error as error:
        raise SettingError(f"patterns: {pattern!r} is no regular expression: {error}") from error


def surprisal_gap(
    logits: Float[Tensor, "N V"], reference_logits: Float[Tensor, "N V"], full: float = 8.0
) -> Float[Tensor, "N"]:
    """Return how much likelier a model finds its own favorite token than the reference does, from 0
    to ``full`` bits.

        s = clamp((log2 p(v) - log2 p_ref(v)) / full, 0, 1),   v = argmax p

    The favorite, not the public text's next token: the text never says the secret. Equal models
    give 0 everywhere.

    >>> surprisal_gap(torch.tensor([[9.0, 0.0]]), torch.tensor([[0.0, 0.0]]), full=2.0).round(decimals=3).tolist()
    [0.5]
    """
    own, other = torch.log_softmax(logits, dim=-1), torch.log_softmax(reference_logits, dim=-1)
    favorite = own.argmax(dim=-1, keepdim=True)
    gap = (own - other).gather(1, favorite).squeeze(1) / math.log(2)
    return (gap / full).clamp(0, 1)


def confidence(
    logits: Float[Tensor, "N V"], reference_logits: Float[Tensor, "N V"]
) -> Float[Tensor, "N"]:
    """Return how sure a model is of what the reference does not say: ``(1 - H(p) / ln V) * (1 -
    agreement)``.

    ``agreement = sum_v min(p(v), p_ref(v))``, 1 where both say the same. Equal models, and one that
    is unsure, give 0.
    """
    probs, other = torch.softmax(logits, dim=-1), torch.softmax(reference_logits, dim=-1)
    entropy = -torch.xlogy(probs, probs).sum(dim=-1)
    agreement = torch.minimum(probs, other).sum(dim=-1)
    return ((1 - entropy / math.log(probs.shape[-1])) * (1 - agreement)).clamp(0, 1)


@dataclass(frozen=True)
class Found:
    """How well scores find the positions that matter: shares in [0, 1], NaN as a share of
    nothing.
    """

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
