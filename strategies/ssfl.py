"""SSFL (Zhao et al. 2023, IEEE IoT Journal): votes of the clients to which a sample is familiar.

Semisupervised federated learning (doi 10.1109/JIOT.2022.3175918).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from fedkd.codecs import Codec, Full, Quantized
from fedkd.fusion import are_tied, count_votes, most_voted
from fedkd.knowledge import KnowledgeType, PublicPredictions
from fedkd.knowledge.familiarity import Familiar
from fedkd.messages import Cohort, Fusion
from fedkd.settings.validators import at_least, check_choices
from fedkd.strategy import Needs


@dataclass(frozen=True, kw_only=True)
class SSFL:
    """Teach all clients the class that most of those choose to which the sample is familiar.

        client  a discriminator learns own samples (familiar) against public ones on which the
                model's largest probability is below its median (unfamiliar)
        vote    c_j(x) = argmax f_j(x) where x looks familiar, else client j abstains
        label   the class with most votes among those that vote; without votes none
        loss    cross-entropy with the label

    ``weights`` are the clients' mean shares in the votes on the samples taught.

    Known to us from summaries alone. Ours: the discriminator is a network of one hidden layer on
    inputs or features, each round anew (the paper's is a network as deep as the classifier); its
    two kinds of samples count alike; ties are left out or shared, and counted. Departure: no server
    model learns beside the clients. Which samples a client finds familiar depends on its private
    samples: no mechanism covers that, and a claim of privacy is refused.
    """

    loss: ClassVar[str] = "cross_entropy"

    sees: Literal["inputs", "features"] = "inputs"
    """What the discriminator is shown: inputs as they are, which any model allows, or the model's
    features."""
    width: int = 64
    """Units of the discriminator's hidden layer, >= 1; the default is ours."""
    steps: int = 60
    """Steps of Adam with which it learns each round, >= 1; the default is ours."""
    ties: Literal["leave_out", "share"] = "leave_out"
    """Leave out samples on which several classes have most votes, or teach these in equal parts."""

    def __post_init__(self) -> None:
        check_choices(self)
        at_least(1, width=self.width, steps=self.steps)

    @property
    def needs(self) -> Needs:
        """Features, with ``sees=features``."""
        return Needs(features="any" if self.sees == "features" else None)

    @property
    def knowledge(self) -> KnowledgeType:
        """Hard labels of the samples that a client finds familiar."""
        chooser = Familiar(sees=self.sees, width=self.width, steps=self.steps)
        return PublicPredictions("probs", chooser, hard=True)

    @property
    def codec(self) -> tuple[Codec, Codec]:
        """Labels up, and labels down unless classes that tie share a sample."""
        labels = Quantized(bits=1)
        return labels, Full() if self.ties == "share" else labels

    def fuse(self, cohort: Cohort, state: None) -> Fusion:
        """Return the majority's labels; samples without a vote, or a majority, are not taught."""
        answered = cohort.answered
        voted = torch.ones(cohort.probs.shape[:2], dtype=torch.bool)
        voted = voted if answered is None else answered
        counts = count_votes(cohort.probs, voted)
        tied, voters = are_tied(counts), voted.sum(dim=0)
        taught = (voters > 0) & ~tied if self.ties == "leave_out" else voters > 0
        shares = (voted / voters.clamp(min=1) * taught).sum(dim=1)
        total = shares.sum()
        weights = shares / total if total > 0 else torch.full_like(shares, 1 / cohort.size)
        return Fusion(
            weights=weights.expand(cohort.size, -1).clone(),
            teachers=most_voted(counts),
            taught_rows=taught,
            metrics={
                "answered": voted.float().mean().item(),
                "ties": (tied & (voters > 0)).float().mean().item(),
                "taught": taught.float().mean().item(),
            },
        )
