"""A scenario's canaries: which secrets are made up, who holds them, and their exposure to a model.

The settings class is a choice of the scenario; ``Secrets`` are those of one run. Not for: formats
and texts (``fedkd.tasks.text.text_canaries``), estimators (``fedkd.tasks.text.exposure``), the
models that are measured (``fedkd.audit.secret_exposure``).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedkd.data.sources import Named
from fedkd.errors import SettingError
from fedkd.runtime.devices import sent
from fedkd.runtime.seeding import torch_seed
from fedkd.settings.conditions import Compatible, RunConditions
from fedkd.settings.validators import at_least, check_choices, only_with
from fedkd.tasks.text.exposure import MOST_CANDIDATES, chance_exposure
from fedkd.tasks.text.form_secrets import FormSecrets, as_tokens
from fedkd.tasks.text.text_canaries import (
    DIGITS,
    LETTERS,
    Canary,
    CanaryFormat,
    Visits,
    add_contexts,
    candidate_sequences,
    draw_canaries,
    draw_references,
    insert,
)
from fedkd.tasks.text.tokens import next_token_logits
from fedkd.tasks.text.vocabulary import Vocabulary

CODES = {"d": DIGITS, "n": DIGITS[2:], "a": LETTERS}
"""The alphabet of a slot's letter: digits, digits from 2 on, small letters. Other characters stand
for themselves."""
NAME = "{name}"
"""The part of a prefix that each of ``names`` replaces."""


@dataclass(frozen=True, kw_only=True)
class NoCanaries(Compatible):
    """No made-up secrets: exposure is not measured."""

    forms: ClassVar[tuple[CanaryFormat, ...]] = ()


@dataclass(frozen=True, kw_only=True)
class TextCanaries(Compatible):
    """Made-up secrets in clients' texts, whose exposure says what predictions give away.

    The method is that of Carlini et al. 2019 (arXiv 1802.08232).
    """

    prefix: str
    """The text before a secret; no other text may hold it. With names it must hold {name}."""
    slots: str
    """The secret, a character each: d a digit, n a digit from 2 on, a a small letter; others stand
    for themselves."""
    suffix: str = ""
    """The text behind a secret."""
    names: tuple[str, ...] = ()
    """Words that replace {name} in the prefix, one context of its own each; none leaves the prefix
    as it is."""
    repeats: int = 10
    """Times that a client's text holds each of its secrets, >= 1."""
    per_client: int = 1
    """Secrets of each client behind each prefix, >= 1."""
    held_out: int = 8
    """Secrets behind each prefix that nobody holds, as controls, >= 1."""
    visits: Visits = "fillings"
    """How far public text visits the secrets' context: never (nothing is to be protected then), its
    prefix, the prefix with other fillings, or the secrets themselves."""
    visit_times: int | None = 40
    """Times that it visits each prefix; null with visits=never."""
    references: int | None = None
    """Fillings, drawn at random, that a secret is ranked among, >= 100; null is all of them, up to
    a million."""
    exact_below: int | None = None
    """Rank among all fillings, by a search, a secret that fewer of the references than this are
    preferred to, >= 1; null caps exposure at log2 references."""
    student: str | None = None
    """Language model of the students that the server distils, by name or package.module:factory;
    null is the first client's."""
    upload_history: bool = False
    """Whether one more adversary is measured, server_history: it distils the mean of a client's
    uploads of all rounds."""

    def __post_init__(self) -> None:
        check_choices(self)
        at_least(1, repeats=self.repeats, per_client=self.per_client, held_out=self.held_out)
        only_with(self.visits != "never", "visits=never", visit_times=self.visit_times)
        if self.visits != "never" and self.visit_times is None:
            raise SettingError(f"visit_times must be given with visits={self.visits}")
        self._check_names()
        size = self.forms[0].size
        only_with(
            self.references is not None,
            "references=null, which ranks among all fillings",
            exact_below=self.exact_below,
        )
        if self.exact_below is not None:
            at_least(1, exact_below=self.exact_below)
        if self.references is not None:
            at_least(100, references=self.references)
            if self.references >= size:
                raise SettingError(
                    f"references={self.references} are not fewer than the {size} fillings; leave"
                    " it out"
                )
        elif size > MOST_CANDIDATES:
            raise SettingError(
                f"references=null ranks among all fillings, and {size:,} are too many;"
                " give references=10000"
            )

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return the conflict with data that are no texts."""
        if conditions.data_kind == "texts":
            return None
        return (
            f"text_canaries={conditions.name_of('text_canaries')} are secrets in texts, and"
            f" data={conditions.name_of('data')} are {conditions.data_kind}"
        )

    @property
    def forms(self) -> tuple[CanaryFormat, ...]:
        """The formats that the settings describe, one for each name."""
        slots = tuple(CODES.get(code, code) for code in self.slots)
        prefixes = [self.prefix.replace(NAME, name) for name in self.names] or [self.prefix]
        return tuple(CanaryFormat(prefix, slots, self.suffix) for prefix in prefixes)

    def _check_names(self) -> None:
        if bool(self.names) != (NAME in self.prefix):
            raise SettingError(
                f"names and {NAME} in the prefix go together, got names={list(self.names)} and"
                f" prefix={self.prefix!r}; write the prefix as in 'pin of {{name}}: '"
            )
        prefixes = [form.prefix for form in self.forms]
        for i, one in enumerate(prefixes):
            for other in prefixes[:i] + prefixes[i + 1 :]:
                if one in other:
                    raise SettingError(
                        f"names must make prefixes of their own, but {one!r} occurs in {other!r}"
                    )


CANARIES: dict[str, type | Named] = {
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
    """The secrets of one run, by format."""

    settings: TextCanaries
    by_form: tuple[FormSecrets, ...]

    @property
    def inserted(self) -> tuple[Canary, ...]:
        """The secrets that clients hold, form by form."""
        return tuple(canary for form in self.by_form for canary in form.inserted)

    @property
    def controls(self) -> tuple[Canary, ...]:
        """The secrets that nobody holds, form by form."""
        return tuple(canary for form in self.by_form for canary in form.controls)

    @property
    def candidates(self) -> int:
        """How many candidates an inserted secret is ranked among, itself included."""
        first = self.by_form[0]
        if self.settings.references is not None and self.settings.exact_below is None:
            return self.settings.references + 1
        return first.form.size - len(first.inserted) + 1

    @property
    def references(self) -> int | None:
        """How many fillings were drawn to rank a secret among; None where all are candidates."""
        return self.settings.references

    @property
    def student(self) -> str | None:
        """The architecture of the server's students; None is the first client's."""
        return self.settings.student

    @property
    def ceiling(self) -> float:
        """The largest exposure that can be measured, in bits."""
        if self.settings.exact_below is not None:
            return math.log2(self.candidates)
        return math.log2(self.settings.references or self.candidates)

    @property
    def upload_history(self) -> bool:
        """Whether the adversary ``server_history`` is measured."""
        return self.settings.upload_history

    @property
    def chance(self) -> float:
        """The mean exposure in bits where every rank is as likely."""
        references = self.settings.references
        if references is None or self.settings.exact_below is not None:
            return chance_exposure(self.candidates)
        # The last of its references + 1 ranks counts as 0 bits too.
        return chance_exposure(references) * references / (references + 1)

    def of(self, client_id: int) -> tuple[Canary, ...]:
        """Return a client's secrets."""
        return tuple(canary for canary in self.inserted if canary.client == client_id)

    def not_of(self, client_id: int) -> tuple[Canary, ...]:
        """Return the other clients' secrets."""
        return tuple(canary for canary in self.inserted if canary.client != client_id)

    def insert_into(self, texts: Sequence[str], client_id: int) -> tuple[str, ...]:
        """Return a client's texts with its secrets among them."""
        for one in self.by_form:
            texts = insert(texts, one.form, one.inserted, client_id, one.seed)
        return tuple(texts)

    def add_contexts(self, texts: Sequence[str]) -> tuple[str, ...]:
        """Return public texts that visit the secrets' context as the settings say."""
        settings = self.settings
        for one in self.by_form:
            every = (*one.inserted, *one.controls)
            texts = add_contexts(
                texts, one.form, every, settings.visits, one.seed, times=settings.visit_times
            )
        return tuple(texts)

    def to_client(self, model: nn.Module, client_id: int, *, own: bool) -> tuple[float, ...] | None:
        """Return the exposures in bits of a client's ``own`` secrets, or its peers', to a model.

        Those of the controls follow. None where there are no such secrets.
        """
        canaries = self.of(client_id) if own else self.not_of(client_id)
        if not canaries:
            return None
        (found,) = self.exposures(model, [(*canaries, *self.controls)])
        return found

    def exposures(
        self, model: nn.Module, groups: Sequence[Sequence[Canary]]
    ) -> tuple[tuple[float, ...], ...]:
        """Return the exposure in bits of each secret of several groups to one model.

        Each format's candidates pass through the model once.
        """
        device = next(model.parameters()).device
        model.eval()

        def ask(ids: Tensor) -> Tensor:
            return next_token_logits(model, sent(ids, device))

        found: dict[tuple[int, int], float] = {}
        for index, one in enumerate(self.by_form):
            asked = [canary for group in groups for canary in group if canary.form == index]
            values = one.exposures(ask, asked) if asked else []
            found |= {(index, c.index): v for c, v in zip(asked, values, strict=True)}
        return tuple(tuple(found[c.form, c.index] for c in group) for group in groups)


