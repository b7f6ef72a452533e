"""Where public samples come from, and that all else about a run stays as it is."""

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from tiny import scenario

from fedkd.data.division import Public
from fedkd.data.prepare import Prepared, prepare
from fedkd.data.public import (
    NoiseImages,
    PublicSet,
    Same,
    count_foreign,
    make_public_set,
    match_shape,
)
from fedkd.data.samples import inputs, statistics
from fedkd.data.sources import Digits, Rows
from fedkd.errors import SettingError
from fedkd.experiment.baseline import baseline_key
from fedkd.experiment.build import build
from fedkd.federation.context import ClientContext

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Stripes:
    """A data set of its own: 80 training and 20 test images, 12 x 10 in color; image i has i in its
    red corner."""

    train: int = 80

    def content_key(self) -> str:
        return f"stripes-{self.train}"

    def load(self) -> Rows:
        images = np.random.default_rng(0).integers(
            100, 256, (self.train + 20, 12, 10, 3), dtype=np.uint8
        )
        return Rows(images, np.arange(len(images)) % 2, self.train, ("up", "down"), {})


@pytest.fixture(scope="module")
def digits() -> Prepared:
    return prepare(Digits())


HELD_BACK = np.arange(100, 160)


def public_set(digits: Prepared, source: Any = None, seed: int = 0, **settings: Any) -> PublicSet:
    settings = {"size": 60, "reserved": 60, **settings}
    normalization = statistics(digits.images[HELD_BACK])
    return make_public_set(
        Public(**settings), source or Same(), digits, HELD_BACK, normalization, seed
    )


def images(found: PublicSet) -> np.ndarray:
    return np.concatenate([part.images for part in found.parts])


# The clients' own data set.


def test_by_default_it_is_the_rows_held_back_in_their_order(digits: Prepared) -> None:
    found = public_set(digits)
    assert np.array_equal(images(found), digits.images[HELD_BACK])
    assert found.labels is not None
    assert np.array_equal(found.labels, digits.labels[HELD_BACK])
    expected = inputs(digits, HELD_BACK, statistics(digits.images[HELD_BACK]), CPU)
    assert torch.equal(found.inputs(CPU), expected)
    assert found.inputs(CPU).mean().item() == pytest.approx(0, abs=1e-5)


def test_fewer_than_the_rows_held_back_are_some_of_them_and_grow_without_changing(
    digits: Prepared,
) -> None:
    small, large = (public_set(digits, size=size) for size in (20, 40))
    small_rows, large_rows = ({x.tobytes() for x in images(found)} for found in (small, large))
    assert len(small_rows) == 20
    assert small_rows < large_rows < {x.tobytes() for x in digits.images[HELD_BACK]}
    assert {x.tobytes() for x in images(public_set(digits, size=20, seed=1))} != small_rows
    for picture, label in zip(images(small), small.labels, strict=True):
        (row,) = [r for r in HELD_BACK if np.array_equal(digits.images[r], picture)]
        assert digits.labels[row] == label


# Other data sets.


def test_another_data_set_gives_training_images_in_the_clients_shape(digits: Prepared) -> None:
    found = public_set(digits, Stripes(), size=80)
    assert images(found).shape == (80, 8, 8, 1)
    expected = match_shape(Stripes().load().images[:80], 1, 8, 8)
    assert np.array_equal(images(found), expected)
    assert found.labels is None
    assert found.inputs(CPU).shape == (80, 1, 8, 8)


@pytest.mark.parametrize("source", [Stripes(), NoiseImages(), NoiseImages(law="gaussian")])
def test_what_is_not_the_clients_is_normalized_with_its_own_statistics(
    digits: Prepared, source: Any
) -> None:
    found = public_set(digits, source, size=40).inputs(CPU)
    assert found.mean().item() == pytest.approx(0, abs=1e-5)
    assert found.std().item() == pytest.approx(1, abs=1e-3)


def test_a_share_of_another_data_set_replaces_part_of_the_own_one(digits: Prepared) -> None:
    own, half, most = (images(public_set(digits, s, **x)) for s, x in (
        (None, {}), (Stripes(), {"foreign_share": 0.5}), (Stripes(), {"foreign_share": 0.75}),
    ))  # fmt: skip
    as_bytes = [[x.tobytes() for x in found] for found in (own, half, most)]
    assert len(half) == len(most) == 60
    assert set(as_bytes[1][:30]) < set(as_bytes[0])
    assert set(as_bytes[2][:15]) < set(as_bytes[1][:30])
    assert set(as_bytes[1][30:]) < set(as_bytes[2][15:])
    assert not set(as_bytes[2][15:]) & set(as_bytes[0])


