"""Odd paths, no home, full disks and outputs, files in the way: one line, or nothing at all."""

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from fedkd.cli.command import compose, main
from fedkd.cli.hydra_compose import _forced, _grammar, _quoted
from fedkd.data.cache import cache_folder, cached
from fedkd.errors import SettingError, StorageError
from fedkd.experiment.run import choose_run_dir
from fedkd.report.console import ConsoleReport
from fedkd.runtime import working_folder
from fedkd.runtime.standard_streams import printed
from fedkd.scenario.scenario import Scenario
from fedkd.storage.leftovers import MARK, HeldFolder, Staging


@pytest.mark.fast(2)
@pytest.mark.parametrize("text", ["[1, 2]", "3", "null", "text", "\ufffe", "{1: ", "[" * 5000])
def test_a_scenario_file_without_settings_is_refused_in_a_line(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text(text)
    for given in (["--config", str(tmp_path / "config.yaml")], [f"resume={tmp_path}"]):
        assert main(given) == 2
        error = capsys.readouterr().err
        assert (error.count("\n"), "config.yaml" in error) == (1, True)


def test_a_path_with_a_line_break_makes_an_error_of_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--config", "a\nb\x1b[31m.yaml"]) == 2
    error = capsys.readouterr().err
    assert error == (
        "fedkd: --config a\\nb\\x1b[31m.yaml: no such file; give the config.yaml of a run\n"
    )
    assert printed("plain ü") == "plain ü"


@pytest.mark.fast(1)
@pytest.mark.parametrize("folder", ["/tmp/ünï", "/tmp/a\nb", "/tmp/it's 日本", "/tmp/\udcc3"])
def test_a_path_may_have_any_letters(folder: str) -> None:
    assert compose([f"run_dir={folder}"]).federation.run_dir == folder


@pytest.mark.parametrize(
    "value",
    ["", "knfu", "[a,b]", "'ä'", '"ä"', "choice(a,b)", "range(1,3)", "{a:1}", "null", "a b"],
)
def test_what_hydra_reads_stays_as_it_is(value: str) -> None:
    assert _quoted(value) == value


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("~/data", "~/data"),
        ("[~/a,~/b c,d]", ["~/a", "~/b c", "d"]),
        (
            "{path: ~/x,name: mnist,sizes: [1,~]}",
            {"path": "~/x", "name": "mnist", "sizes": [1, "~"]},
        ),
        ("it's (not) #1=2!", "it's (not) #1=2!"),
        ("C:\\ü\\", "C:\\ü\\"),
        ("a\\'ü", "a\\'ü"),
        ("zoo:Net(width=32)", "zoo:Net(width=32)"),
        ("[zoo:Net(w=[3,4],a='x')*2,mlp]", ["zoo:Net(w=[3,4],a='x')*2", "mlp"]),
        ("[ä,b]", ["ä", "b"]),
    ],
)
def test_what_hydra_cannot_read_is_put_in_quotes(value: str, read: object) -> None:
    assert _grammar().parse_override(f"key={_quoted(value)}").value() == read


def test_what_a_sweep_runs_over_is_put_in_quotes_one_by_one() -> None:
    for value in ("choice(~/a,zoo:Net(width=1))", "sort(~/a,zoo:Net(width=1),reverse=true)"):
        assert "('~/a','zoo:Net(width=1)'" in _quoted(value)
    assert _forced("data.path=~/a,~/b") == "++data.path='~/a','~/b'"


@pytest.mark.parametrize("value", ["[mlp", "{a", '"x', "[a,b]c]d[", "['a]"])
def test_brackets_and_quotes_that_stay_open_are_named(value: str) -> None:
    with pytest.raises(SettingError, match=r"cannot be read: quotes or brackets are open.*models="):
        compose([f"models={value}"])


def test_a_home_that_nobody_knows_is_a_setting_to_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as without a home
    for given in (["--config", "~/a.yaml"], ["resume=~/run"], ["--config-dir=~/b"]):
        assert main(given) == 2
        assert "write the path without ~" in capsys.readouterr().err
    scenario = Scenario.parse({"run_dir": "~/run"})
    with pytest.raises(SettingError, match="write the path without ~"):
        choose_run_dir(scenario, None)
    monkeypatch.delenv("FEDKD_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(SettingError, match="set FEDKD_CACHE to a folder"):
        cache_folder()


def test_a_full_disk_under_the_cache_is_a_line_that_names_it() -> None:
    def fill(folder: Path) -> None:
        raise OSError("115008 requested and 3968 written")  # as NumPy says it

    with pytest.raises(StorageError, match=r"3968 written; is the disk full\? FEDKD_CACHE"):
        cached("full", "disk", fill)
    assert not list((cache_folder() / "full").glob("*"))


def test_what_a_killed_run_left_in_the_cache_is_deleted_and_what_lives_is_not(
    tmp_path: Path,
) -> None:
    code = (
        "import os, sys, pathlib; from fedkd.storage.leftovers import Staging;"
        "s = Staging(pathlib.Path(sys.argv[1]), 'key'); (s.path / 'half').touch(); os._exit(9)"
    )
    root = Path(working_folder.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, env=environment)
    assert len(list(tmp_path.glob(".key-*"))) == 1
    with Staging(tmp_path, "alive") as alive, Staging(tmp_path, "other"):
        assert alive.path.is_dir()
        assert not list(tmp_path.glob(".key-*"))
    assert not list(tmp_path.iterdir())


def test_temporary_folders_of_killed_processes_are_deleted_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = (
        "import os, sys, tempfile; tempfile.tempdir = sys.argv[1];"
        "from fedkd.storage.leftovers import HeldFolder;"
        "held = HeldFolder('fedkd-states-'); (held.path / 'state').touch(); os._exit(9)"
    )
    root = Path(working_folder.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, env=environment)
    (killed,) = tmp_path.iterdir()
    alive = HeldFolder("fedkd-states-")
    assert not killed.exists()
    outside = tmp_path / "outside"
    for name in ("outside", "fedkd-states-begun", "fedkd-states-old", "else-abc"):
        (tmp_path / name).mkdir()
        if name != "fedkd-states-begun":  # of another version, or not held yet
            (tmp_path / name / MARK).touch()
    (tmp_path / "fedkd-states-link").symlink_to(outside)
    other = HeldFolder("fedkd-states-")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [
            "else-abc",
            "fedkd-states-begun",
            "fedkd-states-link",
            "outside",
            alive.path.parent.name,
            other.path.parent.name,
        ]
    )
    path = alive.path.parent
    del alive
    assert not path.exists()


class Full:
    """A standard output whose disk is full."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def fileno(self) -> int:
        raise OSError

    def isatty(self) -> bool:
        return False


def test_a_run_goes_on_where_nothing_can_be_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", Full())
    ConsoleReport().say("something")
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "the standard output cannot be written (No space left on device)" in error


def test_the_working_folder_comes_after_the_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for first in ("", str(tmp_path)):
        monkeypatch.setattr(sys, "path", [first, "/libraries"])
        working_folder.put_last()
        assert sys.path == ["/libraries", str(tmp_path)]
    monkeypatch.setattr(sys, "path", ["/elsewhere", "/libraries"])
    working_folder.put_last()
    assert sys.path == ["/elsewhere", "/libraries"]
    monkeypatch.chdir(Path(working_folder.__file__).parents[2])  # a clone that is worked in
    monkeypatch.setattr(sys, "path", ["", "/libraries"])
    working_folder.put_last()
    assert sys.path == ["", "/libraries"]
