"""Every mechanism that claims, as it ships, ready for ``audited_mechanisms.audit_mechanism``.

Which hook a mechanism takes says where it acts, so that a new one is audited without a line here:
at a client in training (one record with a large gradient, or a null record), at a client on its
upload, or at a trusted server on the mean. All go through ``PrivacyEnforcer``, and what is claimed
is what the ledger says of the events that came out.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedkd.messages import Cohort, Knowledge, Predictions, PrivacyEvent
from fedkd.privacy.claims import Claim
from fedkd.privacy.enforcement import PrivacyEnforcer
from fedkd.privacy.ledger import Ledger, Spending
from fedkd.privacy.mechanisms import MECHANISMS, Laplace, Mechanism
from fedkd.privacy.mechanisms.mechanism import TrainingLoop, overrides
from fedkd.privacy.mechanisms.row_noise import RowNoise
from fedkd.privacy.mechanisms.trusted_server import TrustedServer
from fedkd.privacy.release_plan import ReleasePlan
from fedkd.privacy.vouching import protected_from
from fedkd.strategies.dsfl import DSFL
from fedkd.strategies.fedmd import FedMD
from fedkd.strategy import MeanBased
from fedkd.training.hyperparameters import Phase
from fedkd.training.optimizers import Optimizer

DELTA = 1e-5
EPSILON = 2.0
STEPS = 2
CLIENTS = 21
CLASSES = 4
CLIP = 1.0


def claiming() -> Iterator[tuple[str, type[Mechanism], dict[str, Any]]]:
    """Yield every mechanism that claims by its name, with further settings worth an audit."""
    for name, kind in MECHANISMS.items():
        if not kind.protects_from:
            continue
        yield name, kind, {}
        if "memoize" in {f.name for f in fields(kind)}:
            yield f"{name} memoized", kind, {"memoize": True}


@dataclass(frozen=True)
class ShippedMechanism:
    """One mechanism with its neighbors; ``release`` is what ``audit_mechanism`` calls."""

    enforcer: PrivacyEnforcer
    rounds: int
    first: np.ndarray
    second: np.ndarray

    @property
    def claim(self) -> Claim:
        """What the ledger claims of the events of one whole release."""
        ledger = Ledger()
        self._once(self.first, 0, ledger)
        unit, who = self.enforcer.mechanism.unit, protected_from(self.enforcer.mechanism)[0]
        return ledger.claim(unit, who, DELTA)

    def release(self, value: np.ndarray, draws: int) -> np.ndarray:
        """Return so many releases, each with streams of its own."""
        side = 1 if value is self.second else 0
        seeds = range(1, 10**9)
        start = self._drawn[side]
        self._drawn[side] += draws
        return np.stack([self._once(value, seeds[2 * (start + i) + side]) for i in range(draws)])

    @property
    def _drawn(self) -> list[int]:
        drawn: list[int] = self.__dict__.setdefault("drawn", [0, 0])
        return drawn

    def _once(self, value: np.ndarray, seed: int, ledger: Ledger | None = None) -> np.ndarray:
        enforcer = replace(self.enforcer, seed=seed)
        mechanism = enforcer.mechanism
        if overrides(mechanism, "protect_fusion"):
            return self._at_server(enforcer, value, ledger)
        return self._at_client(
            enforcer, value, ledger, trains=overrides(mechanism, "train_privately")
        )

    def _at_client(
        self, enforcer: PrivacyEnforcer, value: np.ndarray, ledger: Ledger | None, *, trains: bool
    ) -> np.ndarray:
        memory: Mapping[str, Tensor] = {}
        model = nn.Linear(value.size, 1, bias=False)
        nn.init.zeros_(model.weight)
        released = np.zeros(value.shape)
        for round_number in range(1, self.rounds + 1):
            turn = enforcer.client_round(0, round_number, 1, memory)
            if trains:
                kept = [memory]
                enforcer.train(_loop(model, value), turn, kept.append)
                memory = kept[-1]
                turn = replace(turn, memory=memory)
            asked = Predictions(
                ids=torch.arange(len(value)),
                values=torch.from_numpy(value.astype(np.float32)),
                scale=enforcer.plan.scale,
            )
            knowledge, event, memory = enforcer.protect(asked, turn)
            released += _values(knowledge) / self.rounds
            if ledger is not None and round_number == self.rounds:
                _record(ledger, event)
        return model.weight.detach().numpy().reshape(value.shape) if trains else released

    def _at_server(
        self, enforcer: PrivacyEnforcer, value: np.ndarray, ledger: Ledger | None
    ) -> np.ndarray:
        others = np.stack([self.first, self.second] * (CLIENTS // 2))
        values = torch.from_numpy(np.concatenate([others, value[None]]).astype(np.float32))
        on_probs = enforcer.plan.scale == "probs"
        strategy: MeanBased = DSFL(aggregation="mean") if on_probs else FedMD()
        released = np.zeros(value.shape)
        for round_number in range(1, self.rounds + 1):
            cohort = Cohort(
                round=round_number,
                client_ids=tuple(range(CLIENTS)),
                public_ids=torch.arange(len(value)),
                values=values,
                scale=enforcer.plan.scale,
            )
            fusion, spent = enforcer.fuse(strategy, cohort, None, CLIENTS)
            released += _values(fusion.teachers) / self.rounds
            for spending in spent if ledger is not None else ():
                assert ledger is not None
                ledger.record(None, spending)
        return released


def shipped(
    kind: type[Mechanism],
    settings: Mapping[str, Any],
    *,
    noise_factor: float = 1.0,
) -> ShippedMechanism:
    """Return a mechanism for a budget of ``EPSILON``, with the neighbors that are farthest apart.

    What one release is: two rounds of one public sample, where answers are repeated or noise is
    Gaussian and composes exactly; two steps of training; one round for what is told by a bound that
    assumes nothing of the noise, and would not see two rounds.

    Args:
        kind: The mechanism's class.
        settings: Further settings of it.
        noise_factor: By which the noise is multiplied.
    """
    clips = "clip_norm" in {f.name for f in fields(kind)}
    on_logits = clips and kind.layer != "model"
    composes = settings or (issubclass(kind, RowNoise | TrustedServer) and kind is not Laplace)
    rounds, rows = (2 if composes and kind.layer != "model" else 1), 1
    mechanism = kind(epsilon=EPSILON, **({"clip_norm": CLIP} if clips else {}), **settings)  # type: ignore[call-arg]
    plan = ReleasePlan(
        clients=CLIENTS, rounds=rounds, rows=rows, public_size=rows, classes=CLASSES,
        scale="logits" if on_logits else "probs", records=1, batch_size=1, epochs=STEPS,
    )  # fmt: skip
    mechanism.check(replace(plan, records=CLIENTS, fewest_records=1))
    first, second = np.zeros((2, rows, CLASSES))
    if kind.layer == "model":  # a gradient ten times too long, and a null record's
        second[:, :2] = 10 * CLIP
    elif on_logits:
        first[:, 0], second[:, 0], first[:, 1], second[:, 1] = CLIP, -CLIP, -CLIP, CLIP
    else:
        first[:, 0], second[:, 1] = 1, 1
    enforcer = PrivacyEnforcer(
        name=kind.__name__, mechanism=mechanism, plan=plan, seed=0, noise_factor=noise_factor
    )
    return ShippedMechanism(enforcer, rounds, first, second)


def _loop(model: nn.Linear, value: np.ndarray) -> TrainingLoop:
    """Return the training of a linear model on one record whose gradient is ``value``."""
    phase = Phase(optimizer="sgd", learning_rate=1.0, batch_size=1, epochs=STEPS)
    record = torch.from_numpy(value.reshape(1, -1).astype(np.float32))
    return TrainingLoop(
        model=model,
        size=1,
        batch_loss=lambda batch: -model(record[batch]).mean(),
        phase=phase,
        epochs=STEPS,
        optimizer=Optimizer(model.parameters(), phase),
        batches=np.random.default_rng(0),
        check_interrupt=lambda: None,
    )


def _values(knowledge: Knowledge | Tensor) -> np.ndarray:
    values = knowledge if isinstance(knowledge, Tensor) else knowledge.values  # type: ignore[attr-defined]
    return np.asarray(values.numpy(), dtype=np.float64)


def _record(ledger: Ledger, event: PrivacyEvent) -> None:
    for spent in event.spent:
        ledger.record(0, Spending.from_dict(json.loads(spent)))
