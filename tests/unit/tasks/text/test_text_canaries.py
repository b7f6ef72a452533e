"""Canaries are drawn, inserted and held out as they say; the public text visits them as far as it
says."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedkd.errors import SettingError
from fedkd.scenario.registry import create
from fedkd.tasks.text.corpus import embedded_corpus
from fedkd.tasks.text.exposure import log_perplexity
from fedkd.tasks.text.secrets import CANARIES
from fedkd.tasks.text.text_canaries import (
    DIGITS,
    CanaryFormat,
    add_contexts,
    alphabet_of,
    candidate_sequences,
    draw_canaries,
    draw_references,
    insert,
)
from fedkd.tasks.text.tokens import PAD
from fedkd.tasks.text.vocabulary import Bytes, Characters, decode, learn_byte_pairs

TEXTS = embedded_corpus(40).texts
PIN = CanaryFormat("my pin is ", (DIGITS,) * 5)
SMALL = CanaryFormat("code ", ("ab", "-", DIGITS[:3]), "!")


def test_fillings_are_numbered_from_first_to_last():
    assert SMALL.texts(range(SMALL.size)) == [f"code {a}-{b}!" for a in "ab" for b in "012"]


NAMED = [name for name in CANARIES if name not in ("none", "form")]


@pytest.mark.parametrize("name", NAMED)
@given(data=st.data())
def test_every_filling_of_a_format_is_a_text_of_its_own(name, data):
    (form,) = create("text_canaries", {"name": name}).value.forms
    one, other = data.draw(st.tuples(st.integers(0, form.size - 1), st.integers(0, form.size - 1)))
    assert (form.text(one) == form.text(other)) == (one == other)
    assert form.size <= 1_000_000
    assert set(form.text(one)) <= set(alphabet_of(form))


def test_a_client_holds_its_canary_as_often_as_it_says_and_a_control_is_held_by_nobody():
    form = PIN
    canaries = draw_canaries(form, [0, 3, 8], seed=1, held_out=4)
    assert [(c.client, c.repeats) for c in canaries] == [(1, 3), (2, 8), *[(None, 0)] * 4]
    assert len({c.index for c in canaries}) == 6
    for client, expected in enumerate([0, 3, 8]):
        texts = insert(TEXTS, form, canaries, client, seed=1)
        assert [x for x in texts if not x.startswith(form.prefix)] == list(TEXTS)
        assert [x for x in texts if x.startswith(form.prefix)] == form.texts(
            c.index for c in canaries if c.client == client
        ) * expected
    assert draw_canaries(form, [0, 3, 8], seed=1, held_out=4) == canaries
    assert draw_canaries(form, [0, 3, 8], seed=2, held_out=4) != canaries


def test_public_text_visits_the_context_at_each_level():
    form = PIN
    canaries = draw_canaries(form, [5, 5], seed=0, held_out=2)
    assert add_contexts(TEXTS, form, canaries, "never", 0) == TEXTS
    bare = add_contexts(TEXTS, form, canaries, "prefix", 0, times=6)
    assert [x for x in bare if form.prefix in x] == [form.prefix] * 6
    filled = [
        x for x in add_contexts(TEXTS, form, canaries, "fillings", 0, times=500) if form.prefix in x
    ]
    assert len(set(filled)) == 500
    assert not set(filled) & set(form.texts(c.index for c in canaries))
    own = form.texts(c.index for c in canaries if c.client is not None)
    held = [
        x for x in add_contexts(TEXTS, form, canaries, "secrets", 0, times=5) if form.prefix in x
    ]
    assert held == [own[0], own[1], own[0], own[1], own[0]]


@given(st.integers(0, 50))
def test_references_are_different_fillings_without_the_secrets(seed):
    secrets = {c.index for c in draw_canaries(SMALL, [1], seed, held_out=1)}
    assert sorted([*draw_references(SMALL, 4, secrets, seed, "test"), *secrets]) == list(range(6))


@pytest.mark.parametrize("vocabulary", [Bytes(), Characters(alphabet_of(SMALL))])
def test_candidates_are_the_fillings_behind_a_separator(vocabulary):
    rows = candidate_sequences(SMALL, vocabulary, context=9)
    assert rows[:, 0].tolist() == [vocabulary.size - 1] * 6
    assert [decode(vocabulary, row[1:].tolist()) for row in rows] == SMALL.texts(range(6))


def test_candidates_of_different_lengths_are_summed_not_averaged():
    """Under a uniform model a longer row costs more bits. Its mean a token would be that of a
    shorter one."""
    pytest.importorskip("tokenizers")
    form = replace(PIN, slots=(DIGITS,) * 3)
    vocabulary = learn_byte_pairs(["my pin is 777", "my pin is 77"] * 50, 290)
    rows = candidate_sequences(form, vocabulary, context=24)
    lengths = (rows != PAD).sum(dim=1)
    assert lengths[777] < lengths[123]
    bits = log_perplexity(lambda ids: torch.zeros(*ids.shape, 8), rows.clamp(max=7))
    assert bits.tolist() == pytest.approx([3.0 * (n - 1) for n in lengths.tolist()])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: candidate_sequences(SMALL, Bytes(), 3),
            "a canary of [0-9]+ tokens .* context of 3",
        ),
        (lambda: candidate_sequences(PIN, Characters("abc"), 20), "no token for 'm'"),
        (
            lambda: candidate_sequences(CanaryFormat("x", (DIGITS,) * 7), Bytes(), 20),
            "too many to enumerate",
        ),
        (lambda: CanaryFormat("", (DIGITS,)), "needs a prefix"),
        (lambda: CanaryFormat("a", ("0",)), "two fillings or more"),
        (lambda: CanaryFormat("a", ("00",)), "distinct characters"),
        (lambda: SMALL.text(6), "0 to 5, got 6"),
        (lambda: draw_canaries(SMALL, [0, 0], 0), "leave no canary"),
        (lambda: draw_canaries(SMALL, [1], 0, held_out=3), "more than half"),
        (lambda: draw_canaries(SMALL, [-1], 0), "repeats must be >= 0"),
        (
            lambda: add_contexts(["code a"], SMALL, (), "never", 0),
            "already holds the canary's prefix",
        ),
        (lambda: add_contexts(TEXTS, SMALL, (), "never", 0, times=3), "would do nothing"),
        (lambda: add_contexts(TEXTS, SMALL, (), "prefix", 0), "times must be given"),
        (
            lambda: add_contexts(
                TEXTS, PIN, draw_canaries(PIN, [5, 5], seed=0), "secrets", 0, times=1
            ),
            "leave out some of the 2 secrets",
        ),
        (lambda: draw_references(SMALL, 6, {1}, 0, "test"), "more than 6 fillings"),
    ],
)
def test_what_cannot_be_measured_is_an_error(make, message):
    with pytest.raises(SettingError, match=message):
        make()
