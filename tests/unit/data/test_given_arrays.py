"""Data in memory: what is taken, under which key, and what is refused with which cure."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from fedkd.data.corruptions import corrupt
from fedkd.data.division import Public
from fedkd.data.given_arrays import hold_data
from fedkd.data.prepare import prepare, prepare_images
from fedkd.data.prepared_tables import PreparedTable
from fedkd.data.public import NoiseImages, make_public_set, match_shape
from fedkd.data.samples import Normalization, normalized, statistics
from fedkd.data.sources import Arrays
from fedkd.errors import SettingError

X = np.arange(4 * 3 * 3, dtype=np.uint8).reshape(4, 3, 3)
Y = np.array([2, 7, 2, 7])


def test_arrays_are_found_again_by_their_hash_with_the_names_of_their_classes() -> None:
    source = hold_data((X, Y))
    prepared = prepare_images(Arrays(sha256=source.sha256))
    assert prepared.images.shape == (4, 3, 3, 1)
    assert (prepared.class_names, prepared.labels.tolist()) == (("2", "7"), [0, 1, 0, 1])
    assert (prepared.images[..., 0] == X).all()
    assert hold_data((X, Y)) == source
    assert hold_data((X, Y[::-1])) != source


def test_a_pair_for_training_and_test_keeps_the_split() -> None:
    prepared = prepare_images(hold_data(((X, Y), (X[:2], Y[:2]))))
    assert (len(prepared.labels), prepared.train_size) == (6, 4)


def test_a_data_frame_has_a_column_of_images_and_one_of_classes() -> None:
    frame = pd.DataFrame({"image": list(X), "kind": ["a", "b", "a", "b"]})
    prepared = prepare_images(hold_data((frame, "kind")))
    assert prepared.class_names == ("a", "b")
    assert hold_data(frame.rename(columns={"kind": "label"})) == hold_data((frame, "kind"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((X, Y[:2]), r"y is of shape \[2\], expected \[4\]"),
        ((X, Y / 4), r"row 1, column 'y': 0.5 is no class but a number to be predicted"),
        ((np.zeros((4, 3, 8, 8), np.uint8), Y), r"channels first; put them last"),
        (
            (np.zeros((4, 8, 8, 3), int), Y),
            r"X is of int64, expected uint8 from 0 to 255 or floats",
        ),
        (((X, Y), (X[:, :2], Y)), r"\[2, 3\] a row in test data"),
        (pd.DataFrame({"a": [1, 2]}), r"none is called label, target, class, y"),
        ((pd.DataFrame({"a": [1, 2]}), "b"), r"has no column 'b', its columns are a"),
        ([X, Y, X], r"a list was given, expected \(X, y\)"),
        (3, r"a int was given"),
        ((["a", None], [0, 1]), r"X is no array of numbers"),
    ],
)
def test_what_cannot_be_learned_is_refused_with_what_can(given: Any, said: str) -> None:
    with pytest.raises(SettingError, match=f"(?i){said}"):
        hold_data(given)


def test_images_of_floats_and_any_channels_are_normalized_by_their_own_statistics() -> None:
    values = np.random.default_rng(0).normal(7.0, 3.0, (4, 6, 9, 5))
    prepared = prepare_images(hold_data((values, Y)))
    assert prepared.images.dtype == np.float32
    assert prepared.input_shape == (5, 6, 9)
    found = normalized(prepared.images, statistics(prepared.images), torch.device("cpu"))
    assert found.mean(dim=(0, 2, 3)) == pytest.approx([0.0] * 5, abs=1e-5)
    assert found.std(dim=(0, 2, 3), correction=0) == pytest.approx([1.0] * 5, abs=1e-5)
    assert (prepared.images == values.astype(np.float32)).all()  # nothing was normalized in place
    nothing = statistics(prepared.images[:0])
    assert (nothing.mean, nothing.std) == ((0.0,) * 5, (1.0,) * 5)


def test_what_is_made_for_eight_bits_is_refused_for_floats() -> None:
    prepared = prepare_images(hold_data((X[..., None].repeat(3, axis=3) / 9.0, Y)))
    rows, stream = np.arange(2), np.random.default_rng(0)
    with pytest.raises(SettingError, match=r"public\.corruption=blur is of images of 8 bits"):
        corrupt(prepared.images, "blur", 1, stream)
    with pytest.raises(SettingError, match="only 8-bit images are resized"):
        match_shape(prepared.images, 1, 4, 4)
    public = make_public_set(
        Public(size=40, reserved=2), NoiseImages(law="gaussian"), prepared, rows,
        Normalization((900.0,) * 3, (5.0,) * 3), seed=0,
    )  # fmt: skip
    noise = public.parts[-1].images
    assert noise.dtype == np.float32
    assert noise.mean() == pytest.approx(900.0, abs=1.0)


TABLE = pd.DataFrame({"a": [1.5, None, 3.0, 2.0], "b": ["x", "y", "x", "x"]})


@pytest.mark.parametrize(
    "given",
    [
        TABLE.assign(label=Y),
        (TABLE.assign(kind=Y), "kind"),
        (TABLE, Y),
        {"a": TABLE["a"], "b": list(TABLE["b"]), "label": Y},
        {"train": TABLE.assign(label=Y), "test": TABLE.assign(label=Y)},
        (TABLE.assign(label=Y), TABLE.assign(label=Y)),
    ],
)
def test_tables_are_frames_and_dictionaries_of_columns(given: Any) -> None:
    source = hold_data(given)
    table = prepare(source)
    assert (source.task, table.train_size) == ("tables", 4)
    assert isinstance(table, PreparedTable)
    assert (table.schema.numbers, table.schema.categories) == (("a",), ("b",))
    assert table.labels[:4].tolist() == [0, 1, 0, 1]


def test_the_kind_of_arrays_is_found_or_said() -> None:
    assert hold_data((X / 255, Y)).kind == "series"
    assert hold_data((X, Y), {"kind": "series"}).kind == "series"
    assert hold_data((X[:, 0] / 255, Y)).kind == "tables"
    assert hold_data((TABLE.assign(y=Y)), {"leave_out": ["b"]}) != hold_data(TABLE.assign(y=Y))


def test_arrays_that_the_cache_has_lost_are_asked_for_again() -> None:
    with pytest.raises(SettingError, match=r"give them again from Python"):
        prepare_images(Arrays(sha256="0" * 64))
