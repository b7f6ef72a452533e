"""Data sets: digits embedded, others through the data set library from a folder in the hub's
layout."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as Pillow

from fedkd.data import prepare as preparing
from fedkd.data.column_sources import HubColumns
from fedkd.data.division import EvaluationSets, Public, divide
from fedkd.data.hub_splits import splits_hash
from fedkd.data.partitions import NaturalId, WholeIds
from fedkd.data.prepare import Prepared, check_rows, prepare, prepare_images
from fedkd.data.sources import DATA, Digits, HubImages, Rows
from fedkd.errors import SettingError
from fedkd.scenario.registry import create
from fedkd.settings.schema import parse
from fedkd.tasks.text.text_sources import HubTexts


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
    with pytest.raises(
        SettingError,
        match=r"data.test_split=test: the splits of .* are train; say data.test_split=null",
    ):
        HubImages(path=str(tmp_path / "set")).load()
    with pytest.raises(SettingError, match=r"say data.train_split=train$"):
        HubImages(path=str(tmp_path / "set"), train_split="training").load()
    assert HubImages(path=str(tmp_path / "set"), test_split=None).load().train_size == 12


def test_a_missing_folder_and_a_wrong_column_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="no such folder"):
        HubImages(path=str(tmp_path / "none")).load()
    with pytest.raises(SettingError, match="no such folder"):
        HubImages(path="mnist").load()
    write(tmp_path / "set", {"train": 12, "test": 6})
    with pytest.raises(
        SettingError, match=r"data.inputs=picture: the columns of .* image, label, writer"
    ):
        HubImages(path=str(tmp_path / "set"), inputs=("picture",)).load()
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
        "cifar100": "uoft-cs/cifar100",
        "femnist": "flwrlabs/femnist",
        "images": None,
        "arrays": None,
    }


def named(name: str, folder: Path, columns: dict[str, Any], split: str) -> Prepared:
    """Return a data set that has a name, read from a folder with the hub's columns."""
    folder.mkdir(exist_ok=True)
    features = Features({column: feature for column, (feature, _) in columns.items()})
    values = {column: of for column, (_, of) in columns.items()}
    Dataset.from_dict(values, features=features).to_parquet(str(folder / f"{split}.parquet"))
    if name == "cifar100" and split == "train":
        return named(name, folder, columns, "test")
    source: Any = create("data", {"name": name, "path": str(folder)}).value
    return prepare_images(source)


def pictures(count: int, *shape: int) -> tuple[Any, list[Any]]:
    pixels = np.random.default_rng(1).integers(0, 256, (count, *shape), dtype=np.uint8)
    return Image(), [Pillow.fromarray(x) for x in pixels]


def test_cifar100_has_fine_labels_and_its_coarse_ones_for_partitions(tmp_path: Path) -> None:
    fine, coarse = ["apple", "bear", "bee", "bed"], ["fruit", "animal", "furniture"]
    rows = [0, 1, 2, 3] * 6
    found = named("cifar100", tmp_path, {
        "img": pictures(24, 8, 8, 3),
        "fine_label": (ClassLabel(names=fine), rows),
        "coarse_label": (ClassLabel(names=coarse), [[0, 1, 1, 2][i] for i in rows]),
    }, "train")  # fmt: skip
    assert found.class_names == tuple(fine)
    assert (found.train_size, len(found.labels)) == (24, 48)
    by_coarse = divide(
        found, partition=WholeIds(column="coarse_label"), clients=3, samples_per_client=None,
        public=Public(size=0), testing=EvaluationSets(global_size=4), seed=0,
    )  # fmt: skip
    classes = [set(found.labels[rows].tolist()) for rows in by_coarse.train]
    assert sorted(map(sorted, classes)) == [[0], [1, 2], [3]]


def test_femnist_is_dealt_by_writer(tmp_path: Path) -> None:
    rows = [f"f00{i % 6}_10" for i in range(72)]
    found = named("femnist", tmp_path, {
        "image": pictures(72, 7, 7),
        "writer_id": (Value("string"), rows),
        "hsf_id": (Value("int64"), [0] * 72),
        "character": (ClassLabel(names=["0", "A", "a"]), [i % 3 for i in range(72)]),
    }, "train")  # fmt: skip
    assert found.class_names == ("0", "A", "a")
    assert found.train_size == len(found.labels) == 72  # the hub has no test split of it
    dealt = divide(
        found, partition=NaturalId(column="writer_id"), clients=4, samples_per_client=None,
        public=Public(size=6), testing=EvaluationSets(global_size=6), seed=0,
    )  # fmt: skip
    writers = [set(found.columns["writer_id"][r].tolist()) for r in dealt.train]
    assert all(len(own) == 1 for own in writers)
    assert len(set.union(*writers)) == 4


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
        (
            {"images": np.zeros((6, 4, 5, 1), np.int16)},
            r"Mine\.images is of int16, expected uint8 from 0 to 255 or floats",
        ),
        (
            {"images": np.where(np.arange(120).reshape(6, 4, 5, 1) == 45, np.nan, 0.5)},
            r"Mine\.images has a value that is no finite number in image 3 \(1 of 6 images\)",
        ),
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


