"""What a component may ask of the run that it would be part of, before anything is built.

Tasks, kinds of knowledge, heads, attacks, robust means, codecs, audits and privacy mechanisms get
these plain values and say themselves what they do not go with (``conflict``). Not for: the range
of one setting, which its own class checks, and what only data or models can tell.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

LearnedBy = Literal["distill", "adopt", "train"]
"""How a client learns from a teacher: by distilling on the public set, by taking over weights, or
by a term in the loss of its private training."""


@dataclass(frozen=True, kw_only=True)
class RunConditions:
    """What is known of a run from its settings alone. The defaults are a small, ordinary run."""

    strategy: str = "fedmd"
    """The strategy's name, for messages."""
    components: Mapping[str, str] = field(default_factory=dict)
    """Names of the chosen components by group, such as ``{"privacy": "gaussian"}``."""
    clients: int = 10
    """Number of clients K."""
    rounds: int = 10
    """Number of rounds."""

    exchanges: bool = True
    """Whether clients upload anything at all."""
    learned_by: LearnedBy | None = "distill"
    """How clients learn from a teacher; None where nothing is exchanged."""
    predicts: bool = True
    """Whether an upload is predictions on public samples."""
    all_answer: bool = True
    """Whether every client predicts on every public sample of the round's request."""
    selects_queries: bool = False
    """Whether the strategy asks for fewer public samples than the round's."""
    scale: Literal["logits", "probs"] | None = "logits"
    """What uploaded predictions are; None where no predictions are uploaded."""
    teaches: str = "probs"
    """What teachers are, ``probs`` or ``logits``."""
    mean_based: bool = True
    """Whether the common teacher is made of the mean of uploads alone."""
    reveals_model_only: bool = True
    """Whether an upload depends on private data through the model alone, trained by the task's
    loss of single examples."""
    has_companion: bool = False
    """Whether every client trains a second model beside its own."""
    adds_penalty: bool = False
    """Whether the strategy adds a term to the loss of private training."""

    features: Literal["any", "equal"] | None = None
    """The features of models that the strategy needs; None where it needs none."""
    pooled_data: bool = False
    """Whether the strategy trains on the private sets of all clients."""
    label_counts: bool = False
    """Whether the strategy needs each client's true label counts."""
    public_labels: bool = False
    """Whether the strategy needs the labels of the public set."""
    loss: str = "kl"
    """The name of the distillation loss."""
    round_order: str | None = None
    """The round order that the settings ask for; None leaves it to the kind of knowledge."""
    has_absences: bool = False
    """Whether some clients are not asked in a round, or drop out of it."""
    pretrains: bool = False
    """Whether clients train on the labeled public set before their first round."""

    data_kind: str = "images"
    """What private samples are: ``images``, ``texts``, ``labeled texts``, or a task's own word."""
    examples: str = "samples"
    """What one row of a training batch is called, in the plural."""
    augmentations: tuple[str, ...] = ()
    """The values of ``train.augment`` that training batches can be changed by, beside ``none``."""
    takes_heads: bool = True
    """Whether further heads can be put on models of these data."""
    audits_records: bool = True
    """Whether an audit can plant and attack private samples as records with a label."""
    has_classes: bool = True
    """Whether targets are classes of private samples, rather than tokens of a vocabulary."""
    has_secrets: bool = False
    """Whether made-up secrets are planted in private texts."""

    fitted_models: tuple[str, ...] = ()
    """The models that are fitted as a whole, by name: estimators, which have no gradients."""
    only_fitted: bool = False
    """Whether no client has another model."""
    trains_server: bool = False
    """Whether the server trains a model of its own by gradients, as ``distill`` says."""

    public_size: int = 100
    """Size of the public set that the settings ask for."""
    public_labeled: bool = False
    """Whether the labels of the public set are used."""
    public_sampling: str = "random"
    """The rule that chooses a round's public samples."""
    augmented_views: int = 1
    """Views of each public sample."""
    corruption: str | None = None
    """How all public samples are made worse; None where they are not."""
    student_augmentation: str = "none"
    """How students see public samples otherwise than their teachers did."""

    has_baseline: bool = False
    """Whether the run is compared with a local-only baseline."""
    is_stored: bool = True
    """Whether the run has a folder; the local-only baseline of a run has none."""
    attackers_see_all: bool = False
    """Whether attackers see every honest upload before they send their own."""
    hides_single_records: bool = False
    """Whether privacy hides each record by its own training examples, which hold nothing else."""
    is_private_baseline: bool = False
    """Whether the run is a baseline without exchange whose training the mechanism protects."""
    is_claimed: bool = False
    """Whether the privacy mechanism claims anything, whatever its budget."""
    trusts_server: bool = False
    """Whether the privacy mechanism lets the server see raw uploads."""

    def name_of(self, group: str) -> str:
        """Return the name of the component chosen in a group; ``none`` where nothing is said."""
        return self.components.get(group, "none")

    def is_chosen(self, group: str) -> bool:
        """Return whether a group's component is another than ``none``.

        >>> RunConditions(components={"robust": "krum"}).is_chosen("robust")
        True
        """
        return self.name_of(group) != "none"

    def conflict_with_estimators(self, asks: str, cure: str) -> str | None:
        """Return the conflict of what needs gradients or weights with models that have none.

        Args:
            asks: What needs them and why, such as ``privacy=dp_sgd adds noise to gradients``.
            cure: What to do, beside leaving the models out.

        >>> run = RunConditions(fitted_models=("sklearn:GaussianNB",))
        >>> run.conflict_with_estimators("heads=dual puts layers on a network", "leave it out")
        'heads=dual puts layers on a network, and sklearn:GaussianNB is an estimator; leave it out'
        """
        if not self.fitted_models:
            return None
        names = self.fitted_models
        are = "is an estimator" if len(names) == 1 else "are estimators"
        return f"{asks}, and {', '.join(names)} {are}; {cure}"


@runtime_checkable
class Compatible(Protocol):
    """A component that says which runs it cannot be part of."""

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return why the component cannot be part of such a run, and the cure; None if it can.

        The whole message of the error, naming the settings as they are written.
        """
        return None
