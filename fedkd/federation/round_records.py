"""What is recorded of a round, and every measured figure, declared once.

A figure is a field of ``ClientRecord``. Its ``measured`` says what it is and what a round says of
it; the tables of a run, the server's reset, the summary, the comparison and ``docs/columns.md``
follow from there.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from fedkd.messages import Status

OverClients = Literal["mean", "std", "share_negative", "total", "largest"]
"""How a round sums up a figure: total and largest over all clients, the others without
attackers."""

WORDS: Mapping[OverClients, str] = {
    "mean": "mean",
    "std": "standard deviation",
    "share_negative": "share of clients with a negative one",
    "total": "total",
    "largest": "largest",
}


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A measured figure of a client in a round, as its field declares it."""

    name: str
    """The column of ``clients.csv``."""
    meaning: str
    """One line of ``docs/columns.md``."""
    over_clients: tuple[OverClients, ...]
    """What ``rounds.jsonl`` has of it."""
    lasts: bool
    """Whether a client that is absent keeps the figure of an earlier round."""
    by_client: bool
    """Whether the client measures it and sends it with its upload."""
    in_summary: bool
    """Whether the summary and the comparison show the last round's."""
    is_column: bool
    """Whether ``clients.csv`` has it; a figure by class has a table of its own."""
    parse: Callable[[str], Any]
    """Reads a cell of ``clients.csv``."""
    default: Any
    """The figure before it is measured; MISSING where a record cannot be without it."""

    def round_columns(self) -> dict[str, OverClients]:
        """Return the columns of ``rounds.jsonl`` that sum it up.

        >>> {m.name: m for m in MEASURES}["personal_gain"].round_columns()
        {'personal_gain': 'mean', 'personal_negative_transfer': 'share_negative'}
        """
        ends = {"std": f"{self.name}_std", "share_negative": negative_transfer(self.name)}
        return {ends.get(how, self.name): how for how in self.over_clients}


def negative_transfer(gain: str) -> str:
    """Return the column that counts the clients whose gain is negative.

    >>> negative_transfer("global_gain")
    'global_negative_transfer'
    """
    return gain.removesuffix("_gain") + "_negative_transfer"


def _number(text: str) -> float | None:
    return float(text) if text else None


def measured(
    meaning: str,
    *over_clients: OverClients,
    default: Any = None,
    parse: Callable[[str], Any] = _number,
    lasts: bool = False,
    by_client: bool = False,
    in_summary: bool = False,
    is_column: bool = True,
) -> Any:
    """Return the field of a figure. The arguments are those of ``Measure``.

    Args:
        meaning: What the figure is, for ``docs/columns.md``.
        over_clients: What a round says of it.
        default: The figure before it is measured.
        parse: Reads a cell of ``clients.csv``.
        lasts: Whether an absent client keeps it.
        by_client: Whether it comes with the client's upload.
        in_summary: Whether the summary shows it.
        is_column: Whether ``clients.csv`` has it.
    """
    about = {
        "meaning": meaning,
        "over_clients": over_clients,
        "parse": parse,
        "lasts": lasts,
        "by_client": by_client,
        "in_summary": in_summary,
        "is_column": is_column,
    }
    return field(default=default, metadata={"measure": about})


def _truth(text: str) -> bool:
    return text == "True"


