"""Frozen class vectors as every model's last layer, so that features of all architectures agree.

After SphereFed (Dong et al. 2022, arXiv 2207.09413): a model learns to turn its features towards
fixed vectors, one a class, the same for all clients. Not for: strategies that train or send a last
layer, which is frozen here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fedkd.errors import SettingError
from fedkd.models.features import find_head
from fedkd.models.head_settings import Heads
from fedkd.models.text_encoder import encoder_key, text_vectors
from fedkd.runtime.seeding import torch_stream
from fedkd.settings.conditions import RunConditions
from fedkd.settings.validators import at_least, positive

LEAST_APART = 1e-3
"""The least distance of two classes' unit vectors."""


@dataclass(frozen=True, kw_only=True)
class SharedClassesSettings(Heads):
    """Frozen class vectors as a common last layer (SphereFed), for any architecture.

        v      = P h / |P h|,   h what the model's own last layer took, P a linear layer
        logits = sharpness * <v, e_y>,   e_y the unit vector of class y, never trained or sent

    P takes the place of the model's last layer and is the client's own. What strategies call
    features is v, which is as wide for all architectures and means the same: the angles to the same
    vectors. Vectors are random and orthogonal, or those that a text encoder gives the names of
    the classes, less their mean. Departures from the paper: the loss stays cross entropy (there
    squared errors), and no calibration follows.
    """

    width: int | None = None
    """Width of the class vectors, at least the number of classes; null is 64, or the number of
    classes where that is more. A text encoder has its own."""
    sharpness: float = 16.0
    """What cosines are multiplied by to make logits, > 0."""
    text_encoder: Path | None = None
    """A folder of a model of transformers with its tokenizer, which encodes the classes' names;
    null draws random vectors."""

    def __post_init__(self) -> None:
        positive(sharpness=self.sharpness)
        if self.width is not None:
            at_least(2, width=self.width)
        if self.width is not None and self.text_encoder is not None:
            raise SettingError(
                f"width={self.width} would do nothing: vectors are as wide as"
                f" text_encoder={self.text_encoder} makes them; leave one of them out"
            )

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return the conflict with models without layers, and with last layers that must learn."""
        chosen = f"heads={conditions.name_of('heads')}"
        if not conditions.takes_heads:
            return super().conflict(conditions)
        found = conditions.conflict_with_estimators(
            f"{chosen} puts layers on a network", "say heads=none, or use networks for all clients"
        )
        adopts = conditions.learned_by == "adopt" and conditions.features is not None
        if found is not None or not adopts or conditions.has_companion:
            return found
        return (
            f"{chosen}: strategy={conditions.strategy} trains or sends the last layer of models,"
            " which is frozen class vectors here; use another strategy, or heads=none"
        )

    def for_classes(self, names: Sequence[str]) -> Heads:
        """Return the heads with the vectors of these classes."""
        if self.text_encoder is None:
            return GivenClasses(self, random_vectors(len(names), self.width))
        vectors = text_vectors(self.text_encoder, tuple(names))
        return GivenClasses(self, centered(vectors, names), self.content_key() or "")

    def content_key(self) -> str | None:
        """Return a hash of the text encoder's files; None without one."""
        return None if self.text_encoder is None else encoder_key(self.text_encoder)

    def put_on(self, model: nn.Module, inputs: Float[Tensor, "n *shape"]) -> nn.Module:
        """Return the model with random vectors for as many classes as it has."""
        if self.text_encoder is not None:
            raise SettingError("heads.text_encoder needs the names of classes: call for_classes")
        with torch.no_grad():
            classes = model(inputs).shape[1]
        return with_vectors(model, inputs, random_vectors(classes, self.width), self.sharpness)


