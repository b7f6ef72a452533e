"""The seam of strategies: their rule, and what they may declare of themselves.

A strategy is a class whose fields are the hyper-parameters of a method and whose ``fuse`` is its
rule. Everything else has a default, so that a rule is twenty lines: ``strategies/README.md`` shows
one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from inspect import isclass
from typing import Literal, Protocol, get_args, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from fedkd.codecs import Codec
from fedkd.errors import SettingError
from fedkd.fusion import RunningMean, hard_labels
from fedkd.knowledge import KINDS, KnowledgeType, find_kind
from fedkd.messages import AcceptedUploads, Fusion, StrategyState
from fedkd.settings.conditions import RunConditions
from fedkd.settings.measuring_points import EvaluatedAfter
from fedkd.training.losses import LOSSES, ON_LOGITS, find_loss


@runtime_checkable
class Strategy(Protocol):
    """The server's rule: from the cohort's knowledge to each client's teacher.

    It may also carry, as class attributes or properties: ``knowledge`` (what clients upload:
    ``logits``, ``probs``, ``labels``, ``nothing``, or another ``fedkd.knowledge.KnowledgeType``;
    default ``logits``), ``teaches`` (the scale of its teachers, ``probs`` or ``logits``; default
    ``probs``), ``loss`` (the distillation loss of its paper; default ``kl``), ``codec`` (a
    ``fedkd.codecs.Codec`` of its paper, or one for uploads and one for teachers; default none),
    ``evaluated_after`` (the point of a round at which its paper evaluates, ``distillation`` or
    ``training``; default ``unknown``), ``needs`` (see ``Needs``) and a method ``conflict``
    (``fedkd.settings.conditions.Compatible``).
    """

    def fuse(self, cohort: AcceptedUploads, state: StrategyState) -> Fusion:
        """Return weights and teachers for the cohort that its kind of knowledge makes.

        ``state`` is that of the last Fusion, None in the first round.
        """


@runtime_checkable
class Stream(Protocol):
    """One round's fusion, made from uploads one at a time: none need be stored."""

    def add(self, client_id: int, values: Float[Tensor, "N C"]) -> None:
        """Take in an accepted upload. Uploads come in the order of their client ids."""

    def fuse(self) -> Fusion:
        """Return the fusion of all uploads, equal to the bit to ``fuse`` of the stacked cohort."""


@runtime_checkable
class Streaming(Strategy, Protocol):
    """A strategy that can also fuse without seeing all uploads at once, such as a mean."""

    def accumulator(self, state: StrategyState) -> Stream:
        """Return a new stream for a round; ``state`` is as in ``fuse``."""


@runtime_checkable
class SelectsQueries(Strategy, Protocol):
    """A strategy that asks about fewer public samples, such as one that caches answers."""

    def select_queries(
        self, round_number: int, public_ids: Int[Tensor, "M"], state: StrategyState
    ) -> Int[Tensor, "N"]:
        """Return those of the round's public samples that clients predict on; perhaps none.

        ``state`` is as in ``fuse``, which then finds them as ``cohort.public_ids`` and the round's
        as ``cohort.round_ids``, and may teach on any samples with ``Fusion.public_ids``.
        """


@runtime_checkable
class MeanBased(Strategy, Protocol):
    """A strategy whose common teacher is made of the uploads' mean alone, or of a robust mean."""

    def from_mean(self, mean: Float[Tensor, "N C"], clients: int) -> Fusion:
        """Return the fusion for a mean over so many clients, on the scale of the uploads."""


class MeanStream:
    """A stream for rules of the uploads' mean: ``finish(mean [N, C], K)`` returns the fusion."""

    def __init__(self, finish: Callable[[Float[Tensor, "N C"], int], Fusion]) -> None:
        self._finish, self._running = finish, RunningMean()

    def add(self, client_id: int, values: Float[Tensor, "N C"]) -> None:
        """Add an upload to the mean."""
        self._running.add(values)

    def fuse(self) -> Fusion:
        """Return the fusion of the mean."""
        return self._finish(self._running.mean(), self._running.clients)