@dataclass(frozen=True, kw_only=True)
class ClientRecord:
    """One client in one round: the columns of ``clients.csv``, in this order.

    Accuracies, gains and shares are in [0, 1] (gains in [-1, 1]); None is unknown. Gains are known
    once a run is reported beside its local-only baseline.
    """

    client_id: int = measured(
        "number of the client from 0", default=MISSING, parse=int, lasts=True, is_column=False
    )
    architecture: str = measured("its model", default=MISSING, parse=str, lasts=True)
    train_size: int = measured(
        "training samples of the client (of text: windows)", default=MISSING, parse=int, lasts=True
    )
    status: Status = measured(
        "`ok`, `rejected` (its upload), `failed` or `absent`", default="absent", parse=str
    )
    attacker: bool = measured("whether it attacks", default=False, parse=_truth, lasts=True)
    personal_accuracy: float | None = measured(
        "accuracy after the round on its own label distribution",
        "mean", "std", lasts=True, by_client=True, in_summary=True,
    )  # fmt: skip
    global_accuracy: float | None = measured(
        "accuracy after the round on the balanced test set",
        "mean", "std", lasts=True, by_client=True, in_summary=True,
    )  # fmt: skip
    personal_gain: float | None = measured(
        "`personal_accuracy` less that of the local-only baseline in the same round",
        "mean", "share_negative", lasts=True, in_summary=True,
    )  # fmt: skip
    global_gain: float | None = measured(
        "`global_accuracy` less that of the local-only baseline in the same round",
        "mean", "share_negative", lasts=True, in_summary=True,
    )  # fmt: skip
    validation_accuracy: float | None = measured(
        "accuracy on its validation split (`test.validation_fraction`)",
        "mean", lasts=True, by_client=True, in_summary=True,
    )  # fmt: skip
    validation_gain: float | None = measured(
        "`validation_accuracy` less that of the local-only baseline", lasts=True
    )
    personal_nll: float | None = measured(
        "negative log-likelihood on its own label distribution",
        "mean", lasts=True, by_client=True, in_summary=True,
    )  # fmt: skip
    global_nll: float | None = measured(
        "negative log-likelihood on the balanced test set",
        "mean", lasts=True, by_client=True, in_summary=True,
    )  # fmt: skip
    global_ece: float | None = measured(
        "expected calibration error on the balanced test set",
        "mean", lasts=True, by_client=True, in_summary=True,
    )  # fmt: skip
    teacher_accuracy: float | None = measured(
        "accuracy on the public set of the teacher that it distilled",
        "mean", by_client=True, in_summary=True,
    )  # fmt: skip
    teacher_nll: float | None = measured(
        "negative log-likelihood of that teacher", "mean", by_client=True, in_summary=True
    )
    teacher_ece: float | None = measured(
        "expected calibration error of that teacher", "mean", by_client=True, in_summary=True
    )
    teacher_by_class: tuple[float, ...] | None = measured(
        "accuracy of that teacher on each class [C]; NaN for a class without public samples",
        by_client=True, is_column=False,
    )  # fmt: skip
    train_loss: float | None = measured(
        "private training's loss, mean over the steps of the round", "mean", by_client=True
    )
    distill_loss: float | None = measured(
        "distillation's loss, mean over the steps of the round", "mean", by_client=True
    )
    effective_neighbors: float | None = measured(
        "1 / sum of its squared weights: 1 where one client teaches it, K where all do alike",
        "mean", in_summary=True,
    )  # fmt: skip
    self_weight: float | None = measured("its own share in its teacher", "mean", in_summary=True)
    label_leakage: float | None = measured(
        "KL divergence of its true label distribution from its mean prediction on the public set;"
        " near 0 gives it away",
        "mean", by_client=True, in_summary=True,
    )  # fmt: skip
    epsilon: float | None = measured(
        "spent on it so far, as the ledger counts, against the first adversary that is protected"
        " from",
        "largest", lasts=True,
    )  # fmt: skip
    bytes_up: int = measured("bytes sent, as encoded", "total", default=0, parse=int)
    bytes_down: int = measured("bytes received, as encoded", "total", default=0, parse=int)
    entropy_bytes_up: float = measured(
        "what an ideal entropy coder would leave of `bytes_up`", "total", default=0.0
    )
    entropy_bytes_down: float = measured(
        "what an ideal entropy coder would leave of `bytes_down`", "total", default=0.0
    )
    seconds: float = measured("seconds of the client's work", default=0.0)
    reason: str = measured("why it was rejected, failed or absent", default="", parse=str)

    def at_round_start(self, **known: Any) -> "ClientRecord":
        """Return the record of a round that begins: absent, with the figures that last.

        ``known`` are figures of the new round.
        """
        return replace(self, **(_RESET | known))


MEASURES: tuple[Measure, ...] = tuple(
    Measure(name=f.name, default=f.default, **f.metadata["measure"]) for f in fields(ClientRecord)
)
"""Every figure of a client, in the columns' order."""
_RESET = {m.name: m.default for m in MEASURES if not m.lasts}
_BY_CLIENT = tuple(m.name for m in MEASURES if m.by_client)


def client_figures(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of a record that a client measured, from its upload's metrics."""
    return {name: metrics[name] for name in _BY_CLIENT if name in metrics}


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """One finished round: every client's record, and what is of the round as a whole."""

    round: int
    clients: tuple[ClientRecord, ...]
    seconds: float
    weights: Float[Tensor, "K K"] | None = field(default=None, repr=False)
    """Weights over all clients; rows of absent ones are NaN."""
    knowledge_sha256: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What the strategy reports of the round, such as the accuracy of a server's model."""
    exposure: Mapping[str, Any] | None = None
    """How far secrets in clients' texts came out, in the last round of a run that has some
    (``fedkd.audit.secret_exposure``)."""
