"""The strategies that the repository has, and the settings with which each can run."""

from typing import Any

from fedkd.scenario import registry
from fedkd.strategy import declaration

NAMES = registry.names("strategy")


def declared(name: str) -> Any:
    return declaration(registry.create("strategy", {"name": name}).value, name)


def settings_for(name: str) -> dict[str, Any]:
    """The settings that a strategy asks for: one architecture, or labels of the public set."""
    needs = declared(name).needs
    changes: dict[str, Any] = {"strategy": name}
    if needs.equal_architectures or needs.features == "equal":
        changes["models"] = ["mlp"]
    if needs.public_labels:
        changes["public"] = {"labeled": True}
    return changes
