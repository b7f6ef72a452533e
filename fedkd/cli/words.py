"""The words that a run's settings are made of, for shells to complete, kept in the cache.

To know them every component must be imported. Whoever has done that keeps them (``keep_words``);
``stored_words`` imports nothing of it.
"""

import contextlib
import dataclasses
import hashlib
import inspect
import json
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedkd import __version__
from fedkd.data.cache import cache_folder, cached
from fedkd.errors import FedkdError

KIND = "completion"
FILE = "words.json"
PACKAGE = Path(__file__).resolve().parents[1]

Words = dict[str, list[str]]
"""The values of each setting, by its dotted name; none where it is a number or a text."""


def stored_words() -> Words:
    """Return the words that were kept for this fedkd, none where there are none."""
    try:
        text = (cache_folder() / KIND / _key() / FILE).read_text(encoding="utf-8")
        words = json.loads(text)
    except (OSError, ValueError, FedkdError):
        return {}
    return words if isinstance(words, dict) else {}


def keep_words(_: Sequence[str] = ()) -> int:
    """Keep the words for this fedkd, unless they are kept already or the cache cannot take them."""
    with contextlib.suppress(FedkdError):
        cached(KIND, _key(), lambda staging: (staging / FILE).write_text(json.dumps(_words())))
    return 0


def _key() -> str:
    """Return what tells this fedkd's words from another's: version, folder and latest change."""
    latest = max(path.stat().st_mtime_ns for path in PACKAGE.rglob("*.py"))
    return hashlib.sha256(f"{__version__} {PACKAGE} {latest}".encode()).hexdigest()[:32]


def _words() -> Words:
    from fedkd.cli.arguments import SHIPPED
    from fedkd.scenario.registry import GROUPS, find, names
    from fedkd.scenario.scenario import SECTIONS, TOP
    from fedkd.scenario.strategy_files import strategy_here
    from fedkd.settings.schema import defaults, dotted
    from fedkd.settings.setting_types import choices_within

    words: Words = {"scenario": sorted(path.stem for path in SHIPPED.glob("*.yaml"))}
    classes: list[tuple[str, Any]] = [*(("", cls) for cls in TOP.values()), *SECTIONS.items()]
    for group in GROUPS:
        words[group] = [name for name in names(group) if strategy_here(name) is None]
        classes += [(group, find(group, name)[0]) for name in words[group]]
    for where, cls in classes:
        is_class = inspect.isclass(cls) and not dataclasses.is_dataclass(cls)
        hints = typing.get_type_hints(cls.__init__ if is_class else cls)
        for key in defaults(cls):
            words.setdefault(dotted(where, key), choices_within(hints.get(key)))
    return words
