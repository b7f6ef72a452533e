"""Data sets: digits embedded, others through the data set library from a folder in the hub's
layout."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as Pillow

from fedkd.data import prepare as preparing
from fedkd.data.prepare import check_rows, prepare
from fedkd.data.sources import DATA, Digits, HubImages, Rows
from fedkd.errors import SettingError


def write(
    folder: Path, sizes: dict[str, int], *, shape: tuple[int, ...] = (6, 5), column: str = "image"
) -> np.ndarray:
    """Write a data set of random PNG images in the hub's layout; return the pixels of its first
    split."""
    folder.mkdir(parents=True, exist_ok=True)
    stream = np.random.default_rng(0)
    features = Features(
        {
            column: Image(),
            "label": ClassLabel(names=["cat", "dog", "owl"]),
            "writer": Value("string"),
        }
    )
    first = None
    for split, size in sizes.items():
        pixels = stream.integers(0, 256, (size, *shape), dtype=np.uint8)
        first = pixels if first is None else first
        rows = {
            column: [Pillow.fromarray(x) for x in pixels],
            "label": [i % 3 for i in range(size)],
            "writer": [f"w{i % 4}" for i in range(size)],
        }
        Dataset.from_dict(rows, features=features).to_parquet(str(folder / f"{split}.parquet"))
    assert first is not None
    return first


def test_digits_are_real_and_embedded() -> None:
    rows = Digits().load()
    assert rows.images.shape == (1797, 8, 8, 1)
    assert np.bincount(rows.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert rows.images.max() == 240


@pytest.mark.parametrize(("shape", "channels"), [((6, 5), 1), ((6, 5, 3), 3)])
def test_a_folder_in_the_hubs_layout_is_read(
    tmp_path: Path, shape: tuple[int, ...], channels: int
) -> None:
    pixels = write(tmp_path / "set", {"train": 12, "test": 6}, shape=shape)
    found = prepare(HubImages(path=str(tmp_path / "set")))
    assert found.images.shape == (18, 6, 5, channels)
    assert np.array_equal(found.images[:12].reshape(pixels.shape), pixels)
    assert found.train_size == 12
    assert found.class_names == ("cat", "dog", "owl")
    assert found.labels[:4].tolist() == [0, 1, 2, 0]
    assert found.input_shape == (channels, 6, 5)
    assert found.columns["writer"][5] == "w1"


def test_the_image_column_is_found_by_its_kind(tmp_path: Path) -> None:
    write(tmp_path / "set", {"train": 12, "test": 6}, column="img")
    assert len(prepare(HubImages(path=str(tmp_path / "set"))).images) == 18


def test_prepared_arrays_are_memory_maps_made_once_by_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "one", {"train": 12, "test": 6})
    first = prepare(HubImages(path=str(tmp_path / "one")))
    assert isinstance(first.images, np.memmap)
    write(tmp_path / "same", {"train": 12, "test": 6})
    monkeypatch.setattr(preparing, "_write", None)  # nothing may be decoded again
    assert prepare(HubImages(path=str(tmp_path / "same"))).key == first.key


def test_other_content_is_another_key(tmp_path: Path) -> None:
    write(tmp_path / "one", {"train": 12, "test": 6})
    write(tmp_path / "two", {"train": 13, "test": 6})
    keys = {HubImages(path=str(tmp_path / name)).content_key() for name in ("one", "two")}
    assert len(keys) == 2


def test_a_set_with_one_split_is_read_when_asked_to(tmp_path: Path) -> None:
    write(tmp_path / "set", {"train": 12})
    with pytest.raises(SettingError, match=r"data.test_split=test: the splits of .* are train"):
        HubImages(path=str(tmp_path / "set")).load()
    assert HubImages(path=str(tmp_path / "set"), test_split=None).load().train_size == 12


def test_a_missing_folder_and_a_wrong_column_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="no such folder"):
        HubImages(path=str(tmp_path / "none")).load()
    with pytest.raises(SettingError, match="no such folder"):
        HubImages(path="mnist").load()
    write(tmp_path / "set", {"train": 12, "test": 6})
    with pytest.raises(
        SettingError, match=r"data.image_column=picture: the columns of .* image, label, writer"
    ):
        HubImages(path=str(tmp_path / "set"), image_column="picture").load()
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingError, match="could not be read"):
        HubImages(path=str(tmp_path / "empty")).load()


def test_the_data_sets_of_the_command_are_those_of_the_hub() -> None:
    paths = {name: entry.fields.get("path") for name, entry in DATA.items()}
    assert paths == {
        "digits": None,
        "mnist": "ylecun/mnist",
        "fashion_mnist": "zalando-datasets/fashion_mnist",
        "cifar10": "uoft-cs/cifar10",
        "images": None,
    }


def rows(**changes: Any) -> Rows:
    right: dict[str, Any] = {
        "images": np.zeros((6, 4, 5, 1), np.uint8), "labels": np.arange(6) % 2, "train_size": 4,
        "class_names": ("a", "b"), "columns": {},
    }  # fmt: skip
    return Rows(**{**right, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"images": np.zeros((6, 4, 5), np.uint8)},
            r"images of uint8 and shape \[6, 4, 5\], expected .*\[\.\.\., None\]",
        ),
        ({"images": np.zeros((6, 4, 5, 1))}, r"images of float64, expected uint8 from 0 to 255"),
        (
            {"labels": np.arange(6) % 2 + 1},
            r"labels from 1 to 2, expected from 0 to 1: class_names has 2",
        ),
        ({"labels": np.arange(6) % 2 - 1}, r"labels from -1 to 0, expected from 0 to 1"),
        (
            {"labels": np.arange(5) % 2},
            r"labels of int64 and shape \[5\], expected an array of 6 whole numbers",
        ),
        ({"labels": np.zeros(6)}, r"labels of float64"),
        ({"train_size": 7}, r"train_size=7, expected from 1 to its 6 rows"),
        ({"train_size": 0}, r"the training split has no rows"),
        (
            {"columns": {"writer": np.arange(5)}},
            r"a column writer of int64 and shape \[5\], expected 6 values",
        ),
    ],
)
def test_rows_that_are_no_data_set_are_refused_with_what_is_wrong(
    changes: dict[str, Any], message: str
) -> None:
    check_rows(rows(), "Mine")
    with pytest.raises(SettingError, match=f"^data: (Mine has )?{message}"):
        check_rows(Rows(**{**vars(rows()), **changes}), "Mine")


class Half:
    def load(self) -> Any:
        return None


class Empty(Half):
    def content_key(self) -> str:
        return "a/b"  # any text is a key


class Failing(Empty):
    def load(self) -> Any:
        raise KeyError("x")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            Half(),
            r"^data: Half has no method content_key; a data set has content_key\(\) and load\(\)",
        ),
        (Empty(), r"^data: Empty.load returned a NoneType, expected a fedkd.data.sources.Rows"),
        (Failing(), r"^data Failing failed: KeyError: 'x' \(test_sources.py:\d+\)$"),
    ],
)
def test_a_mistake_in_a_users_data_set_is_one_line(source: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        prepare(source)


def test_a_users_data_set_is_loaded_again_once_its_file_has_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Changing:
        def content_key(self) -> str:
            return "changing"

        def load(self) -> Rows:
            return rows()

    first = prepare(Changing()).key
    assert prepare(Changing()).key == first
    monkeypatch.setattr(preparing, "code_hash", lambda thing: "another")
    assert prepare(Changing()).key != first


def test_a_folder_that_holds_arrays_is_told_what_can_be_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "train.npz", images=np.zeros(3))
    with pytest.raises(
        SettingError,
        match=r"train/CLASS/NAME.png; for other forms, such as NumPy's, write a data set",
    ):
        HubImages(path=str(tmp_path)).load()
