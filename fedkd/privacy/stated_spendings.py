"""What a client states that it spent, read and held against what its mechanism can have spent.

A statement is text from a client: a ledger that took it as it comes could be stopped by it, or made
to say of the whole run what one client wants. Not for: what is entered where nothing can be read
(``fedkd.federation.accounting``).
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from fedkd.errors import SettingError, UploadRejected, one_line, printable
from fedkd.privacy.events import DpSgdSteps, Event, NoClaim, NoisyVotes
from fedkd.privacy.ledger import Spending
from fedkd.settings.reply_limits import LIMITS

Possible = Mapping[Spending, int]
"""The smallest spendings that a mechanism states, with how often each can happen in a run."""
USUAL = (1e-6, 1e9)
"""Between these are the numbers of an event that a mechanism of one's own states. Beyond, what
counts epsilon overflows, or takes hours."""
USUAL_STEPS = (0.1, 100.0)
"""The same for noise multipliers: RDP of others takes minutes."""
MOST_OF_A_GROUP = 1000
"""The most examples of one group, whose sums of as many terms take long."""
_BRACKET = re.compile(r"[\[\]{}]")


def single(spending: Spending) -> tuple[Spending, int]:
    """Return the smallest spending of this kind, and how often this one is it."""
    event, times = spending.event.split()
    return replace(spending, event=event), times


def read_spendings(texts: Sequence[str], possible: Possible | None) -> tuple[Spending, ...]:
    """Return the spendings that a client states.

    Args:
        texts: The statement, as it came.
        possible: What a reviewed mechanism can have spent; None where the mechanism is the user's
            own, whose statements must have usual numbers.

    Raises:
        UploadRejected: The statement cannot be read, or cannot be true.
    """
    found = []
    for text in texts:
        try:
            spending = Spending.from_dict(_parsed(text))
            smallest, times = single(spending)
        except UploadRejected:
            raise
        except Exception as error:  # nothing that a client states may end the run
            said = printable(one_line(error), 200)
            raise UploadRejected(f"the privacy event cannot be read: {said}") from error
        if times > LIMITS.whole_number:
            raise UploadRejected("the privacy event counts more than any run can have spent")
        if possible is None:
            found.append(_usual(spending))
        elif times > possible.get(smallest, 0):
            raise UploadRejected("the privacy event states what this run's mechanism cannot spend")
        else:
            found.append(spending)
    if possible and any(not isinstance(s.event, NoClaim) for s in possible) and not found:
        raise UploadRejected("the privacy event states that nothing was spent")
    return tuple(found)


def _parsed(text: str) -> Mapping[str, Any]:
    """Return the JSON object in a text of the size and depth that spendings have."""
    if len(text) > LIMITS.spending_characters:
        raise UploadRejected(
            f"a spending has {len(text)} characters, at most {LIMITS.spending_characters} are read"
        )
    depth = 0
    for bracket in _BRACKET.findall(text):
        depth += 1 if bracket in "[{" else -1
        if depth > LIMITS.spending_depth:
            raise UploadRejected(f"a spending is nested deeper than {LIMITS.spending_depth} levels")
    content = json.loads(text, parse_constant=_no_number)
    if not isinstance(content, dict):
        raise SettingError(f"expected an object, got {type(content).__name__}")
    return content


def _no_number(text: str) -> float:
    raise SettingError(f"{text} is no number")


def _usual(spending: Spending) -> Spending:
    """Return the statement of a mechanism of one's own, its texts printable.

    Raises UploadRejected for numbers that no mechanism has.
    """
    event = spending.event
    if isinstance(event, NoClaim):
        event = NoClaim(reason=printable(event.reason))
    elif isinstance(event, NoisyVotes):
        raise UploadRejected("votes are counted at the server, and came from a client")
    else:
        low, high = USUAL_STEPS if isinstance(event, DpSgdSteps) else USUAL
        if isinstance(event, DpSgdSteps) and event.group > MOST_OF_A_GROUP:
            raise UploadRejected(f"the privacy event is of groups of more than {MOST_OF_A_GROUP}")
        for name, value in _numbers(event).items():
            if name != "sample_rate" and not low <= value <= high:
                raise UploadRejected(f"the privacy event has {name}={value:g}, which is not usual")
    return replace(spending, event=event, declared_by=printable(spending.declared_by, 100))


def _numbers(event: Event) -> dict[str, float]:
    fields: dict[str, Any] = asdict(event)  # type: ignore[call-overload]
    return {n: v for n, v in fields.items() if isinstance(v, float) and math.isfinite(v)}
