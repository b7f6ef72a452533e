"""The public set: which images all clients predict on, and what a model is given of them.

Public samples come from rows of the clients' own data set that no client gets, from another data
set, from noise, or from both; any of them may be corrupted. Every kind of sample is normalized with
its own public statistics, taken before it is corrupted: normalizing afterwards would undo a change
of contrast or brightness. Private samples are normalized with those of all the rows held back,
whatever the public set is made of. So where the same rows are held back, clients have the same
private samples and the same local-only twin, and only the public set differs.

Not for: who gets which rows (``fedkd.data.division``), or which public samples a round asks for
(the server).
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from fedkd.data.corruptions import corrupt
from fedkd.data.division import Public
from fedkd.data.prepare import Prepared, Source, prepare_images
from fedkd.data.samples import Normalization, normalized, statistics
from fedkd.data.shifts import shifted
from fedkd.data.sources import DATA
from fedkd.errors import SettingError
from fedkd.runtime.seeding import numpy_stream
from fedkd.settings.validators import one_of, only_with

Images = UInt8[np.ndarray, "n height width channels"]


@dataclass(frozen=True, kw_only=True)
class Same:
    """Rows of the clients' own data set that no client gets."""


@dataclass(frozen=True, kw_only=True)
class NoiseImages:
    """Images without content: every value is drawn on its own."""

    law: Literal["uniform", "gaussian"] = "uniform"
    """uniform over 0 to 255, or gaussian with the mean and deviation by channel of the rows held
    back, cut to 0..255"""

    def __post_init__(self) -> None:
        one_of(("uniform", "gaussian"), law=self.law)


PublicSource = Same | NoiseImages | Source
PUBLIC_DATA = {"same": Same, "noise": NoiseImages, **DATA}


@dataclass(frozen=True)
class Part:
    """Public images of one kind, as uint8, and the statistics that normalize them."""

    images: Images
    normalization: Normalization


@dataclass(frozen=True)
class PublicSet:
    """The public samples in the order of their ids: those of the clients' own data set first."""

    parts: tuple[Part, ...]
    labels: Int[np.ndarray, "n"] | None
    """None unless all samples are of the clients' own data set: another one's classes are not
    theirs."""
    views: int = 1
    """How many times each sample is there: first as it is, then moved."""

    @property
    def size(self) -> int:
        """N."""
        return sum(len(part.images) for part in self.parts)

    def inputs(self, device: torch.device) -> Float[Tensor, "n channels height width"]:
        """Return all samples as a model takes them."""
        return torch.cat(
            [normalized(part.images, part.normalization, device) for part in self.parts]
        )

    def labels_on(self, device: torch.device) -> Int[Tensor, "n"]:
        """Return the labels; -1 for each sample where there are none."""
        labels = np.full(self.size, -1) if self.labels is None else self.labels
        return torch.from_numpy(labels).to(device)


def samples_of_other(settings: Public, source: PublicSource) -> int:
    """Return how many public samples are not of the clients' own data set. Raises SettingError for
    what cannot be.
    """
    others = 0
    if isinstance(source, Same):
        only_with(False, "public_data=same", **{"public.foreign_share": settings.foreign_share})
    else:
        others = _some_of(settings)
    own = settings.size - others
    if settings.reserved_rows < own:
        raise SettingError(
            f"public.reserved={settings.reserved} is too few: {own} public samples are of the"
            " clients' own data set;"
            f" give at least {own}"
        )
    return others


def make_public_set(
    settings: Public,
    source: PublicSource,
    prepared: Prepared,
    held_back: Int[np.ndarray, "rows"],
    normalization: Normalization,
    seed: int,
) -> PublicSet:
    """Return the public set. ``held_back`` are the rows that no client gets, ``normalization`` is
    that of their images.

    Raises SettingError where the source has too few samples, or is the clients' own data set once
    more.
    """
    others = samples_of_other(settings, source)
    rows = held_back
    if settings.size - others < len(held_back):
        order = numpy_stream(seed, "public", "own").permutation(held_back)
        rows = np.sort(order[: settings.size - others])
    parts = [Part(prepared.images[rows], normalization)] if len(rows) or not others else []
    if isinstance(source, NoiseImages):
        shape = (others, *prepared.images.shape[1:])
        drawn = _noise(source, shape, normalization, numpy_stream(seed, "public", "noise"))
        parts.append(Part(drawn, statistics(drawn)))
    elif not isinstance(source, Same):
        drawn = _others(source, others, prepared, numpy_stream(seed, "public", "others"))
        parts.append(Part(drawn, statistics(drawn)))
    if settings.corruption is not None:
        assert settings.severity is not None, "checked in Public"
        stream = numpy_stream(seed, "public", "corruption")
        parts = [
            replace(x, images=corrupt(x.images, settings.corruption, settings.severity, stream))
            for x in parts
        ]
    whole = list(parts)
    for view in range(1, settings.augmented_views):
        stream = numpy_stream(seed, "public", "view", view)
        whole += [replace(part, images=_moved(part.images, stream)) for part in parts]
    labels = (
        None
        if others
        else np.tile(np.asarray(prepared.labels[rows], dtype=np.int64), settings.augmented_views)
    )
    return PublicSet(tuple(whole), labels, settings.augmented_views)


