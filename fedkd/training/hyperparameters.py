"""The settings of local training on the private set and of distillation on the public set."""

from dataclasses import dataclass
from typing import Literal

from fedkd.errors import SettingError
from fedkd.settings.conditions import RunConditions
from fedkd.settings.meaning import setting
from fedkd.settings.schema import defaults, section_values
from fedkd.settings.validators import at_least, at_most, check_choices, positive
from fedkd.training.losses import LOSSES, ON_LOGITS, LossName


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Settings of one optimization phase: optimizer, batches and epochs."""

    epochs: int = 1
    """Passes over the samples each round, >= 0."""
    batch_size: int = 32
    """Number of samples in a batch, >= 1."""
    optimizer: Literal["adam", "sgd", "adamw"] = "adam"
    """Adam (FedMD's), SGD (DS-FL's) or AdamW."""
    learning_rate: float = 1e-3
    """Step size, > 0."""
    momentum: float | None = None
    """Momentum of SGD, in [0, 1); null is 0. With another optimizer it is an error."""
    weight_decay: float = 0.0
    """L2 penalty (decoupled in AdamW), >= 0."""
    optimizer_state: Literal["fresh", "kept"] = "fresh"
    """Start each round with a fresh optimizer, or store each client's moments and momentum from
    round to round (and take the memory that they need)."""

    def __post_init__(self) -> None:
        check_choices(self)
        at_least(0, epochs=self.epochs, weight_decay=self.weight_decay)
        at_least(1, batch_size=self.batch_size)
        positive(learning_rate=self.learning_rate)
        if self.optimizer_state == "kept" and self.optimizer == "sgd" and not self.momentum:
            raise SettingError(
                "optimizer_state=kept would do nothing: SGD without momentum has no state"
            )
        if self.momentum is not None:
            if self.optimizer != "sgd":
                raise SettingError(
                    f"momentum={self.momentum} would do nothing: optimizer={self.optimizer} has"
                    " none"
                )
            if not 0 <= self.momentum < 1:
                raise SettingError(f"momentum must be in [0, 1), got {self.momentum}")


# Two phases share the settings above and nothing else, so that one place says what a learning rate
# is.
@dataclass(frozen=True, kw_only=True)
class TrainingSettings(Phase):
    """Settings of a client's training on its private set."""

    public_epochs: int = 0
    """Epochs on the labeled public set before a client's first round, as in FedMD; needs
    public.labeled=true."""

    warm_up_epochs: int = 0
    """Epochs on the private set before a client's first round, after those on the public set, as in
    FedMD; not counted in epochs. The local-only baseline has them too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(0, public_epochs=self.public_epochs, warm_up_epochs=self.warm_up_epochs)

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return the conflict of epochs on the public set with one that is empty or unlabeled."""
        if not self.public_epochs:
            return None
        if not conditions.public_labeled:
            return "train.public_epochs needs the labels of the public set; say public.labeled=true"
        if conditions.public_size == 0:
            return "train.public_epochs needs a public set; give public.size=N with N >= 1"
        return None


@dataclass(frozen=True, kw_only=True)
class DistillationSettings(Phase):
    """Settings of a client's distillation of its teacher on the public set."""

    batch_size: int = 64
    """Number of samples in a batch, >= 1."""
    loss: LossName | None = setting(None, affects="exchange", left_open=(None,))
    """Distillation loss; null takes that of the strategy's paper."""
    loss_skew: float | None = None
    """The teacher's share of the mixture in skewed_kl and js, or the weight of kl in symmetric_kl,
    between 0 and 1; null is 0.1 in skewed_kl and 0.5 in the others. With another loss it is an
    error."""
    temperature: float = 1.0
    """Temperature of teacher and student, 0.001 to 1000; losses on soft labels carry its square,
    except kl_mean."""

    confidence_gate: bool = False
    """Distil only samples on which the teacher is more confident than the client was; elsewhere use
    the client's own prediction."""
    margin_weights: bool = False
    """Weigh each public sample by the margin between the teacher's two largest probabilities,
    scaled to mean 1."""
    relational_weight: float | None = None
    """Weight of an additional loss, > 0: the squared difference of student's and teacher's
    similarities between the samples of a batch; null leaves it out."""
    student_augmentation: Literal["none", "shift"] = "none"
    """Show students the public samples as they are, or each shifted by up to an eighth of its
    side."""

    @property
    def is_standard(self) -> bool:
        """Whether the loss is that of teacher and student alone, on the samples as they are."""
        return not (
            self.confidence_gate
            or self.margin_weights
            or self.relational_weight is not None
            or self.student_augmentation != "none"
        )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.relational_weight is not None:
            positive(relational_weight=self.relational_weight)
        positive(temperature=self.temperature)
        at_least(1e-3, temperature=self.temperature)
        at_most(1e3, temperature=self.temperature)
        if self.loss_skew is not None and not 0 < self.loss_skew < 1:
            raise SettingError(f"loss_skew must be above 0 and below 1, got {self.loss_skew}")
        if self.epochs == 0:
            raise SettingError(
                "epochs must be >= 1, got 0; strategy=local_only leaves distillation out"
            )

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return the conflict of a change to teachers' rows with a run that has none."""
        if self.is_standard:
            return None
        if conditions.learned_by != "distill":
            return (
                f"distill.{self._changed()} would do nothing: clients of"
                f" strategy={conditions.strategy} distill nothing"
            )
        if self.confidence_gate and conditions.loss in ON_LOGITS:
            others = ", ".join(name for name in LOSSES if name not in ON_LOGITS)
            return (
                f"distill.confidence_gate=true compares soft labels, and loss={conditions.loss} is"
                f" of logits; use distill.loss=kl or another of {others}"
            )
        return None

    def _changed(self) -> str:
        """Return the first setting that changes teachers' rows, with its value."""
        given, usual = section_values(self), defaults(DistillationSettings)
        names = (
            "confidence_gate",
            "margin_weights",
            "relational_weight",
            "student_augmentation",
        )
        changed = next(name for name in names if given[name] != usual[name])
        return f"{changed}={given[changed]}"
