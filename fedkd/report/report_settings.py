"""The settings of what a run reports."""

from dataclasses import dataclass
from typing import Literal

from fedkd.settings.conditions import RunConditions
from fedkd.settings.meaning import setting
from fedkd.settings.validators import check_choices

KEPT = (
    "report.client_metrics=none (which auto is on Flower's engines with privacy) lets clients keep"
    " their figures"
)


PROJECT = "fedkd"
"""The W&B project and MLflow experiment of those who name none."""
Verbosity = Literal["quiet", "normal", "verbose"]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a run reports besides its files."""

    console: bool | Verbosity = "normal"
    """How much is printed: warnings and the results' folder (quiet, or false); the plan, a line a
    round and the final table as well (normal, or true); or what every client did in every round
    (verbose). console.log in the run's folder has at least what normal prints, with times."""
    plots: bool = True
    """Draw the pictures (PNG and PDF) when the run ends."""
    html: bool | None = None
    """Write report.html, a page for a browser, when the run ends; null does where report.plots is
    true. fedkd report FOLDER makes that of any run, and of several."""
    wandb: Literal["disabled", "offline", "online"] = "disabled"
    """Log to Weights & Biases; offline needs neither an account nor a network."""
    tensorboard: bool = False
    """Write event files for TensorBoard into the run's folder."""
    mlflow: str | None = None
    """Log to MLflow at this tracking URI, as in sqlite:///mlflow.db or http://localhost:5000."""
    after: Literal["auto", "distillation", "training"] = "auto"
    """Which of a round's two points comes first on the console, in pictures and in comparisons;
    auto is the one at which the method's paper evaluates, or the last of the round where that is
    not known."""
    client_metrics: Literal["auto", "simulation", "none"] = setting("auto", affects="exchange")
    """Whether clients send what they measure (accuracies, losses, label leakage) for the
    researcher's record. auto: not on Flower's engines with privacy, else they do; simulation: they
    do there too, as a real client would not; none: they never do."""
    name: str | None = None
    """The run's name in its folder and in W&B, TensorBoard and MLflow; null is what distinguishes
    it from its scenario, as in knfu beta=3 seed=1."""
    named_by: tuple[str, ...] = ()
    """Settings that such a name shows, by dotted name; the command fills in those that it is
    given."""
    project: str | None = None
    """The W&B project and MLflow's experiment; null is WANDB_PROJECT or MLFLOW_EXPERIMENT_NAME, or
    fedkd."""
    entity: str | None = None
    """The W&B user or team; null is WANDB_ENTITY, or the account's own."""
    group: str | None = None
    """The W&B group; null is the scenario's name, so that a sweep's runs stand together."""
    job_type: str | None = None
    """The W&B job type; null is the strategy's name, so that a table can be grouped by method."""
    tags: tuple[str, ...] = ()
    """Tags in W&B and MLflow; a sweep adds what it varies, as in privacy.epsilon=4."""
    notes: str | None = None
    """The notes of the run in W&B and MLflow; null is the scenario's description."""

    def __post_init__(self) -> None:
        check_choices(self)

    @property
    def verbosity(self) -> Verbosity:
        """How much is printed; true and false are the words of earlier versions."""
        if isinstance(self.console, bool):
            return "normal" if self.console else "quiet"
        return self.console

    @property
    def writes_html(self) -> bool:
        """Whether the run writes its page."""
        return self.plots if self.html is None else self.html

    @property
    def sends_metrics(self) -> bool:
        """Whether clients send what they measure, on the engine that the settings are for."""
        return self.client_metrics != "none"

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return why the settings cannot be part of such a run, and the cure; None if they can."""
        if self.client_metrics == "simulation" and not conditions.is_chosen("privacy"):
            return (
                "report.client_metrics=simulation would do nothing: without privacy clients send"
                " their figures anyway; leave it out"
            )
        if self.sends_metrics:
            return None
        private = conditions.is_chosen("privacy")
        cure = f"or report.client_metrics={'simulation' if private else 'auto'}"
        if not conditions.exchanges:
            return (
                f"{KEPT}, and strategy={conditions.strategy} exchanges nothing else; leave it out,"
                f" {cure}"
            )
        if self.after != "auto":
            return f"report.after={self.after} would do nothing: {KEPT}; leave it out, {cure}"
        if conditions.has_secrets:
            return f"{KEPT}, and text_canaries needs them; say text_canaries=none, {cure}"
        if conditions.has_baseline:
            return f"{KEPT}, and a baseline has nothing to compare with; say baseline=none, {cure}"
        return None