@dataclass(frozen=True, kw_only=True)
class Shaded:
    """A data set whose key forgets a setting."""

    shade: int = 0
    path: Path = Path("x")

    def content_key(self) -> str:
        return "shaded"

    def load(self) -> Rows:
        made = rows()
        return replace(made, images=made.images * 0 + np.uint8(self.shade))


class Plain(Shaded):
    def __init__(self, shade: int = 0) -> None:
        object.__setattr__(self, "shade", shade)


@pytest.mark.parametrize("cls", [Shaded, Plain])
def test_a_setting_that_the_key_forgets_brings_no_stale_rows(cls: Any) -> None:
    assert [int(prepare(cls(shade=s)).images.max()) for s in (3, 5, 3)] == [3, 5, 3]
    assert prepare(cls(shade=3)).key == prepare(cls(shade=3)).key != prepare(cls(shade=5)).key


def test_a_folder_that_holds_arrays_is_told_what_can_be_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "train.npz", images=np.zeros(3))
    with pytest.raises(
        SettingError,
        match=r"train/CLASS/NAME.png; for other forms, such as NumPy's, write a data set",
    ):
        HubImages(path=str(tmp_path)).load()


def write_pictures(folder: Path, sizes: dict[str, tuple[int, ...]]) -> np.ndarray:
    """Write a picture of each shape as train/CLASS/NAME.png; return the pixels of the first."""
    stream, first = np.random.default_rng(0), None
    for i, (name, shape) in enumerate(sizes.items()):
        pixels = stream.integers(0, 256, shape, dtype=np.uint8)
        first = pixels if first is None else first
        (folder / "train" / f"class{i % 2}").mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(pixels).save(folder / "train" / f"class{i % 2}" / f"{name}.png")
    assert first is not None
    return first


@pytest.mark.slow
def test_pictures_of_several_sizes_and_modes_are_made_alike_when_asked_to(tmp_path: Path) -> None:
    pixels = write_pictures(tmp_path, {"a": (6, 4), "b": (6, 4, 3), "c": (9, 4), "d": (6, 4)})
    given: dict[str, Any] = {"path": str(tmp_path), "test_split": None}
    with pytest.raises(
        SettingError,
        match=r"2 sizes \(most 6 x 4, row 2, .*c.png, 9 x 4\) and 3 grey and 1 in color"
        r" \(row 3, .*b.png, is in color\); all must be alike: say"
        r" data.size=\[6,4\] .* data.mode=rgb or data.mode=grey",
    ):
        HubImages(**given).load()
    made = HubImages(**given, size=(6, 4), mode="grey").load()
    assert made.images.shape == (4, 6, 4, 1)
    assert np.array_equal(made.images[0, ..., 0], pixels)
    square = HubImages(**given, size=5, mode="rgb").load().images
    expected = Pillow.fromarray(pixels).convert("RGB").resize((5, 5), Pillow.Resampling.BILINEAR)
    assert np.array_equal(square[0], np.asarray(expected))
    keys = {
        HubImages(**given, size=size, mode=mode).content_key()
        for size in (None, 5, (5, 5), (5, 6))
        for mode in (None, "grey")
    }
    assert len(keys) == 6  # 5 and [5,5] are one
    with pytest.raises(SettingError, match="size must be >= 1, got 0"):
        HubImages(**given, size=(4, 0))


@pytest.mark.slow
def test_pictures_that_are_changed_in_place_are_other_data_and_a_broken_one_is_named(
    tmp_path: Path,
) -> None:
    write_pictures(tmp_path, dict.fromkeys("abcd", (6, 4)))
    source = HubImages(path=str(tmp_path), test_split=None)
    file = tmp_path / "train" / "class0" / "c.png"
    before, pixels = source.content_key(), source.load().images
    Pillow.fromarray(np.zeros((6, 4), np.uint8)).save(file)
    assert source.content_key() != before
    assert not np.array_equal(source.load().images, pixels)
    file.write_bytes(b"no picture")
    with pytest.raises(SettingError, match=r"row 2, .*c.png cannot be read as a picture: Unid"):
        source.load()
    Pillow.fromarray(np.full((6, 4), 300, np.uint16)).save(file)
    with pytest.raises(SettingError, match=r"row 2, .*c.png is a picture of more than 8 bits a ch"):
        source.load()
    file.unlink()
    (tmp_path / "test" / "class2").mkdir(parents=True)
    Pillow.fromarray(np.zeros((6, 4), np.uint8)).save(tmp_path / "test" / "class2" / "e.png")
    with pytest.raises(SettingError, match=r"row 4, .*e.png: class 'class2' is in the test split"):
        HubImages(path=str(tmp_path)).load()


