"""FedAUX (Sattler et al. 2021, arXiv 2102.02514): clients teach what looks like their own data.

Federated distillation with certainty scores of an auxiliary public set.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from fedkd.errors import RunError
from fedkd.fusion import uniform_weights
from fedkd.knowledge import ClientView, KnowledgeType, PublicPredictions, Scorer, SideRelease
from fedkd.messages import Cohort, Fusion
from fedkd.runtime.seeding import torch_stream
from fedkd.settings.conditions import RunConditions
from fedkd.settings.validators import at_least, positive

NEGATIVES = 5
"""Every fifth public sample is a negative, which no client predicts on."""
LEAST = 1e-8
"""What the paper adds to each score."""
CLOSE = 1e-10
"""Norm of the gradient at which the regression is solved: noise is for solutions so near."""
ROUNDING = 1e-14
"""By how much an objective may seem to rise where it is as good as solved."""


@dataclass(frozen=True, kw_only=True)
class FedAUX:
    """Teach the mean of logits, weighted sample by sample by how much each client knows it.

        phi(x)  fixed random features of the input with a constant, shortened to norm 1 at most
        w_j     argmin 1/2 mean over own x of ln(1 + exp(-w phi)) + 1/2 mean over negatives of
                ln(1 + exp(w phi)) + penalty / 2 |w|^2
        s_j(x)  = sigmoid((w_j + sigma z) phi(x)) + 1e-8
        q(x)    = sum_j s_j(x) f_j(x) / sum_j s_j(x),  loss KL

    Privacy of the scores: one own record moves w_j by at most 1 / (n_j penalty) in L2, since the
    loss has slope 1 at most, features have norm 1 at most, and the objective is strongly convex by
    ``penalty`` (Chaudhuri et al. 2011). With ``noise_multiplier`` Gaussian noise of so many times
    that is drawn once a client: all scores of a run are made of the same noisy w_j, and are one
    release, which the ledger adds to what a mechanism for the model (``privacy=dp_sgd``) spends.
    Predictions are not hidden by it: without such a mechanism nothing is claimed.

    Departures: features are random, where the paper's are pre-trained without labels; each is
    bounded by itself, where the released code divides by the largest norm of the client's own
    samples, which depends on them and which no noise hides: that is not offered. Negatives are
    every fifth public sample, and no other is one (the code's two sets overlap). Scores travel each
    round for the samples asked about, at no further cost to privacy; the paper's travel once. There
    is no server model.
    """

    teaches: ClassVar[str] = "logits"

    penalty: float = 0.01
    """Strength of the regression's L2 penalty, > 0; the paper's is 0.01."""
    noise_multiplier: float | None = None
    """Standard deviation of the noise on the regression's weights over how far one record can move
    them, > 0; null adds none, and every claim of privacy is refused."""
    width: int = 128
    """Number of random features, >= 1; the default is ours."""

    def __post_init__(self) -> None:
        positive(penalty=self.penalty)
        at_least(1, width=self.width)
        if self.noise_multiplier is not None:
            positive(noise_multiplier=self.noise_multiplier)

    @property
    def knowledge(self) -> KnowledgeType:
        """Logits, and a score of each sample."""
        scorer = LooksLikeOwn(
            penalty=self.penalty, noise_multiplier=self.noise_multiplier, width=self.width
        )
        return PublicPredictions("logits", scorer=scorer)

    def select_queries(
        self, round_number: int, public_ids: Int[Tensor, "M"], state: None
    ) -> Int[Tensor, "N"]:
        """Return the round's samples without negatives."""
        return public_ids[public_ids % NEGATIVES != 0]

    def fuse(self, cohort: Cohort, state: None) -> Fusion:
        """Return the weighted mean of logits; without scores all clients weigh alike."""
        given = torch.ones(cohort.values.shape[:2]) if cohort.scores is None else cohort.scores
        scores = given.clamp(min=LEAST)
        shares = scores / scores.sum(dim=0)
        rows = shares.mean(dim=1) if shares.shape[1] else uniform_weights(cohort.size)[0]
        return Fusion(
            weights=rows.expand(cohort.size, -1).clone(),
            teachers=torch.einsum("kn,knc->nc", shares, cohort.logits),
        )


@dataclass(frozen=True, kw_only=True)
class LooksLikeOwn(Scorer):
    """The probability that a sample is a client's own and no negative, by logistic regression."""

    penalty: float
    noise_multiplier: float | None
    width: int

    @property
    def bounds(self) -> tuple[float, float]:
        """From 0 to 1, and what a codec may round."""
        return -1e-3, 1.01

    @property
    def reveals_model_only(self) -> bool:
        """Whether noise hides single records in the weights of the regression."""
        return self.noise_multiplier is not None

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return the conflict with tokens, or with a public set that is all negatives."""
        if 0 < conditions.public_size <= NEGATIVES:
            return (
                f"strategy={conditions.strategy} keeps every fifth public sample as a negative, and"
                f" there are {conditions.public_size}; say public.size=10 or more"
            )
        if conditions.has_classes and "texts" not in conditions.data_kind:
            return None
        return (
            f"strategy={conditions.strategy} projects inputs to random features, and"
            f" data={conditions.name_of('data')} has tokens, which are no numbers"
        )

    def count(self, rows: int) -> int:
        """Return one for each sample."""
        return rows

    def side_release(self, records: int) -> SideRelease | None:
        """Return the noise on the weights; None without any."""
        if self.noise_multiplier is None:
            return None
        sensitivity = weights_sensitivity(records, self.penalty)
        return SideRelease(sensitivity=sensitivity, sigma=self.noise_multiplier * sensitivity)

    def scores(self, view: ClientView) -> Float[Tensor, "S"]:
        """Return each sample's probability, by weights with the same noise in all rounds."""
        own, negatives = view.private_inputs(), view.all_public_inputs()[::NEGATIVES]
        weights = own_against_negatives(
            bounded_features(own, self.width),
            bounded_features(negatives, self.width),
            records=view.records,
            penalty=self.penalty,
        )
        release = self.side_release(view.records)
        if release is not None:
            noise = view.lasting_stream("noise on scores").standard_normal(len(weights))
            weights = weights + release.sigma * torch.from_numpy(noise)
        features = bounded_features(view.public_inputs(), self.width)
        return (torch.sigmoid(features @ weights) + LEAST).to(torch.float32)


def weights_sensitivity(records: int, penalty: float) -> float:
    """Return how far one of a client's records can move its regression's weights, in L2.

    ``1 / (records penalty)`` for the exact minimum, and what two solutions may be off it.
    """
    return 1 / (records * penalty) + 2 * CLOSE / penalty


def bounded_features(inputs: Tensor, width: int) -> Float[Tensor, "n d"]:
    """Return random features of inputs with a constant, each row of norm 1 at most.

    The projection is the same for all clients of all runs, and depends on no data.

    >>> bounded_features(torch.ones(2, 1, 2, 2), 8).norm(dim=1) <= 1 + 1e-12
    tensor([True, True])
    """
    rows = inputs.cpu().flatten(1).to(torch.float64)
    stream = torch_stream(0, "fedaux", rows.shape[1], width)
    into = torch.randn(rows.shape[1], width, generator=stream, dtype=torch.float64)
    features = F.relu(rows @ into) / np.sqrt(rows.shape[1] * width)
    features = torch.cat([features, torch.ones(len(rows), 1, dtype=torch.float64)], dim=1)
    bounded: Tensor = features / features.norm(dim=1, keepdim=True).clamp(min=1)
    return bounded


def own_against_negatives(
    own: Float[Tensor, "n d"], negatives: Float[Tensor, "m d"], *, records: int, penalty: float
) -> Float[Tensor, "d"]:
    """Return the weights of the penalized logistic regression, by Newton's method.

    Args:
        own: Features of a client's own samples.
        negatives: Features of public samples.
        records: What the loss of own samples is divided by: their public number.
        penalty: Strength of the L2 penalty.

    Raises:
        RunError: The minimum was not found as closely as the bound of privacy supposes.
    """
    rows, signs = torch.cat([own, -negatives]), 0.5 / records
    shares = torch.full((len(rows),), signs, dtype=rows.dtype)
    shares[len(own) :] = 0.5 / max(len(negatives), 1)

    def objective(weights: Tensor) -> Tensor:
        return (shares * F.softplus(-rows @ weights)).sum() + penalty / 2 * weights.square().sum()

    weights = torch.zeros(rows.shape[1], dtype=rows.dtype)
    for _ in range(100):
        wrong = torch.sigmoid(-rows @ weights)
        gradient = -(rows.T @ (shares * wrong)) + penalty * weights
        if gradient.norm() <= CLOSE:
            return weights
        curvature = (rows * (shares * wrong * (1 - wrong))[:, None]).T @ rows
        curvature += penalty * torch.eye(len(weights), dtype=rows.dtype)
        step, before = torch.linalg.solve(curvature, gradient), objective(weights)
        size = 1.0
        while size > 1e-6 and objective(weights - size * step) > before + ROUNDING:
            size /= 2
        weights = weights - size * step
    raise RunError(
        f"the regression of fedaux was not solved in 100 steps of Newton's method: a gradient of"
        f" {gradient.norm():.1e}, where its privacy counts on {CLOSE:g}; use a larger penalty"
    )
