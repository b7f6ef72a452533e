"""The settings of the round protocol, and whether a round begins or ends with distillation."""

from dataclasses import dataclass
from typing import Literal

from fedkd.errors import SettingError
from fedkd.knowledge import KnowledgeType
from fedkd.settings.meaning import setting
from fedkd.settings.validators import at_least, check_choices, positive, share

RoundOrder = Literal["distill_first", "train_first"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The round protocol."""

    rounds: int = 10
    """Rounds, >= 1."""
    participation: float = 1.0
    """Share of the clients that are asked to take part in a round, above 0 and at most 1."""
    dropout: float = 0.0
    """Probability that a client that was asked drops out of the round before it does anything, in
    [0, 1)."""
    deadline: float | None = None
    """Seconds that a client may take to answer one message; later it counts as failed. Runs with
    stragglers repeat only as far as the same clients are late."""
    min_clients: int = 1
    """Clients that must answer in a round; with fewer the run ends (it can be resumed). 0 goes on
    without any."""
    round_order: RoundOrder | None = setting(None, affects="exchange", left_open=(None,))
    """What comes last in a round: training on private data (distill_first: FedMD's digest and
    revisit, with the teacher of the round before) or learning from this round's teacher
    (train_first: KnFu's fine-tuning). null is train_first, but distill_first for strategies whose
    teachers are part of private training's loss."""

    def __post_init__(self) -> None:
        check_choices(self)
        at_least(1, rounds=self.rounds)
        share(participation=self.participation)
        at_least(0, dropout=self.dropout, min_clients=self.min_clients)
        if self.dropout >= 1:
            raise SettingError(
                f"dropout must be below 1, got {self.dropout}: nobody would ever take part"
            )
        if self.deadline is not None:
            positive(deadline=self.deadline)


def resolve_round_order(protocol: Protocol, kind: KnowledgeType | None) -> RoundOrder:
    """Return the round order: the scenario's, or else that of the kind of knowledge."""
    if protocol.round_order is not None:
        return protocol.round_order
    return "distill_first" if kind is not None and kind.learned_by == "train" else "train_first"


def check_order(protocol: Protocol, kind: KnowledgeType | None) -> None:
    """Raise SettingError where no client could learn from a teacher of the protocol in time."""
    if kind is None:
        return
    if kind.learned_by == "train" and protocol.round_order == "train_first":
        raise SettingError(
            "round_order=train_first: this strategy's teachers are part of private training, so"
            " that a round's teacher is for the next round; leave round_order out"
        )
    if protocol.rounds == 1 and resolve_round_order(protocol, kind) == "distill_first":
        cure = (
            "use rounds=2 or more"
            if kind.learned_by == "train"
            else "use round_order=train_first for one-shot distillation"
        )
        raise SettingError(
            "rounds=1 with round_order=distill_first would distill nothing: its first teacher is"
            f" for the second round; {cure}"
        )
