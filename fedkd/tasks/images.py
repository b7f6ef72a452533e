"""Images with labels as a task: a public sample is an image, a class a label."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fedkd.data.division import Public
from fedkd.data.image_arrays import value_range
from fedkd.data.prepare import Prepared
from fedkd.data.public import PublicSet, describe, make_public_set
from fedkd.data.samples import ImagesOnDevice, Normalization, inputs, labels, statistics
from fedkd.data.shifts import AUGMENTATIONS, Augmentation, augmented, shifted
from fedkd.errors import SettingError
from fedkd.models.adapted_images import with_adapters
from fedkd.models.adapters import Adapters, NoAdapters
from fedkd.models.factory import ImageModelSpec, ModelSpec
from fedkd.models.heads import Heads, label_loss
from fedkd.models.libraries import own_spec
from fedkd.runtime.devices import sent
from fedkd.tasks.asked_samples import AskedSamples
from fedkd.tasks.task import Examples, Task, TaskSetup


class AskedImages(AskedSamples):
    """Public images in the order of their ids, which can be moved."""

    def moved(self, stream: np.random.Generator) -> "AskedSamples":
        """Return the images, each moved by up to an eighth of its side."""
        return AskedImages(shifted(self.inputs, stream))


@dataclass(frozen=True, kw_only=True)
class ImageTask(Task):
    """A prepared data set of images, normalized, with its public set."""

    prepared: Prepared
    public: PublicSet
    normalization: Normalization
    """Of private and test samples; the public set has its own."""
    heads: Heads
    device: torch.device
    adapters: Adapters = field(default_factory=NoAdapters)
    placed_public_inputs: Tensor | None = None
    """The public set as model inputs where somebody has made it already, for all processes of a
    machine."""

    data_kind: ClassVar[str] = "images"
    augmentations: ClassVar[tuple[str, ...]] = AUGMENTATIONS
    takes_heads: ClassVar[bool] = True
    audits_records: ClassVar[bool] = True

    @classmethod
    def make(cls, setup: TaskSetup) -> "ImageTask":
        """Return the task of a run. What an audit planted is in private samples alone."""
        prepared, trained_on, division = setup.prepared, setup.trained_on, setup.division
        if not isinstance(prepared, Prepared) or not isinstance(trained_on, Prepared):
            raise SettingError("this data set holds texts, and its task is images; say task=texts")
        normalization = statistics(prepared.images[division.held_back])
        return cls(
            prepared=trained_on,
            public=make_public_set(
                setup.public,
                setup.public_source,
                prepared,
                division.held_back,
                normalization,
                setup.seed,
            ),
            normalization=normalization,
            heads=setup.heads,
            adapters=setup.adapters,
            device=setup.device,
            placed_public_inputs=setup.public_inputs,
        )

    @property
    def classes(self) -> int:
        """C."""
        return self.prepared.classes

    @property
    def public_size(self) -> int:
        """N, all views counted."""
        return self.public.size

    @cached_property
    def public_inputs(self) -> Tensor:
        """The public set as model inputs, made once."""
        if self.placed_public_inputs is not None:
            return self.placed_public_inputs.to(self.device)
        return self.public.inputs(self.device)

    @cached_property
    def public_labels(self) -> Tensor:
        """The labels of the public set; -1 unless all of it is of the clients' own data set."""
        return self.public.labels_on(self.device)

    @property
    def sendable(self) -> np.ndarray | None:
        """The public set as model inputs."""
        found: np.ndarray = self.public_inputs.numpy()
        return found

    def preprocessing(self) -> Mapping[str, object]:
        """Return the inputs' shape, and the mean and standard deviation of each channel."""
        return {
            "input_shape": list(self.prepared.input_shape),
            "scale": value_range(self.prepared.images),
            "mean": list(self.normalization.mean),
            "std": list(self.normalization.std),
        }

    def architecture(self, name: str, *, without_heads: bool = False) -> ModelSpec:
        """Return the architecture for images of this shape and these classes."""
        own = own_spec(name, self.prepared.input_shape, self.prepared.classes)
        if own is not None:
            return own
        found = ImageModelSpec(name, self.prepared.input_shape, self.prepared.classes, self.heads)
        if without_heads:  # of the server, which trains its own models whole
            return found.without_heads
        return with_adapters(found, self.adapters)

    def reason_unbatched(self) -> str | None:
        """Return that augmented views are distilled in a way of their own."""
        return "each distills in a way of its own" if self.public.views > 1 else None

    def describe(self, public: Public, source: str) -> str:
        """Return the public set in words, such as ``100 samples of the same data set``."""
        return describe(public, source)

    def training_set(self, rows: np.ndarray, owners: Sequence[int]) -> Examples:
        """Return rows as model inputs and labels, whoever owns them."""
        return self.test_set(rows)

    def test_set(self, rows: np.ndarray) -> Examples:
        """Return rows as model inputs and labels."""
        if self._on_device is not None:
            return self._on_device.examples(rows)
        return inputs(self.prepared, rows, self.normalization, self.device), labels(
            self.prepared, rows, self.device
        )

    @cached_property
    def _on_device(self) -> ImagesOnDevice | None:
        """The private data set where models compute; None where it stays on the host."""
        if not ImagesOnDevice.is_worth_it(self.prepared, self.device):
            return None
        return ImagesOnDevice(self.prepared, self.normalization, self.device)

    def training_size(self, rows: np.ndarray, owners: Sequence[int]) -> int:
        """Return how many rows there are."""
        return len(rows)

    def label_counts(self, rows: np.ndarray, owners: Sequence[int]) -> tuple[int, ...]:
        """Return how many rows each class has."""
        return tuple(np.bincount(self.prepared.labels[rows], minlength=self.classes).tolist())

    def augmented(self, inputs: Tensor, how: str, stream: np.random.Generator) -> Tensor:
        """Return each image mirrored or shifted at random."""
        return augmented(inputs, cast(Augmentation, how), stream)

    def training_loss(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Float[Tensor, ""]:
        """Return the cross-entropy, or the losses of further heads."""
        return label_loss(model, inputs, targets)

    def ask(self, ids: Int[Tensor, "N"] | None = None) -> AskedImages:
        """Return public images by id."""
        x = self.public_inputs
        return AskedImages(x if ids is None or len(ids) == len(x) else x[sent(ids, self.device)])
