"""FedKT (Li et al. 2021, arXiv 2010.01017): one shot by votes of clients' students of teachers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fedkd.errors import RunError
from fedkd.fusion import are_tied, count_votes, hard_labels, most_voted, uniform_weights
from fedkd.knowledge import PublicPredictions
from fedkd.knowledge.knowledge_type import ClientView, conflict_without_classes
from fedkd.messages import Cohort, Fusion, Predictions
from fedkd.settings.conditions import RunConditions
from fedkd.settings.validators import at_least, check_choices
from fedkd.strategy import Needs

UNABLE = {"gnmax": "counts first choices", "krr": "sends first choices"}
"""Mechanisms for which nobody abstains, and what they do."""


@dataclass(frozen=True, kw_only=True)
class FedKT:
    """Teach the class that most clients vote for whose own students agree.

        teachers  s times: a client's samples in t parts at random, and a model of each part
        student   s times: learns argmax_c of these t teachers' votes on public samples
        vote      c where all s students say c, else the client abstains (consistent voting)
        label     argmax_c of the clients' votes; without votes none
        loss      cross-entropy with the label

    Meant for one round (``rounds=1``); later ones vote anew. The final model of the paper is
    ``server``; the clients learn the label too, in the models that they have.

    Departures: clients vote themselves, where the paper sends its students for the server to ask on
    the same samples: the votes are the same, and the models stay. An abstention travels as a
    uniform row, which moves no label. Samples on which teachers tie are taught to no student,
    ties between clients are left out or shared; the released code gives both to the lowest class,
    and has its filter of consistent votes commented out. Its noise on the clients' votes
    is ``privacy=lnmax``. Its noise on the teachers' votes, which would hide single records from the
    server, is not here: ``privacy=laplace`` is what hides them.
    """

    loss: ClassVar[str] = "cross_entropy"
    evaluated_after: ClassVar[str] = "distillation"

    students: int = 2
    """Students of a client, for each of which its samples are divided anew, >= 1."""
    parts: int = 5
    """Parts of a client's samples, and so teachers of a student, >= 1; fewer where a part would
    have less than two samples."""
    epochs: int = 10
    """Passes of each teacher and student over its samples, >= 1; the released code's are 100."""
    consistent: bool = True
    """Vote only where all students of a client agree; false divides a client's vote among what its
    students say."""
    ties: Literal["leave_out", "share"] = "leave_out"
    """Leave out samples on which several classes have most votes, or teach these in equal parts."""
    server: str | None = None
    """Architecture of a final model at the server, by name or package.module:factory, which learns
    the labels; null leaves them to the clients."""
    server_epochs: int = 20
    """Passes of the final model over the labels, >= 1; the released code's are 100."""

    def __post_init__(self) -> None:
        check_choices(self)
        at_least(1, students=self.students, parts=self.parts, epochs=self.epochs)
        at_least(1, server_epochs=self.server_epochs)

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return the conflict with noise on first choices, or of a final model with a mean."""
        name, privacy = conditions.strategy, conditions.name_of("privacy")
        if privacy in UNABLE:
            return (
                f"privacy={privacy} {UNABLE[privacy]}, and clients of strategy={name} abstain,"
                " which would count as a vote for the first class; use privacy=lnmax, or laplace"
            )
        group = "robust" if conditions.is_chosen("robust") else "privacy"
        if self.server is not None and (group == "robust" or conditions.trusts_server):
            return (
                f"strategy.server={self.server} would do nothing:"
                f" {group}={conditions.name_of(group)} returns labels, and no model learns at the"
                " server; leave it out"
            )
        return None

    @property
    def needs(self) -> Needs:
        """A public set, and a model of the server's own where one is asked for."""
        return Needs(server_models=None if self.server is None else (self.server,))

    @property
    def knowledge(self) -> PublicPredictions:
        """The votes of a client's students."""
        return StudentVotes(
            "probs",
            students=self.students,
            parts=self.parts,
            epochs=self.epochs,
            consistent=self.consistent,
        )

    def fuse(self, cohort: Cohort, state: Mapping[str, Tensor] | None) -> Fusion:
        """Return the labels; ``state`` is the final model's, where there is one."""
        fusion = self.from_mean(cohort.probs.mean(dim=0), cohort.size)
        agreed = (hard_labels(cohort.probs) == cohort.probs).all(dim=-1)
        metrics = {**fusion.metrics, "agreed": agreed.float().mean().item()}
        fusion = replace(fusion, metrics=metrics)
        return fusion if self.server is None else self._with_final_model(fusion, cohort, state)

    def from_mean(self, mean: Float[Tensor, "N C"], clients: int) -> Fusion:
        """Return the labels of the mean of the clients' votes [N, C]."""
        tied = are_tied(mean)
        voted = mean.amax(dim=-1) - mean.amin(dim=-1) > 1e-6
        taught = voted & ~tied if self.ties == "leave_out" else voted
        return Fusion(
            weights=uniform_weights(clients),
            teachers=most_voted(mean),
            taught_rows=None if bool(taught.all()) else taught,
            metrics={
                "ties": (tied & voted).float().mean().item(),
                "taught": taught.float().mean().item(),
            },
        )

    def _with_final_model(
        self, fusion: Fusion, cohort: Cohort, state: Mapping[str, Tensor] | None
    ) -> Fusion:
        """Return a fusion with the state of the final model after it learned the labels."""
        server, name = cohort.server, self.server
        if server is None or name is None or not isinstance(fusion.teachers, Tensor):
            raise RunError("fedkt needs a model of the server's own")
        rows: Bool[Tensor, "N"] = ~are_tied(fusion.teachers)
        model = server.initial(name) if state is None else state
        if rows.any():
            model = server.fit(
                name,
                model,
                cohort.public_ids[rows],
                fusion.teachers[rows].argmax(dim=-1),
                purpose="fedkt",
                round=cohort.round,
                epochs=self.server_epochs,
            )
        metrics = {**fusion.metrics, "server_accuracy": server.accuracy(name, model)}
        return replace(fusion, state=dict(model), metrics=metrics)


