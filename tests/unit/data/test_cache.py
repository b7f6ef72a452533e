"""The cache: complete or not there, and shared by those who make the same thing at once."""

from pathlib import Path

import pytest

from fedkd.data.cache import cache_folder, cached
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


def test_a_cache_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDKD_CACHE", "/proc/none")
    with pytest.raises(SettingError, match="FEDKD_CACHE"):
        cached("test", "x", lambda _: None)
