"""Privacy mechanisms of one's own: one with a declaration, and some without."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fedkd.privacy.claims import ADVERSARIES, Adversary
from fedkd.privacy.events import Event, GaussianRows
from fedkd.privacy.mechanisms import CentralGaussian, ClientNoise, Gaussian, Mechanism
from fedkd.privacy.mechanisms.mechanism import ClientRound, Memory, TrainingLoop
from fedkd.privacy.release_plan import ReleasePlan
from fedkd.privacy.sensitivity import bound_rows, finish


@dataclass(frozen=True, kw_only=True)
class Silent(ClientNoise):
    """Add noise and say nothing of what it costs."""

    def release(self, values: Tensor, plan: ReleasePlan, stream: np.random.Generator) -> Tensor:
        noise = torch.from_numpy(stream.standard_normal(values.shape))
        return finish(bound_rows(values, plan.scale, 1.0, 2) + noise, plan.scale, values)


@dataclass(frozen=True, kw_only=True)
class Declared(Silent):
    """Say what it costs."""

    def events(self, plan: ReleasePlan, rows: int) -> tuple[Event, ...]:
        return (GaussianRows(rows=rows, sensitivity=2.0, sigma=30.0),)


@dataclass(frozen=True, kw_only=True)
class Heir(Declared):
    """Derived from one that declares."""


@dataclass(frozen=True, kw_only=True)
class NoNoise(Gaussian):
    """Derived from a reviewed mechanism, without its noise."""

    def release(self, values: Tensor, plan: ReleasePlan, stream: np.random.Generator) -> Tensor:
        return values


@dataclass(frozen=True, kw_only=True)
class SameNoise(Gaussian):
    """Derived from a reviewed mechanism, and not changed."""


@dataclass(frozen=True, kw_only=True)
class SameServer(CentralGaussian):
    """Derived from a reviewed mechanism of the server, and not changed."""


@dataclass(frozen=True, kw_only=True)
class Idle(Mechanism):
    """Promise much and do nothing at all."""

    protects_from: ClassVar[tuple[Adversary, ...]] = ADVERSARIES


@dataclass(frozen=True, kw_only=True)
class Trainer(Mechanism):
    """Take each hook at a client, and count the calls in its memory."""

    survives_failure: ClassVar[frozenset[str]] = frozenset({"rounds"})
    most: int = 1
    """Rounds that a client may train in."""

    def covers_round(self, turn: ClientRound) -> bool:
        return int(turn.memory.get("rounds", torch.tensor(0))) < self.most

    def train_privately(
        self, loop: TrainingLoop, turn: ClientRound, remember: Callable[[Memory], None]
    ) -> float | None:
        remember({**turn.memory, "rounds": turn.memory.get("rounds", torch.tensor(0)) + 1})
        return loop.run()
