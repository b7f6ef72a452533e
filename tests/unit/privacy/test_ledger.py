"""What the ledger claims, for whom and against whom, and that it says the same after a rest on
disk."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd.errors import SettingError
from fedkd.privacy.claims import ADVERSARIES, Claim, rounded_up
from fedkd.privacy.composition import epsilon_of, merge
from fedkd.privacy.distributions import has_pld
from fedkd.privacy.events import (
    KINDS,
    DpSgdSteps,
    Event,
    GaussianRows,
    LaplaceRows,
    NoClaim,
    NoisyVotes,
    RandomizedLabels,
    event_values,
    from_dict,
)
from fedkd.privacy.gaussian_dp import composed_mu, epsilon_at
from fedkd.privacy.ledger import Ledger, Spending
from fedkd.privacy.pate import gnmax_cost
from fedkd.privacy.renyi import ORDERS, epsilon_from, sampled_gaussian_cost

DELTA = 1e-5
needs_pld = pytest.mark.skipif(not has_pld(), reason="the extra fedkd[pld] is not installed")


def gaussian(rows: int = 10, sigma: float = 10.0) -> GaussianRows:
    return GaussianRows(rows=rows, sensitivity=2**0.5, sigma=sigma)


def votes(rows: int = 10, counts: tuple[int, ...] = (90, 5, 5), sigma: float = 20.0) -> NoisyVotes:
    return NoisyVotes(
        costs=tuple(rows * gnmax_cost(counts, sigma)), plain_mu=math.sqrt(2 * rows) / sigma
    )


EVENTS: list[Event] = [
    gaussian(),
    LaplaceRows(rows=5, sensitivity=2.0, scale=4.0),
    RandomizedLabels(rows=3, classes=10, label_epsilon=0.5),
    DpSgdSteps(noise_multiplier=1.1, sample_rate=0.1, steps=20),
    votes(),
]


def upload(event: Event, **rest: Any) -> Spending:
    return Spending(**{"event": event, "unit": "client", "layer": "upload", **rest})


def training(steps: int = 20) -> Spending:
    return Spending(
        event=DpSgdSteps(noise_multiplier=1.1, sample_rate=0.1, steps=steps),
        unit="record",
        layer="model",
    )


def ledger(*entries: tuple[int | None, Spending]) -> Ledger:
    made = Ledger()
    for client, spending in entries:
        made.record(client, spending)
    return made


def test_every_kind_of_event_is_tried_here():
    assert {type(event) for event in EVENTS} | {NoClaim} == set(KINDS.values())


@pytest.mark.parametrize("event", [*EVENTS, NoClaim(reason="raw")], ids=lambda e: type(e).__name__)
def test_an_event_comes_back_from_text(event: Event):
    assert from_dict(json.loads(json.dumps(event_values(event)))) == event


@pytest.mark.parametrize("event", EVENTS, ids=lambda e: type(e).__name__)
@given(parts=st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_events_in_parts_cost_what_they_cost_at_once(event: Event, parts: list[int]):
    at_once = epsilon_of([(event, sum(parts))], DELTA)
    assert epsilon_of([(event, times) for times in parts], DELTA) == at_once
    assert epsilon_of([(event, sum(parts) + 1)], DELTA)[0] > at_once[0]


@given(st.integers(1, 30), st.integers(1, 30))
def test_rounds_of_steps_are_their_product_of_steps(rounds: int, steps: int):
    def spent(count: int) -> DpSgdSteps:
        return DpSgdSteps(noise_multiplier=1.3, sample_rate=0.2, steps=count)

    assert epsilon_of([(spent(steps), 1)] * rounds, DELTA) == epsilon_of(
        [(spent(rounds * steps), 1)], DELTA
    )


@given(st.integers(1, 500), st.integers(1, 50), st.floats(1, 500))
def test_epsilon_grows_with_rows_and_rounds_and_falls_with_noise(
    rows: int, rounds: int, sigma: float
):
    def spent(rows: int, rounds: int, sigma: float) -> float:
        return epsilon_of([(gaussian(rows, sigma), 1)] * rounds, DELTA)[0]

    here = spent(rows, rounds, sigma)
    assert here == pytest.approx(
        epsilon_at(composed_mu([(rows * rounds, 2**0.5, sigma)]), DELTA), rel=1e-9
    )
    assert (
        spent(rows, rounds, 2 * sigma)
        <= here
        <= min(spent(rows + 1, rounds, sigma), spent(rows, rounds + 1, sigma))
    )


def test_gaussian_noise_is_counted_exactly_and_other_noise_by_renyi():
    assert epsilon_of([(gaussian(), 3), (gaussian(sigma=7.0), 2)], DELTA)[1] == "exact"
    assert epsilon_of([(gaussian(), 3), (EVENTS[3], 1)], DELTA)[1] == "rdp"
    assert epsilon_of([(EVENTS[3], 1)], DELTA) == (
        epsilon_from(20 * sampled_gaussian_cost(1.1, 0.1), DELTA),
        "rdp",
    )


def test_few_pure_events_cost_their_sum_and_many_less():
    one = RandomizedLabels(rows=1, classes=10, label_epsilon=1.0)
    assert epsilon_of([(one, 1)], DELTA) == (1.0, "sum")
    assert epsilon_of([(one, 10)], DELTA) == (pytest.approx(8.66706, abs=6e-6), "rdp")


def test_votes_that_agree_cost_less_than_their_noise_and_others_no_more():
    agreed, split = (epsilon_of([(votes(counts=c), 50)], DELTA) for c in [(90, 5, 5), (34, 33, 33)])
    plain_epsilon = epsilon_at(math.sqrt(2 * 500) / 20.0, DELTA)
    assert agreed[0] < plain_epsilon
    assert split == (pytest.approx(plain_epsilon), "exact")


@pytest.mark.fast(2)
@needs_pld
@pytest.mark.parametrize("event", EVENTS[:4], ids=lambda e: type(e).__name__)
def test_pld_is_at_most_renyi_and_at_least_the_exact_epsilon(event: Event):
    loss = event.split()[0].loss(event.split()[1] * 3)
    assert loss is not None
    by_pld, by_renyi = loss.get_epsilon_for_delta(DELTA), epsilon_from(3 * event.cost(), DELTA)
    if not isinstance(event, LaplaceRows):  # of which PLD knows the pure epsilon only
        assert by_pld <= by_renyi + 1e-3
    assert by_pld <= 3 * event.pure + 1e-3
    if event.mu is not None:
        assert by_pld + 1e-3 >= epsilon_at(math.sqrt(3) * event.mu, DELTA)
    assert epsilon_of([(event, 3)], DELTA, "pld")[0] == pytest.approx(
        min(by_pld, epsilon_of([(event, 3)], DELTA)[0])
    )


@pytest.mark.slow
@needs_pld
def test_mixed_events_are_counted_by_pld_and_votes_by_what_can():
    mixed = [(EVENTS[0], 1), (EVENTS[3], 1)]
    assert epsilon_of(mixed, DELTA, "pld")[1] == "pld"
    assert epsilon_of(mixed, DELTA, "pld")[0] < epsilon_of(mixed, DELTA)[0]
    assert epsilon_of([(votes(), 3)], DELTA, "pld") == epsilon_of([(votes(), 3)], DELTA)


def test_prv_counts_dp_sgd_and_nothing_else():
    steps = DpSgdSteps(noise_multiplier=1.1, sample_rate=0.01, steps=500)
    assert epsilon_of([(steps, 2)], DELTA, "prv") == (pytest.approx(1.5255, abs=6e-5), "prv")
    mixed = [(steps, 2), (gaussian(), 1)]
    assert epsilon_of(mixed, DELTA, "prv") == epsilon_of(mixed, DELTA)


def test_an_epsilon_that_protects_nobody_is_left_to_rdp(monkeypatch: pytest.MonkeyPatch) -> None:
    """PRV overflows there, and both take minutes and gigabytes."""
    monkeypatch.setattr(
        "fedkd.privacy.distributions.prv_epsilon", lambda *_: pytest.fail("PRV was asked")
    )
    loud = [(DpSgdSteps(noise_multiplier=0.05, sample_rate=0.2, steps=200), 1)]
    epsilon, accountant = epsilon_of(loud, DELTA, "prv")
    assert epsilon > 1000
    assert accountant == "rdp"


def test_nothing_that_happened_costs_nothing_and_an_unprotected_release_everything():
    assert epsilon_of([], DELTA) == (0.0, "exact")
    assert epsilon_of([(gaussian(rows=0), 5)], DELTA) == (0.0, "exact")
    assert epsilon_of([(gaussian(), 1), (NoClaim(reason="raw"), 1)], DELTA)[0] == math.inf
    assert merge([(gaussian(rows=2), 3), (gaussian(rows=4), 1)]) == [(gaussian(rows=1), 10)]


def test_an_answer_sent_again_costs_nothing():
    once = ledger((0, upload(gaussian(rows=100))))
    again = ledger((0, upload(gaussian(rows=100))), (0, upload(gaussian(rows=0))))
    assert again.claim("client", "server", DELTA) == once.claim("client", "server", DELTA)


def test_the_system_has_the_largest_epsilon_of_its_clients_and_not_the_sum():
    book = ledger(*((client, upload(gaussian(rows=10 * (client + 1)))) for client in range(5)))
    each = [book.claim("client", "server", DELTA, client=k).epsilon for k in range(5)]
    assert book.claim("client", "server", DELTA).epsilon == max(each) == each[4]
    assert each == sorted(each)


def test_two_protections_of_one_release_give_the_smaller_epsilon_for_a_record():
    for sigma in (5.0, 500.0):
        book = ledger((0, training()), (0, upload(gaussian(sigma=sigma))))
        by_training = ledger((0, training())).claim("record", "server", DELTA).epsilon
        by_noise = (
            ledger((0, upload(gaussian(sigma=sigma)))).claim("client", "server", DELTA).epsilon
        )
        assert book.claim("record", "server", DELTA).epsilon == min(by_training, by_noise)
        assert book.claim("client", "server", DELTA).epsilon == by_noise


def test_a_second_look_adds_up():
    look = Spending(event=gaussian(sigma=30.0), unit="record", layer="side_release")
    book = ledger((0, training()), (0, look))
    assert book.claim("record", "server", DELTA).epsilon == pytest.approx(
        epsilon_of([(training().event, 1), (gaussian(sigma=30.0), 1)], DELTA)[0]
    )
    assert (
        book.claim("record", "server", DELTA).epsilon
        > ledger((0, training())).claim("record", "server", DELTA).epsilon
    )


def test_training_on_records_claims_nothing_for_a_client():
    claim = ledger((0, training())).claim("client", "server", DELTA)
    assert claim.epsilon is None
    assert claim.reason == "what protects single records does not hide a whole client"


@pytest.mark.parametrize("adversary", ADVERSARIES)
@pytest.mark.parametrize("unit", ["record", "client"])
def test_an_unprotected_look_takes_every_claim_away_and_says_why(unit: Any, adversary: Any):
    metrics = Spending(
        event=NoClaim(reason="raw accuracies leave the client"), unit="record", layer="side_release"
    )
    book = ledger((0, training()), (0, upload(gaussian())), (0, metrics))
    claim = book.claim(unit, adversary, DELTA)
    assert claim.epsilon is None
    assert "raw accuracies leave the client" in claim.reason


def test_a_heuristic_after_dp_sgd_is_only_post_processing():
    book = ledger((0, training()), (0, upload(NoClaim(reason="swing is a heuristic"))))
    assert book.claim("record", "server", DELTA) == ledger((0, training())).claim(
        "record", "server", DELTA
    )
    assert "swing is a heuristic" in book.claim("client", "server", DELTA).reason


def test_noise_at_a_trusted_server_claims_nothing_against_it():
    raw = upload(NoClaim(reason="the server sees raw predictions"), seen_by=("server",))
    noisy = Spending(
        event=gaussian(), unit="client", layer="teacher", seen_by=("clients", "outsiders")
    )
    book = ledger((0, raw), (1, raw), (None, noisy))
    assert book.claim("client", "server", DELTA).reason == "the server sees raw predictions"
    for adversary in ("clients", "outsiders"):
        claim = book.claim("client", adversary, DELTA)
        assert claim.epsilon == epsilon_of([(gaussian(), 1)], DELTA)[0]
        assert book.claim("record", adversary, DELTA).epsilon == claim.epsilon


def test_one_unprotected_round_spoils_its_layer():
    book = ledger((0, upload(gaussian())), (0, upload(NoClaim(reason="round 2 was raw"))))
    assert book.claim("client", "server", DELTA).reason == "round 2 was raw"


def test_where_one_client_has_no_claim_the_system_has_none():
    book = ledger((0, upload(gaussian())), (1, upload(NoClaim(reason="raw"))))
    assert book.claim("client", "server", DELTA).epsilon is None
    assert book.claim("client", "server", DELTA, client=0).epsilon is not None


def test_where_nothing_was_recorded_nothing_is_claimed():
    assert (
        Ledger().claim("record", "server", DELTA).reason
        == "no protected release was recorded for it"
    )
    assert (
        ledger((0, upload(gaussian()))).claim("record", "server", DELTA, client=7).epsilon is None
    )


def test_the_systems_claim_names_the_sampling_of_all_clients_and_a_clients_its_own():
    few = Spending(
        event=DpSgdSteps(noise_multiplier=2.0, sample_rate=0.5, steps=20),
        unit="record",
        layer="model",
    )
    book = ledger((0, training()), (1, few))
    assert (
        book.claim("record", "server", DELTA).sampling
        == "Poisson samples of records (q = 0.1 to 0.5)"
    )
    assert (
        book.claim("record", "server", DELTA, client=1).sampling
        == "Poisson samples of records (q = 0.5)"
    )


def test_a_claim_says_everything_that_it_means():
    book = ledger((3, training(steps=100)))
    text = book.claim("record", "outsiders", DELTA).text()
    epsilon = epsilon_of([(training(steps=100).event, 1)], DELTA)[0]
    assert text.startswith(
        f"record-level epsilon {rounded_up(epsilon)} at delta 1e-05 against outsiders (zero-out"
        " neighbors,"
    )
    assert "Poisson samples of records (q = 0.1), accountant rdp)" in text
    assert "simulates privacy" in text
    assert "for client 3" in book.claim("record", "server", DELTA, client=3).text()
    voted = ledger(
        (
            None,
            Spending(
                event=votes(), unit="client", layer="teacher", seen_by=("clients", "outsiders")
            ),
        )
    )
    assert "computed from the votes" in voted.claim("client", "clients", DELTA).text()


spendings = st.builds(
    upload,
    st.sampled_from([*EVENTS, NoClaim(reason="raw")]),
    unit=st.sampled_from(["record", "client"]),
    layer=st.sampled_from(["model", "upload", "teacher", "side_release"]),
    seen_by=st.sampled_from([ADVERSARIES, ("clients", "outsiders")]),
)


@given(st.lists(st.tuples(st.sampled_from([None, 0, 1]), spendings), max_size=6), st.integers(0, 6))
def test_a_ledger_that_rested_on_disk_claims_the_same(
    entries: list[tuple[int | None, Spending]], pause: int
):
    whole, first = ledger(*entries), ledger(*entries[:pause])
    second = Ledger()
    second.restore(json.loads(json.dumps(first.state())))
    for client, spending in entries[pause:]:
        second.record(client, spending)
    assert second.state() == whole.state()
    for unit in ("record", "client"):
        for adversary in ADVERSARIES:
            assert second.claim(unit, adversary, DELTA) == whole.claim(unit, adversary, DELTA)


@given(
    st.lists(st.tuples(st.sampled_from([0, 1]), spendings), max_size=5),
    st.tuples(st.sampled_from([0, 1]), spendings),
)
def test_a_layer_more_never_hurts_and_a_release_more_in_the_same_layer_never_helps(
    entries: Any, more: Any
):
    before, after = ledger(*entries), ledger(*entries, more)
    layers = {spending.layer for client, spending in entries if client == more[0]}
    for adversary in ADVERSARIES:
        old, new = (
            b.claim("record", adversary, DELTA, client=more[0]).epsilon for b in (before, after)
        )
        if (
            old is not None
            and (more[1].layer in layers or more[1].layer == "side_release")
            and new is not None
        ):
            assert new >= old - 1e-9 or more[1].layer not in layers
        if old is not None and more[1].layer not in layers and more[1].layer != "side_release":
            assert new is not None
            assert new <= old


def test_a_record_is_never_less_hidden_than_its_client():
    book = ledger((0, upload(gaussian())), (0, upload(EVENTS[1])))
    assert (
        book.claim("record", "server", DELTA).epsilon
        == book.claim("client", "server", DELTA).epsilon
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: from_dict({"kind": "gdp"}), "unknown privacy event 'gdp'; known are gaussian"),
        (
            lambda: from_dict({"kind": "gaussian"}),
            "'gaussian' has the fields rows, sensitivity, sigma",
        ),
        (lambda: Spending.from_dict({"unit": "record"}), "a privacy event cannot be read"),
        (
            lambda: Spending.from_dict({**upload(gaussian()).to_dict(), "unit": "row"}),
            "a privacy event has unit='row'",
        ),
        (
            lambda: Ledger().restore({"version": 0}),
            "a privacy ledger of version 1 was expected, got 0",
        ),
        (lambda: Ledger().claim("record", "server", 0.0), "delta must be above 0"),
        (lambda: NoisyVotes(costs=(1.0,), plain_mu=1.0), f"costs must be {len(ORDERS)} numbers"),
        (lambda: GaussianRows(rows=1, sensitivity=1.0, sigma=0.0), "sigma must be > 0"),
        (
            lambda: DpSgdSteps(noise_multiplier=1.0, sample_rate=0.0, steps=1),
            "sample_rate must be above 0",
        ),
    ],
)
def test_what_is_no_event_is_refused(call, message: str):
    with pytest.raises(SettingError, match=message):
        call()


def test_a_ledger_that_cannot_be_read_leaves_the_old_one():
    book = ledger((0, upload(gaussian())))
    before = book.state()
    with pytest.raises(SettingError):
        book.restore({"version": 1, "entries": [{"client": 0, "times": 1, "unit": "record"}]})
    assert book.state() == before


def test_what_a_client_says_of_a_layer_is_all_of_it_and_an_older_word_takes_nothing_back():
    """Three statements of the same layer, the second one late."""
    book = Ledger()
    for rows in (20, 10, 30):
        book.record_cumulative(0, "upload", [upload(gaussian(rows))])
        said = max(rows, 20)
        once = ledger((0, upload(gaussian(said))))
        assert book.epsilons("client", "server", DELTA) == once.epsilons("client", "server", DELTA)


@given(st.floats(1e-6, 1e6))
def test_a_printed_epsilon_is_never_too_small_and_at_most_a_thousandth_too_large(epsilon: float):
    assert epsilon <= float(rounded_up(epsilon)) * (1 + 1e-15) <= epsilon * 1.0011


def test_a_claim_without_epsilon_is_no_zero():
    assert Claim(unit="record", adversary="server", delta=DELTA).epsilon is None