class VoteStream:
    """A stream for rules of votes: ``finish(shares [N, C], K)`` returns the fusion."""

    def __init__(self, finish: Callable[[Float[Tensor, "N C"], int], Fusion]) -> None:
        self._finish, self._clients = finish, 0
        self._votes: Tensor | None = None

    def add(self, client_id: int, values: Float[Tensor, "N C"]) -> None:
        """Count the first choices of an upload."""
        votes = hard_labels(values)
        self._votes = votes if self._votes is None else self._votes + votes
        self._clients += 1

    def fuse(self) -> Fusion:
        """Return the fusion of the shares of votes."""
        assert self._votes is not None, "a round without uploads is not fused"
        return self._finish(self._votes / self._clients, self._clients)


@dataclass(frozen=True, kw_only=True)
class Needs:
    """The requirements of a strategy, checked before the run."""

    public_set: bool = True
    """Samples that all clients predict on."""
    public_labels: bool = False
    """Their labels, as ``cohort.public_labels``: the scenario must say ``public.labeled=true``."""
    label_counts: bool = False
    """Each client's true label counts, as ``cohort.label_counts``: a disclosure, for oracles
    only."""
    equal_architectures: bool = False
    """One architecture for all clients, as weights that are averaged have."""
    features: Literal["any", "equal"] | None = None
    """Models with features (the input of a last linear layer), of any width or of equal width."""
    shared_initialization: bool = False
    """Clients of one architecture start from the same weights."""
    pooled_data: bool = False
    """One client of each architecture trains, on the private sets of all: an upper bound, no
    federation."""
    companion: str | None = None
    """A second model at every client, of this architecture for all, with weights that start alike:
    ``ModelWeights(part=CompanionModel(), joint=...)`` says how it learns."""
    server_models: tuple[str, ...] | None = None
    """Models of the server's own, as ``cohort.server``: of the clients' architectures, and of those
    named here."""

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return what a run lacks of these needs."""
        name = conditions.strategy
        if self.pooled_data and conditions.has_absences:
            return (
                f"strategy={name} trains on the private sets of all clients: nobody is absent;"
                " leave participation and dropout out"
            )
        if self.pooled_data and conditions.round_order == "distill_first":
            return (
                f"round_order=distill_first: strategy={name} hands its model to the others at the"
                " end of a round, where this order has no message; leave round_order out"
            )
        found = self._conflict_with_estimators(conditions)
        if found is not None:
            return found
        if self.public_set and conditions.public_size == 0:
            return f"strategy={name} needs a public set; give public.size=N with N >= 1"
        if self.public_labels and not conditions.public_labeled:
            return f"strategy={name} needs the labels of the public set; say public.labeled=true"
        return None

    def _conflict_with_estimators(self, conditions: RunConditions) -> str | None:
        """Return the conflict with models that have no features, and no server trains."""
        name, own = f"strategy={conditions.strategy}", self.server_models
        cure = "use another strategy, or networks for all clients"
        if self.features is not None:
            asks = f"{name} needs the features of models, the input of their last layer"
            return conditions.conflict_with_estimators(asks, cure)
        if own == () or set(own or ()) & set(conditions.fitted_models):
            return conditions.conflict_with_estimators(
                f"the server of {name} trains models of its own by gradients", cure
            )
        return None


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """A strategy's declarations, with the defaults filled in."""

    knowledge: str | KnowledgeType
    teaches: str
    loss: str
    needs: Needs
    codec: Codec | tuple[Codec, Codec] | None = None
    evaluated_after: EvaluatedAfter = "unknown"
    streams: bool = False
    """Whether it can fuse uploads one by one (``Streaming``)."""
    selects_queries: bool = False
    """Whether it asks about fewer public samples than the round's (``SelectsQueries``)."""
    mean_based: bool = False
    """Whether a robust mean can take the place of its mean (``MeanBased``)."""

    @property
    def kind(self) -> KnowledgeType | None:
        """The kind of knowledge; None where nothing is exchanged."""
        return find_kind(self.knowledge)


