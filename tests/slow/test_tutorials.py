"""The quickstart and the tutorials: every block of code and every command, in smaller settings."""

import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure
from paths import ROOT

import fedkd

DOCS = ROOT / "docs"
PAGES = ["quickstart.md", *(f"tutorials/{p.name}" for p in sorted((DOCS / "tutorials").iterdir()))]
FILE = re.compile(r"`([\w/]+\.(?:py|yaml))`:\s*\Z")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SMALL: dict[str, object] = {
    **{"rounds": 1, "train.epochs": 1, "distill.epochs": 1, "public.size": 20},
    **{"test.global_size": 30, "test.private_size": 10, "report.plots": False},
}
FEW = {"clients": 3, "samples_per_client": 20, "models": ["mlp"]}
OF_PAGES: Mapping[str, dict[str, object]] = {
    "tutorials/attack_and_defence.md": {"samples_per_client": 40, "models": ["mlp"]},
    "tutorials/data_and_model.md": {"samples_per_client": 20},
    "tutorials/privacy_budget.md": {"test.private_size": 20, "clients": 4, "models": ["mlp"]},
    "tutorials/text.md": {"test.global_size": 70, "data.texts": 210},
}
"""Smaller settings in place of the few clients, where these would not do."""
LONG = ("attack_and_defence", "cluster", "privacy_budget", "text")
"""Tutorials that take five seconds or more."""
OF_SCENARIOS: Mapping[str, dict[str, object]] = {
    "privacy_budget": {"audit.per_client": 4, "report.wandb": "disabled"},
    "swing_text": {"text_canaries.visit_times": 4, "text_canaries.slots": "ddd"},
}
LEFT_OUT = ("python3 -m venv", ". env/", "pip install", "fedkd list", "fedkd show")
"""Commands that other tests run, or that install something."""
ELSEWHERE = ("engine=ray", "--help")


def settings_of(page: str) -> dict[str, object]:
    return SMALL | OF_PAGES.get(page, FEW)


def is_given(name: str, given: Mapping[str, Any] | list[str]) -> bool:
    section = name.partition(".")[0]
    if isinstance(given, list):
        return any(word.split("=")[0] in (name, section) for word in given)
    return name in given or (name != section and section in given)


def smaller_run(page: str, run: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(scenario: str = "digits", **given: Any) -> Any:
        more = settings_of(page) | OF_SCENARIOS.get(scenario, {})
        more = {k: v for k, v in more.items() if not is_given(k, given)}
        return run(scenario, progress=False, **more, **given)

    return wrapped


def carry_out(page: str, command: str) -> int:
    from fedkd.cli.commands import main

    words = [
        found
        for word in shlex.split(command, comments=True)[1:]
        for found in (map(str, Path().glob(word)) if "/*" in word else [word])
    ]
    if "--jobs" in words:  # in this process
        at = words.index("--jobs")
        words[at : at + 2] = []
    if words[0] in ("run", "sweep") or (words[0] == "compare" and "--runs" not in words):
        more = settings_of(page) | {"report.console": False}
        if "scipy_docs" in words:  # which has no such setting
            more.pop("data.texts", None)
        more |= OF_SCENARIOS.get(words[1], {})
        words += [f"{k}={json.dumps(v)}" for k, v in more.items() if not is_given(k, words)]
    return main(words)


SAVE = Figure.savefig


def save_nothing(figure: Figure, path: object, **options: object) -> None:
    """Write empty files of pictures, which would be most of the time."""
    if isinstance(path, str | Path):
        Path(path).write_bytes(b"")
    else:
        SAVE(figure, path, **options)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    mpl.use("agg")
    monkeypatch.setattr(Figure, "savefig", save_nothing)
    yield
    for path in tmp_path.glob("my_*.py"):
        sys.modules.pop(path.stem, None)


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=[pytest.mark.daily(0)] if Path(p).stem in LONG else []) for p in PAGES],
)
def test_a_page_does_what_it_says(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (DOCS / page).read_text()
    session = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", session)
    monkeypatch.setattr(fedkd, "run", smaller_run(page, fedkd.run))
    done = 0
    for found in BLOCK.finditer(text):
        language, code = found.groups()
        name = FILE.search(text[: found.start()])
        if name is not None:
            Path(name[1]).parent.mkdir(exist_ok=True)
            Path(name[1]).write_text(code)
        if language == "python":
            exec(compile(code, f"{page}, a block", "exec"), session.__dict__)
            done += 1
        if language:
            continue
        for line in code.replace("\\\n", " ").splitlines():
            mine = line.startswith("fedkd ") and not line.startswith(LEFT_OUT)
            if mine and not any(word in line for word in ELSEWHERE):
                assert carry_out(page, line) == 0, line
                done += 1
    assert done >= 3
