"""What may travel, and be learned, beside a client's predictions on public samples.

Two seams of ``fedkd.knowledge.PublicPredictions``: a ``Scorer``, whose numbers clients upload with
their predictions, and a ``LocalTerm`` in the loss of private training. Not for what is told of
predictions (``fedkd.knowledge.predictions``).
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from fedkd.errors import UploadRejected
from fedkd.knowledge.knowledge_type import ClientView, Penalty, SideRelease
from fedkd.messages import Knowledge
from fedkd.settings.conditions import Compatible, RunConditions

Moment = Literal["before training", "after training"]


@runtime_checkable
class Scorer(Compatible, Protocol):
    """Numbers that a client uploads beside its predictions. Derive from it.

    They come as ``cohort.scores`` [K, S].
    """

    @property
    @abstractmethod
    def bounds(self) -> tuple[float, float]:
        """The least and the largest number that is accepted."""

    @abstractmethod
    def count(self, rows: int) -> int:
        """Return S, how many numbers there are where ``rows`` public samples are asked about."""

    @abstractmethod
    def scores(self, view: ClientView) -> Float[Tensor, "S"]:
        """Return a client's numbers, on the CPU."""

    @property
    def reveals_model_only(self) -> bool:
        """Whether the numbers depend on the model and public samples alone, or are hidden by noise.

        Such noise is a ``side_release``.
        """
        return False

    def side_release(self, records: int) -> SideRelease | None:
        """Return what hides single private records in the numbers; None where nothing does.

        ``records`` is the public size of a client's private set.
        """
        return None

    def remember(self, view: ClientView, moment: Moment) -> Mapping[str, Tensor] | None:
        """Return what a client remembers from now on; None leaves it as it is."""
        return None


@runtime_checkable
class LocalTerm(Protocol):
    """A term of private training's loss of clients that also distil. Derive from it."""

    @abstractmethod
    def penalty(self, view: ClientView, teacher: Knowledge | None) -> Penalty | None:
        """Return the term; None without one, as in a first round."""

    def remember(self, view: ClientView, moment: Moment) -> Mapping[str, Tensor] | None:
        """Return what a client remembers from now on; None leaves it as it is."""
        return None


def check_scores(scores: Tensor | None, scorer: Scorer | None, rows: int) -> None:
    """Raise UploadRejected unless the numbers beside predictions are those of a scorer.

    Args:
        scores: What came.
        scorer: What was asked for; None for nothing.
        rows: Public samples asked about.
    """
    if scorer is None:
        if scores is not None:
            raise UploadRejected("scores came that nobody asked for")
        return
    expected, (low, high) = scorer.count(rows), scorer.bounds
    if scores is None or tuple(scores.shape) != (expected,) or not scores.is_floating_point():
        found = "none" if scores is None else f"{list(scores.shape)} of {scores.dtype}"
        raise UploadRejected(f"expected {expected} scores, got {found}")
    if not bool(torch.isfinite(scores).all() and (scores >= low).all() and (scores <= high).all()):
        raise UploadRejected(f"scores must be numbers from {low:g} to {high:g}")


def conflict_of_gradients(conditions: RunConditions, asks: str) -> str | None:
    """Return the conflict of what takes gradients through models with tokens and estimators.

    ``asks`` completes "strategy=NAME ...".
    """
    name = f"strategy={conditions.strategy}"
    if not conditions.has_classes:
        return f"{name} {asks}, and data={conditions.name_of('data')} has no classes"
    cure = "use another strategy, or networks for all clients"
    return conditions.conflict_with_estimators(f"{name} {asks}", cure)
