"""Data sets: digits embedded, others through the data set library from a folder in the hub's layout."""

from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as Pillow

from fedkd.data import prepare as preparing
from fedkd.data.prepare import prepare
from fedkd.data.sources import DATA, Digits, HubImages
from fedkd.errors import SettingError


def write(folder: Path, sizes: dict[str, int], *, shape: tuple[int, ...] = (6, 5), column: str = "image") -> np.ndarray:
    """Write a data set of random PNG images in the hub's layout; return the pixels of its first split."""
    folder.mkdir(parents=True, exist_ok=True)
    stream = np.random.default_rng(0)
    features = Features({column: Image(), "label": ClassLabel(names=["cat", "dog", "owl"]), "writer": Value("string")})
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
def test_a_folder_in_the_hubs_layout_is_read(tmp_path: Path, shape: tuple[int, ...], channels: int) -> None:
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


def test_prepared_arrays_are_memory_maps_made_once_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    with pytest.raises(SettingError, match=r"data.image_column=picture: the columns of .* image, label, writer"):
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
