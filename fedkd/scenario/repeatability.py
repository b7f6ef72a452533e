"""What of a scenario no file holds, so that its ``config.yaml`` alone cannot repeat the run."""

import textwrap

from fedkd.scenario.registry import GROUPS
from fedkd.scenario.scenario import Scenario
from fedkd.settings.import_paths import imports_in
from fedkd.settings.session_objects import is_session_name

MAIN = "__main__:"


def only_here(scenario: Scenario) -> tuple[str, ...]:
    """Return the settings that name objects of a session, of a notebook or script, or arrays."""
    settings = scenario.to_dict()
    found = [
        f"{where}={path}"
        for name in ("models", *GROUPS)
        for where, path in imports_in(settings[name], name)
        if is_session_name(path) or path.startswith(MAIN)
    ]
    groups = {name: getattr(scenario, name) for name in GROUPS}
    found += [
        f"{name}={group.name}"
        for name, group in groups.items()
        if getattr(group.value, "lies_in_cache", False)
    ]
    return tuple(dict.fromkeys(found))


def header(scenario: Scenario) -> str:
    """Return the comment that a run's ``config.yaml`` begins with; empty where it says all."""
    found = only_here(scenario)
    if not found:
        return ""
    said = (
        f"This file alone cannot repeat the run: {', '.join(found)} was given from Python, and lies"
        " in no module. Give it again there."
    )
    return "".join(f"# {line}\n" for line in textwrap.wrap(said, 98))
