"""Exposure against a slow second implementation, and against chance."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedkd.errors import SettingError
from fedkd.tasks.text.exposure import (
    CHANCE_BITS,
    _log_skew_normal_cdf,
    by_enumeration,
    by_extrapolation,
    by_sampling,
    chance_exposure,
    from_bits,
    log_perplexity,
    rank_of,
)
from fedkd.tasks.text.tokens import PAD, stack_sequences

VOCABULARY = 5


class Toy:
    """A causal model with a random distribution for every history: logits depend on the sum of
    hashed tokens."""

    def __init__(self, seed: int) -> None:
        stream = torch.Generator().manual_seed(seed)
        self.table = torch.randn(97, VOCABULARY, generator=stream)
        self.widest = 0

    def __call__(self, ids: Tensor) -> Tensor:
        self.widest = max(self.widest, len(ids))
        history = torch.zeros(len(ids), dtype=torch.int64)
        rows = []
        for column in ids.T:
            history = (history * 31 + column + 1) % 97
            rows.append(self.table[history])
        return torch.stack(rows, dim=1)


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
    found = by_enumeration(model, stack_sequences(rows), secret)
    assert (found.rank, found.candidates) == (rank, len(rows))
    assert found.bits == pytest.approx(math.log2(len(rows) / rank))


def test_a_hf_style_output_is_read():
    model = Toy(0)
    wrapped = lambda ids: type("Output", (), {"logits": model(ids)})()  # noqa: E731
    rows = stack_sequences([[0, 1, 2], [0, 3, 4]])
    assert (log_perplexity(wrapped, rows) == log_perplexity(model, rows)).all()


def test_ties_count_against_the_secret():
    uniform = lambda ids: torch.zeros(*ids.shape, VOCABULARY)  # noqa: E731
    rows = stack_sequences([[0, a, b] for a in range(5) for b in range(5)])
    exposure = by_enumeration(uniform, rows, secret=7)
    assert exposure.bits == 0
    assert exposure.excess == -CHANCE_BITS
    assert rank_of(np.array([1.0, 1.0, 1.0]), 0) == 3


def test_rank_is_no_index_of_a_sort():
    """argsort(bits)[secret] would say 3 here."""
    bits = np.array([40.0, 10.0, 20.0, 30.0])
    assert [rank_of(bits, i) for i in range(4)] == [4, 1, 2, 3]
    assert [from_bits(bits, i).bits for i in range(4)] == pytest.approx([0, 2, 1, 2 - math.log2(3)])


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
    found = np.array([from_bits(bits, int(s)).bits for s in secrets])
    error = found.std() / math.sqrt(len(found))
    assert abs(found.mean() - chance_exposure(len(rows))) < 3.5 * error
    assert abs(found.mean() - CHANCE_BITS) < 3.5 * error
    assert abs(found.mean() - 1 - CHANCE_BITS) > 3.5 * error


@given(st.integers(1, 40))
def test_chance_is_the_mean_over_all_ranks(n: int):
    assert chance_exposure(n) == pytest.approx(
        np.mean([math.log2(n / rank) for rank in range(1, n + 1)]), abs=1e-9
    )


@given(st.lists(st.floats(0, 50), min_size=1, max_size=30), st.floats(0, 50))
def test_sampling_stays_between_zero_and_its_cap(references, secret):
    exposure = by_sampling(secret, np.array(references))
    assert 0 <= exposure.bits <= math.log2(len(references)) + 1e-12
    assert 1 <= exposure.rank <= len(references) + 1


def test_sampling_and_extrapolation_come_near_enumeration():
    """On 100,000 normal log-perplexities; the extrapolated one also where samples say nothing any
    more."""
    stream = np.random.default_rng(1)
    everyone = stream.normal(30, 4, 100_000)
    everyone[0] = 20.0
    references = stream.choice(everyone[1:], 4000, replace=False)
    truth = from_bits(everyone, 0).bits
    assert by_sampling(20.0, references).bits == pytest.approx(truth, abs=0.5)
    extrapolated = by_extrapolation(20.0, references)
    assert extrapolated.bits == pytest.approx(truth, abs=0.5)
    assert extrapolated.fit_pvalue > 0.1
    assert by_sampling(0.0, references).bits == math.log2(4000)
    assert 30 < by_extrapolation(0.0, references).bits < 60


def test_a_law_that_does_not_fit_is_said():
    stream = np.random.default_rng(1)
    two_humps = np.concatenate([stream.normal(10, 1, 500), stream.normal(40, 1, 500)])
    assert by_extrapolation(5.0, two_humps).fit_pvalue < 0.01


def test_the_skew_normal_tail_goes_on_where_scipy_underflows():
    """With shape 0 it is the normal law, whose tail is known; with shape 2 the two formulas
    meet."""
    from scipy.stats import norm, skewnorm

    assert not math.isfinite(skewnorm.logcdf(-60.0, 0.0))
    assert _log_skew_normal_cdf(-60.0, 0.0) == pytest.approx(norm.logcdf(-60.0), rel=1e-6)
    grid = [_log_skew_normal_cdf(x, 2.0) for x in np.arange(-30.0, -3.0, 0.5)]
    assert np.isfinite(grid).all()
    second = np.diff(grid, 2)
    assert (np.diff(grid) > 0).all()
    np.testing.assert_allclose(second, second.mean(), rtol=0.05)


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


def test_too_many_candidates_are_sent_to_sampling():
    with pytest.raises(SettingError, match="by sampling"):
        by_enumeration(Toy(0), torch.zeros(1_000_001, 2, dtype=torch.int64), 0)


def test_estimates_need_references_that_say_something():
    with pytest.raises(SettingError, match="at least one reference"):
        by_sampling(1.0, np.array([]))
    with pytest.raises(SettingError, match="100 or more"):
        by_extrapolation(1.0, np.arange(50.0))
    with pytest.raises(SettingError, match="references that differ"):
        by_extrapolation(1.0, np.full(200, 3.0))


def test_a_model_of_nans_is_an_error():
    with pytest.raises(SettingError, match="NaN"):
        log_perplexity(lambda ids: torch.full((*ids.shape, 4), math.nan), torch.tensor([[0, 1]]))


def test_nothing_is_ranked_where_all_is_impossible():
    impossible = torch.tensor([0.0, -math.inf])
    bits = log_perplexity(
        lambda ids: impossible.expand(*ids.shape, 2), torch.tensor([[0, 0], [0, 1]])
    )
    assert bits.tolist() == [0.0, math.inf]
    assert from_bits(bits, 1).bits == 0
