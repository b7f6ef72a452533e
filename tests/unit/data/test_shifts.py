"""Augmented images: what may happen to each, each by draws of its own."""

import numpy as np
import pytest
import torch

from fedkd.data.shifts import augmented, flipped, shifted
from fedkd.settings.conditions import RunConditions
from fedkd.training.hyperparameters import TrainingSettings

IMAGES = torch.randn(200, 3, 16, 24, generator=torch.Generator().manual_seed(0))


def test_about_half_the_images_are_mirrored_from_left_to_right_and_no_pixel_is_lost() -> None:
    found = flipped(IMAGES, np.random.default_rng(1))
    same = (found == IMAGES).flatten(1).all(dim=1)
    mirrored = (found == IMAGES.flip(-1)).flatten(1).all(dim=1)
    assert (same ^ mirrored).all()
    assert 70 < mirrored.sum() < 130


def test_a_crop_moves_by_up_to_an_eighth_and_repeats_the_edge() -> None:
    found = augmented(IMAGES, "crop", np.random.default_rng(2))
    assert torch.equal(found, shifted(IMAGES, np.random.default_rng(2)))
    inner = IMAGES[:, :, 2:-2, 3:-3]
    windows = found.unfold(2, 12, 1).unfold(3, 18, 1)  # every place at which the inside may be
    hits = (windows == inner[:, :, None, None]).flatten(4).all(dim=4).all(dim=1)
    assert hits.flatten(1).any(dim=1).all()


def test_flip_and_crop_are_one_after_the_other_and_none_is_nothing() -> None:
    stream = np.random.default_rng(3)
    both = shifted(flipped(IMAGES, stream), stream)
    assert torch.equal(augmented(IMAGES, "flip_crop", np.random.default_rng(3)), both)
    assert augmented(IMAGES, "none", np.random.default_rng(3)) is IMAGES


def test_only_images_are_augmented() -> None:
    training = TrainingSettings(augment="flip")
    assert training.conflict(RunConditions(augmentations=("flip",))) is None
    tables = RunConditions(data_kind="tables")
    with_reason = "train.augment=flip is for images, and private samples are tables"
    assert (training.conflict(tables) or "").startswith(with_reason)
    assert TrainingSettings().conflict(tables) is None


@pytest.mark.parametrize("how", ["flip", "crop"])
def test_an_augmented_batch_depends_on_its_stream_alone(how: str) -> None:
    one, again = (augmented(IMAGES, how, np.random.default_rng(5)) for _ in range(2))  # type: ignore[arg-type]
    assert torch.equal(one, again)
    assert not torch.equal(one, augmented(IMAGES, how, np.random.default_rng(6)))  # type: ignore[arg-type]
