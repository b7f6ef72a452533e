"""Every entry of ATTACKS replaces attackers' uploads alone, by what the server accepts."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedkd.fusion import soften
from fedkd.knowledge import KINDS, predictions
from fedkd.knowledge.knowledge_type import Request
from fedkd.messages import Predictions
from fedkd.robustness.aggregators import ROBUST
from fedkd.robustness.attacks import ATTACKS, Attack, choose_attackers
from fedkd.robustness.attacks.independent import (
    LabelSwap,
    NoisyPredictions,
    RandomPredictions,
    SignFlip,
)
from fedkd.robustness.attacks.omniscient import Colluding, Lie
from fedkd.robustness.attacks.scale import LARGEST
from fedkd.settings.schema import defaults, documentation

SCALES = ("logits", "probs")
REAL = [name for name in ATTACKS if name != "none"]
ATTACKERS = torch.tensor([True, False, False, True, False, False, False])
LIE = {"z": 1.5}
"""The paper's z is for more attackers than two of seven."""
EXTREME = {
    "sign_flip": {"strength": 1e6},
    "random": {"strength": 1e6},
    "noise": {"strength": 1e6},
    "colluding": {"margin": 1e6},
    "lie": {"z": 1e6},
    "label_swap": {"pair": (0, 3)},
}


def make(name: str, **settings: object) -> Attack:
    return ATTACKS[name](**{**(LIE if name == "lie" else {}), **settings})


def honest(scale: str, seed: int = 0, clients: int = 7) -> Tensor:
    logits = 3 * torch.randn(clients, 5, 4, generator=torch.Generator().manual_seed(seed))
    return logits if scale == "logits" else soften(logits)


def poisoned(
    attack: Attack, values: Tensor, scale: str, attackers: Tensor = ATTACKERS, seed: int = 0
) -> Tensor:
    return attack.poison(values, attackers, scale, np.random.default_rng(seed))


def assert_accepted(values: Tensor, scale: str) -> None:
    """The server's own check."""
    _, samples, classes = values.shape
    ids = torch.arange(samples)
    request = Request(round=1, classes=classes, public_ids=ids, temperature=1.0, train_sizes={})
    for client in values:
        KINDS[scale].check(Predictions(ids=ids, values=client, scale=scale), request, client_id=0)


def test_the_limit_on_logits_is_the_servers():
    assert LARGEST == predictions.LARGEST


@pytest.mark.parametrize("name", ATTACKS)
def test_every_entry_is_an_attack_whose_settings_are_documented(name: str):
    assert isinstance(make(name), Attack)
    assert set(documentation(ATTACKS[name])) == set(defaults(ATTACKS[name]))


@pytest.mark.parametrize("name", REAL)
def test_every_attack_states_its_threat_model(name: str):
    assert "Threat model: " in (ATTACKS[name].__doc__ or "")


@pytest.mark.parametrize("scale", SCALES)
def test_without_an_attack_nothing_changes(scale: str):
    attack = ATTACKS["none"]()
    attack.check(1, 2)
    assert attack.fraction == 0
    assert torch.equal(poisoned(attack, honest(scale), scale), honest(scale))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", REAL)
def test_attackers_upload_something_else_and_the_others_the_same_to_the_bit(name: str, scale: str):
    values = honest(scale)
    found = poisoned(make(name), values, scale)
    assert torch.equal(values, honest(scale)), "the honest uploads were written to"
    assert torch.equal(found[~ATTACKERS], values[~ATTACKERS])
    assert ((found - values)[ATTACKERS].abs().amax(dim=(1, 2)) > 1e-3).all()
    assert found.dtype == values.dtype


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", REAL)
def test_where_nobody_attacks_this_round_nothing_changes(name: str, scale: str):
    found = poisoned(make(name), honest(scale), scale, attackers=torch.zeros(7, dtype=torch.bool))
    assert torch.equal(found, honest(scale))


@pytest.mark.parametrize(
    "attackers", [ATTACKERS, torch.ones(7, dtype=torch.bool)], ids=["some", "all"]
)
@pytest.mark.parametrize("how", ["default", "extreme", "one-hot", "alike", "one client"])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", REAL)
def test_what_attackers_upload_passes_the_servers_check(
    name: str, scale: str, how: str, attackers: Tensor
):
    values = honest(scale)
    if how == "one-hot":
        one_hot = torch.nn.functional.one_hot(values.argmax(dim=-1), 4).float()
        values = one_hot if scale == "probs" else LARGEST * (2 * one_hot - 1)
    if how == "alike":
        values = torch.full_like(values, 0.25)
    if how == "one client":
        values, attackers = values[:1], attackers[:1]
    attack = make(name, **EXTREME[name]) if how == "extreme" else make(name)
    assert_accepted(poisoned(attack, values, scale, attackers), scale)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", REAL)
