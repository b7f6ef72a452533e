"""Completion of words in the shell, asked as a shell asks."""

from pathlib import Path

import argcomplete
import argcomplete.lexers
import pytest

from fedkd.cli import names_on_disk
from fedkd.cli.completion import SHELLS, parser_of_all
from fedkd.cli.completion import main as print_code
from fedkd.cli.options import AFTER, REPRODUCIBLE
from fedkd.cli.reproduce import known_names
from fedkd.cli.words import keep_words, stored_words
from fedkd.report.comparison.one_point import After


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDKD_CACHE", str(tmp_path / "cache"))


def completed(line: str) -> list[str]:
    """Return what the shell is offered after a line."""
    quote, prefix, _, words, last_break = argcomplete.lexers.split_line(line)
    finder = argcomplete.CompletionFinder(parser_of_all(), always_complete_options=True)
    offered = finder._get_completions(words, prefix, quote, last_break)
    return [word.strip() for word in offered]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("fedkd re", ["resume", "report", "reproduce"]),
        ("fedkd run digits strategy=kn", ["strategy=knfu"]),
        ("fedkd run dig", ["digit_series", "digits"]),
        ("fedkd sweep strategy=knfu,kt", ["strategy=knfu,ktpfl"]),
        ("fedkd compare --me", ["--methods"]),
        ("fedkd compare --methods knfu,kt", ["knfu,ktpfl"]),
        ("fedkd compare --after d", ["distillation"]),
        ("fedkd privacy-report --ep", ["--epsilons"]),
        ("fedkd reproduce sw", ["swing", "swing_kd"]),
        ("fedkd list pr", ["privacy"]),
        ("fedkd show knf", ["knfu", "knfu_cifar10"]),
        ("fedkd doctor --c", ["--clear-cache"]),
        ("fedkd completion f", ["fish"]),
    ],
)
def test_words_are_completed_at_once(line: str, offered: list[str]) -> None:
    assert completed(line)[: len(offered)] == offered


def test_settings_and_their_values_are_completed_once_they_were_loaded() -> None:
    assert completed("fedkd run digits public.sam") == []
    assert stored_words() == {}
    keep_words()
    assert completed("fedkd run digits public.sam") == ["public.sampling="]
    values = completed("fedkd run digits public.sampling=")
    assert values == [f"public.sampling={v}" for v in ("random", "core_set", "disagreement")]
    assert "privacy=dp_sgd" in completed("fedkd run privacy=")
    assert completed("fedkd run strategy.epd_t") == ["strategy.epd_timing="]
    assert completed("fedkd show dp_s") == ["dp_sgd"]
    assert "digits" not in completed("fedkd run digits d")


def test_damaged_words_are_none(tmp_path: Path) -> None:
    keep_words()
    (path,) = (tmp_path / "cache/completion").glob("*/words.json")
    for junk in ("[", "[]"):
        path.write_text(junk)
        assert stored_words() == {}


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_gets_its_code(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert print_code([shell]) == 0
    code = capsys.readouterr().out
    assert "fedkd" in code
    assert "_ARGCOMPLETE" in code


def test_options_that_stand_apart_are_those_that_are_carried_out() -> None:
    assert After.__args__ == AFTER  # type: ignore[attr-defined]
    assert all(known_names(name) or name == "digits" for name in REPRODUCIBLE)


def test_a_folder_beside_an_installed_package_is_a_strangers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, name in (("fedkd/strategies", "ours"), ("strategies", "strangers")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / f"{name}.py").touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.setattr(names_on_disk, "PACKAGE", tmp_path / "fedkd")
    assert names_on_disk.strategy_names() == ["ours"]
    (tmp_path / "fedkd/strategies").rename(tmp_path / "fedkd/moved")  # without symbolic links
    assert names_on_disk.strategy_names() == ["strangers"]
