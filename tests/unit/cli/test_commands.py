"""The command ``fedkd``: what each first word does, and what a wrong one is told."""

import errno
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import fedkd
from fedkd.cli import commands, scenario_commands
from fedkd.cli.commands import SUBCOMMANDS, main
from fedkd.cli.scenario_commands import as_settings
from fedkd.errors import SettingError
from fedkd.runtime import invocation
from fedkd.runtime.invocation import command_line


@pytest.fixture(autouse=True)
def own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave Python's path as it was: the command appends the working folder."""
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture
def carried_out(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return the arguments that would have been run."""
    found: list[list[str]] = []

    def carry_out(given: Sequence[str]) -> int:
        found.append(list(given))
        return 0

    monkeypatch.setattr(scenario_commands, "carry_out", carry_out)
    monkeypatch.setattr(commands, "LOADING", ())
    return found


def test_every_subcommand_is_in_the_overview_and_can_be_called(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([]) == main(["--help"]) == main(["help"]) == 0
    said = capsys.readouterr().out
    for each in SUBCOMMANDS.values():
        assert f"\n  {each.name} {each.arguments}" in said
        module, _, name = each.function.partition(":")
        assert callable(getattr(__import__(module, fromlist=[name]), name))
    assert max(map(len, said.splitlines())) <= 100


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fedkd {fedkd.__version__}\n"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["rnu"], "unknown command 'rnu'; did you mean 'run'?"),
        (["digits"], "'digits' is a scenario; run it by fedkd run digits"),
        (["knfu"], "'knfu' is a strategy: fedkd show knfu, or fedkd run strategy=knfu"),
        (["seed=1"], "settings come after one, as in fedkd run seed=1"),
        (["-m"], "options come after one, as in fedkd run -m"),
        (["run", "digtis"], "unknown scenario 'digtis'; did you mean 'digits'"),
        (["run", "scenario=digtis"], "unknown scenario 'digtis'"),
        (["run", "knfu"], "'knfu' is a strategy and no scenario; write"),
        (["run", "digits", "other"], "'other' is no setting; write key=value"),
        (["run", "seed=0,1"], "seed=0,1 gives seed several values: add -m to run each"),
        (["run", "--sed", "1"], "unknown option '--sed'"),
        (["sweep", "digits"], "a sweep needs a setting with several values, as in"),
        (["sweep", "resume=x", "seed=0,1"], "a sweep goes on by"),
        (["resume"], "name one folder, of a run or a sweep"),
        (["resume", "nowhere"], "nowhere: no such folder"),
        (["audit", "nowhere"], "nowhere: no such folder; give that of a run"),
        (["export", "nowhere", "--client", "0"], "nowhere: no such folder; give that of a run"),
        (["list", "colors"], "unknown kind 'colors'"),
        (["show", "knfuu"], "nothing is called 'knfuu'; did you mean knfu"),
        (["help", "trian"], "nothing is called 'trian'; did you mean train"),
    ],
)
def test_a_wrong_word_is_told_in_one_line_what_may_be_meant(
    given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(given) == 2
    output = capsys.readouterr()
    assert (output.out, output.err.count("\n")) == ("", 1)
    assert said in output.err


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["run"], []),
        (["run", "digits", "seed=1"], ["scenario=digits", "seed=1"]),
        (["run", "seed=1", "digits"], ["seed=1", "scenario=digits"]),
        (["run", "--cfg", "job", "digits"], ["--cfg", "job", "scenario=digits"]),
        (["run", "-m", "seed=0,1"], ["-m", "seed=0,1"]),
        (["sweep", "digits", "seed=0,1"], ["-m", "scenario=digits", "seed=0,1"]),
        (["sweep", "-m", "seed=0,1"], ["-m", "seed=0,1"]),
        (["resume", "."], ["resume=."]),
        (["resume", "resume=.", "engine.workers=2"], ["resume=.", "engine.workers=2"]),
    ],
)
def test_words_become_the_arguments_of_the_runs_command(
    given: list[str], meant: list[str], carried_out: list[list[str]]
) -> None:
    assert main(given) == 0
    assert carried_out == [meant]


def test_a_file_is_a_scenario_and_a_runs_folder_is_told_what_to_do(tmp_path: Path) -> None:
    assert as_settings(["a/config.yaml", "seed=1"]) == ["--config", "a/config.yaml", "seed=1"]
    (tmp_path / "config.yaml").touch()
    with pytest.raises(SettingError, match=r"is a run's folder: go on with it by .* resume"):
        as_settings([str(tmp_path)])
    mine = tmp_path / "knfu.yaml"
    mine.write_text("rounds: 2\n")
    given = ["--config-dir", str(tmp_path), "knfu"]  # a scenario of a strategy's name
    assert as_settings(given) == ["--config-dir", str(tmp_path), "scenario=knfu"]


def test_a_reader_that_has_seen_enough_and_ctrl_c_are_no_tracebacks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ending(error: BaseException) -> None:
        def call(*_: object) -> int:
            raise error

        monkeypatch.setattr(commands, "call", call)

    monkeypatch.setattr(commands, "give_up_output", lambda: None)
    ending(BrokenPipeError(errno.EPIPE, "Broken pipe"))
    assert main(["list"]) == 0
    ending(KeyboardInterrupt())
    assert main(["list"]) == 130
    assert capsys.readouterr().err == "fedkd: interrupted\n"


def test_a_command_to_type_begins_with_what_the_shell_finds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = str(Path(sys.executable).parent / "fedkd")
    for found, program in ((own, "fedkd"), (None, "python -m fedkd"), ("/x/fedkd", "python -m")):
        monkeypatch.setattr(invocation.shutil, "which", lambda _, found=found: found)
        assert command_line(["resume", "a run"]).startswith(program)
    assert command_line(["resume", "a run"]).endswith(" resume 'a run'")
