"""Every entry of MECHANISMS: what it solves, draws, promises, records and refuses."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, norm
from torch import Tensor

from fedkd.errors import SettingError
from fedkd.fusion import soften
from fedkd.privacy.claims import ADVERSARIES
from fedkd.privacy.composition import epsilon_of
from fedkd.privacy.detection import DETECTORS
from fedkd.privacy.gaussian_dp import epsilon_at
from fedkd.privacy.mechanisms import (
    MECHANISMS,
    CentralGaussian,
    Gaussian,
    GnMax,
    Laplace,
    Mechanism,
    RandomizedResponse,
    Swing,
)
from fedkd.privacy.mechanisms.krr import randomize_labels, truth_probability
from fedkd.privacy.mechanisms.swing import (
    REASON,
    Hints,
    confidence_scores,
    surprisal_gap_scores,
)
from fedkd.privacy.memoization import Answers, answer_once
from fedkd.privacy.release_plan import ReleasePlan, noise_warning
from fedkd.privacy.renyi import ORDERS
from fedkd.privacy.sensitivity import bound_rows, diameter, onto_simplex
from fedkd.privacy.vouching import claim_text, planned_claims
from fedkd.runtime.seeding import numpy_stream
from fedkd.settings.schema import defaults, documentation, parse

DELTA = 1e-5
NOISY = [name for name in MECHANISMS if name != "dp_sgd"]
"""Those that change what travels; ``dp_sgd`` has tests of its own."""
WITH_BUDGET = [name for name in NOISY if name != "swing"]
LOCAL = ["gaussian", "laplace", "krr"]


def plan(**changes: Any) -> ReleasePlan:
    base = {
        "clients": 1000,
        "rounds": 1,
        "rows": 1000,
        "public_size": 2000,
        "classes": 10,
        "scale": "probs",
        "records": 100,
    }
    return ReleasePlan(**{**base, **changes})


def make(name: str, **fields: Any) -> Any:
    return parse(
        MECHANISMS[name], {**({"epsilon": 8.0} if name != "swing" else {}), **fields}, "privacy"
    )


def stream(*path: str | int) -> np.random.Generator:
    return numpy_stream(0, *(path or ("noise",)))


def logits(rows: int = 6, classes: int = 10, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(rows, classes, generator=torch.Generator().manual_seed(1))


rows_of_numbers = st.lists(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=3), min_size=1, max_size=4
).map(lambda rows: torch.tensor(rows))


@pytest.mark.parametrize("name", MECHANISMS)
def test_every_entry_is_a_mechanism_whose_settings_are_documented(name: str):
    assert isinstance(make(name), Mechanism)
    assert set(documentation(MECHANISMS[name])) >= set(defaults(MECHANISMS[name]))
    assert "sensitivity" not in defaults(MECHANISMS[name])


@pytest.mark.parametrize("name", MECHANISMS)
def test_every_entry_says_what_it_claims_against_whom_and_what_it_assumes(name: str):
    mechanism = make(name)
    mechanism.check(plan())
    text = claim_text(mechanism, plan())
    for claim in planned_claims(mechanism, plan()):
        assert (claim.epsilon is not None) == (claim.adversary in mechanism.protects_from)
        assert claim.reason in text
        assert (claim.text() in text) == (
            name != "swing"
        )  # which claims nothing against three, in one line
    assert all(f"assumed: {assumption}" in text for assumption in mechanism.assumptions)
    if name == "swing":
        assert text.count(REASON) == 1
    else:
        assert "simulates privacy" in text


@pytest.mark.parametrize("name", WITH_BUDGET)
@pytest.mark.parametrize("rounds", [1, 3])
def test_the_noise_for_a_budget_spends_it_and_no_more(name: str, rounds: int):
    run = plan(rounds=rounds, rows=50)
    epsilon = planned_claims(make(name), run)[-1].epsilon
    assert epsilon == pytest.approx(8.0, rel=1e-6)
    assert epsilon <= 8.0 + 1e-9
    if name in LOCAL:
        claims = planned_claims(make(name), run)
        assert [c.unit for c in claims] == ["client"] * 3
        assert {c.epsilon for c in claims} == {epsilon}


@pytest.mark.parametrize("name", WITH_BUDGET)
def test_epsilon_grows_with_rounds_and_rows_where_the_noise_is_fixed(name: str):
    fixed = parse(
        MECHANISMS[name], {"label_epsilon": 0.5} if name == "krr" else {"sigma": 20.0}, "privacy"
    )
    spent = [
        planned_claims(fixed, plan(rows=n, rounds=r))[-1].epsilon
        for n, r in [(50, 1), (60, 1), (60, 2)]
    ]
    assert spent == sorted(spent)
    assert len(set(spent)) == 3


@pytest.mark.parametrize(
    ("rows", "rounds", "sigma"),
    [
        (1, 1, 0.8489),
        (100, 1, 8.4885),
        (1000, 1, 26.8431),
        (1000, 10, 84.8852),
        (5000, 100, 600.2291),
    ],
)
def test_sigma_on_soft_labels(rows: int, rounds: int, sigma: float):
    for mechanism in (Gaussian(epsilon=8.0), CentralGaussian(epsilon=8.0), GnMax(epsilon=8.0)):
        assert mechanism.sigma_in(plan(rows=rows, rounds=rounds)) == pytest.approx(sigma, abs=6e-5)


def test_sigma_on_logits_is_that_of_twice_the_clip_norm():
    run = plan(scale="logits")
    assert Gaussian(epsilon=8.0, clip_norm=1.0).sigma_in(run) == pytest.approx(37.962, abs=6e-4)
    assert Gaussian(epsilon=8.0, clip_norm=3.0).sigma_in(run) == pytest.approx(3 * 37.962, abs=2e-3)


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("scale", ["logits", "probs"])
@given(one=rows_of_numbers, other=rows_of_numbers)
def test_bounded_rows_are_never_farther_apart_than_the_sensitivity(
    scale: Any, norm: Any, one: Tensor, other: Tensor
):
    clip = 1.5 if scale == "logits" else None
    a, b = (bound_rows(v[:1], scale, clip, norm) for v in (one, other))
    assert torch.linalg.vector_norm(a - b, ord=norm) <= diameter(scale, clip, norm) + 1e-9


@pytest.mark.parametrize("norm", [1, 2])
def test_the_sensitivity_is_reached(norm: Any):
    far = torch.tensor([[1e6, -1e6], [-1e6, 1e6]])
    a, b = bound_rows(far, "logits", 1.5, norm)
    assert torch.linalg.vector_norm(a - b, ord=norm).item() == pytest.approx(
        diameter("logits", 1.5, norm)
    )
    a, b = bound_rows(soften(far), "probs", None, norm)
    assert torch.linalg.vector_norm(a - b, ord=norm).item() == pytest.approx(
        diameter("probs", None, norm)
    )


@pytest.mark.parametrize("scale", ["logits", "probs"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e38])
def test_a_broken_model_does_not_break_the_bound(scale: Any, value: float):
    row = bound_rows(
        torch.tensor([[value, 1.0, 0.0]]), scale, 1.0 if scale == "logits" else None, 2
    )
    assert torch.isfinite(row).all()
    assert torch.linalg.vector_norm(row) <= 1 + 1e-9


def test_rows_within_the_bound_stay():
    small = torch.tensor([[0.3, -0.3], [0.0, 0.0]])
    torch.testing.assert_close(bound_rows(small, "logits", 1.0, 2), small.to(torch.float64))
    probs = soften(logits())
    torch.testing.assert_close(bound_rows(probs, "probs", None, 2).float(), probs)


@given(rows_of_numbers)
def test_projected_rows_are_the_nearest_soft_labels(rows: Tensor):
    rows = (rows / 1e5).to(torch.float64)
    near = onto_simplex(rows)
    assert (near >= 0).all()
    torch.testing.assert_close(near.sum(dim=-1), torch.ones(len(rows), dtype=torch.float64))
    corners = torch.eye(3, dtype=torch.float64)
    for corner in corners:
        step = corner - near
        # The angle between the way to any soft label and the way back is never sharp.
        assert (((rows - near) * step).sum(dim=-1) <= 1e-8 * rows.abs().max().clamp(min=1)).all()
    torch.testing.assert_close(onto_simplex(near), near)


def noise_of(name: str, expected: float, *, run: ReleasePlan, **fields: Any) -> Tensor:
    """What a mechanism adds to zero logits, or its teachers, in units of the noise that it should
    have."""
    mechanism = parse(MECHANISMS[name], {"clip_norm": 1.0, **fields}, "privacy")
    zeros = torch.zeros(2000, 10, dtype=torch.float64)
    if name == "central_gaussian":
        return mechanism.noisy_mean(torch.stack([zeros] * 4), 4, run, stream()) / (expected / 4)
    return mechanism.release(zeros, run, stream()) / expected


@pytest.mark.parametrize("name", ["gaussian", "laplace", "central_gaussian"])
@pytest.mark.parametrize("factor", [1.0, 2 / 3, 3 / 2])
def test_noise_has_its_deviation_and_no_other(name: str, factor: float):
    """20,000 draws: the deviation is within 4 standard errors of 1, and those of wrong noise are
    far outside."""
    drawn = noise_of(name, 5.0 * factor, run=plan(scale="logits", rows=2000), sigma=5.0)
    error = 4 * (1 if name == "laplace" else 0.5**0.5) * (5 / 4) ** 0.5 / drawn.numel() ** 0.5
    assert (abs(drawn.std().item() - 1) < error) == (factor == 1.0)
    if factor == 1.0:
        assert abs(drawn.mean().item()) < 4 / drawn.numel() ** 0.5
        kurtosis = (drawn**4).mean().item()
        assert kurtosis == pytest.approx(6.0 if name == "laplace" else 3.0, rel=0.15)


@pytest.mark.parametrize(
    ("name", "scale"),
    [(n, s) for n in LOCAL for s in ("probs", "logits") if (n, s) != ("krr", "logits")],
)
def test_releases_differ_by_client_round_and_row_and_repeat_by_name(name: str, scale: str):
    run = plan(scale=scale, rows=50)
    mechanism = make(name, **({"clip_norm": 1.0} if scale == "logits" else {}))
    same = torch.full((50, 10), 0.1)
    paths = [("client", c, "round", r, "privacy noise") for c in (0, 1) for r in (1, 2)]
    released = [mechanism.release(same, run, stream(*path)) for path in paths]
    for i, one in enumerate(released):
        assert torch.equal(one, mechanism.release(same, run, stream(*paths[i])))
        assert len(one.unique(dim=0)) > (5 if name == "krr" else 9 if scale == "probs" else 49)
        assert all(not torch.equal(one, other) for other in released[:i])
        if scale == "probs":
            torch.testing.assert_close(one.sum(dim=-1), torch.ones(50))
            assert (one >= 0).all()
    assert torch.equal(same, torch.full((50, 10), 0.1))


def test_much_budget_leaves_the_predictions_as_they_are():
    probs = soften(logits())
    run = plan(rows=6)
    for mechanism in (Gaussian(sigma=1e-6), Laplace(sigma=1e-6)):
        torch.testing.assert_close(
            mechanism.release(probs, run, stream()), probs, atol=1e-4, rtol=0
        )
    told = RandomizedResponse(label_epsilon=100.0).release(probs, run, stream())
    assert torch.equal(told.argmax(dim=-1), probs.argmax(dim=-1))
    central = CentralGaussian(sigma=1e-6).noisy_mean(
        torch.stack([probs, probs.flip(0)]), 2, run, stream()
    )
    torch.testing.assert_close(central, (probs + probs.flip(0)) / 2, atol=1e-4, rtol=0)


@pytest.mark.parametrize("scale", ["logits", "probs"])
def test_a_missing_upload_leaves_the_mean_of_those_asked_and_its_noise(scale: str):
    """Logits as if it had been zeros; soft labels, which zeros are not, as if it had been
    uniform."""
    run = plan(scale=scale, rows=6)
    there = logits().repeat(3, 1, 1) if scale == "logits" else soften(logits()).repeat(3, 1, 1)
    instead = torch.full((1, 6, 10), 0.0 if scale == "logits" else 0.1)
    central = CentralGaussian(sigma=2.0, clip_norm=1.0 if scale == "logits" else None)
    missing, whole = (
        central.noisy_mean(rows, 4, run, stream()) for rows in (there, torch.cat([there, instead]))
    )
    torch.testing.assert_close(missing, whole)
    nobody = central.noisy_mean(torch.zeros(0, 6, 10), 4, run, stream())
    torch.testing.assert_close(
        nobody, central.noisy_mean(instead.repeat(4, 1, 1), 4, run, stream())
    )


def measured_epsilon(one: Tensor, other: Tensor) -> float:
    """A lower bound (95 %) on the epsilon of a Gaussian mechanism, from a statistic under two
    neighbors.

    The threshold is the middle, fixed before; error rates by Clopper and Pearson, mu from both.
    """
    false_positives, false_negatives = int((one > 0).sum()), int((other <= 0).sum())
    rates = [beta.ppf(1 - 0.025, k + 1, len(one) - k) for k in (false_positives, false_negatives)]
    return epsilon_at(float(norm.isf(rates[0]) - norm.ppf(rates[1])), DELTA)


@pytest.mark.parametrize("name", ["gaussian", "central_gaussian"])
def test_two_neighbors_are_told_apart_as_well_as_claimed_and_no_better(name: str):
    """Epsilon 4 for ten rows is claimed: correct noise is measured close below, and each usual
    mistake far above."""
    rows, draws = 10, 10_000
    run = plan(scale="logits", rows=rows, classes=3)
    mechanism = make(name, epsilon=4.0, clip_norm=1.0)
    sigma = mechanism.sigma_in(run)
    worst = torch.tensor([1e3, -1e3, 0.0]).repeat(rows * draws, 1)

    def measured(sigma: float) -> float:
        noisy = parse(MECHANISMS[name], {"sigma": sigma, "clip_norm": 1.0}, "privacy")
        sums = []
        for sign, purpose in ((-1, "out"), (1, "in")):
            if name == "gaussian":
                told = noisy.release(sign * worst, run, stream(purpose))
            else:  # the other client is known to the adversary
                told = 2 * noisy.noisy_mean(
                    torch.stack([sign * worst, 0 * worst]), 2, run, stream(purpose)
                )
            sums.append((told @ torch.tensor([1.0, -1.0, 0.0])).reshape(draws, rows).sum(dim=1))
        return measured_epsilon(*sums)

    assert 3.5 < measured(sigma) <= 4.0
    assert measured(sigma / 2**0.5) > 4.5  # one clip norm too few
    assert measured(sigma / rows**0.5) > 10  # rows do not compose
    assert measured(sigma**0.5) > 10  # variance for deviation


def test_labels_are_true_as_often_as_said_and_else_any_other():
    labels = torch.full((50_000,), 3)
    told = randomize_labels(labels, 5, 1.2, stream())
    shares = torch.bincount(told, minlength=5) / len(told)
    truth = truth_probability(1.2, 5)
    assert truth == pytest.approx(math.exp(1.2) / (math.exp(1.2) + 4))
    expected = torch.full((5,), (1 - truth) / 4)
    expected[3] = truth
    assert (shares - expected).abs().max() < 4 * 0.5 / len(told) ** 0.5
    assert math.log(truth / ((1 - truth) / 4)) == pytest.approx(1.2)


def one_hot_votes(clients: int = 40, agree: int = 38) -> Tensor:
    """Of each of 30 samples, ``agree`` clients say class 2 and the others class 0."""
    votes = torch.zeros(clients, 30, 4)
    votes[:agree, :, 2] = 1
    votes[agree:, :, 0] = 1
    return votes


def test_clear_votes_are_told_and_cost_less_than_planned():
    run = plan(clients=40, rows=30, classes=4)
    told = GnMax(sigma=4.0).tell(one_hot_votes(), run, stream())
    assert (told.probs.argmax(dim=-1) == 2).all()
    assert told.answered.all()
    (spent,) = told.spent
    planned = epsilon_of([(s.event, 1) for s in GnMax(sigma=4.0).planned(run)], DELTA)[0]
    really = epsilon_of([(spent.event, 1)], DELTA)
    assert really[0] < planned / 2
    assert spent.event.mu == pytest.approx(math.sqrt(2 * 30) / 4)
    split = GnMax(sigma=4.0).tell(one_hot_votes(agree=20), run, stream()).spent[0]
    assert epsilon_of([(split.event, 1)], DELTA)[0] == pytest.approx(planned)


def test_confident_votes_below_the_threshold_are_not_told():
    run = plan(clients=40, rows=30, classes=4)
    settings = GnMax(sigma=4.0, threshold=30.0, threshold_sigma=2.0)
    clear, split = (settings.tell(one_hot_votes(agree=a), run, stream()) for a in (38, 20))
    assert clear.answered.all()
    assert not split.answered.any()
    assert (split.probs == 0.25).all()
    costs = [sum(t.spent[0].event.cost()) for t in (clear, split)]
    assert costs[1] < sum(ORDERS) * 30 / (2 * 2.0**2)
    assert clear.spent[0].event.mu == pytest.approx(math.sqrt(2 * 30 / 16 + 30 / 4))


def test_the_checks_of_a_threshold_are_paid_from_the_budget():
    run = plan(clients=1000, rows=100)
    settings = GnMax(epsilon=8.0, threshold=600.0, threshold_sigma=20.0)
    assert settings.sigma_in(run) > GnMax(epsilon=8.0).sigma_in(run)
    assert planned_claims(settings, run)[-1].epsilon == pytest.approx(8.0)


def test_an_answer_that_was_told_is_told_again_to_the_bit():
    run = plan(rows=4, rounds=2, public_size=6)
    mechanism = Gaussian(epsilon=8.0, memoize=True)
    first, memory, new = answer_once(
        torch.tensor([5, 1, 0]),
        torch.rand(3, 10),
        None,
        lambda v: mechanism.release(v, run, stream("first")),
    )
    assert new == 3
    memory = Answers.restore(memory.state())
    again, memory, new = answer_once(
        torch.tensor([0, 2, 5]),
        torch.rand(3, 10),
        memory,
        lambda v: mechanism.release(v, run, stream("second")),
    )
    assert new == 1
    assert torch.equal(again[0], first[2])
    assert torch.equal(again[2], first[0])
    assert memory.ids.tolist() == [0, 1, 2, 5]
    unused, _, new = answer_once(
        torch.tensor([2, 1]), torch.rand(2, 10), memory, lambda v: pytest.fail("drawn again")
    )
    assert new == 0
    assert torch.equal(unused, torch.stack([again[1], first[1]]))


@given(st.lists(st.permutations(range(6)).map(lambda ids: ids[:3]), min_size=1, max_size=4))
def test_every_answer_is_the_first_that_was_made_for_its_sample(rounds: list[list[int]]):
    memory, first = None, {}
    for round_number, ids in enumerate(rounds):
        values = torch.tensor([[100.0 * round_number + i, 0.0] for i in ids])
        told, memory, new = answer_once(torch.tensor(ids), values, memory, lambda v: v + 0.5)
        assert new == len(set(ids) - set(first))
        first = {**dict(zip(ids, (values + 0.5).tolist(), strict=True)), **first}
        assert told.tolist() == [first[i] for i in ids]
        assert memory.ids.tolist() == sorted(first)


@pytest.mark.parametrize("name", LOCAL)
def test_memoized_answers_are_paid_once(name: str):
    run = plan(rows=100, rounds=50, public_size=100)
    once = planned_claims(make(name), plan(rows=100))[0]
    assert planned_claims(make(name, memoize=True), run)[0].epsilon == once.epsilon
    memoized, fresh = make(name, memoize=True), make(name)
    if name == "krr":
        assert memoized.label_epsilon_in(run) > 5 * fresh.label_epsilon_in(run)
    if name == "gaussian":
        assert memoized.sigma_in(run) == pytest.approx(fresh.sigma_in(run) / math.sqrt(50))


def test_hopeless_combinations_are_named_and_good_ones_not():
    assert (
        Gaussian(epsilon=8.0)
        .warnings(plan(clients=1000))[0]
        .startswith("noise of 26.8 on each client's predictions")
    )
    assert Laplace(epsilon=8.0).warnings(plan(clients=1000))
    assert RandomizedResponse(epsilon=8.0).warnings(plan(clients=100))
    for mechanism in (CentralGaussian(epsilon=8.0), GnMax(epsilon=8.0)):
        assert not mechanism.warnings(plan(clients=250))
        assert "about 89" in mechanism.warnings(plan(clients=10))[0]
    assert Gaussian(epsilon=8.0).warnings(plan(clients=10, rows=10)) != ()
    assert Gaussian(epsilon=8.0).warnings(plan(clients=1000, rows=10)) == ()
    assert noise_warning(26.8, 250, local=False) is None


def test_the_warning_does_not_depend_on_the_clip_norm():
    run = plan(scale="logits", clients=10)
    one, other = (Gaussian(epsilon=8.0, clip_norm=b).warnings(run) for b in (1.0, 7.0))
    assert one == other == Gaussian(epsilon=8.0).warnings(plan(clients=10))


def test_swing_leaves_what_looks_public_and_blurs_what_looks_private():
    z = logits(rows=4).to(torch.float64)
    noise = torch.ones_like(z) * torch.arange(10)
    scores = torch.tensor([0.0, 0.5, 1.0, 0.0], dtype=torch.float64)
    released = Swing(max_temperature=16.0, noise=3.0).release(z, "logits", scores, noise)
    torch.testing.assert_close(released[[0, 3]], z[[0, 3]])
    torch.testing.assert_close(released[1], z[1] / 4 + 1.5 * noise[1])
    torch.testing.assert_close(released[2], z[2] / 16 + 3 * noise[2])


def test_detectors_score_what_is_sure_and_alone():
    sure, unsure = torch.tensor([[0.98, 0.01, 0.01]]), torch.full((1, 3), 1 / 3)
    agreeing, opposed = sure, torch.tensor([[0.01, 0.98, 0.01]])
    assert confidence_scores(sure.log(), None) > 0.85
    assert confidence_scores(sure.log(), agreeing) == 0
    assert confidence_scores(sure.log(), opposed) > 0.8
    assert confidence_scores(unsure.log(), opposed).item() == pytest.approx(0, abs=1e-6)
    assert surprisal_gap_scores(sure.log(), agreeing, 5.0) == 0
    assert surprisal_gap_scores(sure.log(), opposed, 5.0).item() == pytest.approx(
        math.log(98) / 5, rel=1e-4
    )
    assert surprisal_gap_scores(sure.log(), torch.tensor([[0.0, 1.0, 0.0]]), 5.0) == 1


@pytest.mark.parametrize("scale", ["logits", "probs"])
@pytest.mark.parametrize("detector", DETECTORS)
def test_swing_releases_soft_labels_or_logits_of_the_same_kind(scale: Any, detector: Any):
    settings = Swing(detector=detector)
    values = logits() if scale == "logits" else soften(logits())
    noise = settings.draw(torch.arange(6), 10, 0, 3, 1)
    flagged = torch.tensor([True, False, True, False, False, False])
    hints = Hints(reference=soften(logits().flip(0)), flagged=flagged, matched=flagged)
    released = settings.release(values, scale, settings.scores(values, scale, hints), noise)
    assert released.dtype == values.dtype
    assert torch.isfinite(released).all()
    probs = soften(released) if scale == "logits" else released
    torch.testing.assert_close(probs.sum(dim=-1), torch.ones(6))
    if detector in ("oracle", "pattern"):
        kept = soften(values) if scale == "logits" else values
        torch.testing.assert_close(probs[~flagged], kept[~flagged])
        assert (probs[flagged] - kept[flagged]).abs().max() > 0.05
    first = settings.scores(values, scale, Hints(flagged=flagged, matched=flagged))
    assert first.shape == (6,)


def test_swing_keeps_a_samples_noise_or_draws_it_each_round():
    kept, fresh = Swing(), Swing(noise_per="release")
    assert kept.stream_path(3, 1) == kept.stream_path(3, 2) != kept.stream_path(4, 1)
    assert fresh.stream_path(3, 1) != fresh.stream_path(3, 2)
    every = torch.arange(2000)
    for law in ("gaussian", "laplace"):
        drawn = Swing(law=law).draw(every, 10, 0, 3, 1)
        assert drawn.std().item() == pytest.approx(1.0, rel=0.05)
        assert torch.equal(Swing(law=law).draw(every[40:50], 10, 0, 3, 2), drawn[40:50])
    assert Swing(noise=0.0).warnings(plan()) != ()


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("gaussian", {"epsilon": 0.0}, "privacy.epsilon must be > 0, got 0.0"),
        ("laplace", {"epsilon": -1.0}, "privacy.epsilon must be > 0, got -1.0"),
        (
            "gaussian",
            {"epsilon": 8.0, "sigma": 1.0},
            "privacy.epsilon=8.0 and sigma=1.0 exclude one another",
        ),
        (
            "gaussian",
            {"clip_norm": 1.0},
            "privacy.epsilon or sigma must be given: without noise there is nothing to",
        ),
        ("gaussian", {"sigma": 0.0}, "privacy.sigma must be > 0, got 0.0"),
        (
            "gaussian",
            {"epsilon": 8.0, "delta": 0.0},
            "privacy.delta must be above 0 and below 1, got 0.0",
        ),
        ("krr", {}, "privacy: give either epsilon or label_epsilon"),
        ("krr", {"label_epsilon": 0.0}, "privacy.label_epsilon must be > 0"),
        (
            "krr",
            {"epsilon": 1.0, "sigma": 1.0},
            "no setting 'privacy.sigma': labels are randomized by label_epsilon",
        ),
        (
            "krr",
            {"epsilon": 1.0, "clip_norm": 1.0},
            "no setting 'privacy.clip_norm': labels need no clipping",
        ),
        (
            "swing",
            {"epsilon": 8.0},
            "no setting 'privacy.epsilon': swing is a heuristic without a guarantee",
        ),
        ("swing", {"noise": 0.0, "max_temperature": 1.0}, "nothing swings"),
        ("swing", {"largest_gap": 2.0}, "largest_gap=2.0 would do nothing: detector=confidence"),
        ("swing", {"max_temperature": 0.5}, "max_temperature must be >= 1.0"),
        ("gnmax", {"epsilon": 8.0, "threshold_sigma": 3.0}, "threshold_sigma=3.0 would do nothing"),
        (
            "gnmax",
            {"epsilon": 8.0, "threshold": 30.0},
            "threshold_sigma must be given with threshold",
        ),
        *(
            (n, {"sensitivity": 1.0}, "no setting 'privacy.sensitivity': it is (derived|never)")
            for n in MECHANISMS
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(name: str, fields: dict[str, Any], message: str):
    with pytest.raises(SettingError, match=message):
        parse(MECHANISMS[name], fields, "privacy")


@pytest.mark.parametrize(
    ("name", "fields", "changes", "message"),
    [
        (
            "gaussian",
            {},
            {"scale": "logits"},
            "clip_norm must be given: this strategy's clients upload logits",
        ),
        ("laplace", {"clip_norm": 1.0}, {}, "clip_norm=1.0 would do nothing: soft labels"),
        ("gaussian", {"clip_norm": 0.0}, {"scale": "logits"}, "clip_norm must be > 0"),
        (
            "krr",
            {},
            {"scale": "logits"},
            "krr tells labels, and this strategy's clients upload logits",
        ),
        *(
            (
                n,
                {"delta": 0.002},
                {"clients": 500},
                "delta must be below 1/500, .* clients, got 0.002",
            )
            for n in (*LOCAL, "central_gaussian", "gnmax", "lnmax")
        ),
        *(
            (
                n,
                {"delta": 0.02},
                {"clients": 5},
                "delta must be below 1/100, .* records of the largest private set",
            )
            for n in (*LOCAL, "central_gaussian", "gnmax", "lnmax")
        ),
        (
            "central_gaussian",
            {},
            {"unweighted_mean": False},
            "central_gaussian needs a strategy whose teacher is the plain",
        ),
        *((n, {"memoize": True}, {}, "memoize=true would do nothing: in one round") for n in LOCAL),
        (
            "gnmax",
            {"threshold": 300.0, "threshold_sigma": 100.0},
            {"clients": 200},
            r"threshold=300 asks for the votes of more clients than there are \(200\)",
        ),
        (
            "gnmax",
            {"threshold": 300.0, "threshold_sigma": 3.0},
            {},
            "threshold_sigma=3.0 leaves nothing of epsilon=8.0: the checks of 1000 rows alone cost"
            " more; give more tha",
        ),
        *(
            (n, {}, {"chooses": True}, "lets clients choose which public samples they answer for")
            for n in NOISY
        ),
    ],
)
def test_settings_that_do_not_fit_the_run_are_refused(
    name: str, fields: dict[str, Any], changes: dict[str, Any], message: str
):
    with pytest.raises(SettingError, match=message):
        make(name, **fields).check(plan(**changes))


def test_an_oracle_without_canaries_is_refused():
    with pytest.raises(SettingError, match="needs to know the canaries"):
        Swing(detector="oracle").scores(logits(), "logits", Hints())


def test_every_claim_of_a_planned_run_names_what_it_means():
    for claim in planned_claims(make("gaussian"), plan()):
        assert claim.neighbors == "replace-one"
        assert claim.sampling == "no sampling"
        assert claim.accountant == "exact"
        assert claim.delta == DELTA
    assert {c.adversary for c in planned_claims(make("gnmax"), plan())} == set(ADVERSARIES)
