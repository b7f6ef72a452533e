"""The secrets of one format in a run, and how far a model ranks them above other fillings.

Not for: which secrets a run has (``fedkd.tasks.text.secrets``), estimators of exposure
(``fedkd.tasks.text.exposure``).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from fedkd.errors import SettingError
from fedkd.tasks.text.exposure import TIE, among_all, by_sampling, log_perplexity
from fedkd.tasks.text.likely_fillings import TokenSlots, likely_fillings
from fedkd.tasks.text.text_canaries import Canary, CanaryFormat
from fedkd.tasks.text.tokens import PAD, CausalModel
from fedkd.tasks.text.vocabulary import Vocabulary, separator_of


@dataclass(frozen=True, eq=False)
class FormSecrets:
    """The secrets of one format in a run, and their candidates [R, L] as token sequences.

    ``row_of`` is a secret's row among the candidates. Where references are ``sampled``, the
    secrets' rows come first.
    """

    form: CanaryFormat
    inserted: tuple[Canary, ...]
    controls: tuple[Canary, ...]
    candidates: Int[Tensor, "R L"]
    row_of: dict[int, int]
    sampled: bool
    seed: int
    search: TokenSlots | None = None
    """The format as tokens, where a search finds ranks that a sample is too small for."""
    exact_below: int = 0
    """References from which on a sample is large enough."""

    def exposures(self, model: CausalModel, canaries: Sequence[Canary]) -> list[float]:
        """Return the exposures in bits of some secrets to a model.

        Other inserted secrets are no candidates: a model may well have learned them too.
        """
        bits = log_perplexity(model, self.candidates)
        rows = [self.row_of[canary.index] for canary in canaries]
        if not self.sampled:
            others = [self.row_of[other.index] for other in self.inserted]
            return [among_all(bits, row, others) for row in rows]
        references = np.sort(bits[len(self.row_of) :])
        found = [by_sampling(float(bits[row]), references) for row in rows]
        before = np.searchsorted(references, bits[rows] + TIE, side="right")
        if self.search is None or not (before < self.exact_below).any():
            return found
        few = (before < self.exact_below).nonzero()[0].tolist()
        ranked = likely_fillings(model, self.search, float(bits[rows][few].max()))
        if ranked is not None:
            for i in few:
                found[i] = self._among_likely(ranked, canaries[i], float(bits[rows[i]]))
        return found

    def _among_likely(
        self,
        ranked: tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n"]],
        canary: Canary,
        bits: float,
    ) -> float:
        """Return a secret's exposure among all fillings, of which the likely ones are known."""
        index, found = ranked
        others = [other.index for other in self.inserted if other.index != canary.index]
        beaten = ~np.isin(index, [*others, canary.index]) & (found <= bits + TIE)
        return math.log2(self.form.size - len(others)) - math.log2(1 + int(beaten.sum()))


def as_tokens(form: CanaryFormat, vocabulary: Vocabulary, rows: Int[Tensor, "n L"]) -> TokenSlots:
    """Return a format as tokens. Raises SettingError where one may stand for several characters."""
    slots = [[vocabulary.encode(letter) for letter in alphabet] for alphabet in form.slots]
    start, end = vocabulary.encode(form.prefix), vocabulary.encode(form.suffix)
    length = 1 + len(start) + len(slots) + len(end)
    single = all(len(tokens) == 1 for slot in slots for tokens in slot)
    if not single or rows.shape[1] != length or (rows == PAD).any():
        raise SettingError(
            "exact_below needs a vocabulary with one token for each character of a secret; take"
            " tokens.vocabulary=characters, or leave it out"
        )
    return TokenSlots(
        start=(separator_of(vocabulary), *start),
        slots=tuple(tuple(tokens[0] for tokens in slot) for slot in slots),
        end=tuple(end),
    )
