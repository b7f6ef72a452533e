"""What is recorded of a round, and every measured figure, declared once.

A figure is a field of ``ClientRecord``, or of ``PointFigures`` where it is of a model on test sets
and so measured at each of a round's points. Its ``measured`` says what it is and what a round says
of it; the tables of a run, the server's reset, the summary, the comparison and ``docs/columns.md``
follow from there.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from fedkd.errors import UploadRejected
from fedkd.messages import Status
from fedkd.settings.measuring_points import MeasuringPoint, column
from fedkd.settings.metric_names import MetricName
from fedkd.training.class_metrics import METRICS

OverClients = Literal["mean", "std", "share_negative", "total", "largest"]
"""How a round sums up a figure: total and largest over all clients, the others without
attackers."""

OWN = "on its own label distribution"
BALANCED = "on the balanced test set"

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

    figure: str
    """The name of its field."""
    point: MeasuringPoint | None
    """The point of the round at which it is measured; None where it is of the round as a whole."""
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
    is_share: bool
    """Whether it is in [0, 1]."""
    metric: MetricName | None
    """The metric that it is, which only runs have that ask for it (``metrics``)."""
    parse: Callable[[str], Any]
    """Reads a cell of ``clients.csv``."""
    default: Any
    """The figure before it is measured; MISSING where a record cannot be without it."""

    @property
    def name(self) -> str:
        """The column of ``clients.csv``."""
        return self._column(self.figure)

    def of(self, record: "ClientRecord") -> Any:
        """Return the figure of a client's record."""
        return getattr(record if self.point is None else record.after(self.point), self.figure)

    def round_columns(self) -> dict[str, OverClients]:
        """Return the columns of ``rounds.jsonl`` that sum it up.

        >>> list(BY_NAME["personal_gain_after_training"].round_columns())
        ['personal_gain_after_training', 'personal_negative_transfer_after_training']
        """
        ends = {"std": f"{self.figure}_std", "share_negative": negative_transfer(self.figure)}
        return {self._column(ends.get(how, self.figure)): how for how in self.over_clients}

    def _column(self, figure: str) -> str:
        return figure if self.point is None else column(figure, self.point)


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
    is_share: bool = False,
    metric: MetricName | None = None,
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
        is_share: Whether it is in [0, 1].
        metric: The metric that it is, of those that a run asks for.
    """
    about = {
        "meaning": meaning,
        "over_clients": over_clients,
        "parse": parse,
        "lasts": lasts,
        "by_client": by_client,
        "in_summary": in_summary,
        "is_column": is_column,
        "is_share": is_share,
        "metric": metric,
    }
    return field(default=default, metadata={"measure": about})


def _metric(metric: MetricName, where: str) -> Any:
    """Return the field of a metric that runs may ask for, on the test set in words."""
    return measured(
        f"{METRICS[metric][1]}, {where} (`metrics=[{metric}]`)",
        "mean", lasts=True, by_client=True, is_share=True, in_summary=True, metric=metric,
    )  # fmt: skip


def _truth(text: str) -> bool:
    return text == "True"


@dataclass(frozen=True, kw_only=True)
class PointFigures:
    """A client's model on its test sets at one of a round's two points (docs/measuring.md).

    Each figure is a column at each point: ``personal_accuracy_after_distillation`` and
    ``personal_accuracy_after_training``. A client that is absent keeps those of its last round at
    the same point. None is a point that is not measured, or that the client has not come to yet.
    """

    personal_accuracy: float | None = measured(
        "accuracy on its own label distribution",
        "mean", "std", lasts=True, by_client=True, is_share=True, in_summary=True,
    )  # fmt: skip
    global_accuracy: float | None = measured(
        "accuracy on the balanced test set",
        "mean", "std", lasts=True, by_client=True, is_share=True, in_summary=True,
    )  # fmt: skip
    personal_gain: float | None = measured(
        "`personal_accuracy` less that of the local-only baseline after its training in that round",
        "mean", "share_negative", lasts=True, in_summary=True,
    )  # fmt: skip
    global_gain: float | None = measured(
        "`global_accuracy` less that of the local-only baseline after its training in that round",
        "mean", "share_negative", lasts=True, in_summary=True,
    )  # fmt: skip
    validation_accuracy: float | None = measured(
        "accuracy on its validation split (`test.validation_fraction`)",
        "mean", lasts=True, by_client=True, is_share=True, in_summary=True,
    )  # fmt: skip
    validation_gain: float | None = measured(
        "`validation_accuracy` less that of the local-only baseline after its training in that"
        " round",
        lasts=True,
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
        "mean", lasts=True, by_client=True, is_share=True, in_summary=True,
    )  # fmt: skip
    personal_balanced_accuracy: float | None = _metric("balanced_accuracy", OWN)
    global_balanced_accuracy: float | None = _metric("balanced_accuracy", BALANCED)
    personal_macro_f1: float | None = _metric("macro_f1", OWN)
    global_macro_f1: float | None = _metric("macro_f1", BALANCED)
    personal_auroc: float | None = _metric("auroc", OWN)
    global_auroc: float | None = _metric("auroc", BALANCED)
    personal_top5_accuracy: float | None = _metric("top5_accuracy", OWN)
    global_top5_accuracy: float | None = _metric("top5_accuracy", BALANCED)


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
    after_distillation: PointFigures = field(
        default=PointFigures(), metadata={"point": "distillation"}
    )
    after_training: PointFigures = field(default=PointFigures(), metadata={"point": "training"})
    teacher_accuracy: float | None = measured(
        "accuracy on the public set of the teacher that it distilled",
        "mean", by_client=True, is_share=True, in_summary=True,
    )  # fmt: skip
    teacher_nll: float | None = measured(
        "negative log-likelihood of that teacher", "mean", by_client=True, in_summary=True
    )
    teacher_ece: float | None = measured(
        "expected calibration error of that teacher",
        "mean", by_client=True, is_share=True, in_summary=True,
    )  # fmt: skip
    teacher_by_class: tuple[float, ...] | None = measured(
        "accuracy of that teacher on each class [C]; NaN for a class without public samples",
        by_client=True, is_column=False, is_share=True,
    )  # fmt: skip
    knowledge_accuracy: float | None = measured(
        "accuracy on its own label distribution, at the end of the round, of predicting by what it"
        " was taught in place of its model's last layer: with FedProto, the nearest prototype of"
        " its own classes",
        "mean", "std", by_client=True, is_share=True, in_summary=True,
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
        return self.with_figures(_RESET | known)

    def without_points(self) -> "ClientRecord":
        """Return the record without figures on test sets."""
        nothing = PointFigures()
        if self.after_distillation == nothing and self.after_training == nothing:
            return self
        return replace(self, after_distillation=nothing, after_training=nothing)

    def after(self, point: MeasuringPoint) -> PointFigures:
        """Return the figures at one of the round's two points."""
        found: PointFigures = getattr(self, f"after_{point}")
        return found

    def with_figures(self, figures: Mapping[str, Any]) -> "ClientRecord":
        """Return the record with some figures replaced, by the names of their columns."""
        whole, of_points = _sorted_by_point(figures)
        points: dict[str, Any] = {
            f"after_{point}": replace(self.after(point), **found)
            for point, found in of_points.items()
        }
        return replace(self, **whole, **points)

    @staticmethod
    def of_figures(figures: Mapping[str, Any]) -> "ClientRecord":
        """Return the record with these figures, by the names of their columns."""
        whole, of_points = _sorted_by_point(figures)
        points: dict[str, Any] = {
            f"after_{point}": PointFigures(**found) for point, found in of_points.items()
        }
        return ClientRecord(**whole, **points)