def test_each_part_of_a_mixture_has_its_own_statistics(digits: Prepared) -> None:
    found = public_set(digits, Stripes(), foreign_share=0.5).inputs(CPU)
    assert found[30:].mean().item() == pytest.approx(0, abs=1e-5)
    clean = statistics(digits.images[HELD_BACK])
    first = public_set(digits, Stripes(), foreign_share=0.5).parts[0].images
    assert np.allclose(
        found[:30, 0].numpy(), (first[..., 0] / 255 - clean.mean[0]) / clean.std[0], atol=1e-5
    )


def test_the_draw_depends_on_the_seed_alone(digits: Prepared) -> None:
    first, again, other = (
        images(public_set(digits, Stripes(), size=30, seed=s)) for s in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


# Fitting images.


def test_images_of_the_right_shape_stay_what_they_are() -> None:
    some = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    assert match_shape(some, 3, 5, 4) is some


def test_grey_becomes_color_by_repeating_it() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 1), dtype=np.uint8)
    assert np.array_equal(match_shape(grey, 3, 5, 4), grey.repeat(3, axis=-1))


def test_color_becomes_grey_by_its_luma() -> None:
    """0.299 * 200 + 0.587 * 100 + 0.114 * 50 = 59.8 + 58.7 + 5.7 = 124.2."""
    color = np.zeros((1, 2, 2, 3), dtype=np.uint8) + np.array([200, 100, 50], dtype=np.uint8)
    assert match_shape(color, 1, 2, 2).ravel().tolist() == [124] * 4


def test_shrinking_averages_over_what_is_covered() -> None:
    """Stripes of one pixel, black and white, become grey at a quarter of the size and not black or
    white."""
    stripes = np.zeros((1, 32, 32, 1), dtype=np.uint8)
    stripes[:, :, ::2] = 255
    found = match_shape(stripes, 1, 8, 8)
    assert found.shape == (1, 8, 8, 1)
    assert np.abs(found[0, :, 1:-1, 0].astype(int) - 127).max() < 20


def test_height_and_width_are_not_mixed_up() -> None:
    half_white = np.zeros((1, 4, 4, 1), dtype=np.uint8)
    half_white[:, :2] = 255
    found = match_shape(half_white, 1, 8, 6)
    assert found.shape == (1, 8, 6, 1)
    assert found[0, 0].min() == 255
    assert found[0, -1].max() == 0


def test_images_of_two_channels_are_refused() -> None:
    with pytest.raises(
        SettingError, match="images of 2 channels cannot be made like the clients' of 1"
    ):
        match_shape(np.zeros((1, 4, 4, 2), dtype=np.uint8), 1, 4, 4)


# Noise and corruption.


def test_uniform_noise_has_all_values_alike(digits: Prepared) -> None:
    """60 x 64 draws: each quarter of the range has 960 expected, standard deviation 27."""
    found = images(public_set(digits, NoiseImages()))
    assert found.shape == (60, 8, 8, 1)
    counts = np.histogram(found, bins=4, range=(0, 256))[0]
    assert (np.abs(counts - 960) < 135).all()
    assert len(np.unique(found.reshape(60, -1), axis=0)) == 60


def test_gaussian_noise_has_the_statistics_of_the_rows_held_back(digits: Prepared) -> None:
    """With digits' mean 0.3 and deviation 0.36, a fifth of the draws is cut at 0: compare with cut
    draws anew."""
    found = images(public_set(digits, NoiseImages(law="gaussian"), size=300)) / 255
    like = statistics(digits.images[HELD_BACK])
    drawn = like.mean[0] + like.std[0] * np.random.default_rng(5).standard_normal(100_000)
    assert found.mean() == pytest.approx(drawn.clip(0, 1).mean(), abs=0.01)
    assert found.std() == pytest.approx(drawn.clip(0, 1).std(), rel=0.03)
    assert found.mean() != pytest.approx(0.5, abs=0.1)  # as uniform noise has


def test_a_corruption_changes_the_images_and_neither_labels_nor_statistics(
    digits: Prepared,
) -> None:
    clean, faded = (
        public_set(digits, **x) for x in ({}, {"corruption": "contrast", "severity": 5})
    )
    assert np.array_equal(clean.labels, faded.labels)
    assert clean.parts[0].normalization == faded.parts[0].normalization
    assert faded.inputs(CPU).std() < 0.5 * clean.inputs(CPU).std()


def test_all_of_a_mixture_is_corrupted(digits: Prepared) -> None:
    clean, bright = (
        images(public_set(digits, Stripes(), foreign_share=0.5, **x))
        for x in ({}, {"corruption": "brightness", "severity": 3})
    )
    assert (bright >= clean).all()
    assert bright[:30].mean() > clean[:30].mean() + 20
    assert bright[30:].mean() > clean[30:].mean() + 20


