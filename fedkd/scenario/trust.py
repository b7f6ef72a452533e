"""What a scenario from elsewhere would import, compared with what may be imported.

A scenario that the user typed, or chose by ``scenario=``, is the user's own. That of a stored run
or sweep, of a file, or of a message is not: before anything of it is looked up, its import paths
are read off as text. So is the name of a strategy in the working folder.
"""

from collections.abc import Collection, Mapping
from typing import Any

from fedkd.errors import SettingError
from fedkd.scenario.registry import GROUPS
from fedkd.scenario.scenario import NAMING_MODELS
from fedkd.scenario.strategy_files import FOLDER, strategy_here
from fedkd.settings.import_paths import OWN_PACKAGES, imports_in, is_allowed

NAMING = (*NAMING_MODELS, *GROUPS)
"""What holds import paths in a scenario; the rest is text that nobody imports."""


def foreign_imports(
    stored: Mapping[str, Any], allowed: Collection[str] = OWN_PACKAGES
) -> tuple[str, ...]:
    """Return what a scenario would import beyond what is allowed, as it is written.

    >>> foreign_imports({"strategy": "knfu", "models": ["mlp", "my:net*2"], "description": "a:b"})
    ('models=my:net',)
    """
    found = [
        f"{where}={path}"
        for name in NAMING
        for where, path in imports_in(stored.get(name), name)
        if not is_allowed(path, allowed)
    ]
    chosen = stored.get("strategy")
    name = chosen.get("name") if isinstance(chosen, Mapping) else chosen
    if names_strategy_here(name) and not is_allowed(f"{FOLDER}.{name}", allowed):
        found.append(f"strategy={name}")
    return tuple(dict.fromkeys(found))


def names_strategy_here(name: object) -> bool:
    """Return whether a name is that of a strategy in the working folder, whose import runs code."""
    return isinstance(name, str) and strategy_here(name) is not None


def check_trust(stored: Any, where: str, *, trust: bool) -> None:
    """Raise SettingError for a scenario from elsewhere that imports what is not fedkd's.

    Args:
        stored: The scenario, as it was read.
        where: The folder or file that it is from, as the user named it.
        trust: Whether the user vouches for it.
    """
    foreign = foreign_imports(stored) if isinstance(stored, Mapping) else ()
    if foreign and not trust:
        raise distrusted(where, foreign)


def distrusted(where: str, named: Collection[str]) -> SettingError:
    """Return the error for what is from elsewhere and would run code that is not fedkd's."""
    return SettingError(
        f"{where}: {', '.join(named)} would run code that is not fedkd's; if you know where this is"
        " from, add trust=true"
    )
