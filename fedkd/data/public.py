"""The public set: the images that all clients predict on, as model inputs.

Public samples are rows of the clients' own data set that no client holds (reserved rows), foreign
samples from another data set or from noise, or both; all of them may be corrupted. Own and foreign
samples are each normalized with their own statistics, taken before corruption: normalizing
afterwards would undo a change of contrast or brightness. Private samples are normalized with the
statistics of all reserved rows, independently of the public set's source. So with the same reserved
rows, clients have the same private samples and the same local-only baseline, and only the public
set differs.

Not for: dividing rows among clients (``fedkd.data.division``), or sampling the public set each
round (``fedkd.federation.public_sampling``).
"""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

from fedkd.data.column_sources import COLUMN_DATA
from fedkd.data.corruptions import corrupt
from fedkd.data.division import Public
from fedkd.data.embedded import EMBEDDED_DATA
from fedkd.data.fetched import FETCHED_DATA
from fedkd.data.prepare import Labeled, Prepared, Source, prepare_images
from fedkd.data.samples import Images, Normalization, normalized, statistics
from fedkd.data.shifts import shifted
from fedkd.data.sources import DATA, Named
from fedkd.errors import SettingError
from fedkd.runtime.seeding import numpy_stream
from fedkd.settings.validators import check_choices, only_with


@dataclass(frozen=True, kw_only=True)
class Same:
    """Reserved rows of the clients' own data set, which no client holds."""


@dataclass(frozen=True, kw_only=True)
class NoiseImages:
    """Samples of independent random values: images, series, or rows of a table."""

    law: Literal["uniform", "gaussian"] = "uniform"
    """uniform over 0 to 255 (of tables and series, from the reserved rows' smallest value to their
    largest), or gaussian with the reserved rows' mean and standard deviation per channel or column
    (of images, clipped to 0..255). Categories are drawn as often as reserved rows have them"""

    def __post_init__(self) -> None:
        check_choices(self)


PublicSource = Same | NoiseImages | Source
PUBLIC_DATA: dict[str, type | Named] = {
    "same": Same,
    "noise": NoiseImages,
    **DATA,
    **EMBEDDED_DATA,
    **COLUMN_DATA,
    **FETCHED_DATA,
}


@dataclass(frozen=True)
class Part:
    """Public images from one source, with their normalization."""

    images: Images
    normalization: Normalization


@dataclass(frozen=True)
class PublicSet:
    """The public samples by id: those of the clients' own data set first, then foreign ones."""

    parts: tuple[Part, ...]
    labels: Int[np.ndarray, "n"] | None
    """None with foreign samples, whose classes are not those of the clients' data set."""
    views: int = 1
    """Views of each sample: the sample itself, then shifted copies."""

    @property
    def size(self) -> int:
        """The number of samples N, all views counted."""
        return sum(len(part.images) for part in self.parts)

    def inputs(self, device: torch.device) -> Float[Tensor, "n channels height width"]:
        """Return all samples as model inputs."""
        return torch.cat(
            [normalized(part.images, part.normalization, device) for part in self.parts]
        )

    def labels_on(self, device: torch.device) -> Int[Tensor, "n"]:
        """Return the labels of all samples, each -1 if there are none."""
        labels = np.full(self.size, -1) if self.labels is None else self.labels
        return torch.from_numpy(labels).to(device)


def count_foreign(settings: Public, source: PublicSource) -> int:
    """Return the number of foreign public samples.

    Raises SettingError if the settings contradict one another or the source.
    """
    foreign = 0
    if isinstance(source, Same):
        only_with(False, "public_data=same", **{"public.foreign_share": settings.foreign_share})
    else:
        foreign = _foreign_of_share(settings)
    own = settings.size - foreign
    if settings.reserved_rows < own:
        raise SettingError(
            f"public.reserved={settings.reserved} is too few: {own} public samples are of the"
            f" clients' own data set; give at least {own}"
        )
    return foreign


def make_public_set(
    settings: Public,
    source: PublicSource,
    prepared: Prepared,
    reserved: Int[np.ndarray, "rows"],
    normalization: Normalization,
    seed: int,
) -> PublicSet:
    """Return the public set.

    Raises SettingError if the source has too few samples, or is the clients' own data set.

    Args:
        settings: Of the public set.
        source: Where foreign samples come from, or ``Same``.
        prepared: The clients' data set.
        reserved: Its rows that no client holds.
        normalization: Of the reserved images.
        seed: Of all random streams.
    """
    foreign = count_foreign(settings, source)
    rows = reserved
    if settings.size - foreign < len(reserved):
        permuted = numpy_stream(seed, "public", "own").permutation(reserved)
        rows = np.sort(permuted[: settings.size - foreign])
    parts = [Part(prepared.images[rows], normalization)] if len(rows) or not foreign else []
    if isinstance(source, NoiseImages):
        shape = (foreign, *prepared.images.shape[1:])
        stream, rounds = numpy_stream(seed, "public", "noise"), prepared.images.dtype == np.uint8
        drawn = _noise(source, shape, normalization, stream, rounds=rounds)
        parts.append(Part(drawn, statistics(drawn)))
    elif not isinstance(source, Same):
        drawn = _foreign_images(source, foreign, prepared, numpy_stream(seed, "public", "others"))
        parts.append(Part(drawn, statistics(drawn)))
    if settings.corruption is not None:
        assert settings.severity is not None, "checked in Public"
        stream = numpy_stream(seed, "public", "corruption")
        parts = [
            replace(
                part, images=corrupt(part.images, settings.corruption, settings.severity, stream)
            )
            for part in parts
        ]
    all_views = list(parts)
    for view in range(1, settings.augmented_views):
        stream = numpy_stream(seed, "public", "view", view)
        all_views += [replace(part, images=_shifted(part.images, stream)) for part in parts]
    own_labels = np.asarray(prepared.labels[rows], dtype=np.int64)
    labels = None if foreign else np.tile(own_labels, settings.augmented_views)
    return PublicSet(tuple(all_views), labels, settings.augmented_views)


