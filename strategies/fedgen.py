"""FedGen (Zhu et al. 2021, arXiv 2105.10056): a generator of features stands in for data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from fedkd.fusion import NamedTensors, linear_weights
from fedkd.knowledge.generated_features import GeneratedFeatures, HeadCohort
from fedkd.messages import Fusion
from fedkd.runtime.seeding import numpy_stream, torch_stream
from fedkd.settings.validators import at_least, positive
from fedkd.strategy import Needs


@dataclass(frozen=True, kw_only=True)
class FedGen:
    """Train a generator of features that all heads classify; clients train their heads on these.

        G(y, e) = relu(V relu(U [e, onehot(y)] + a) + b),  e uniform on [0, 1), the size of features
        w_jy    = n_jy / sum_k n_ky, n_jy client j's samples of class y
        server  Adam on mean_i sum_j w_j,y_i CE(head_j(G(y_i, e_i)), y_i)
                  + diversity * exp(-mean_il(|G_i - G_l|_1 / d * |e_i - e_l|^2 / dim e))
                kept from round to round; classes y uniform among those that any client has
        down    ``samples`` draws of G for each of these classes
        client  CE(f(x), y) + generated_weight * CE(head(z), z's class), z drawn from these

    The form for models that differ: last layers travel and no model does. Label counts leave the
    clients, so that claims of privacy are refused.

    Departures from the released code: no BatchNorm in the generator, which clients there use in
    training mode; its draws travel in place of the generator; both distances of the diversity term
    are means over coordinates; classes of a single sample take part; no divergence of the model on
    private samples from its head on generated ones; the weight of the clients' term does not fall
    by the round; clients keep their own heads, where a reimplementation for models that differ also
    averages them. Features are >= 0, as after a ReLU; ``rectified=false`` lets them be any.
    """

    evaluated_after: ClassVar[str] = "training"
    needs: ClassVar[Needs] = Needs(public_set=False, features="equal", label_counts=True)

    generated_weight: float = 1.0
    """Weight of the loss on generated features, > 0; the paper's begins with 10."""
    samples: int = 64
    """Draws of each class that clients get each round, >= 1; the default is ours."""
    noise: int = 32
    """Dimensions of the noise, >= 1."""
    width: int = 128
    """Units of the generator's hidden layer, >= 1; the default is ours."""
    diversity: float = 1.0
    """Weight of the term that keeps features of different noise apart, >= 0."""
    server_steps: int = 100
    """Steps of the generator each round, >= 1; the default is ours."""
    server_batch: int = 128
    """Draws a step, >= 1."""
    server_learning_rate: float = 3e-3
    """Learning rate of Adam, > 0; the paper's is 3e-4, for ten times the steps."""
    rectified: bool = True
    """Whether features are >= 0, as behind a ReLU."""

    def __post_init__(self) -> None:
        positive(generated_weight=self.generated_weight)
        positive(server_learning_rate=self.server_learning_rate)
        at_least(1, samples=self.samples, noise=self.noise, width=self.width)
        at_least(1, server_steps=self.server_steps, server_batch=self.server_batch)
        at_least(0, diversity=self.diversity)

    @property
    def knowledge(self) -> GeneratedFeatures:
        """Last layers and label counts up, generated features down."""
        return GeneratedFeatures(weight=self.generated_weight)

    def fuse(self, cohort: HeadCohort, state: Mapping[str, Tensor] | None) -> Fusion:
        """Return features of the generator after its steps; ``state`` is its weights.

        ``weights`` are each client's mean share of a class.
        """
        shares, present = class_shares(cohort.label_counts)
        weights = shares[:, present].mean(dim=1)
        classes, wide = cohort.weight.shape[1:]
        generator = dict(state or first_generator(self.noise, classes, self.width, wide))
        stream = numpy_stream(0, "strategy", "fedgen", "round", cohort.round)
        generator, loss = self._train(generator, cohort, shares, present, stream)
        labels = present.repeat_interleave(self.samples)
        with torch.no_grad():
            features = generate(generator, *self._drawn(labels, stream), self.rectified)
            right = (logits_of(cohort, features).argmax(dim=-1) == labels).float()
        return Fusion(
            weights=(weights / weights.sum()).expand(cohort.size, -1).clone(),
            teachers={"features": features, "labels": labels},
            state=generator,
            metrics={"generator_loss": loss, "heads_right": right.mean().item()},
        )

    def _train(
        self,
        generator: dict[str, Tensor],
        cohort: HeadCohort,
        shares: Float[Tensor, "K C"],
        present: Int[Tensor, "c"],
        stream: np.random.Generator,
    ) -> tuple[dict[str, Tensor], float]:
        """Return the generator after a round's steps, and the heads' loss of the last.

        Args:
            generator: Its weights before.
            cohort: The clients' heads.
            shares: The clients' shares of each class.
            present: Classes that any client has.
            stream: The random stream of the draws.
        """
        moving = {name: t.detach().clone().requires_grad_() for name, t in generator.items()}
        optimizer = torch.optim.Adam(moving.values(), lr=self.server_learning_rate)
        heads = torch.zeros(())
        with torch.enable_grad():
            for _ in range(self.server_steps):
                chosen = torch.from_numpy(stream.integers(len(present), size=self.server_batch))
                labels, noise = self._drawn(present[chosen], stream)
                features = generate(moving, labels, noise, self.rectified)
                heads = heads_loss(cohort, shares, features, labels)
                loss = heads
                if self.diversity:
                    loss = heads + self.diversity * sameness(features, noise)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return {name: tensor.detach() for name, tensor in moving.items()}, heads.item()

    def _drawn(
        self, labels: Int[Tensor, "n"], stream: np.random.Generator
    ) -> tuple[Int[Tensor, "n"], Float[Tensor, "n e"]]:
        """Return labels with noise for each."""
        noise = stream.random((len(labels), self.noise))
        return labels, torch.from_numpy(noise).to(torch.float32)


def class_shares(
    label_counts: Float[Tensor, "K C"],
) -> tuple[Float[Tensor, "K C"], Int[Tensor, "c"]]:
    """Return each client's share of the samples of a class, and the classes that any has.

    >>> class_shares(torch.tensor([[3.0, 0.0, 0.0], [1.0, 0.0, 2.0]]))
    (tensor([[0.7500, 0.0000, 0.0000],
            [0.2500, 0.0000, 1.0000]]), tensor([0, 2]))
    """
    total = label_counts.sum(dim=0)
    return label_counts / total.clamp(min=1), total.nonzero()[:, 0]


def first_generator(noise: int, classes: int, width: int, features: int) -> dict[str, Tensor]:
    """Return the generator before the first round, the same in every run.

    Args:
        noise: Dimensions of the noise.
        classes: C.
        width: Units of the hidden layer.
        features: d.
    """
    stream = torch_stream(0, "strategy", "fedgen", "weights")
    inner, inner_bias = linear_weights(noise + classes, width, stream)
    outer, outer_bias = linear_weights(width, features, stream)
    return {"inner": inner, "inner_bias": inner_bias, "outer": outer, "outer_bias": outer_bias}


def generate(
    generator: NamedTensors,
    labels: Int[Tensor, "n"],
    noise: Float[Tensor, "n e"],
    rectified: bool,
) -> Float[Tensor, "n d"]:
    """Return the generator's features for labels and noise.

    Args:
        generator: Its weights.
        labels: Classes.
        noise: A row for each.
        rectified: Whether features are >= 0.
    """
    classes = generator["inner"].shape[1] - noise.shape[1]
    given = torch.cat([noise, F.one_hot(labels, classes).to(noise.dtype)], dim=1)
    hidden = torch.relu(given @ generator["inner"].T + generator["inner_bias"])
    features = hidden @ generator["outer"].T + generator["outer_bias"]
    return features.relu() if rectified else features


def heads_loss(
    cohort: HeadCohort,
    shares: Float[Tensor, "K C"],
    features: Float[Tensor, "n d"],
    labels: Int[Tensor, "n"],
) -> Float[Tensor, ""]:
    """Return the mean cross entropy of the heads on features, weighed by the clients' shares.

    Args:
        cohort: The clients' heads.
        shares: The clients' shares of each class.
        features: Generated features.
        labels: Classes that they were made for.
    """
    logits = torch.einsum("kcd,nd->knc", cohort.weight, features) + cohort.bias[:, None]
    each = -logits.log_softmax(dim=-1).gather(2, labels.expand(cohort.size, -1)[..., None])[..., 0]
    return (shares[:, labels] * each).sum(dim=0).mean()


def logits_of(cohort: HeadCohort, features: Float[Tensor, "n d"]) -> Float[Tensor, "n C"]:
    """Return the mean logits of the heads on features."""
    return features @ cohort.weight.mean(dim=0).T + cohort.bias.mean(dim=0)


def sameness(features: Float[Tensor, "n d"], noise: Float[Tensor, "n e"]) -> Float[Tensor, ""]:
    """Return 1 where features are all the same, less the more they differ as their noise does.

    >>> sameness(torch.ones(2, 3), torch.tensor([[0.0], [1.0]]))
    tensor(1.)
    >>> sameness(torch.tensor([[0.0], [4.0]]), torch.tensor([[0.0], [1.0]]))  # exp(-(4 + 4) / 4)
    tensor(0.1353)
    """
    apart = (features[:, None] - features).abs().mean(dim=-1)
    noise_apart = (noise[:, None] - noise).square().mean(dim=-1)
    return torch.exp(-(apart * noise_apart).mean())
