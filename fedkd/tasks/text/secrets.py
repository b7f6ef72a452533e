"""A scenario's canaries: which secrets are made up, who holds them, and how far they come out of a
model.

The settings class is a choice of the scenario; ``Secrets`` is what it comes to in one run. Not for:
formats and texts (``fedkd.tasks.text.text_canaries``), the estimators
(``fedkd.tasks.text.exposure``), who measures which model (``fedkd.audit.secret_exposure``).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from fedkd.data.sources import Named
from fedkd.errors import SettingError
from fedkd.settings.validators import at_least, one_of, only_with
from fedkd.tasks.text.exposure import MOST_CANDIDATES, by_sampling, from_bits, log_perplexity
from fedkd.tasks.text.text_canaries import (
    DIGITS,
    LETTERS,
    Canary,
    CanaryFormat,
    Visits,
    candidate_sequences,
    draw_canaries,
    draw_references,
    insert,
    visit,
)
from fedkd.tasks.text.tokens import next_token_logits
from fedkd.tasks.text.vocabulary import Vocabulary

CODES = {"d": DIGITS, "n": DIGITS[2:], "a": LETTERS}
"""What a slot's letter stands for: a digit, one from 2 on, a small letter. Other characters stand
for themselves."""


@dataclass(frozen=True, kw_only=True)
class NoCanaries:
    """No made-up secrets: exposure is not measured."""


@dataclass(frozen=True, kw_only=True)
class TextCanaries:
    """Made-up secrets in clients' texts, whose exposure says what predictions give away (Carlini et
    al. 2019).
    """

    prefix: str
    """The text before a secret; no other text may hold it."""
    slots: str
    """The secret, a character each: d a digit, n a digit from 2 on, a a small letter; others stand
    for themselves."""
    suffix: str = ""
    """The text behind a secret."""
    repeats: int = 10
    """Times that a client's text holds each of its secrets, >= 1."""
    per_client: int = 1
    """Secrets of each client, >= 1."""
    held_out: int = 8
    """Secrets that nobody holds, as controls, >= 1."""
    visits: Visits = "fillings"
    """How far public text visits the secrets' context: never (nothing is to be protected then), its
    prefix, or the prefix with other fillings."""
    visit_times: int | None = 40
    """How often it does; null with visits=never."""
    references: int | None = None
    """Fillings, drawn at random, that a secret is ranked among, >= 100; null is all of them, up to
    a million."""

    def __post_init__(self) -> None:
        at_least(1, repeats=self.repeats, per_client=self.per_client, held_out=self.held_out)
        one_of(("never", "prefix", "fillings"), visits=self.visits)
        only_with(self.visits != "never", "visits=never", visit_times=self.visit_times)
        if self.visits != "never" and self.visit_times is None:
            raise SettingError(f"visit_times must be given with visits={self.visits}")
        if self.references is not None:
            at_least(100, references=self.references)
            if self.references >= self.form.size:
                raise SettingError(
                    f"references={self.references} are not fewer than the {self.form.size}"
                    " fillings; leave it out"
                )
        elif self.form.size > MOST_CANDIDATES:
            raise SettingError(
                f"references=null ranks among all fillings, and {self.form.size:,} are too many;"
                " give references=10000"
            )

    @property
    def form(self) -> CanaryFormat:
        """The format that the settings describe."""
        return CanaryFormat(
            self.prefix, tuple(CODES.get(code, code) for code in self.slots), self.suffix
        )


CANARIES: dict[str, Any] = {
    "none": NoCanaries,
    "pin": Named(TextCanaries, {"prefix": "my pin is ", "slots": "ddddd"}),
    "phone": Named(TextCanaries, {"prefix": "call me at 555-", "slots": "nd-ddd"}),
    "email": Named(
        TextCanaries, {"prefix": "write to ", "slots": "aaaa", "suffix": "@example.org"}
    ),
    "form": TextCanaries,
}


@dataclass(frozen=True, eq=False)
class Secrets:
    """The secrets of one run, and the candidates [R, L] that they are ranked among, as token
    sequences.

    ``row_of`` is a canary's row among them. Where ``references`` are drawn, the canaries' rows come
    first.
    """

    settings: TextCanaries
    inserted: tuple[Canary, ...]
    controls: tuple[Canary, ...]
    candidates: Int[Tensor, "R L"]
    row_of: dict[int, int]
    seed: int

    @property
    def ceiling(self) -> float:
        """The largest exposure that can be measured, in bits."""
        return math.log2(self.settings.references or self.settings.form.size)

    def of(self, client_id: int) -> tuple[Canary, ...]:
        """Return a client's secrets."""
        return tuple(canary for canary in self.inserted if canary.client == client_id)

    def not_of(self, client_id: int) -> tuple[Canary, ...]:
        """Return the other clients' secrets."""
        return tuple(canary for canary in self.inserted if canary.client != client_id)

    def insert_into(self, texts: Sequence[str], client_id: int) -> tuple[str, ...]:
        """Return a client's texts with its secrets among them."""
        return insert(texts, self.settings.form, self.inserted, client_id, self.seed)

    def visit(self, texts: Sequence[str]) -> tuple[str, ...]:
        """Return public texts that visit the secrets' context as the settings say."""
        settings, every = self.settings, (*self.inserted, *self.controls)
        return visit(
            texts, settings.form, every, settings.visits, self.seed, times=settings.visit_times
        )

    def exposures(
        self, model: nn.Module, groups: Sequence[Sequence[Canary]]
    ) -> tuple[tuple[float, ...], ...]:
        """Return the exposure in bits of each canary of several groups to one model, from one pass
        over candidates.
        """
        device = next(model.parameters()).device
        model.eval()
        bits = log_perplexity(
            lambda ids: next_token_logits(model, ids.to(device)).cpu(), self.candidates
        )
        drawn = bits[len(self.row_of) :] if self.settings.references is not None else None

        def exposure(canary: Canary) -> float:
            row = self.row_of[canary.index]
            return (
                from_bits(bits, row).bits
                if drawn is None
                else by_sampling(float(bits[row]), drawn).bits
            )

        return tuple(tuple(exposure(canary) for canary in group) for group in groups)


def plant(
    settings: TextCanaries, vocabulary: Vocabulary, context: int, clients: int, seed: int
) -> Secrets:
    """Return a run's secrets. Raises SettingError where one does not fit in the context, or there
    are too many.
    """
    form = settings.form
    drawn = draw_canaries(
        form,
        [settings.repeats] * clients,
        seed,
        held_out=settings.held_out,
        per_client=settings.per_client,
    )
    indices = [canary.index for canary in drawn]
    if settings.references is None:
        sequences, row_of = candidate_sequences(form, vocabulary, context), {i: i for i in indices}
    else:
        references = draw_references(
            form, settings.references, set(indices), seed, "exposure references"
        )
        sequences = candidate_sequences(form, vocabulary, context, [*indices, *references])
        row_of = {index: row for row, index in enumerate(indices)}
    inserted = tuple(canary for canary in drawn if canary.client is not None)
    return Secrets(
        settings, inserted, tuple(c for c in drawn if c.client is None), sequences, row_of, seed
    )


def median(values: Sequence[float]) -> float:
    """Return the middle value, the mean of the two in the middle of an even number."""
    return float(torch.tensor(values, dtype=torch.float64).quantile(0.5))