@dataclass(frozen=True, kw_only=True)
class StudentVotes(PublicPredictions):
    """One vote of a client on each public sample, as a row that sums to 1; uniform abstains."""

    students: int
    parts: int
    epochs: int
    consistent: bool

    @property
    def in_words(self) -> str:
        """What clients send, after "clients send"."""
        return "what students of their teachers say of public samples"

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return the conflict with data without classes to vote for."""
        return conflict_without_classes(conditions, "counts votes for classes")

    def extract(self, view: ClientView) -> Predictions:
        """Return the votes of students that learned from teachers of parts of the private set."""
        public, classes = view.public_inputs(), view.classes
        ids = view.public_ids()
        said = []
        for student in range(self.students if len(ids) else 0):
            teachers = self._teachers(view, student)
            labels, rows = first_choices(teachers) if len(teachers) else (ids, ids < 0)
            if rows.any():
                says = view.fitted(
                    public[rows.to(public.device)], labels[rows], f"student {student}", self.epochs
                )
                said.append(hard_labels(says(public)))
        votes = (
            votes_of(torch.stack(said), self.consistent)
            if said
            else torch.full((len(ids), classes), 1 / classes)
        )
        return Predictions(ids=ids, values=votes, scale="probs")

    def _teachers(self, view: ClientView, student: int) -> Float[Tensor, "t N C"]:
        """Return what the teachers of one student say of public samples."""
        inputs, labels = view.private_inputs(), view.private_labels()
        public, said = view.public_inputs(), []
        split = divided(len(labels), self.parts, view.stream(f"parts for student {student}"))
        for part, rows in enumerate(split):
            rows = rows.to(labels.device)
            teacher = view.fitted(
                inputs[rows], labels[rows], f"teacher {part} of student {student}", self.epochs
            )
            said.append(teacher(public))
        return torch.stack(said) if said else torch.zeros(0, len(public), view.classes)


def divided(size: int, parts: int, stream: np.random.Generator) -> Sequence[Int[Tensor, "part"]]:
    """Return the places of so many samples in parts at random, each of two samples at least.

    What is in a part depends on the number of samples alone. A single sample is one part, none is
    no part.

    >>> [len(part) for part in divided(7, 5, np.random.default_rng(0))]
    [3, 2, 2]
    """
    count = min(parts, max(1, size // 2))
    permutation = torch.from_numpy(stream.permutation(size))
    return [part for part in torch.tensor_split(permutation, count) if len(part)]


def first_choices(logits: Float[Tensor, "t N C"]) -> tuple[Int[Tensor, "N"], Bool[Tensor, "N"]]:
    """Return the class that most teachers choose of each sample, and where no other ties with it.

    >>> says = torch.eye(3)[torch.tensor([[0, 1], [0, 2]])]  # two teachers, two samples
    >>> first_choices(says)
    (tensor([0, 1]), tensor([ True, False]))
    """
    counts = count_votes(logits)
    return counts.argmax(dim=-1), ~are_tied(counts)


def votes_of(said: Float[Tensor, "s N C"], consistent: bool) -> Float[Tensor, "N C"]:
    """Return a client's votes of what its students say: one-hot rows [s, N, C].

    >>> said = torch.eye(2)[torch.tensor([[0, 0], [0, 1]])]
    >>> votes_of(said, True).tolist(), votes_of(said[:, :1], False).tolist()
    ([[1.0, 0.0], [0.5, 0.5]], [[1.0, 0.0]])
    """
    shares = said.mean(dim=0)
    if not consistent:
        return shares
    agreed = (said == said[:1]).all(dim=-1).all(dim=0)
    return torch.where(agreed[:, None], shares, 1 / shares.shape[-1])
