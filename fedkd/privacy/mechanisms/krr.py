"""k-ary randomized response: a client tells a random label for each row.

Often it is the one that it found, else any other.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from fedkd.errors import SettingError
from fedkd.privacy.calibration import largest_below
from fedkd.privacy.composition import epsilon_of
from fedkd.privacy.events import Event, RandomizedLabels
from fedkd.privacy.gaussian_dp import check_delta
from fedkd.privacy.mechanisms.client_noise import ClientNoise
from fedkd.privacy.mechanisms.mechanism import DERIVED
from fedkd.privacy.mechanisms.row_noise import Budgeted
from fedkd.privacy.release_plan import (
    ReleasePlan,
    check_accountant,
    check_client_delta,
    check_epsilon,
    check_local,
    check_memoize,
    noise_warning,
)
from fedkd.privacy.sensitivity import Rows
from fedkd.settings.validators import check_choices, positive


def truth_probability(label_epsilon: float, classes: int) -> float:
    """Return how often the true label is told: ``e^epsilon / (e^epsilon + classes - 1)``.

    >>> round(truth_probability(math.log(9), 10), 3)
    0.5
    """
    return 1 / (1 + (classes - 1) * math.exp(-label_epsilon))


def randomize_labels(
    labels: Int[Tensor, "N"], classes: int, label_epsilon: float, stream: np.random.Generator
) -> Int[Tensor, "N"]:
    """Return randomized labels: the true one with ``truth_probability``, else any other.

    Args:
        labels: The true labels.
        classes: Number of classes.
        label_epsilon: Pure epsilon of each label.
        stream: The client's random stream.
    """
    told = stream.random(len(labels)) < truth_probability(label_epsilon, classes)
    shift = stream.integers(1, classes, size=len(labels))
    return (labels + torch.from_numpy(np.where(told, 0, shift)).to(labels.device)) % classes


@dataclass(frozen=True, kw_only=True)
class RandomizedResponse(Budgeted, ClientNoise):
    """Tell a randomized label in place of each prediction, as a one-hot soft label.

    Guarantee: as for ``gaussian``; a label may change to any other, so that there is no sensitivity
    to speak of. Each label has pure epsilon ``label_epsilon``; many compose by RDP, or by their sum
    where that is less. For strategies that upload soft labels.
    """

    refuses: ClassVar[Mapping[str, str]] = {
        **DERIVED,
        "clip_norm": "labels need no clipping",
        "sigma": "labels are randomized by label_epsilon, not by added noise",
    }

    epsilon: float | None = None
    """Budget of the whole run, > 0, from which label_epsilon is solved; null where that is given;
    inf protects nothing, as privacy=none does."""
    label_epsilon: float | None = None
    """Pure epsilon of each label, > 0; null where epsilon is given."""
    memoize: bool = False
    """Answer a public sample once: a repeated one gets the same label, and costs nothing."""
    accountant: Literal["auto", "pld"] = "auto"
    """What counts the finished run: auto (RDP, or the sum), or also PLD (the extra fedkd[pld]),
    slower and tighter, for epsilons up to 200. Noise is solved, and rounds are counted, by auto."""

    def __post_init__(self) -> None:
        check_choices(self)
        check_delta(self.delta)
        if (self.epsilon is None) == (self.label_epsilon is None):
            raise SettingError(
                f"give either epsilon or label_epsilon, got epsilon={self.epsilon},"
                f" label_epsilon={self.label_epsilon}"
            )
        check_epsilon(self.epsilon)
        if self.label_epsilon is not None:
            positive(label_epsilon=self.label_epsilon)

    def check(self, plan: ReleasePlan) -> None:
        """Raise SettingError where the settings do not fit the run."""
        check_local(plan)
        if plan.scale != "probs":
            raise SettingError(
                "krr tells labels, and this strategy's clients upload logits; take one for soft"
                " labels"
            )
        check_client_delta(self.delta, plan)
        check_memoize(plan, self.memoize)
        check_accountant(self.accountant)

    def label_epsilon_in(self, plan: ReleasePlan) -> float:
        """Return the epsilon of each label, as given or as the run's budget allows it."""
        if self.label_epsilon is not None:
            return self.label_epsilon
        assert self.epsilon is not None, "checked when it was made"
        return _largest(self.epsilon, self.delta, plan.released(memoize=self.memoize), plan.classes)

    def release(self, values: Rows, plan: ReleasePlan, stream: np.random.Generator) -> Rows:
        """Return one-hot rows of the randomized labels."""
        labels = values.nan_to_num(nan=0.0).argmax(dim=-1)
        told = randomize_labels(labels, plan.classes, self.label_epsilon_in(plan), stream)
        return F.one_hot(told, plan.classes).to(values.dtype)

    def events(self, plan: ReleasePlan, rows: int) -> tuple[Event, ...]:
        """Return so many randomized labels."""
        label_epsilon = self.label_epsilon_in(plan)
        return (RandomizedLabels(rows=rows, classes=plan.classes, label_epsilon=label_epsilon),)

    def noise_in(self, plan: ReleasePlan) -> tuple[float | None, str]:
        """Return None: labels have no deviation, and in words what it is of."""
        truth = truth_probability(self.label_epsilon_in(plan), plan.classes)
        return None, f"each label is the true one with probability {truth:.4g}, else any other"

    def warnings(self, plan: ReleasePlan) -> tuple[str, ...]:
        """Return warnings to be shown before the run.

        A label told with truth p is like noise of sqrt(p (1-p)) / gap.
        """
        truth = truth_probability(self.label_epsilon_in(plan), plan.classes)
        other = (1 - truth) / (plan.classes - 1)
        noise = math.sqrt(max(truth * (1 - truth), other * (1 - other))) / (truth - other)
        warning = noise_warning(noise, plan.clients, local=True)
        return (warning,) if warning else ()


@lru_cache(maxsize=64)
def _largest(epsilon: float, delta: float, rows: int, classes: int) -> float:
    def cost(label_epsilon: float) -> float:
        return epsilon_of(
            [(RandomizedLabels(rows=rows, classes=classes, label_epsilon=label_epsilon), 1)], delta
        )[0]

    return largest_below(epsilon, cost)
