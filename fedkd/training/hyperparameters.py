"""The settings of local training on the private set and of distillation on the public set."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from fedkd.errors import SettingError
from fedkd.settings.conditions import RunConditions
from fedkd.settings.meaning import setting
from fedkd.settings.schema import defaults, section_values
from fedkd.settings.validators import at_least, at_most, check_choices, positive
from fedkd.training.losses import LOSSES, OF_BATCHES, ON_LOGITS, Loss, LossName, find_loss

BACKBONE = "backbone"
"""In ``freeze``: all of a model but its last linear layer."""
Schedule = Literal["constant", "cosine", "step", "warmup_cosine"]
SCHEDULED: Mapping[str, tuple[str, ...]] = {
    "decay_every": ("step",),
    "decay_factor": ("step",),
    "warm_up_rounds": ("warmup_cosine",),
    "final_learning_rate": ("cosine", "warmup_cosine"),
}
"""The settings that only some schedules have."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Settings of one optimization phase: optimizer, batches and epochs."""

    epochs: int | float = 1
    """Passes over the samples each round, >= 0; 0.5 takes the first half of their batches."""
    steps: int | None = None
    """Batches each round, >= 1, as many for a client of few samples, whatever epochs says; null
    counts epochs."""
    batch_size: int = 32
    """Number of samples in a batch, >= 1."""
    optimizer: Literal["adam", "sgd", "adamw"] = "adam"
    """Adam (FedMD's), SGD (DS-FL's) or AdamW."""
    learning_rate: float = 1e-3
    """Step size, > 0."""
    schedule: Schedule = "constant"
    """How the learning rate changes over the rounds of the run, batch by batch: not at all, by half
    a cosine, by a factor every few rounds, or up in a line and then by half a cosine."""
    decay_every: int | None = None
    """Rounds between two falls of schedule=step, >= 1; with another schedule it is an error."""
    decay_factor: float | None = None
    """What each of them multiplies the learning rate by, above 0 and below 1; null is 0.1."""
    warm_up_rounds: float | None = None
    """Rounds in which schedule=warmup_cosine rises to the learning rate, > 0; null is a tenth of
    all. With another schedule it is an error."""
    final_learning_rate: float | None = None
    """What cosine and warmup_cosine fall to, from 0 to the learning rate; null is 0. With another
    schedule it is an error."""
    head_learning_rate: float | None = None
    """Step size of the last linear layer, > 0; null is the learning rate. The schedule changes both
    alike."""
    freeze: tuple[str | int, ...] = ()
    """Modules of the model that are not trained, by name as in [conv1,layer1]; backbone is all but
    the last linear layer."""
    clip_grad_norm: float | None = None
    """L2 norm to which a batch's gradient is shortened where it is longer, > 0; null leaves it as
    it is."""
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
        if self.clip_grad_norm is not None:
            positive(clip_grad_norm=self.clip_grad_norm)
        if self.head_learning_rate is not None:
            positive(head_learning_rate=self.head_learning_rate)
            if BACKBONE in self.freeze:
                raise SettingError(
                    f"head_learning_rate={self.head_learning_rate:g} would do nothing: with"
                    " freeze=backbone the head alone is trained; give learning_rate"
                )
        if self.steps is not None:
            at_least(1, steps=self.steps)
        self._check_schedule()
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

    def idle_conflict(self, conditions: RunConditions, section: str) -> str | None:
        """Return the conflict of what changes gradients with a run that has none.

        What every scenario says (epochs, batch sizes, the learning rate) is no conflict.
        """
        given, usual = section_values(self), defaults(type(self))
        asked = [name for name in OF_GRADIENTS if given.get(name) != usual.get(name)]
        if not asked or not conditions.only_fitted:
            return None
        value, default = (_written(values[asked[0]]) for values in (given, usual))
        return (
            f"{section}.{asked[0]}={value} would do nothing: all models are estimators, which are"
            f" fitted without gradients; leave it out, or say {section}.{asked[0]}={default}"
        )

    def _check_schedule(self) -> None:
        """Raise SettingError for settings of the schedule that are wrong, or of another one."""
        for name, schedules in SCHEDULED.items():
            value = getattr(self, name)
            if value is not None and self.schedule not in schedules:
                raise SettingError(
                    f"{name}={value} would do nothing: it is a setting of schedule="
                    f"{' and '.join(schedules)}, and schedule={self.schedule}"
                )
        if self.schedule == "step" and self.decay_every is None:
            raise SettingError(
                "schedule=step needs decay_every=N, the rounds after which the learning rate falls"
            )
        if self.decay_every is not None:
            at_least(1, decay_every=self.decay_every)
        if not 0 < self.decay_by < 1:
            raise SettingError(f"decay_factor must be above 0 and below 1, got {self.decay_by:g}")
        if self.warm_up_rounds is not None:
            positive(warm_up_rounds=self.warm_up_rounds)
        if not 0 <= (self.final_learning_rate or 0) < self.learning_rate:
            raise SettingError(
                "final_learning_rate must be at least 0 and below"
                f" learning_rate={self.learning_rate:g}, got {self.final_learning_rate}"
            )

    @property
    def asks_for_head(self) -> bool:
        """Whether the last linear layer must be known."""
        return BACKBONE in self.freeze or self.head_learning_rate is not None

    @property
    def frozen_names(self) -> tuple[str, ...]:
        """The names in ``freeze``: YAML takes those of a sequence's modules for numbers."""
        return tuple(map(str, self.freeze))

    @property
    def trains_in_parts(self) -> bool:
        """Whether some parts are frozen, or have a learning rate of their own."""
        return bool(self.freeze) or self.head_learning_rate is not None

    @property
    def decay_by(self) -> float:
        """The factor of schedule=step."""
        return 0.1 if self.decay_factor is None else self.decay_factor

    def warm_up_in(self, rounds: float) -> float:
        """Return the rounds of a warm-up in a run of so many; 0 without one."""
        if self.schedule != "warmup_cosine":
            return 0.0
        return rounds / 10 if self.warm_up_rounds is None else self.warm_up_rounds

    def schedule_conflict(self, rounds: int, section: str) -> str | None:
        """Return why a run of so many rounds cannot have the schedule; None if it can.

        ``section`` is that of these settings.
        """
        if self.decay_every is not None and self.decay_every >= rounds:
            return (
                f"{section}.decay_every={self.decay_every} would do nothing: the run has rounds="
                f"{rounds}"
            )
        if self.warm_up_in(rounds) >= rounds:
            return f"{section}.warm_up_rounds={self.warm_up_rounds} must be below rounds={rounds}"
        return None

    def step_count(self, size: int, epochs: float | None = None) -> int:
        """Return how many batches a round has for so many samples.

        ``epochs`` stands for the phase's own steps or epochs where it is given.

        >>> Phase(batch_size=10, epochs=2).step_count(35), Phase(steps=7).step_count(35)
        (8, 7)
        >>> Phase(batch_size=10, epochs=0.5).step_count(35)
        2
        """
        if epochs is None and self.steps is not None:
            return self.steps if size else 0
        return steps_in(size, self.batch_size, self.epochs if epochs is None else epochs)

    def repeated(self, rounds: int) -> "Phase":
        """Return one phase as long as this one in so many rounds, at a constant learning rate."""
        length = (
            {"epochs": self.epochs * rounds}
            if self.steps is None
            else {"steps": self.steps * rounds}
        )
        return replace(self, **length, schedule="constant", **dict.fromkeys(SCHEDULED))  # type: ignore[arg-type]


