"""Data in memory: what is taken, under which key, and what is refused with which cure."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedkd.data.given_arrays import hold_data
from fedkd.data.prepare import prepare_images
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
        ((X / 255, Y), r"X is of float64, expected uint8"),
        ((X, Y[:2]), r"y is of shape \[2\], expected \[4\]"),
        ((X, Y / 2), r"y is of float64, expected classes"),
        ((X[:, 0], Y), r"shape \[4, 3\].*tables of numbers cannot be learned yet"),
        ((np.zeros((4, 3, 8, 8), np.uint8), Y), r"channels first; put them last"),
        (((X, Y), (X[:, :2], Y)), r"those for test of \[2, 3, 1\]"),
        (pd.DataFrame({"a": [1, 2], "label": [0, 1]}), r"expected one of images"),
        (pd.DataFrame({"a": [1, 2]}), r"has no column label, target, y"),
        ([X, Y, X], r"a list was given, expected \(X, y\)"),
        (3, r"a int was given"),
    ],
)
def test_what_cannot_be_learned_is_refused_with_what_can(given: Any, said: str) -> None:
    with pytest.raises(SettingError, match=f"(?i){said}"):
        hold_data(given)


def test_arrays_that_the_cache_has_lost_are_asked_for_again() -> None:
    with pytest.raises(SettingError, match=r"give them again from Python"):
        prepare_images(Arrays(sha256="0" * 64))
