"""Look at each finished round of a run: callables of the user's, which log, measure or stop it.

A run has them only when it is begun from Python. They see the round before it is written, so that
what they measure stands in its row; what one of them raises ends the run after the round is
written and its checkpoint is whole. Not for: the strategy's own figures (``Fusion.metrics``).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fedkd.errors import FedkdError, RunError, SettingError, one_line
from fedkd.experiment.build import Experiment
from fedkd.federation.round_records import RoundRecord
from fedkd.report.record_rows import Baseline, client_rows, round_row
from fedkd.runtime.devices import deterministic
from fedkd.storage.client_states import ClientStore, DiskStore
from fedkd.training.loop import predict

TestSet = Literal["global", "personal"]
"""The balanced test set that all clients share, or a client's own label distribution."""
Metric = Callable[[Tensor, Tensor], float]
"""From logits and targets to a figure."""


@dataclass(frozen=True, kw_only=True)
class RoundView:
    """A finished round, as a callback sees it.

    Its figures cannot be changed. What ``record`` and ``measure`` add stands in ``rounds.jsonl`` as
    ``own/NAME``.
    """

    round: int
    """Number of the round, from 1."""
    rounds: int
    """How many rounds the run has."""
    figures: Mapping[str, Any]
    """The round's row of ``rounds.jsonl``, by the names in docs/columns.md."""
    clients: Sequence[Mapping[str, Any]]
    """The rows of ``clients.csv``, one a client."""
    weights: np.ndarray | None
    """[K, K]: how much client j (column) teaches client i (row); None where nothing was fused."""
    is_measured: bool = True
    """Whether clients' models were measured in this round (``evaluate_every``); else figures on
    test sets are None."""
    _experiment: Experiment = field(repr=False)
    _own: dict[str, float] = field(default_factory=dict, repr=False)
    _stop: list[str] = field(default_factory=list, repr=False)

    def model(self, client: int) -> nn.Module:
        """Return a copy of a client's model as it is after this round, in evaluation mode."""
        self._check(client)
        here = self._experiment.scenario.engine.value.here
        store: ClientStore | None = None if here else DiskStore(self._experiment.states)
        return self._experiment.context.own_model(client, store).eval()

    def examples(self, client: int, on: TestSet = "global") -> tuple[Tensor, Tensor]:
        """Return the inputs and targets of a test set: ``global``, or the client's ``personal``."""
        self._check(client)
        context = self._experiment.context
        if on == "global":
            return context.global_test
        if on == "personal":
            return context.samples(context.division.test[client])
        raise SettingError(f"on must be one of global, personal, got {on!r}")

    def predict(self, client: int, on: TestSet = "global") -> tuple[Tensor, Tensor]:
        """Return the logits of a client's model on a test set, and the targets."""
        inputs, targets = self.examples(client, on)
        with deterministic(self._experiment.context.device), torch.no_grad():
            return predict(self.model(client), inputs).cpu(), targets.cpu()

    def measure(self, name: str, metric: Metric, on: TestSet = "global") -> list[float]:
        """Return a metric of each client's model, and record the mean of those that are numbers.

        Args:
            name: The column's name after ``own/``.
            metric: Called with logits [n, C] and targets [n] of each client.
            on: The test set: ``global`` or ``personal``.
        """
        found = [float(metric(*self.predict(row["client"], on))) for row in self.clients]
        honest = [
            value
            for value, row in zip(found, self.clients, strict=True)
            if not (row["attacker"] or math.isnan(value))
        ]
        if honest:
            self.record(name, sum(honest) / len(honest))
        return found

    def record(self, name: str, value: float) -> None:
        """Add a figure of one's own to the round: the column ``own/NAME``."""
        if not isinstance(name, str) or not name:
            raise SettingError(f"a figure needs a name, got {name!r}")
        if not isinstance(value, int | float | np.number):
            raise SettingError(f"own/{name} must be a number, got a {type(value).__name__}")
        self._own[name] = float(value)

    def stop(self, reason: str = "") -> None:
        """End the run after this round. Its folder says so, and ``fedkd.resume`` goes on."""
        self._stop.append(reason)

    def _check(self, client: int) -> None:
        clients = len(self._experiment.context.architectures)
        if not isinstance(client, int | np.integer) or not 0 <= client < clients:
            raise SettingError(f"client must be from 0 to {clients - 1}, got {client!r}")


Callback = Callable[[RoundView], object]


@dataclass(frozen=True)
class Seen:
    """A round after its callbacks."""

    record: RoundRecord
    stopped: str | None = None
    """Why a callback asked the run to stop; None where none did."""
    error: FedkdError | None = None
    """What a callback raised, with its name."""


class RoundWatchers:
    """The callbacks of a run, called one after the other."""

    def __init__(self, callbacks: object = None) -> None:
        """Take one or several callables, or objects with a method ``on_round``.

        Raises SettingError for what is neither.
        """
        given = callbacks if isinstance(callbacks, list | tuple) else [callbacks]
        self._callbacks = [_callback(one) for one in given if one is not None]

    def see(self, experiment: Experiment, record: RoundRecord, baseline: Baseline | None) -> Seen:
        """Return a round with what callbacks measured, and whether they end the run."""
        if not self._callbacks:
            return Seen(record)
        view = RoundView(
            round=record.round,
            rounds=experiment.plan.rounds,
            figures=round_row(record, baseline),
            clients=client_rows(record, baseline),
            weights=None if record.weights is None else record.weights.numpy().copy(),
            is_measured=record.is_measured,
            _experiment=experiment,
        )
        error: FedkdError | None = None
        for name, callback in self._callbacks:
            try:
                callback(view)
            except Exception as raised:
                said = f"on_round: {name} failed in round {record.round}: {one_line(raised)}"
                error = RunError(said)
                error.__cause__ = raised
                break
        stopped = (view._stop[0] or "a callback asked for it") if view._stop else None
        return Seen(replace(record, own={**record.own, **view._own}), stopped, error)


def _callback(given: Any) -> tuple[str, Callback]:
    """Return the name of a callback and what is called."""
    called = getattr(given, "on_round", given)
    if not callable(called):
        raise SettingError(
            f"on_round: a {type(given).__name__} was given, expected a function of one argument"
            " (fedkd.RoundView), or an object with a method on_round, or a list of such"
        )
    return getattr(given, "__name__", type(given).__name__), called
