"""An estimator as a module: it predicts log-probabilities, and is fitted to what it was taught.

Its state holds no estimator: one is fitted again from the same rows and seed, to the bit. So
nothing of it is ever unpickled. Not for: which estimators there are (``estimator_libraries``).
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fedkd.errors import FitFailed, SettingError, unexpected
from fedkd.models.estimators.weighted_rows import (
    WeightedRows,
    log_probabilities,
    weighted_rows,
)
from fedkd.models.fitting import Exported, FitData, FitsItself
from fedkd.runtime.one_thread import one_thread

RECENT = 256
"""Fitted estimators that a process keeps, the last used ones; others are fitted again."""


@runtime_checkable
class Maker(Protocol):
    """One kind of estimator of a library, with its arguments."""

    @property
    def name(self) -> str:
        """Its name with prefix and arguments."""

    def make(self, seed: int) -> Any:
        """Return a new estimator with ``fit(x, y, sample_weight)`` and ``predict_proba(x)``."""

    def write(self, fitted: Any, folder: Path) -> tuple[str, str]:
        """Write a fitted estimator, and return imports and an expression that loads it."""


@dataclass(frozen=True)
class Fitted:
    """A fitted estimator; None where all rows are of one class, or there are none."""

    estimator: Any
    present: Int[np.ndarray, "k"]
    """The classes of its columns."""

    def probs(self, inputs: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n k"]:
        """Return the probabilities of the classes present."""
        if self.estimator is None or not len(inputs):  # which libraries refuse
            return np.full((len(inputs), len(self.present)), 1 / len(self.present))
        with one_thread():
            found: np.ndarray = self.estimator.predict_proba(inputs)
        return found


class _Key(NamedTuple):
    name: str
    seed: int
    rows: bytes


class _Recent:
    """The estimators fitted last, by what they were fitted to. Safe to use from threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: OrderedDict[_Key, Fitted] = OrderedDict()

    def get(self, key: _Key, fit: Callable[[], Fitted]) -> Fitted:
        """Return the estimator of a key, fitted where it is not at hand."""
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
                return self._found[key]
        found = fit()
        with self._lock:
            self._found[key] = found
            while len(self._found) > RECENT:
                self._found.popitem(last=False)
        return found


_RECENT = _Recent()


def fitted(maker: Maker, rows: WeightedRows, seed: int) -> Fitted:
    """Return an estimator fitted to rows, one and the same for the same rows and seed.

    Raises FitFailed where its library cannot fit it.
    """
    digest = hashlib.blake2b(digest_size=32)
    for array in rows:
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return _RECENT.get(_Key(maker.name, seed, digest.digest()), lambda: _fit(maker, rows, seed))


def _fit(maker: Maker, rows: WeightedRows, seed: int) -> Fitted:
    present, labels = np.unique(rows.labels, return_inverse=True)
    if len(present) == 1:  # which most libraries refuse
        return Fitted(None, present)
    estimator = maker.make(seed)
    try:
        with one_thread():
            estimator.fit(rows.inputs, labels, sample_weight=rows.weights)
    except Exception as error:
        raise unexpected(
            FitFailed(f"models: {maker.name} cannot be fitted: {type(error).__name__}: {error}")
        ) from error
    return Fitted(estimator, present[np.asarray(estimator.classes_, dtype=np.int64)])


class EstimatorModule(nn.Module, FitsItself):
    """An estimator that maps inputs [n, *shape] to log-probabilities [n, C], which are its logits.

    Before it was taught anything all classes are equally probable.
    """

    classes: Tensor
    predicts_at_once = 100_000
    """Samples that it predicts on in one call: its library has batches of its own."""

    def __init__(self, maker: Maker, classes: int) -> None:
        """Make an estimator that was taught nothing."""
        super().__init__()
        self.register_buffer("classes", torch.tensor(classes))
        self._maker, self._count = maker, classes
        self._data: Callable[[], FitData] | None = None
        self._seed, self._fitted = 0, self._untaught

    @property
    def _untaught(self) -> Fitted | None:
        return Fitted(None, np.arange(self._count))

    def learn(self, data: Callable[[], FitData] | None, seed: int) -> None:
        """Take what it is fitted to in place of what it was before; None is nothing yet."""
        self._data, self._seed = data, seed
        self._fitted = None if data is not None else self._untaught

    def fit(self) -> None:
        """Fit it now. Raises FitFailed where its library cannot."""
        self._result()

    def _result(self) -> Fitted:
        if self._fitted is None:
            assert self._data is not None, "nothing is fitted to nothing"
            self._fitted = fitted(self._maker, weighted_rows(self._data()), self._seed)
        return self._fitted

    def forward(self, inputs: Float[Tensor, "n *shape"]) -> Float[Tensor, "n C"]:
        """Return log-probabilities, without gradients."""
        found = self._result()
        probs = found.probs(inputs.detach().cpu().flatten(1).numpy())
        logits = torch.from_numpy(log_probabilities(probs, found.present, self._count))
        return logits.to(inputs.device)

    def write(self, folder: Path) -> Exported:
        """Write the fitted estimator into a folder, as its own library stores it."""
        found = self._result()
        if found.estimator is None:
            raise SettingError(
                f"this {self._maker.name} was never fitted: it was taught"
                f" {'nothing' if len(found.present) > 1 else 'one class alone'}; train it first"
            )
        imports, loads = self._maker.write(found.estimator, folder)
        return Exported(imports, loads, tuple(found.present.tolist()))

    def extra_repr(self) -> str:
        """Return the estimator's name and its number of classes."""
        return f"{self._maker.name}, classes={self._count}"