def _shifted(images: Images, stream: np.random.Generator) -> Images:
    channels_first = torch.from_numpy(images).permute(0, 3, 1, 2)
    moved: Images = shifted(channels_first, stream).permute(0, 2, 3, 1).numpy()
    return np.ascontiguousarray(moved)


def describe(settings: Public, source_name: str) -> str:
    """Return a description of the public set in words.

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
    if settings.augmented_views > 1:
        text += f"; {settings.augmented_views} views of each"
    return text


def match_shape(
    images: Real[np.ndarray, "n h w c"], channels: int, height: int, width: int
) -> Real[np.ndarray, "n {height} {width} {channels}"]:
    """Return images converted to the given number of channels, height and width.

    Grey to color repeats the channel; color to grey is the luma 0.299 R + 0.587 G + 0.114 B. Images
    are resized by bilinear interpolation, with averaging where they shrink; the aspect ratio may
    change. Raises SettingError unless both have 1 or 3 channels.

    Args:
        images: The images, returned themselves if their shape matches.
        channels: 1 (grey) or 3 (color).
        height: In pixels.
        width: In pixels.
    """
    if images.shape[1:] == (height, width, channels):
        return images
    from PIL import Image

    modes = {1: "L", 3: "RGB"}
    if channels not in modes or images.shape[-1] not in modes:
        raise SettingError(
            f"public_data: images of {images.shape[-1]} channels cannot be made like the clients'"
            f" of {channels}; both must have 1 (grey) or 3 (color)"
        )
    if images.dtype != np.uint8:
        raise SettingError(
            f"public_data: images of floats are of shape {list(images.shape[1:])}, those of the"
            f" clients of {[height, width, channels]}; only 8-bit images are resized"
        )
    converted = np.empty((len(images), height, width, channels), dtype=np.uint8)
    for i, image in enumerate(images):
        pixels = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        pixels = pixels.convert(modes[channels])
        resized = np.asarray(pixels.resize((width, height), Image.Resampling.BILINEAR))
        converted[i] = resized.reshape(height, width, channels)
    return converted


def _foreign_of_share(settings: Public) -> int:
    """Return the number of samples in ``foreign_share``, all of them by default."""
    if settings.size == 0:
        raise SettingError(
            "public_data would do nothing: public.size=0; give public.size=N with N >= 1"
        )
    if settings.labeled:
        raise SettingError(
            "public.labeled=true needs public_data=same: noise has no labels, and the classes of"
            " another data set are not those of the clients' data set"
        )
    share = 1.0 if settings.foreign_share is None else settings.foreign_share
    count = round(share * settings.size)
    if count == 0:
        raise SettingError(
            f"public.foreign_share={share:g} would do nothing: of public.size={settings.size} it"
            " is no sample"
        )
    return count


def _foreign_images(
    source: Source, count: int, prepared: Prepared, stream: np.random.Generator
) -> Images:
    """Return random images of another data set's training split, converted to the clients' shape.

    Args:
        source: The other data set.
        count: The number of images.
        prepared: The clients' data set.
        stream: Draws the images.
    """
    with in_public_words():
        other = prepare_images(source)
    check_foreign(other, prepared.key, count)
    rows = np.sort(stream.permutation(other.train_size)[:count])
    return match_shape(other.images[rows], *prepared.input_shape)


def check_foreign(other: Labeled, own_key: str, count: int, samples: str = "samples") -> None:
    """Raise SettingError for a data set that is the clients' own, or has too few training samples.

    Args:
        other: What is named as ``public_data``, prepared.
        own_key: The key of the clients' data set.
        count: How many samples are asked for.
        samples: What they are called.
    """
    if other.key == own_key:
        raise SettingError(
            "public_data names the clients' own data set; for reserved rows of it, set"
            " public_data=same"
        )
    if other.train_size < count:
        raise SettingError(
            f"public_data has {other.train_size} training {samples}, but {count} are asked for;"
            " lower public.size or public.foreign_share"
        )


@contextlib.contextmanager
def in_public_words() -> Iterator[None]:
    """Let errors of the block name settings of ``public_data`` in place of those of ``data``."""
    try:
        yield
    except SettingError as error:
        message = re.sub(r"(?<![\w./])data([.:])", r"public_data\1", str(error))
        placed = message if message.startswith("public_data") else f"public_data: {message}"
        raise SettingError(placed) from error


def _noise(
    source: NoiseImages,
    shape: tuple[int, ...],
    like: Normalization,
    stream: np.random.Generator,
    *,
    rounds: bool,
) -> Images:
    """Return noise images.

    Args:
        source: Says the distribution.
        shape: Of the result, [n, height, width, channels].
        like: The mean and standard deviation of Gaussian noise.
        stream: Draws the values.
        rounds: Whether Gaussian noise is clipped and rounded to 8 bits.
    """
    if source.law == "uniform":
        return stream.integers(0, 256, shape, dtype=np.uint8)
    values = np.array(like.mean) + np.array(like.std) * stream.standard_normal(shape)
    if not rounds:
        return values.astype(np.float32)
    images: Images = np.rint(values.clip(0, 1) * 255).astype(np.uint8)
    return images