def _written(value: object) -> str:
    """Return a setting's value as the command line has it."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(str, value))}]"
    return "null" if value is None else str(value)


def steps_in(size: int, batch_size: int, epochs: float) -> int:
    """Return the batches of so many passes over samples; of a fraction, rounded up.

    >>> steps_in(100, 10, 0.7), steps_in(100, 10, 0.71), steps_in(0, 10, 0.5)
    (7, 8, 0)
    """
    each = -(-size // batch_size)
    return math.ceil(epochs * each - 1e-9)


OF_GRADIENTS = (
    *("schedule", "clip_grad_norm", "steps", "optimizer_state", "label_smoothing", "loss_skew"),
    *("momentum", "weight_decay", "optimizer", "freeze", "head_learning_rate"),
    *("reverse_weight", "not_true_weight"),
)
"""Settings that only models with gradients have."""


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
    label_smoothing: float = 0.0
    """Share of a label's weight that all classes are given in equal parts, at least 0 and below 1
    (Szegedy et al. 2016)."""

    reverse_weight: float | None = None
    """Weight of the reverse cross-entropy, 9.21 (1 - p(y)), beside that of labels, > 0, which
    forgives wrong labels (symmetric cross-entropy, Wang et al. 2019, arXiv 1908.06112); null leaves
    it out. RHFL's 0.1 and 1 are 10 here, up to the size of steps."""

    augment: Literal["none", "flip", "crop", "flip_crop"] = "none"
    """Show models each batch of labeled images another way: flip mirrors an image from left to
    right by a coin, crop shifts it by up to an eighth of its side with its edges repeated.
    Distillation has distill.student_augmentation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(0, public_epochs=self.public_epochs, warm_up_epochs=self.warm_up_epochs)
        if self.reverse_weight is not None:
            positive(reverse_weight=self.reverse_weight)
        if not 0 <= self.label_smoothing < 1:
            raise SettingError(
                f"label_smoothing must be at least 0 and below 1, got {self.label_smoothing:g}"
            )

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return what does not fit: augmentation, smoothed labels, a schedule, public epochs."""
        if self.augment != "none" and self.augment not in conditions.augmentations:
            return (
                f"train.augment={self.augment} is for images, and private samples are"
                f" {conditions.data_kind}; leave it out"
            )
        if self.label_smoothing and conditions.is_chosen("heads"):
            return (
                f"train.label_smoothing={self.label_smoothing:g} is not defined beside"
                f" heads={conditions.name_of('heads')}; leave one of them out"
            )
        if self.label_smoothing and not conditions.has_classes:
            return (
                f"train.label_smoothing={self.label_smoothing:g}: data={conditions.name_of('data')}"
                " has no labels of classes to smooth; leave it out"
            )
        found = self._reverse(conditions) or self.idle_conflict(conditions, "train")
        if found is not None:
            return found
        return self.schedule_conflict(conditions.rounds, "train") or self._public(conditions)

    def _reverse(self, conditions: RunConditions) -> str | None:
        """Return the conflict of the reverse cross-entropy with another loss, or with tokens."""
        if self.reverse_weight is None:
            return None
        given = f"train.reverse_weight={self.reverse_weight:g}"
        if not conditions.has_classes:
            data = conditions.name_of("data")
            return f"{given} is for labels of classes, and data={data} has none; leave it out"
        others = {"heads": conditions.is_chosen("heads"), "train.label_smoothing": self.smooths}
        found = next((name for name, chosen in others.items() if chosen), None)
        if found is None:
            return None
        return f"{given} and {found} both change the loss of labels; leave one of them out"

    @property
    def smooths(self) -> bool:
        """Whether labels are smoothed."""
        return self.label_smoothing > 0

    def _public(self, conditions: RunConditions) -> str | None:
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
    not_true_weight: float | None = None
    """Weight of the other classes' term in loss=not_true, > 0; null is 1. With another loss it is
    an error."""
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
    soft_label_weight: float | None = None
    """Weight of a teacher's soft labels together, as a multiple of that of a client's labels, where
    a model is an estimator that is fitted to both, > 0; null is 1. Without estimators it is an
    error."""
    student_augmentation: Literal["none", "shift"] = "none"
    """Show students the public samples as they are, or each shifted by up to an eighth of its
    side."""

    def loss_of(self, name: str) -> Loss:
        """Return the loss of a name as these settings have it."""
        return find_loss(name, self.loss_skew, self.not_true_weight)

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
        if self.soft_label_weight is not None:
            positive(soft_label_weight=self.soft_label_weight)
        if self.not_true_weight is not None:
            positive(not_true_weight=self.not_true_weight)
        positive(temperature=self.temperature)
        at_least(1e-3, temperature=self.temperature)
        at_most(1e3, temperature=self.temperature)
        if self.loss_skew is not None and not 0 < self.loss_skew < 1:
            raise SettingError(f"loss_skew must be above 0 and below 1, got {self.loss_skew}")
        if not self.epochs:
            raise SettingError(
                "epochs must be >= 1, got 0; strategy=local_only leaves distillation out"
            )

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return the conflict of a schedule, or of a change to rows of teachers that none has."""
        found = self._conflict_with_models(conditions)
        if found is not None:
            return found
        if self.batch_size == 1 and conditions.loss in OF_BATCHES:
            return (
                f"distill.batch_size=1 would teach nothing: loss={conditions.loss} compares the"
                " samples of a batch"
            )
        if self.is_standard:
            return self.schedule_conflict(conditions.rounds, "distill")
        if conditions.learned_by != "distill":
            return (
                f"distill.{self._changed()} would do nothing: clients of"
                f" strategy={conditions.strategy} distill nothing"
            )
        if self.margin_weights and conditions.loss in OF_BATCHES:
            return (
                f"distill.margin_weights=true weighs single samples, and loss={conditions.loss} is"
                " of a batch together; leave one of them out"
            )
        if self.confidence_gate and conditions.loss in ON_LOGITS:
            others = ", ".join(name for name in LOSSES if name not in ON_LOGITS)
            return (
                f"distill.confidence_gate=true compares soft labels, and loss={conditions.loss} is"
                f" of logits; use distill.loss=kl or another of {others}"
            )
        return self.schedule_conflict(conditions.rounds, "distill")

    def _conflict_with_models(self, conditions: RunConditions) -> str | None:
        """Return the conflict of what only networks, or only estimators, do."""
        if self.soft_label_weight is not None and not conditions.fitted_models:
            return (
                f"distill.soft_label_weight={self.soft_label_weight:g} would do nothing: no model"
                " is an estimator, such as sklearn:RandomForestClassifier"
            )
        found = None if conditions.trains_server else self.idle_conflict(conditions, "distill")
        if found is not None:
            return found
        asks = {
            "relational_weight": "adds a loss on gradients",
            "student_augmentation": "shows other samples than those that the teacher saw",
        }
        usual = defaults(DistillationSettings)
        for name, what in asks.items():
            value = getattr(self, name)
            if value != usual[name]:
                found = conditions.conflict_with_estimators(
                    f"distill.{name}={value} {what}", "leave it out"
                )
                if found is not None:
                    return found
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