def test_an_attack_depends_on_its_stream_alone(name: str, scale: str):
    first, again, other = (
        poisoned(make(name), honest(scale), scale, seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (name not in ("random", "noise"))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ["sign_flip", "random", "noise", "label_swap"])
def test_who_acts_alone_does_not_know_the_others(name: str, scale: str):
    others = torch.where(ATTACKERS[:, None, None], honest(scale), honest(scale, seed=1))
    one, same = (poisoned(make(name), values, scale) for values in (honest(scale), others))
    assert torch.equal(one[ATTACKERS], same[ATTACKERS])


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ["colluding", "lie"])
def test_the_omniscient_say_the_same_and_take_it_from_the_honest_alone(name: str, scale: str):
    own = torch.where(ATTACKERS[:, None, None], honest(scale, seed=1), honest(scale))
    one, same = (poisoned(make(name), values, scale) for values in (honest(scale), own))
    assert torch.equal(one[0], one[3])
    assert torch.equal(one[ATTACKERS], same[ATTACKERS])


@pytest.mark.parametrize(
    "attack",
    [
        SignFlip(),
        SignFlip(strength=2.5),
        RandomPredictions(),
        NoisyPredictions(),
        LabelSwap(),
        Colluding(target=2),
    ],
    ids=lambda attack: type(attack).__name__,
)
def test_poisoning_and_softening_commute(attack: Attack):
    """An attack is the same on both scales; where the target follows from the honest mean it may be
    another."""
    softened = soften(poisoned(attack, honest("logits"), "logits"))
    torch.testing.assert_close(
        poisoned(attack, honest("probs"), "probs"), softened, rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ["sign_flip", "colluding", "lie"])
@given(seed=st.integers(0, 2**20))
def test_relabeling_samples_and_classes_relabels_the_attack(name: str, scale: str, seed: int):
    values, stream = honest(scale, seed), torch.Generator().manual_seed(seed)
    samples, classes = torch.randperm(5, generator=stream), torch.randperm(4, generator=stream)
    relabeled = poisoned(make(name), values[:, samples][..., classes], scale)
    torch.testing.assert_close(
        relabeled, poisoned(make(name), values, scale)[:, samples][..., classes]
    )


# Attacks against robust means.


def agreement(scale: str) -> tuple[Tensor, Tensor]:
    """Labels of 200 samples, and uploads of 20 clients that know them, each with mistakes of its
    own."""
    stream = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (200,), generator=stream)
    logits = 5.0 * torch.nn.functional.one_hot(labels, 5) + torch.randn(
        20, 200, 5, generator=stream
    )
    return labels, logits if scale == "logits" else soften(logits)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("rule", [rule for rule in ROBUST if rule != "none"])
@pytest.mark.parametrize("attack", ["sign_flip", "random", "noise", "label_swap", "colluding"])
def test_four_of_twenty_attackers_fool_no_robust_mean(attack: str, rule: str, scale: str):
    labels, values = agreement(scale)
    strong = {
        "sign_flip": {"strength": 20.0},
        "random": {"strength": 20.0},
        "noise": {"strength": 20.0},
    }
    attackers = choose_attackers(0, 20, 0.2)
    found = poisoned(make(attack, **strong.get(attack, {})), values, scale, attackers)
    aggregate, weights = ROBUST[rule]().aggregate(found, scale)
    assert (aggregate.argmax(dim=-1) == labels).float().mean() > 0.97
    assert weights[attackers].sum() < 0.15, "less than their share of 0.2"


@pytest.mark.parametrize(
    "attack",
    [SignFlip(strength=20.0), Colluding(margin=100.0)],
    ids=lambda attack: type(attack).__name__,
)
def test_the_same_attackers_fool_the_mean_of_logits(attack: Attack):
    labels, values = agreement("logits")
    found = poisoned(attack, values, "logits", choose_attackers(0, 20, 0.2))
    assert (found.mean(dim=0).argmax(dim=-1) == labels).float().mean() < 0.05


@pytest.mark.parametrize("rule", ROBUST)
def test_a_little_is_enough_to_move_every_mean(rule: str):
    """The point of the attack: at one standard deviation, here 1, no rule tells attackers from
    honest clients."""
    _, values = agreement("logits")
    found = poisoned(Lie(z=1.0), values, "logits", choose_attackers(0, 20, 0.2))
    moved = (
        ROBUST[rule]().aggregate(found, "logits")[0] - ROBUST[rule]().aggregate(values, "logits")[0]
    )
    assert moved.mean() < -0.1


# Who attacks.


@pytest.mark.parametrize(
    ("fraction", "expected"), [(0.0, 0), (0.001, 1), (0.2, 2), (0.25, 3), (1.0, 10)]
)
def test_a_share_of_the_clients_attacks_rounded_up(fraction: float, expected: int):
    assert choose_attackers(0, 10, fraction).sum() == expected


def test_the_seed_chooses_and_more_attackers_join_the_first():
    first, again, other = (choose_attackers(seed, 50, 0.3) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert (choose_attackers(0, 50, 0.5) | ~first).all()


def test_every_client_is_equally_likely_to_attack():
    """Of 2,000 seeds 600 choose each of ten clients, give or take 4.5 standard deviations of
    20.5."""
    counts = sum(choose_attackers(seed, 10, 0.3).int() for seed in range(2000))
    assert (abs(counts - 600) < 92).all()
