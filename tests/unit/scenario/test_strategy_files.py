"""Strategies and scenarios in folders of the working folder, which may have nothing to do with
fedkd."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT

from fedkd.cli.arguments import check_one_scenario, scenario_files
from fedkd.cli.command import compose, main
from fedkd.cli.sweeps import SWEEP_FILE
from fedkd.errors import SettingError
from fedkd.scenario.registry import create, names
from fedkd.scenario.trust import check_trust
from fedkd.storage.checked_json import write_json

MINE = """
from dataclasses import dataclass
from pathlib import Path

import fedkd
from .arithmetic import twice

Path("imported").touch()


@dataclass(frozen=True, kw_only=True)
class Mine:
    power: float = twice(1.5)

    def fuse(self, cohort, state): ...
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a package and a strategy of one's own in it."""
    own = tmp_path / "strategies"
    own.mkdir()
    (own / "__init__.py").write_text("raise ImportError('this package is not fedkd\\'s')\n")
    (own / "mine.py").write_text(MINE)
    (own / "arithmetic.py").write_text("def twice(x: float) -> float:\n    return 2 * x\n")
    (tmp_path / "scenarios").mkdir()
    (tmp_path / "scenarios" / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_file_of_the_working_folder_is_a_strategy_by_its_name(folder: Path) -> None:
    assert {"mine", "knfu"} <= set(names("strategy"))
    assert "arithmetic" not in names("strategy")
    assert not (folder / "imported").exists()
    assert create("strategy", {"name": "mine"}).fields == {"power": 3.0}
    assert create("strategy", {"name": "mine", "power": 7}).fields == {"power": 7.0}


def test_nothing_of_these_folders_is_imported_unless_it_is_asked_for(folder: Path) -> None:
    (folder / "strategies" / "broken.py").write_text("import fedkd\nthis is no Python\n")
    (folder / "scenarios" / "digits.yaml").write_text("title: numbers\nfont: serif\n")
    (folder / "strategies" / "digits.py").write_text("import fedkd\n")
    assert compose([]).strategy.name == "knfu"
    assert not (folder / "imported").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"^strategies/mine.py must define one class with a method fuse, it has 0$"),
        ("import nowhere_found", "strategies/mine.py needs 'nowhere_found', which is not inst"),
        ("1 / 0", "importing strategies/mine.py failed: ZeroDivisionError"),
        ("x = (", "importing strategies/mine.py failed: SyntaxError"),
    ],
)
def test_a_strategy_that_is_none_is_named_by_its_file(folder: Path, text: str, said: str) -> None:
    (folder / "strategies" / "mine.py").write_text(text)
    with pytest.raises(SettingError, match=said):
        create("strategy", {"name": "mine"})


def test_a_name_with_two_meanings_is_refused_and_a_copy_has_one(folder: Path) -> None:
    copy = folder / "strategies" / "knfu.py"
    shutil.copy(ROOT / "strategies" / "knfu.py", copy)
    own = type(create("strategy", {"name": "knfu"}).value)
    copy.write_text("class KnFu:\n    def train(self): ...\n")
    assert type(create("strategy", {"name": "knfu"}).value) is own
    copy.write_text("class Other:\n    def fuse(self, cohort, state): ...\n")
    with pytest.raises(SettingError, match=r"^strategy=knfu is one of fedkd's own, and strateg"):
        create("strategy", {"name": "knfu"})
    assert create("strategy", {"name": "fedmd"}).name == "fedmd"
    assert type(create("strategy", {"name": "fedkd.strategies.knfu:KnFu"}).value) is own


def test_a_file_of_the_working_folder_is_a_scenario_by_its_name(folder: Path) -> None:
    (folder / "scenarios" / "mine.yaml").write_text("strategy: mine\nclients: 3\n")
    scenario = compose(["scenario=mine"])
    assert (scenario.name, scenario.strategy.name) == ("mine", "mine")


def test_a_scenario_with_two_meanings_is_refused_and_the_folder_named_wins(folder: Path) -> None:
    own, shipped = Path("scenarios", "digits.yaml"), scenario_files()["digits"]
    shutil.copy(shipped, own)
    check_one_scenario("digits", shipped)
    own.write_text("clients: 3\nstratgy: fedmd\n")
    with pytest.raises(SettingError, match=r"^scenario=digits is one .*--config scenarios/digits"):
        compose([])
    named = scenario_files("scenarios")["digits"]
    assert named == own
    check_one_scenario("digits", named)
    check_one_scenario("knfu_digits", scenario_files()["knfu_digits"])


@pytest.mark.parametrize("stored", ["strategy: mine", "strategy: {name: mine}"])
def test_a_file_from_elsewhere_names_no_strategy_of_the_working_folder(
    folder: Path, stored: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "theirs.yaml").write_text(stored)
    write_json(folder / SWEEP_FILE, {"arguments": ["-m", "seed=0,1", "strategy=fedmd,mine"]})
    for command in (["--config", "theirs.yaml"], ["resume=."]):
        assert main(command) == 2
        assert "mine would run code that is not fedkd's" in capsys.readouterr().err
    assert not (folder / "imported").exists()
    check_trust({"strategy": "mine"}, "theirs.yaml", trust=True)


def test_a_checkout_without_links_has_the_same_packages(tmp_path: Path) -> None:
    """Git writes a link as a file with its text where it makes no links; Flower's bundle has
    none."""
    for name in ("strategies", "scenarios"):
        (tmp_path / "clone" / name).mkdir(parents=True)
        shutil.copy(ROOT / name / "__init__.py", tmp_path / "clone" / name)
    (tmp_path / "clone" / "fedkd").mkdir()
    shutil.copy(ROOT / "fedkd" / "__init__.py", tmp_path / "clone" / "fedkd")
    (tmp_path / "clone" / "fedkd" / "strategies").write_text("../strategies")
    code = "import fedkd.strategies as a, fedkd.scenarios as b; print(a.__file__, b.__file__)"
    found: Any = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=tmp_path / "clone",
        env={},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert found.stdout.split() == [
        str(tmp_path / "clone" / name / "__init__.py") for name in ("strategies", "scenarios")
    ]


def test_fedkd_itself_is_imported_under_one_name() -> None:
    """A second ``strategies.knfu`` would be another class than ``fedkd.strategies.knfu``."""
    for name in ("strategies", "scenarios"):
        assert (ROOT / "fedkd" / name).resolve() == ROOT / name
    assert not [m for m in sys.modules if m.partition(".")[0] in ("strategies", "scenarios")]
