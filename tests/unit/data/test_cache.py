"""The cache: complete or not there, and shared by those who make the same thing at once."""

import shutil
from pathlib import Path

import pytest

from fedkd.data.cache import cache_folder, cached, is_cached
from fedkd.errors import SettingError


def test_a_thing_is_made_once() -> None:
    made = []
    folders = {cached("test", "once", made.append) for _ in range(3)}
    assert len(made) == len(folders) == 1


def test_nothing_is_left_where_making_fails() -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        cached("test", "half", fail)
    assert not (cache_folder() / "test" / "half").exists()
    assert not list((cache_folder() / "test").glob(".half*"))


def test_the_second_of_two_makers_takes_what_the_first_made() -> None:
    def slow(folder: Path) -> None:
        (folder / "by").write_text("second")
        cached("test", "race", lambda other: (other / "by").write_text("first"))

    assert (cached("test", "race", slow) / "by").read_text() == "first"


@pytest.mark.parametrize("name", ["content", "checksums.json", "."])
def test_a_damaged_entry_is_named_and_made_again(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = cached("test", "damaged", lambda staging: (staging / "content").write_text("abc"))
    if name == ".":
        shutil.rmtree(folder)
        folder.write_text("a file")
    else:
        (folder / name).write_text("abd")
    assert not is_cached("test", "damaged")
    again = cached("test", "damaged", lambda staging: (staging / "content").write_text("abc"))
    assert (again / "content").read_text() == "abc"
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "damaged" in said
    assert said.endswith("it is made again\n")
    assert is_cached("test", "damaged")


def test_a_file_that_was_not_put_there_is_damage(capsys: pytest.CaptureFixture[str]) -> None:
    folder = cached("test", "stray", lambda staging: (staging / "content").write_text("abc"))
    (folder / "texts.npy").touch()
    cached("test", "stray", lambda staging: (staging / "content").write_text("abc"))
    assert "texts.npy is none of the files" in capsys.readouterr().err


def test_an_entry_in_the_place_of_another_is_damage(capsys: pytest.CaptureFixture[str]) -> None:
    one, other = (
        cached("test", key, lambda staging, key=key: (staging / "content").write_text(key))
        for key in ("one", "other")
    )
    shutil.rmtree(one)
    shutil.copytree(other, one)
    cached("test", "one", lambda staging: (staging / "content").write_text("one"))
    assert (one / "content").read_text() == "one"
    assert "belongs to another folder" in capsys.readouterr().err


def test_a_cache_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDKD_CACHE", "/proc/none")
    with pytest.raises(SettingError, match="FEDKD_CACHE"):
        cached("test", "x", lambda _: None)