def _measures() -> Iterator[Measure]:
    for whole in fields(ClientRecord):
        point = whole.metadata.get("point")
        for f in [whole] if point is None else fields(PointFigures):
            yield Measure(figure=f.name, point=point, default=f.default, **f.metadata["measure"])


MEASURES: tuple[Measure, ...] = tuple(_measures())
"""Every figure of a client, in the columns' order."""
BY_NAME: Mapping[str, Measure] = {m.name: m for m in MEASURES}
_RESET = {m.name: m.default for m in MEASURES if not m.lasts}
_BY_CLIENT = {m.name: m for m in MEASURES if m.by_client}
LARGEST_FIGURE = 1e100
"""The largest finite magnitude of a client's figure: those of any number of clients have a standard
deviation."""
_ONE = 1 + 1e-6  # a share that is a sum may be rounded


def check_figures(metrics: Mapping[str, float | tuple[float, ...]], classes: int) -> None:
    """Raise UploadRejected where a figure that a client sent is not what it is declared to be.

    Losses may be infinite or NaN, as those of a client whose training diverged are; a share may be
    NaN where there is nothing that it is of. ``classes`` is the length of figures by class.
    """
    for name, value in metrics.items():
        measure = _BY_CLIENT.get(name)
        by_class = measure is not None and not measure.is_column
        if isinstance(value, tuple) != by_class:
            raise UploadRejected(f"{name} must be {'a number a class' if by_class else 'a number'}")
        values = value if isinstance(value, tuple) else (value,)
        if by_class and len(values) != classes:
            raise UploadRejected(f"{name} must have {classes} values, got {len(values)}")
        if name == "seconds" and not 0 <= values[0] <= LARGEST_FIGURE:
            raise UploadRejected(f"seconds must be a time, got {value}")
        if measure is not None and measure.is_share and any(v < 0 or v > _ONE for v in values):
            raise UploadRejected(f"{name} must be from 0 to 1, got {max(values, key=abs)}")
        if any(math.isfinite(v) and abs(v) > LARGEST_FIGURE for v in values):
            raise UploadRejected(f"{name} must be at most {LARGEST_FIGURE:g}, got {value}")


def _sorted_by_point(
    figures: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[MeasuringPoint, dict[str, Any]]]:
    """Return the figures of the round as a whole, and those at its points."""
    whole: dict[str, Any] = {}
    of_points: dict[MeasuringPoint, dict[str, Any]] = {}
    for name, value in figures.items():
        measure = BY_NAME[name]
        into = whole if measure.point is None else of_points.setdefault(measure.point, {})
        into[measure.figure] = value
    return whole, of_points


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
    own: Mapping[str, float] = field(default_factory=dict)
    """What the user measures of the round, by a callback of a run from Python."""
    is_measured: bool = True
    """Whether figures on test sets are of this round (``evaluate_every``)."""
    asked: tuple[MetricName, ...] = ()
    """The metrics that the run measures: its tables have their columns."""
    exposure: Mapping[str, Any] | None = None
    """How far secrets in clients' texts came out, in the last round of a run that has some
    (``fedkd.audit.secret_exposure``)."""
