"""What is reported, as settings."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a run reports beside its files."""

    console: bool = True
    """Print the plan, a line a round and the final table."""
    plots: bool = True
    """Draw the pictures (PNG and PDF) when the run ends."""
    wandb: Literal["disabled", "offline", "online"] = "disabled"
    """Log to Weights & Biases; offline needs neither an account nor a network."""
    project: str = "fedkd"
    """The W&B project."""
    group: str | None = None
    """The W&B group; null is the scenario's name, so that a sweep's runs stand together."""
    tags: tuple[str, ...] = ()
    """W&B tags; a sweep adds what it varies, as in privacy.epsilon=4."""