@dataclass(frozen=True)
class GivenClasses(Heads):
    """The heads of a run whose classes are known."""

    settings: SharedClassesSettings
    vectors: Float[Tensor, "C D"] = field(compare=False, repr=False)
    key: str = ""
    """Names what the vectors were made of, beside the settings."""

    def put_on(self, model: nn.Module, inputs: Float[Tensor, "n *shape"]) -> nn.Module:
        """Return the model with these vectors as its last layer."""
        return with_vectors(model, inputs, self.vectors, self.settings.sharpness)


class ClassVectors(nn.Linear):
    """A last layer of fixed weights: logits are what the vectors have in common with an input.

    The weights are no parameters and no part of the state: nothing trains, stores or sends them.
    """

    def __init__(self, vectors: Float[Tensor, "C D"]) -> None:
        super().__init__(vectors.shape[1], vectors.shape[0], bias=False)
        del self.weight
        self.register_buffer("weight", vectors.clone(), persistent=False)


class UnitLength(nn.Module):
    """Scale each row to length 1; zeros stay."""

    def forward(self, rows: Float[Tensor, "n D"]) -> Float[Tensor, "n D"]:
        """Return the rows at length 1."""
        return F.normalize(rows, dim=-1)


def with_vectors(
    model: nn.Module,
    inputs: Float[Tensor, "n *shape"],
    vectors: Float[Tensor, "C D"],
    sharpness: float,
) -> nn.Module:
    """Return the model with another last layer, changed in place.

    Args:
        model: Whose logits are the output of a linear layer inside it; SettingError otherwise.
        inputs: A batch that it takes.
        vectors: The unit vectors of the classes.
        sharpness: What they are multiplied by.
    """
    training = model.training
    with torch.no_grad():
        head = find_head(model.eval(), inputs)
    model.train(training)
    if not head:
        raise SettingError(
            "heads=shared_classes needs a model whose logits are the output of a linear layer"
            f" inside it; {type(model).__name__} has no such layer"
        )
    own = model.get_submodule(head)
    assert isinstance(own, nn.Linear), "what find_head finds"
    project = nn.Linear(own.in_features, vectors.shape[1])
    model.set_submodule(
        head, nn.Sequential(project, UnitLength(), ClassVectors(sharpness * vectors))
    )
    return model


def random_vectors(classes: int, width: int | None) -> Float[Tensor, "C D"]:
    """Return orthogonal unit vectors, the same in every run; SettingError for a small width.

    >>> vectors = random_vectors(3, 8)
    >>> (vectors @ vectors.T).round(decimals=3).abs()
    tensor([[1., 0., 0.],
            [0., 1., 0.],
            [0., 0., 1.]])
    """
    wide = max(64, classes) if width is None else width
    if wide < classes:
        raise SettingError(
            f"heads.width={wide} is less than the {classes} classes, whose vectors would not be"
            f" orthogonal; give at least {classes}, or null"
        )
    drawn = torch.randn(wide, classes, generator=torch_stream(0, "class vectors", classes, wide))
    basis, upper = torch.linalg.qr(drawn)
    found: Tensor = (basis * upper.diagonal().sign()).T.contiguous()
    return found


def centered(vectors: Float[Tensor, "C D"], names: Sequence[str]) -> Float[Tensor, "C D"]:
    """Return vectors less their mean, at length 1; SettingError where two classes are alike.

    >>> centered(torch.tensor([[1.0, 5.0], [3.0, 5.0]]), ["cat", "dog"])
    tensor([[-1.,  0.],
            [ 1.,  0.]])
    """
    found = F.normalize(vectors - vectors.mean(dim=0), dim=1)
    apart = torch.cdist(found, found, compute_mode="donot_use_mm_for_euclid_dist")
    alike = (apart.fill_diagonal_(torch.inf) < LEAST_APART).nonzero().tolist()
    if alike or len(names) < 2:
        one, other = ([names[i] for i in alike[0]] if alike else (*names, *names))[:2]
        raise SettingError(
            f"heads.text_encoder gives the classes {one!r} and {other!r} the same vector; use an"
            " encoder that knows these names, or leave it out for random vectors"
        )
    return found