def declaration(strategy: object, name: str) -> Declaration:
    """Return a strategy's declarations. Raises SettingError, with its ``name``, on a wrong one."""
    if not callable(getattr(strategy, "fuse", None)):
        raise SettingError(
            f"strategy={name}: {type(strategy).__name__} has no method fuse(cohort, state), which"
            " returns a Fusion"
        )
    declared = Declaration(
        knowledge=getattr(strategy, "knowledge", "logits"),
        teaches=getattr(strategy, "teaches", "probs"),
        loss=getattr(strategy, "loss", "kl"),
        needs=getattr(strategy, "needs", Needs()),
        codec=getattr(strategy, "codec", None),
        evaluated_after=getattr(strategy, "evaluated_after", "unknown"),
        streams=isinstance(strategy, Streaming),
        selects_queries=isinstance(strategy, SelectsQueries),
        mean_based=isinstance(strategy, MeanBased),
    )
    names: tuple[str, ...] = (*KINDS, "nothing")
    by_name = isinstance(declared.knowledge, str) and declared.knowledge in names
    is_kind = isinstance(declared.knowledge, KnowledgeType) and not isclass(declared.knowledge)
    if not by_name and not is_kind:
        shown = getattr(declared.knowledge, "__name__", repr(declared.knowledge))
        raise SettingError(
            f"strategy={name} declares knowledge = {shown}; it must be one of"
            f" {', '.join(map(repr, names))}, or an object of another kind, as in: from"
            " fedkd.knowledge import ModelWeights; knowledge = ModelWeights()"
        )
    if not isinstance(declared.needs, Needs):
        raise SettingError(
            f"strategy={name} declares needs = {declared.needs!r}; it must be a"
            " fedkd.strategy.Needs, as in needs = Needs(public_labels=True)"
        )
    for attribute, value, allowed in (
        ("teaches", declared.teaches, ("logits", "probs")),
        ("loss", declared.loss, tuple(LOSSES)),
        ("evaluated_after", declared.evaluated_after, get_args(EvaluatedAfter)),
    ):
        if value not in allowed:
            raise SettingError(
                f"strategy={name} declares {attribute} = {value!r}; it must be one of"
                f" {', '.join(allowed)}"
            )
    return declared


def chosen_loss(
    declared: Declaration,
    name: str,
    setting: str | None,
    skew: float | None = None,
    not_true_weight: float | None = None,
) -> str:
    """Return the name of the distillation loss: the scenario's, or the strategy's own.

    Args:
        declared: The strategy's declarations.
        name: Its name, for errors.
        setting: The scenario's loss; None is the strategy's.
        skew: The scenario's skew; None is the loss's own.
        not_true_weight: The scenario's weight in the loss not_true; None is the loss's own.

    Raises:
        SettingError: The loss cannot take the teachers, or has no skew.
    """
    loss = setting or declared.loss
    kind = declared.kind
    if kind is None:
        return loss
    if kind.learned_by != "distill":
        if setting is not None:
            raise SettingError(
                f"distill.loss={setting} would do nothing: clients of strategy={name} distill"
                " nothing"
            )
        for field, value in (("loss_skew", skew), ("not_true_weight", not_true_weight)):
            if value is not None:
                raise SettingError(
                    f"distill.{field}={value} would do nothing: clients of strategy={name} distill"
                    " nothing"
                )
        return loss
    find_loss(loss, skew, not_true_weight)
    if loss in ON_LOGITS and declared.teaches != "logits":
        raise SettingError(
            f"distill.loss={loss} compares logits, but strategy={name} sends soft labels; use one"
            " of"
            f" {', '.join(x for x in LOSSES if x not in ON_LOGITS)}"
        )
    return loss
