"""The strategies that the repository has, and the settings with which each can run."""

from typing import Any

from fedkd.scenario import registry
from fedkd.strategy import declaration

NAMES = registry.names("strategy")


SMALL: dict[str, dict[str, Any]] = {
    "dense": {"epochs": 2, "generator_steps": 2, "batch": 4},
    "fedkt": {"parts": 2, "epochs": 2},
    "fedgen": {"samples": 4, "server_steps": 5, "server_batch": 8},
}
"""Settings of strategies whose defaults take long."""


def declared(name: str) -> Any:
    return declaration(registry.create("strategy", {"name": name}).value, name)


def settings_for(name: str) -> dict[str, Any]:
    """The settings that a strategy asks for: one architecture, or labels of the public set."""
    needs = declared(name).needs
    changes: dict[str, Any] = {"strategy": name}
    if needs.equal_architectures or needs.features == "equal" or needs.companion:
        changes["models"] = ["mlp"]
    changes["strategy"] = {"name": name, **SMALL[name]} if name in SMALL else name
    if needs.public_labels:
        changes["public"] = {"labeled": True}
    return changes


def one_of_each_kind() -> set[str]:
    """Return a strategy for each kind of knowledge, the first by name."""
    first: dict[type, str] = {}
    for name in NAMES:
        first.setdefault(type(declared(name).kind), name)
    return set(first.values())
