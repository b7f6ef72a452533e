"""The doctor: what it says is installed, and what it does to a cache."""

import os
import tempfile
import time
from pathlib import Path

import pytest

from fedkd.cli import commands, doctor
from fedkd.cli.commands import main
from fedkd.cli.doctor import Package, Requirement, memory_bytes, required_packages
from fedkd.data.cache import cached, is_cached
from fedkd.data.cache_inspection import KINDS, clear_cache, inspect_cache, mend_cache
from fedkd.storage.leftovers import OLD, Staging


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with two good entries, one damaged one and what a killed run left."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("FEDKD_CACHE", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(commands, "LOADING", ())
    for kind, key in (("data", "good"), ("baselines", "good"), ("baselines", "bad")):
        cached(kind, key, lambda staging: (staging / "file").write_text("0123456789"))
    (folder / "baselines/bad/file").write_text("0123456_89")
    (folder / "data/.left-1").mkdir()
    (folder / "data/.left-1/half").write_text("01234")
    return folder


def age(path: Path, seconds: float) -> None:
    before = time.time() - seconds
    os.utime(path, (before, before))


def test_what_a_cache_holds_is_counted_by_kind_and_damage_is_named(cache: Path) -> None:
    kinds = {kind.name: kind for kind in inspect_cache(cache)}
    assert set(kinds) == set(KINDS)
    assert [kinds[name].entries for name in ("data", "baselines", "divisions")] == [1, 2, 0]
    assert kinds["divisions"].size == 0 < kinds["data"].size < kinds["baselines"].size
    assert kinds["data"].complaints == ()
    (complaint,) = kinds["baselines"].complaints
    assert "baselines/bad" in complaint


def test_damaged_entries_and_leftovers_of_killed_runs_are_deleted_and_nothing_else(
    cache: Path, tmp_path: Path
) -> None:
    states = [cache / "flower/old", tmp_path / "temporary/fedkd-states-old"]
    alive = [cache / "flower/new", tmp_path / "temporary/fedkd-states-new"]
    for folder in (*states, *alive, tmp_path / "temporary/other"):
        folder.mkdir(parents=True)
        (folder / "state").touch()
    for folder in (*states, tmp_path / "temporary/other"):
        age(folder / "state", OLD + 60)
        age(folder, OLD + 60)
    (cache / "divisions").mkdir()
    with Staging(cache / "divisions", "work") as at_work:
        said = mend_cache(cache)
        assert at_work.path.is_dir()
    assert is_cached("data", "good")
    assert is_cached("baselines", "good")
    assert not (cache / "baselines/bad").exists()
    assert not (cache / "data/.left-1").exists()
    assert [folder.exists() for folder in (*states, *alive)] == [False, False, True, True]
    assert (tmp_path / "temporary/other").is_dir()
    assert len(said) == 4
    assert sum(text.startswith("damaged: ") for text in said) == 1
    assert mend_cache(cache) == []


def test_a_cleared_cache_has_no_entry_and_other_files_stay(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (cache / "notes.txt").write_text("mine")
    (cache / "flower/1").mkdir(parents=True)
    assert clear_cache(cache.with_name("nowhere")) == 0
    assert main(["doctor", "--clear-cache"]) == 0
    assert capsys.readouterr().out.startswith(f"{cache}: ")
    assert [kind.entries for kind in inspect_cache(cache)] == [0] * len(KINDS)
    assert (cache / "notes.txt").is_file()
    assert (cache / "flower/1").is_dir()


def test_the_doctor_says_what_there_is_and_mends_it(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "gpu", lambda: "none")
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    for text in ("fedkd ", "  torch  ", "  cores     ", "  memory    ", f"cache {cache} "):
        assert text in said
    assert "  baselines       2 entries" in said
    assert f"deleted, damaged: {cache / 'baselines/bad'}" in said
    assert "All is well now." in said
    assert main(["doctor"]) == 0
    assert "deleted" not in (again := capsys.readouterr().out)
    assert "All is well." in again


def test_what_is_missing_or_too_old_is_named_with_its_install_line(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = Requirement("torch>=2.8")
    assert Package(asked, "", "2.9.0+cpu").complaint == ""
    assert Package(asked, "", "2.1").line.endswith("fedkd is for >=2.8: pip install 'fedkd'")
    missing = Package(Requirement("tokenizers; extra == 'text'"), "text", None)
    assert missing.line.endswith("missing: pip install 'fedkd[text]'")
    monkeypatch.setattr(doctor, "gpu", lambda: "none")
    monkeypatch.setattr(doctor, "version_of", lambda name: None if name == "numpy" else "99")
    monkeypatch.setattr(Package, "complaint", property(lambda self: "" if self.installed else "x"))
    assert main(["doctor"]) == 1
    assert "Not as fedkd needs it: numpy; see above." in capsys.readouterr().out


def test_packages_are_those_that_the_project_names_once() -> None:
    found = [(package.requirement.name, package.extra) for package in required_packages()]
    assert ("torch", "") in found
    assert ("tokenizers", "text") in found
    assert "pytest" not in dict(found)


def test_memory_is_that_of_the_container_where_it_has_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(doctor, "MEMORY_LIMITS", (str(limit),))
    limit.write_text("1000000\n")
    assert memory_bytes() == 1_000_000
    limit.write_text("max\n")
    assert memory_bytes() != 1_000_000
