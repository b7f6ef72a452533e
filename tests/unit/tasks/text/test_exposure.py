"""Exposure against a slow second implementation, and against chance."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_language import VOCABULARY, Toy

from fedkd.errors import SettingError
from fedkd.tasks.text.exposure import (
    among_all,
    by_sampling,
    chance_exposure,
    log_perplexity,
    rank_of,
)
from fedkd.tasks.text.tokens import PAD, stack_sequences


def brute_force(model: Toy, sequence: list[int]) -> float:
    bits = 0.0
    for t in range(1, len(sequence)):
        probs = torch.softmax(model(torch.tensor([sequence[:t]]))[0, -1].double(), dim=-1)
        bits += -math.log2(probs[sequence[t]].item())
    return bits


@st.composite
def candidates(draw: st.DrawFn) -> list[list[int]]:
    rows = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=5).map(lambda x: [0, *x])
    return draw(st.lists(rows, min_size=1, max_size=12))


@given(candidates(), st.integers(0, 9), st.integers(1, 4))
def test_log_perplexity_is_the_sum_of_bits_of_every_token_whatever_the_lengths(rows, seed, batch):
    model = Toy(seed)
    bits = log_perplexity(model, stack_sequences(rows), batch=batch)
    np.testing.assert_allclose(bits, [brute_force(model, row) for row in rows], atol=1e-5)
    assert model.widest <= batch


@given(candidates(), st.integers(0, 9), st.randoms(use_true_random=False))
def test_enumeration_is_the_definition(rows, seed, random):
    model, secret = Toy(seed), random.randrange(len(rows))
    bits = [brute_force(model, row) for row in rows]
    rank = sum(b <= bits[secret] + 1e-5 for b in bits)
    found = among_all(log_perplexity(model, stack_sequences(rows)), secret)
    assert found == pytest.approx(math.log2(len(rows) / rank))


def test_a_hf_style_output_is_read():
    model = Toy(0)
    wrapped = lambda ids: type("Output", (), {"logits": model(ids)})()  # noqa: E731
    rows = stack_sequences([[0, 1, 2], [0, 3, 4]])
    assert (log_perplexity(wrapped, rows) == log_perplexity(model, rows)).all()


def test_ties_count_against_the_secret():
    uniform = lambda ids: torch.zeros(*ids.shape, VOCABULARY)  # noqa: E731
    rows = stack_sequences([[0, a, b] for a in range(5) for b in range(5)])
    assert among_all(log_perplexity(uniform, rows), secret=7) == 0
    assert rank_of(np.array([1.0, 1.0, 1.0]), 0) == 3


def test_rank_is_no_index_of_a_sort():
    """argsort(bits)[secret] would say 3 here."""
    bits = np.array([40.0, 10.0, 20.0, 30.0])
    assert [rank_of(bits, i) for i in range(4)] == [4, 1, 2, 3]
    assert [among_all(bits, i) for i in range(4)] == pytest.approx([0, 2, 1, 2 - math.log2(3)])


def test_a_canary_that_was_never_inserted_averages_chance():
    """Over 400 secrets, the mean of exposure lies within 3.5 standard errors of chance, and 1 bit
    more does not."""
    model, rows = (
        Toy(3),
        stack_sequences(
            [
                [0, a, b, c, d]
                for a in range(5)
                for b in range(5)
                for c in range(5)
                for d in range(5)
            ]
        ),
    )
    bits = log_perplexity(model, rows)
    secrets = np.random.default_rng(0).choice(len(rows), 400, replace=False)
    found = np.array([among_all(bits, int(s)) for s in secrets])
    error = found.std() / math.sqrt(len(found))
    assert abs(found.mean() - chance_exposure(len(rows))) < 3.5 * error
    assert abs(found.mean() - 1 / math.log(2)) < 3.5 * error
    assert abs(found.mean() - 1 - 1 / math.log(2)) > 3.5 * error


@given(st.integers(1, 40))
def test_chance_is_the_mean_over_all_ranks(n: int):
    assert chance_exposure(n) == pytest.approx(
        np.mean([math.log2(n / rank) for rank in range(1, n + 1)]), abs=1e-9
    )


@given(st.lists(st.floats(0, 50), min_size=1, max_size=30), st.floats(0, 50))
def test_sampling_stays_between_zero_and_its_cap(references, secret):
    exposure = by_sampling(secret, np.array(references))
    assert 0 <= exposure <= math.log2(len(references)) + 1e-12


def test_sampling_comes_near_enumeration():
    """On 100,000 normal log-perplexities; where the secret is the least perplexing it is capped."""
    stream = np.random.default_rng(1)
    everyone = stream.normal(30, 4, 100_000)
    everyone[0] = 20.0
    references = stream.choice(everyone[1:], 4000, replace=False)
    assert by_sampling(20.0, references) == pytest.approx(among_all(everyone, 0), abs=0.5)
    assert by_sampling(0.0, references) == math.log2(4000)


@given(st.lists(st.floats(0, 50), min_size=3, max_size=12), st.data())
def test_secrets_left_out_are_as_if_they_had_never_been_candidates(values, data):
    bits = np.array(values)
    secret = data.draw(st.integers(0, len(bits) - 1))
    without = data.draw(st.sets(st.integers(0, len(bits) - 1)))
    left = [i for i in range(len(bits)) if i == secret or i not in without]
    assert among_all(bits, secret, without) == among_all(bits[left], left.index(secret))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[0]], "a token before the first"),
        ([[0, 1], [1, 2]], "begin with one common token"),
        ([[0, PAD, 1], [0, 1, 1]], "only behind its last token"),
    ],
)
def test_rows_that_cannot_be_scored_are_errors(rows, message):
    with pytest.raises(SettingError, match=message):
        log_perplexity(Toy(0), torch.tensor(rows))


def test_sampling_needs_a_reference():
    with pytest.raises(SettingError, match="at least one reference"):
        by_sampling(1.0, np.array([]))


def test_a_model_of_nans_is_an_error():
    with pytest.raises(SettingError, match="NaN"):
        log_perplexity(lambda ids: torch.full((*ids.shape, 4), math.nan), torch.tensor([[0, 1]]))


def test_nothing_is_ranked_where_all_is_impossible():
    impossible = torch.tensor([0.0, -math.inf])
    bits = log_perplexity(
        lambda ids: impossible.expand(*ids.shape, 2), torch.tensor([[0, 0], [0, 1]])
    )
    assert bits.tolist() == [0.0, math.inf]
    assert among_all(bits, 1) == 0