def _moved(images: Images, stream: np.random.Generator) -> Images:
    moved: Images = (
        shifted(torch.from_numpy(images).permute(0, 3, 1, 2), stream).permute(0, 2, 3, 1).numpy()
    )
    return np.ascontiguousarray(moved)


def describe(settings: Public, source_name: str) -> str:
    """Return the public set in words.

    >>> describe(Public(size=10, foreign_share=0.5, corruption="blur", severity=2), "mnist")
    '10 samples, 50% of them mnist; blur of severity 2'
    """
    text = f"{settings.size} samples"
    if settings.foreign_share is not None:
        text += f", {settings.foreign_share:.0%} of them {source_name}"
    elif source_name != "same":
        text += f" of {source_name}"
    if settings.corruption is not None:
        text += f"; {settings.corruption} of severity {settings.severity}"
    return (
        text
        if settings.augmented_views == 1
        else f"{text}; {settings.augmented_views} views of each"
    )


def fit(
    images: UInt8[np.ndarray, "n h w c"], channels: int, height: int, width: int
) -> UInt8[np.ndarray, "n {height} {width} {channels}"]:
    """Return images with the channels and the size asked for.

    Grey to color repeats the channel; color to grey is the luma 0.299 R + 0.587 G + 0.114 B. Sizes
    change by bilinear interpolation, averaged where it shrinks, to height and width alike: the
    aspect ratio is not kept.
    """
    if images.shape[1:] == (height, width, channels):
        return images
    from PIL import Image

    modes = {1: "L", 3: "RGB"}
    if channels not in modes or images.shape[-1] not in modes:
        raise SettingError(
            f"public_data: images of {images.shape[-1]} channels cannot be made like the clients'"
            f" of {channels}; both"
            " must have 1 (grey) or 3 (color)"
        )
    found = np.empty((len(images), height, width, channels), dtype=np.uint8)
    for i, image in enumerate(images):
        picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).convert(
            modes[channels]
        )
        resized = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
        found[i] = resized.reshape(height, width, channels)
    return found


def _some_of(settings: Public) -> int:
    """Return how many samples are of a source that is not the clients' own data set."""
    if settings.size == 0:
        raise SettingError(
            "public_data would do nothing: public.size=0; give public.size=N with N >= 1"
        )
    if settings.labeled:
        raise SettingError(
            "public.labeled=true needs public_data=same: noise has no labels, and the classes of"
            " another data set are"
            " not the clients' own"
        )
    share = 1.0 if settings.foreign_share is None else settings.foreign_share
    if round(share * settings.size) == 0:
        raise SettingError(
            f"public.foreign_share={share:g} would do nothing: it is no sample of"
            f" public.size={settings.size}"
        )
    return round(share * settings.size)


def _others(source: Source, count: int, prepared: Prepared, stream: np.random.Generator) -> Images:
    """Return ``count`` images of another data set's training split."""
    try:
        other = prepare_images(source)
    except SettingError as error:
        raise SettingError(f"public_data: {error}") from error
    if other.key == prepared.key:
        raise SettingError(
            "public_data names the clients' own data set, whose rows are theirs; say"
            " public_data=same"
        )
    if other.train_size < count:
        raise SettingError(
            f"public_data has {other.train_size} training samples, but {count} are asked for;"
            " lower public.size or"
            " public.foreign_share"
        )
    rows = np.sort(stream.permutation(other.train_size)[:count])
    return fit(other.images[rows], *prepared.input_shape)


def _noise(
    source: NoiseImages, shape: tuple[int, ...], like: Normalization, stream: np.random.Generator
) -> Images:
    if source.law == "uniform":
        return stream.integers(0, 256, shape, dtype=np.uint8)
    values = np.array(like.mean) + np.array(like.std) * stream.standard_normal(shape)
    found: Images = np.rint(values.clip(0, 1) * 255).astype(np.uint8)
    return found
