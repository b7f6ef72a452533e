"""Attacks by name: functions that replace attackers' uploads [K, N, C], with their settings.

An attack sees the uploads as all clients would honestly make them and replaces the attackers' rows;
the others' stay the same to the bit. What it makes passes the server's check: a cleverer attacker
than one who is rejected. Not for: poisoned training data, backdoors in models, or clients that do
not answer. Each class states its threat model.
"""

import torch

from fedkd.robustness.aggregators import count_of
from fedkd.robustness.attacks.attack import Attack as Attack
from fedkd.robustness.attacks.independent import (
    LabelSwap,
    NoisyPredictions,
    RandomPredictions,
    SignFlip,
)
from fedkd.robustness.attacks.no_attack import NoAttack
from fedkd.robustness.attacks.omniscient import Colluding, Lie
from fedkd.robustness.attacks.scale import Mask
from fedkd.runtime.seeding import numpy_stream

ATTACKS: dict[str, type[Attack]] = {
    "none": NoAttack,
    "sign_flip": SignFlip,
    "random": RandomPredictions,
    "label_swap": LabelSwap,
    "colluding": Colluding,
    "lie": Lie,
    "noise": NoisyPredictions,
}


def choose_attackers(seed: int, clients: int, fraction: float) -> Mask:
    """Return which clients attack, by client id: a share of them, the same in every round.

    The share is rounded up.

    A larger fraction adds attackers to those of a smaller one, so that a sweep over fractions
    compares like with like.

    >>> choose_attackers(0, 10, 0.2).sum().item(), choose_attackers(0, 10, 0.0).sum().item()
    (2, 0)
    """
    mask = torch.zeros(clients, dtype=torch.bool)
    mask[numpy_stream(seed, "attackers").permutation(clients)[: count_of(fraction, clients)]] = True
    return mask