# What cannot be.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"severity": 2}, "severity=2 would do nothing: corruption is null"),
        ({"corruption": "blur"}, "severity must be given with corruption=blur, from 1 to 5"),
        ({"corruption": "blur", "severity": 0}, "severity must be >= 1, got 0"),
        ({"corruption": "blur", "severity": 6}, "severity must be <= 5, got 6"),
        (
            {"corruption": "fog", "severity": 1},
            "corruption must be one of gaussian_noise, .*, got 'fog'",
        ),
        (
            {"corruption": "blur", "severity": 1, "size": 0},
            "corruption=blur would do nothing: size=0",
        ),
        ({"foreign_share": 0.0}, "foreign_share must be above 0 and at most 1"),
        ({"reserved": -1}, "reserved must be >= 0, got -1"),
    ],
)
def test_settings_that_make_no_sense_by_themselves_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        Public(**settings)


@pytest.mark.parametrize(
    ("settings", "source", "message"),
    [
        (
            {"foreign_share": 0.5},
            Same(),
            "public.foreign_share=0.5 would do nothing: public_data=same",
        ),
        (
            {"foreign_share": 0.001, "size": 100},
            NoiseImages(),
            "public.foreign_share=0.001 would do nothing",
        ),
        ({"size": 0}, NoiseImages(), "public_data would do nothing: public.size=0"),
        ({"labeled": True}, Stripes(), "public.labeled=true needs public_data=same"),
        ({"reserved": 299}, Same(), "public.reserved=299 is too few: 300 public samples"),
        (
            {"reserved": 149, "foreign_share": 0.5},
            NoiseImages(),
            "public.reserved=149 is too few: 150 public samples",
        ),
    ],
)
def test_settings_that_make_no_sense_together_are_refused(
    settings: dict[str, Any], source: Any, message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        count_foreign(Public(**settings), source)


def test_a_data_set_that_is_too_small_or_the_clients_own_is_refused(digits: Prepared) -> None:
    with pytest.raises(
        SettingError, match="public_data has 20 training samples, but 60 are asked for"
    ):
        public_set(digits, Stripes(train=20))
    with pytest.raises(SettingError, match="names the clients' own data set"):
        public_set(digits, Digits())


# In a run.

VARIANTS: list[dict[str, Any]] = [
    {"public_data": "noise"},
    {"public_data": {"name": "noise", "law": "gaussian"}},
    {"public_data": "noise", "public": {"foreign_share": 0.5}},
    {"public": {"corruption": "blur", "severity": 5}},
    {"public_data": f"{__name__}:Stripes"},
]


def context(**changes: Any) -> ClientContext:
    return build(scenario(**changes), threading.Event()).context


def test_whatever_the_public_set_clients_keep_their_samples_and_share_the_twin() -> None:
    plain, key = context(), baseline_key(build(scenario(), threading.Event()))
    seen = {plain.public_inputs.numpy().tobytes()}
    for changes in VARIANTS:
        experiment = build(scenario(**changes), threading.Event())
        other = experiment.context
        for i in range(4):
            assert torch.equal(
                other.samples(other.division.train[i])[0], plain.samples(plain.division.train[i])[0]
            )
        assert torch.equal(other.global_test[0], plain.global_test[0])
        assert baseline_key(experiment) == key
        assert other.public_inputs.shape == plain.public_inputs.shape
        seen.add(other.public_inputs.numpy().tobytes())
    assert len(seen) == 1 + len(VARIANTS)


@pytest.mark.slow
def test_the_twin_depends_on_the_rows_held_back_and_on_what_it_pre_trains_on() -> None:
    def key(**public: Any) -> str:
        epochs = {"public_epochs": 1} if public.get("labeled") else {}
        return baseline_key(build(scenario(public=public, train=epochs), threading.Event()))

    spoiled = {"corruption": "blur", "severity": 2}
    assert (
        key()
        == key(reserved=40)
        == key(size=20, reserved=40)
        == key(per_round=10)
        == key(**spoiled)
    )
    assert key(reserved=41) == key(size=41) != key()
    labeled = [
        key(labeled=True),
        key(labeled=True, **spoiled),
        key(labeled=True, size=20, reserved=40),
        key(),
    ]
    assert len(set(labeled)) == 4
    assert key(labeled=True) == key(labeled=True, per_round=10)


def test_more_rows_may_be_held_back_than_are_public() -> None:
    few, all_of_them = (context(public={"size": size, "reserved": 40}) for size in (10, 40))
    assert few.task.public_size == 10
    assert few.task.normalization == all_of_them.task.normalization
    for mine, theirs in zip(few.division.train, all_of_them.division.train, strict=True):
        assert np.array_equal(mine, theirs)


def test_noise_without_any_row_held_back_leaves_private_samples_normalized_by_the_middle() -> None:
    found = context(public_data="noise", public={"reserved": 0})
    assert found.task.normalization.mean == found.task.normalization.std == (0.5,)
    assert found.task.public_size == 40
