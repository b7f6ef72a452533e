"""What must answer at once, since people wait for it at a prompt: the version, help, completion."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

from fedkd.cli.words import keep_words

SECONDS = 0.3
TURNS = 5
HEAVY = ("torch", "numpy", "pydantic", "hydra", "flwr", "yaml", "rich")
LINE = "fedkd run digits public.sampling="


def asking(tmp_path: Path, line: str) -> dict[str, str]:
    """Return the environment in which a shell asks how a line goes on."""
    asked = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9"}
    file = str(tmp_path / "offered")
    return {**asked, "_ARGCOMPLETE": "1", "_ARGCOMPLETE_STDOUT_FILENAME": file}


def processor_seconds(command: list[str], environment: dict[str, str]) -> float:
    """Return what a command takes of the processor: the time that it takes on an idle machine."""
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, _, used = os.wait4(process.pid, 0)
    process.returncode = 0  # it has been waited for
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("given", [["--version"], ["--help"], ["nonsense"], None])
def test_the_prompt_is_answered_in_less_than_a_third_of_a_second(
    given: list[str] | None, tmp_path: Path
) -> None:
    """None is a completion."""
    keep_words()
    more = {} if given is not None else asking(tmp_path, LINE)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **more}
    command = [sys.executable, "-m", "fedkd", *(given or [])]
    took = [processor_seconds(command, environment) for _ in range(TURNS)]
    assert min(took) < SECONDS, took
    if given is None:
        assert "sampling=core_set" in (tmp_path / "offered").read_text()


def test_nothing_heavy_is_imported_for_it() -> None:
    code = (
        "import sys\n"
        "from fedkd.cli.commands import main, overview\n"
        "from fedkd.cli.completion import parser_of_all, complete_setting\n"
        "main(['--version']), overview(), parser_of_all()\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines()[-1] == "[]"
