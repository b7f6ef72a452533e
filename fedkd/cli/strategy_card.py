"""The card of a strategy: its rule, what it exchanges, its settings, source and departures.

All of it is said by the strategy: in the docstrings of its file and class, where formula, source
and departures from the paper stand, and in what it declares.
"""

import inspect
import re
import sys
from collections.abc import Iterator
from typing import Any

from fedkd.cli.help import first_line, first_sentence, settings_of
from fedkd.knowledge import KINDS
from fedkd.scenario.registry import create, find
from fedkd.settings.schema import REQUIRED, documentation
from fedkd.strategy import Needs

POINTS = {
    "distillation": "after distillation (of weights: after adopting the global model)",
    "training": "after private training",
    "unknown": "unknown: neither paper nor code told; figures of a round's end come first",
}
"""Where a paper evaluates, in words."""


def card(name: str) -> str:
    """Return a strategy's card. Raises SettingError for one that does not exist."""
    cls, fields = find("strategy", name)
    module = sys.modules[cls.__module__]
    source, _, rest = inspect.cleandoc(module.__doc__ or "").partition("\n\n")
    parts = [f"strategy={name}" + (f": {source}" if source else "")]
    parts += [text for text in (rest, inspect.getdoc(cls) or "") if text]
    parts.append("\n".join(_facts(name, fields)))
    if fields:
        parts.append("\n".join(["settings", *settings_of(cls, "strategy", fields)]))
    links = dict.fromkeys(re.findall(r"arXiv (\d{4}\.\d{4,5})", module.__doc__ or ""))
    parts.append(
        "\n".join(
            [
                *(f"paper  https://arxiv.org/abs/{link}" for link in links),
                f"code   {module.__file__}",
                f"run    fedkd run strategy={name}",
            ]
        )
    )
    return "\n\n".join(parts)


def _facts(name: str, fields: dict[str, object]) -> Iterator[str]:
    """Yield what a strategy with its default settings declares, a line each."""
    if REQUIRED in fields.values():
        return  # what it declares may depend on what must be given
    strategy: Any = create("strategy", {"name": name}).value
    knowledge = getattr(strategy, "knowledge", "logits")
    yield f"clients send      {_in_words(knowledge)}"
    if isinstance(knowledge, str) and knowledge in KINDS:
        yield f"they are taught   by {getattr(strategy, 'teaches', 'probs')} on the public set"
    loss = getattr(strategy, "loss", None)
    if isinstance(loss, str):
        yield f"loss              {loss}, unless distill.loss says another"
    yield f"paper evaluates   {POINTS[getattr(strategy, 'evaluated_after', 'unknown')]}"
    for at, text in enumerate(_needs(getattr(strategy, "needs", Needs()))):
        yield f"{'' if at else 'needs':<17} {text}"


def _in_words(knowledge: Any) -> str:
    """Return what clients upload, in the words of its kind."""
    if knowledge == "nothing":
        return "nothing"
    if isinstance(knowledge, str):
        return f"{knowledge} [N, C] of public samples"
    return first_line(type(knowledge))


def _needs(needs: Needs) -> Iterator[str]:
    """Yield each thing that a strategy needs, as ``Needs`` says it."""
    for field, text in documentation(Needs).items():
        if getattr(needs, field) not in (False, None):
            yield first_sentence(text)
