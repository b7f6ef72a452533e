"""Files that grow: what is cut to an extent is what was written, or it is damaged."""

from pathlib import Path

import numpy as np
import pytest

from fedkd.errors import Damaged
from fedkd.storage.growing_files import GrowingArray, GrowingFile


def test_a_file_that_goes_on_at_an_extent_has_the_bytes_of_one_that_never_ended(
    tmp_path: Path,
) -> None:
    whole, parts = GrowingFile(tmp_path / "whole"), GrowingFile(tmp_path / "parts")
    for file in (whole, parts):
        file.append(b"one\n")
    extent = parts.extent()
    parts.append(b"later")
    again = GrowingFile(tmp_path / "parts")
    again.check(extent)
    again.cut(extent)
    for file in (whole, again):
        file.append(b"two\n")
    assert whole.extent() == again.extent()
    assert whole.path.read_bytes() == again.path.read_bytes() == b"one\ntwo\n"


def test_what_was_appended_after_the_mark_is_taken_back(tmp_path: Path) -> None:
    file = GrowingFile(tmp_path / "file")
    file.append(b"one")
    before = file.extent()
    file.mark()
    file.append(b"two")
    file.take_back()
    assert (file.extent(), file.path.read_bytes()) == (before, b"one")


@pytest.mark.parametrize("content", [b"onE", b"on", b"", None])
def test_a_file_that_was_changed_is_damaged_and_stays_as_it_is(
    content: bytes | None, tmp_path: Path
) -> None:
    file = GrowingFile(tmp_path / "file")
    file.append(b"one")
    extent = file.extent()
    if content is None:
        file.path.unlink()
        file.path.mkdir()
    else:
        file.path.write_bytes(content)
    with pytest.raises(Damaged, match="file"):
        GrowingFile(tmp_path / "file").cut(extent)
    assert content is None or file.path.read_bytes() == content


def test_an_array_grows_by_rows_and_those_between_are_unknown(tmp_path: Path) -> None:
    array = GrowingArray(tmp_path / "a.npy")
    array.put(0, np.eye(2, dtype=np.float32))
    extent = array.extent()
    array.put(2, 2 * np.eye(2, dtype=np.float32))
    found = np.load(tmp_path / "a.npy")
    assert found.shape == (3, 2, 2)
    assert np.isnan(found[1]).all()
    again = GrowingArray(tmp_path / "a.npy")
    again.cut(extent)
    assert np.load(tmp_path / "a.npy").shape == (1, 2, 2)
    again.put(2, 2 * np.eye(2, dtype=np.float32))
    assert again.extent() == array.extent()
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), found)
    again.cut((0, GrowingArray(tmp_path / "none").extent()[1]))
    assert not (tmp_path / "a.npy").exists()


@pytest.mark.parametrize("at", [0, 30, 75, 130, -1])
def test_any_changed_byte_of_an_array_is_found(at: int, tmp_path: Path) -> None:
    array = GrowingArray(tmp_path / "a.npy")
    array.put(0, np.eye(3, dtype=np.float32))
    content = bytearray(array.path.read_bytes())
    content[at] ^= 1
    array.path.write_bytes(content)
    with pytest.raises(Damaged, match=r"a\.npy is damaged"):
        GrowingArray(tmp_path / "a.npy").check(array.extent())