def plant(
    settings: TextCanaries, vocabulary: Vocabulary, context: int, clients: int, seed: int
) -> Secrets:
    """Return the secrets of a run.

    Raises SettingError where one does not fit in the context, or there are too many.

    Args:
        settings: which secrets are made up.
        vocabulary: turns them into tokens.
        context: tokens of a window, which a secret with its prefix must fit in.
        clients: how many clients hold secrets.
        seed: the run's seed.
    """
    return Secrets(settings, tuple(_planted(settings, vocabulary, context, clients, seed)))


def _planted(
    settings: TextCanaries, vocabulary: Vocabulary, context: int, clients: int, seed: int
) -> Iterator[FormSecrets]:
    for index, form in enumerate(settings.forms):
        # One stream would give a client the same secret behind every name.
        own = torch_seed(seed, "text", "secrets of form", index) if settings.names else seed
        drawn = tuple(
            replace(canary, form=index)
            for canary in draw_canaries(
                form,
                [settings.repeats] * clients,
                own,
                held_out=settings.held_out,
                per_client=settings.per_client,
            )
        )
        indices, search = [canary.index for canary in drawn], None
        if settings.references is None:
            rows, row_of = candidate_sequences(form, vocabulary, context), {i: i for i in indices}
        else:
            references = draw_references(
                form, settings.references, set(indices), own, "exposure references"
            )
            rows = candidate_sequences(form, vocabulary, context, [*indices, *references])
            row_of = {index: row for row, index in enumerate(indices)}
            if settings.exact_below is not None:
                search = as_tokens(form, vocabulary, rows)
        yield FormSecrets(
            form=form,
            inserted=tuple(canary for canary in drawn if canary.client is not None),
            controls=tuple(canary for canary in drawn if canary.client is None),
            candidates=rows,
            row_of=row_of,
            sampled=settings.references is not None,
            seed=own,
            search=search,
            exact_below=settings.exact_below or 0,
        )


def median(values: Sequence[float]) -> float:
    """Return the middle value, the mean of the two in the middle of an even number."""
    return float(torch.tensor(values, dtype=torch.float64).quantile(0.5))
