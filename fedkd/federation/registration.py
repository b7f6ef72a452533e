"""Who takes part in a run, by the cards that came before its first round.

A client whose card cannot be believed is left out of the run, with the reason; the others go on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from fedkd.errors import RunError
from fedkd.knowledge import Request
from fedkd.messages import ClientCard

UNKNOWN = "unknown"
"""The architecture of a client that is left out, where the scenario names none."""


@dataclass(frozen=True, kw_only=True)
class Registration:
    """The clients of a run."""

    cards: tuple[ClientCard, ...]
    """By client id; of those that are left out, what the scenario says of them."""
    left_out: Mapping[int, str] = field(default_factory=dict)
    """Why a client takes no part, by client id."""


def register(
    cards: Sequence[ClientCard],
    template: Request,
    clients: int,
    *,
    counts_labels: bool,
    unusable: Sequence[str] = (),
) -> Registration:
    """Return who takes part: every client of which exactly one card came, as the scenario has it.

    Args:
        cards: What came.
        template: Has what the scenario says of clients, where the server knows it.
        clients: How many there are.
        counts_labels: Whether the strategy needs their label counts.
        unusable: Why other answers were no cards.

    Raises:
        RunError: Nobody is left.
    """
    came: dict[int, list[ClientCard]] = {i: [] for i in range(clients)}
    for card in cards:
        came[card.client_id].append(card)
    left_out, believed = {}, []
    for client_id, found in came.items():
        reason = _objection(client_id, found, template, counts_labels, unusable)
        if reason is not None:
            left_out[client_id] = f"left out of the run: {reason}"
        card = found[0] if reason is None else _blank(client_id, template)
        believed.append(card if counts_labels else replace(card, label_counts=None))
    if len(left_out) == clients:
        raise RunError(f"no client can take part; client 0 is {left_out[0]}")
    return Registration(cards=tuple(believed), left_out=left_out)


def _objection(
    client_id: int,
    found: Sequence[ClientCard],
    template: Request,
    counts_labels: bool,
    unusable: Sequence[str],
) -> str | None:
    """Return why a client cannot take part; None if it can."""
    if not found:
        said = f"; instead: {'; '.join(dict.fromkeys(unusable))}" if unusable else ""
        return f"nobody said to be client {client_id}{said}"
    if len(found) > 1:
        return f"{len(found)} nodes said that they are client {client_id}"
    (card,) = found
    expected = _blank(client_id, template)
    if template.architectures and card.architecture != expected.architecture:
        return f"its model is a {card.architecture}, by the scenario a {expected.architecture}"
    if client_id in template.train_sizes and card.train_size != expected.train_size:
        return f"it trains on {card.train_size}, by the scenario on {expected.train_size}"
    counts = card.label_counts
    if counts_labels != (counts is not None):
        return f"it sent {'no label counts' if counts_labels else 'label counts unasked'}"
    if counts is not None and (len(counts) != template.classes or sum(counts) == 0):
        return f"its label counts are not those of samples of {template.classes} classes"
    return None


def _blank(client_id: int, template: Request) -> ClientCard:
    """Return a client's card as far as the server knows what the scenario says."""
    named = template.architectures
    return ClientCard(
        client_id=client_id,
        architecture=named[client_id] if named else UNKNOWN,
        parameters=0,
        train_size=template.train_sizes.get(client_id, 0),
    )
