"""How clients' data differ beyond who has which rows: noise on inputs, other meanings of labels.

Both are of private rows: what a client trains on, and its own test and validation sets. The public
set and the balanced test set stay as they were loaded. Not for: which rows a client gets
(``fedkd.data.partitions``).
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fedkd.data.division import Division
from fedkd.data.prepare import Labeled
from fedkd.errors import SettingError
from fedkd.runtime.seeding import numpy_stream
from fedkd.settings.conditions import RunConditions
from fedkd.settings.validators import at_least, at_most

Data = TypeVar("Data", bound=Labeled)


@dataclass(frozen=True, kw_only=True)
class ClientShifts:
    """Differences among clients in inputs (covariate shift) and labels (concept shift)."""

    noise: float = 0.0
    """Standard deviation of Gaussian noise on the last client's inputs, in standard deviations of
    public inputs; client i of K has noise * i / (K - 1), the first one none (NIID-Bench, Li et al.
    2022, arXiv 2102.02079)."""
    swapped_share: float = 0.0
    """Share of the clients, drawn at random, for whom some classes have traded their labels, from 0
    to below 1."""
    swapped_classes: int = 2
    """How many classes, drawn at random, trade their labels in a circle for these clients, >= 2;
    2 swaps a pair."""

    wrong_labels: float = 0.0
    """Share of each client's training samples, drawn at random, that have another class's label,
    any alike, from 0 to below 1; test sets keep theirs (symmetric label noise, as RHFL's)."""

    def __post_init__(self) -> None:
        at_least(
            0, noise=self.noise, swapped_share=self.swapped_share, wrong_labels=self.wrong_labels
        )
        at_most(1, swapped_share=self.swapped_share)
        at_most(0.999, wrong_labels=self.wrong_labels)
        at_least(2, swapped_classes=self.swapped_classes)
        if self.swapped_share == 0 and self.swapped_classes != 2:
            raise SettingError(
                f"swapped_classes={self.swapped_classes} would do nothing: swapped_share=0"
            )

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return why clients' data cannot differ so: one client, tokens, an audit."""
        names = ("noise", "swapped_share", "wrong_labels")
        asked = [f"shift.{name}" for name in names if getattr(self, name)]
        if not asked:
            return None
        if conditions.clients == 1 and asked != ["shift.wrong_labels"]:
            return f"{asked[0]} is a difference among clients, and clients=1"
        if not conditions.has_classes:
            return (
                f"{asked[0]}: private samples are texts without classes, which have neither noise"
                " nor labels to swap; leave it out"
            )
        if conditions.is_chosen("audit"):
            return (
                f"{asked[0]}: an audit asks models about samples as they were loaded; leave out the"
                " audit or the shift"
            )
        if self.swapped_share and len(self._swapped(conditions.clients)) in (0, conditions.clients):
            return (
                f"shift.swapped_share={self.swapped_share} of clients={conditions.clients} is"
                f" {len(self._swapped(conditions.clients))} clients: some must have the data set's"
                " labels, and some others"
            )
        return None

    def _swapped(self, clients: int) -> range:
        return range(round(self.swapped_share * clients))

    def swapped_clients(self, clients: int, seed: int) -> tuple[int, ...]:
        """Return the clients for whom classes have traded their labels."""
        drawn = numpy_stream(seed, "shift", "swapped clients").permutation(clients)
        return tuple(sorted(drawn[self._swapped(clients)].tolist()))

    def trade(self, classes: int, seed: int) -> np.ndarray:
        """Return the label that each class has for these clients [C].

        Raises SettingError where there are fewer classes than trade labels.
        """
        if self.swapped_classes > classes:
            raise SettingError(
                f"shift.swapped_classes={self.swapped_classes} is more than the {classes} classes"
            )
        stream = numpy_stream(seed, "shift", "swapped classes")
        chosen = stream.permutation(classes)[: self.swapped_classes]
        label_of = np.arange(classes)
        label_of[chosen] = np.roll(chosen, 1)
        return label_of

    def relabeled(self, prepared: Data, division: Division, seed: int) -> Data:
        """Return the data set with the labels that private rows have for their clients."""
        if self.swapped_share == 0 and self.wrong_labels == 0:
            return prepared
        labels = np.array(prepared.labels)
        if self.swapped_share:
            self._swap(labels, len(prepared.class_names), division, seed)
        if self.wrong_labels:
            self._mislabel(labels, len(prepared.class_names), division, seed)
        return dataclasses.replace(prepared, labels=labels)  # type: ignore[type-var]

    def _mislabel(self, labels: np.ndarray, classes: int, division: Division, seed: int) -> None:
        """Give each client's share of training labels, rounded to samples, another class."""
        counts = [round(self.wrong_labels * len(rows)) for rows in division.train]
        if not any(counts):
            largest = max(len(rows) for rows in division.train)
            raise SettingError(
                f"shift.wrong_labels={self.wrong_labels:g} would do nothing: it is less than half a"
                f" sample of the largest training set, of {largest}"
            )
        for client, (rows, count) in enumerate(zip(division.train, counts, strict=True)):
            stream = numpy_stream(seed, "client", client, "wrong labels")
            wrong = rows[stream.permutation(len(rows))[:count]]
            labels[wrong] = (labels[wrong] + stream.integers(1, classes, size=count)) % classes

    def _swap(self, labels: np.ndarray, classes: int, division: Division, seed: int) -> None:
        label_of = self.trade(classes, seed)
        for client in self.swapped_clients(len(division.train), seed):
            for part in (division.train, division.test, division.validation):
                labels[part[client]] = label_of[labels[part[client]]]

    def describe(self, clients: int, seed: int) -> str:
        """Return the shifts in words; empty without any.

        >>> ClientShifts(noise=0.5).describe(10, 0)
        'noise of 0 to 0.5 standard deviations by client'
        """
        said = []
        if self.noise:
            said.append(f"noise of 0 to {self.noise:g} standard deviations by client")
        if self.swapped_share:
            who = ", ".join(map(str, self.swapped_clients(clients, seed)))
            said.append(f"{self.swapped_classes} classes trade labels for clients {who}")
        if self.wrong_labels:
            said.append(f"{100 * self.wrong_labels:g} % of training labels are wrong")
        return "; ".join(said)


class InputNoise:
    """The noise on each private row, the same alone and among others, at any time.

    It has a random stream a client and role of its rows (training, test, validation).
    """

    def __init__(self, level: float, division: Division, rows: int, seed: int) -> None:
        """Number the private rows of a division among all ``rows`` of its data set."""
        self._level, self._seed = level, seed
        self._clients = len(division.train)
        self._owned = np.full((rows, 3), -1, dtype=np.int64)  # client, role, position in it
        self._sizes: dict[tuple[int, int], int] = {}
        parts = (division.train, division.test, division.validation)
        for role, of_clients in enumerate(parts):
            for client, own in enumerate(of_clients):
                self._owned[own] = np.stack(
                    [np.full(len(own), client), np.full(len(own), role), np.arange(len(own))], 1
                )
                self._sizes[client, role] = len(own)

    def added(
        self, inputs: Float[Tensor, "n *shape"], rows: Sequence[int] | np.ndarray
    ) -> Float[Tensor, "n *shape"]:
        """Return model inputs of some rows with the noise of their clients; others as they are."""
        owned = self._owned[rows]
        noisy = inputs.clone()
        for client, role in np.unique(owned[owned[:, 0] > 0][:, :2], axis=0).tolist():
            here = np.flatnonzero((owned[:, 0] == client) & (owned[:, 1] == role))
            shape = (self._sizes[client, role], *inputs.shape[1:])
            stream = numpy_stream(self._seed, "client", client, "input noise", role)
            drawn = stream.standard_normal(shape, dtype=np.float32)[owned[here, 2]]
            level = self._level * client / (self._clients - 1)
            noisy[torch.from_numpy(here)] += level * torch.from_numpy(drawn).to(inputs.device)
        return noisy
