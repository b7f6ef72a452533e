"""Corruptions against their formulas, written out anew; that they grow with severity and never do
nothing."""

import math

import numpy as np
import pytest

from fedkd.data.corruptions import CORRUPTIONS, corrupt
from fedkd.data.sources import Digits

SEVERITIES = [1, 2, 3, 4, 5]
NOISES = ["gaussian_noise", "impulse_noise"]


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    return Digits().load().images[:50]


def stream(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def random_images(*shape: int) -> np.ndarray:
    return stream(1).integers(0, 256, shape, dtype=np.uint8)


def rounded(value: float) -> int:
    return round(min(max(value, 0.0), 1.0) * 255)


# Laws.


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_severity_changes_real_images_and_more_so_than_the_one_before(
    name, digits: np.ndarray
):
    before = digits.copy()
    changes = []
    for severity in SEVERITIES:
        found = corrupt(digits, name, severity, stream())
        assert found.shape == digits.shape
        assert found.dtype == np.uint8
        changes.append(np.abs(found.astype(int) - digits).mean())
    assert changes[0] > 1
    assert changes == sorted(changes)
    assert len(set(changes)) == 5
    assert np.array_equal(digits, before)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_equal_streams_corrupt_alike_and_only_noise_depends_on_them(name, digits: np.ndarray):
    first, again, other = (corrupt(digits, name, 3, stream(seed)) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert np.array_equal(first, other) == (name not in NOISES)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_does_not_depend_on_those_that_follow(name, digits: np.ndarray):
    assert np.array_equal(
        corrupt(digits, name, 4, stream())[:7], corrupt(digits[:7], name, 4, stream())
    )


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_no_images_stay_no_images(name):
    assert corrupt(random_images(0, 4, 4, 3), name, 1, stream()).shape == (0, 4, 4, 3)


# Formulas.


@pytest.mark.parametrize("severity", SEVERITIES)
def test_brightness_adds_a_tenth_for_each_severity(severity: int):
    images = random_images(3, 4, 5, 3)
    found = corrupt(images, "brightness", severity, stream())
    naive = [rounded(value / 255 + severity / 10) for value in images.ravel().tolist()]
    assert np.abs(found.ravel().astype(int) - naive).max() <= 1
    if severity % 2 == 0:  # otherwise it adds half a level, and a tie may be rounded either way
        assert found.ravel().tolist() == naive


@pytest.mark.parametrize("severity", SEVERITIES)
def test_contrast_draws_each_channel_of_each_image_towards_its_own_mean(severity: int):
    images = random_images(3, 4, 5, 3)
    found = corrupt(images, "contrast", severity, stream())
    factor = 1 - 0.18 * severity
    for image in range(3):
        for channel in range(3):
            values = images[image, :, :, channel].ravel().tolist()
            mean = sum(values) / len(values) / 255
            naive = [rounded(mean + factor * (value / 255 - mean)) for value in values]
            assert np.abs(found[image, :, :, channel].ravel().astype(int) - naive).max() <= 1


@pytest.mark.parametrize("severity", SEVERITIES)
def test_blur_spreads_a_point_as_a_gaussian_in_each_channel_alone(severity: int):
    """A white point at the middle of 21 x 21 becomes 255 g(dy) g(dx), g a normal density at
    integers, scaled to 1."""
    image = np.zeros((1, 21, 21, 3), dtype=np.uint8)
    image[0, 10, 10, 1] = 255
    found = corrupt(image, "blur", severity, stream())[0]
    width = 0.4 * severity
    density = [math.exp(-((i - 10) ** 2) / (2 * width**2)) for i in range(21)]
    g = [value / sum(density) for value in density]
    for y in range(21):
        for x in range(21):
            assert abs(int(found[y, x, 1]) - 255 * g[y] * g[x]) <= 1
    assert found[:, :, [0, 2]].max() == 0


def test_blur_leaves_a_plain_image_as_it_is_up_to_the_edges():
    plain = np.full((2, 6, 6, 1), 77, dtype=np.uint8)
    assert np.array_equal(corrupt(plain, "blur", 5, stream()), plain)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_gaussian_noise_has_the_deviation_of_its_severity(severity: int):
    """120,000 values around the middle, where few are cut: their deviation is known to 0.5 %.

    A value farther than 1/2 from the middle is cut: at severity 5 (0.4, 1.25 deviations) the
    deviation that is left is 0.4 sqrt(E min(|g|, 1.25)^2), which the test works out by sampling
    anew.
    """
    images = np.full((30, 40, 100, 1), 128, dtype=np.uint8)
    found = corrupt(images, "gaussian_noise", severity, stream()).astype(float) / 255 - 128 / 255
    drawn = stream(7).standard_normal(400_000)

    def expected(deviation: float) -> float:
        return float(np.std(np.clip(deviation * drawn, -128 / 255, 127 / 255)))

    right = 0.08 * severity
    assert found.std() == pytest.approx(expected(right), rel=0.02)
    assert abs(found.mean()) < 0.01
    for wrong in (2 / 3 * right, 3 / 2 * right):
        assert found.std() != pytest.approx(expected(wrong), rel=0.04)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_impulse_noise_makes_as_many_values_black_as_white(severity: int):
    """Of 120,000 values each is black with probability 0.03 s: a standard error of at most
    0.0010."""
    images = np.full((30, 40, 100, 1), 128, dtype=np.uint8)
    found = corrupt(images, "impulse_noise", severity, stream())
    black, white = (found == 0).mean(), (found == 255).mean()
    assert black == pytest.approx(0.03 * severity, abs=0.004)
    assert white == pytest.approx(0.03 * severity, abs=0.004)
    assert black != pytest.approx(2 / 3 * 0.03 * severity, abs=0.004)
    assert set(np.unique(found)) == {0, 128, 255}