def test_sizes_do_not_change_the_key_of_what_is_not_resized(tmp_path: Path) -> None:
    write(tmp_path / "set", {"train": 12, "test": 6})
    plain = HubImages(path=str(tmp_path / "set"))
    assert plain.content_key() == splits_hash((None, None), plain._splits)


def test_a_column_of_something_else_is_told_what_it_holds(tmp_path: Path) -> None:
    write(tmp_path / "set", {"train": 12})
    given: dict[str, Any] = {"path": str(tmp_path / "set"), "test_split": None}
    with pytest.raises(
        SettingError, match=r"inputs=label holds 3 classes; columns of images in .* are image"
    ):
        HubImages(**given, inputs=("label",)).load()
    with pytest.raises(SettingError, match=r"inputs=writer holds string; columns of images"):
        HubImages(**given, inputs=("writer",)).load()
    with pytest.raises(SettingError, match=r"target=image holds images; labels are whole num"):
        HubImages(**given, target="image").load()


def test_images_are_under_the_contract_of_columns(tmp_path: Path) -> None:
    write(tmp_path / "set", {"train": 12})
    given: dict[str, Any] = {"path": str(tmp_path / "set"), "test_split": None}
    asked = parse(HubImages, {**given, "inputs": "image", "target": "writer"}, "data")
    found = asked.load()
    assert (found.class_names, set(found.columns)) == (("w0", "w1", "w2", "w3"), {"label"})
    assert HubColumns(**given, inputs=("image",), target="writer").load().class_names[3] == "w3"
    for old, new in (("image_column", "inputs"), ("label_column", "target")):
        with pytest.raises(SettingError, match=rf"no setting 'data.{old}': it is now data.{new}"):
            parse(HubImages, {**given, old: "image"}, "data")
    for cls in (HubImages, HubColumns):
        with pytest.raises(SettingError, match=r"inputs must name one column .*\[image,writer\]"):
            cls(**given, inputs=("image", "writer")).load()
    with pytest.raises(SettingError, match=r"categories would do nothing: these are images"):
        HubColumns(**given, categories=("writer",)).load()


def test_a_hub_that_has_no_address_here_is_not_asked_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unknown(*_: Any) -> Any:
        raise OSError("Name or service not known")

    def refused(*_: Any) -> Any:
        raise AssertionError("it waits to ask again")

    monkeypatch.setattr("socket.getaddrinfo", unknown)
    monkeypatch.setattr("time.sleep", refused)
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SettingError, match=r"this machine cannot reach the hub.* has no copy of i"):
        HubImages(path="nobody/nothing").load()


def test_a_damaged_parquet_file_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.parquet").write_text("hello")
    with pytest.raises(SettingError, match=r"minimum file footer \(8 bytes\)\. Give a hub id"):
        HubImages(path=str(tmp_path)).load()
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_files_that_the_library_cannot_join_or_parse_are_one_line(tmp_path: Path) -> None:
    for train, said in {
        "a,label\n1,x\n2,y\n": r"same columns, but .* 1 new columns \(\{'b'\}\)",
        "a,b,label\n1,2,x\n1,2,3,4,x\n": r"ParserError: .* Expected 3 fields in line 3, saw 5",
    }.items():
        (tmp_path / "train.csv").write_text(train)
        (tmp_path / "test.csv").write_text("a,b,label\n1,2,x\n")
        with pytest.raises(SettingError, match=rf"could not be read: .*{said}") as caught:
            HubColumns(path=str(tmp_path)).load()
        assert "\n" not in str(caught.value)


def test_texts_are_told_the_files_of_texts(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"could not be read.*or train.csv, train.jsonl or tra"):
        HubTexts(path=str(tmp_path)).load()


def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> Any:
        raise PermissionError(13, "Permission denied", "a/b")

    monkeypatch.setattr(Path, "rglob", refused)
    with pytest.raises(SettingError, match=r"data.path=.*: a/b cannot be read: Permission denied$"):
        HubImages(path=str(tmp_path)).content_key()
