"""The settings of what a run reports."""

from dataclasses import dataclass
from typing import Literal

from fedkd.settings.validators import check_choices


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a run reports besides its files."""

    console: bool = True
    """Print the plan, a line a round and the final table."""
    plots: bool = True
    """Draw the pictures (PNG and PDF) when the run ends."""
    wandb: Literal["disabled", "offline", "online"] = "disabled"
    """Log to Weights & Biases; offline needs neither an account nor a network."""
    after: Literal["auto", "distillation", "training"] = "auto"
    """Which of a round's two points comes first on the console, in pictures and in comparisons;
    auto is the one at which the method's paper evaluates, or the last of the round where that is
    not known."""
    project: str = "fedkd"
    """The W&B project."""
    group: str | None = None
    """The W&B group; null is the scenario's name, so that a sweep's runs stand together."""
    tags: tuple[str, ...] = ()
    """W&B tags; a sweep adds what it varies, as in privacy.epsilon=4."""

    def __post_init__(self) -> None:
        check_choices(self)
