"""Folders, files and messages from elsewhere: what they name is not imported, let alone called."""

import ast
import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from flwr.app import Context, RecordDict

from fedkd.cli import audit
from fedkd.cli.command import compose, main
from fedkd.cli.flower_apps import ALLOWED, ALLOWED_HERE, admit
from fedkd.cli.sweeps import SWEEP_FILE
from fedkd.errors import Damaged, SettingError
from fedkd.experiment.run_or_resume import is_complete
from fedkd.scenario.scenario import Scenario
from fedkd.scenario.trust import foreign_imports
from fedkd.storage.atomic_files import read_checksummed, write_checksummed
from fedkd.storage.checked_json import read_json, write_json
from fedkd.storage.checkpoint import CheckpointFolder
from fedkd.storage.transcript import read_ground_truth

ROOT = next(p for p in Path(__file__).resolve().parents if (p / "pyproject.toml").is_file())
HARM = """
from dataclasses import dataclass
from pathlib import Path

Path("imported").touch()


@dataclass(frozen=True, kw_only=True)
class Rule:
    def fuse(self, cohort, state): ...


def net(input_shape, classes): ...
"""
NAMING = [
    {"strategy": "harm:Rule"},
    {"strategy": {"name": "subprocess:Popen", "args": ["touch", "imported"]}},
    {"strategy": {"name": "fedgems", "server_model": "harm:net"}},
    {"models": ["mlp", "harm:net*3"]},
    {"codec": "harm:Rule"},
    {"heads": {"name": "harm:Rule"}},
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a module whose import leaves a trace."""
    (tmp_path / "harm.py").write_text(HARM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "harm", raising=False)
    return tmp_path


def stored(folder: Path, settings: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder


@pytest.mark.parametrize("settings", NAMING, ids=str)
def test_no_folder_and_no_file_imports_anything_without_trust(
    settings: dict[str, Any], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = stored(folder / "run", settings)
    (named,) = (one.partition("=")[2] for one in foreign_imports(settings))
    for command in (
        lambda: main(["--config", str(run / "config.yaml")]),
        lambda: main([f"resume={run}"]),
        lambda: audit.main([str(run)]),
    ):
        assert command() == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"{named} would run code that is not fedkd's" in error
        assert "trust=true" in error
    assert not (folder / "imported").exists()


def test_what_one_trusts_is_imported(folder: Path) -> None:
    run = stored(folder / "run", {"strategy": "harm:Rule"})
    given = ["--config", str(run / "config.yaml"), "trust=true"]
    assert compose(given).strategy.name == "harm:Rule"
    assert (folder / "imported").exists()
    with pytest.raises(SettingError, match="trust must be true or false, got 'yes'"):
        compose([*given[:2], "trust=yes"])


def test_ones_own_arguments_and_folder_of_scenarios_need_no_trust(folder: Path) -> None:
    assert compose(["strategy=harm:Rule"]).strategy.name == "harm:Rule"
    (folder / "mine.yaml").write_text("strategy: harm:Rule\n")
    assert compose(["--config-dir", ".", "scenario=mine"]).strategy.name == "harm:Rule"


def test_a_scenario_that_was_not_chosen_imports_nothing(folder: Path) -> None:
    (folder / "other.yaml").write_text("strategy: harm:Rule\n")
    assert compose(["--config-dir", "."]).strategy.name == "knfu"
    assert not (folder / "imported").exists()


@pytest.mark.slow
def test_a_sweep_from_elsewhere_is_read_again_once_it_is_composed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hydra unescapes what a text hides."""
    begun = ["-m", "seed=0,1", "strategy.name=harm\\:Rule"]
    write_json(folder / SWEEP_FILE, {"arguments": begun})
    assert main([f"resume={folder}"]) == 2
    assert "strategy=harm:Rule would run code that is not fedkd's" in capsys.readouterr().err
    assert not (folder / "imported").exists()


@pytest.mark.parametrize("name", ["hydra", "defaults"])
def test_a_scenario_file_sets_nothing_of_hydras(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "odd.yaml").write_text(f"{name}: {{}}\n")
    assert main(["--config", "odd.yaml", "-m", "seed=0,1"]) == 2
    assert f"there is no setting '{name}'" in capsys.readouterr().err


def test_a_run_that_is_in_the_way_imports_nothing(folder: Path) -> None:
    run = stored(folder / "run", {"strategy": "harm:Rule"})
    with pytest.raises(SettingError, match="other settings, strategy=harm:Rule"):
        is_complete(Scenario.parse({}), run)
    assert not (folder / "imported").exists()


def test_a_codec_in_a_stored_view_is_no_way_in(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codecs = {"upload": {"name": "harm:Rule"}}
    (folder / "run" / "view").mkdir(parents=True)
    index = {"format": 2, "about": {"codecs": codecs}, "entries": []}
    write_json(folder / "run" / "view" / "index.json", index)
    assert audit.main([str(folder / "run")]) == 2
    assert "harm:Rule would run code that is not fedkd's" in capsys.readouterr().err
    assert not (folder / "imported").exists()


def node(**config: str) -> Context:
    return Context(1, 2, {"partition-id": 0, **config}, RecordDict(), {})


def test_a_node_imports_what_its_operator_allows_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def message(**settings: Any) -> Any:
        return SimpleNamespace(content={"scenario": {"text": yaml.safe_dump(settings)}})

    asks = message(strategy="harm:Rule", models=["mlp", "harm.nets:deep"])
    admit(message(strategy="fedkd.strategies.knfu:KnFu", models=["fedkd.models.mlp:mlp"]), node())
    with pytest.raises(SettingError, match=r"asks for models=harm.nets:deep, strategy=harm:Rule"):
        admit(asks, node())
    with pytest.raises(SettingError, match=r"asks for models=harm.nets:deep; .*allowed-imports"):
        admit(asks, node(**{ALLOWED: "harm:Rule"}))
    admit(asks, node(**{ALLOWED: "other, harm"}))
    monkeypatch.setenv(ALLOWED_HERE, "harm")
    admit(asks, node())


@pytest.mark.slow
def test_nothing_in_fedkd_unpickles() -> None:
    """No module imports a pickler; torch and numpy are told not to use theirs."""
    found = []
    for path in (*(ROOT / "fedkd").rglob("*.py"), *(ROOT / "strategies").rglob("*.py")):
        for part in ast.walk(ast.parse(path.read_text())):
            if isinstance(part, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in part.names] + [getattr(part, "module", "") or ""]
                picklers = {"pickle", "cloudpickle", "dill", "shelve", "joblib", "marshal"}
                if picklers & {name.partition(".")[0] for name in names}:
                    found.append(f"{path.name}:{part.lineno}")
            if isinstance(part, ast.Call):
                call = ast.unparse(part.func)
                safe = {k.arg: ast.unparse(k.value) for k in part.keywords}
                if call == "torch.load" and safe.get("weights_only") != "True":
                    found.append(f"{path.name}:{part.lineno}")
                if call == "np.load" and safe.get("allow_pickle", "False") != "False":
                    found.append(f"{path.name}:{part.lineno}")
                if call in ("yaml.load", "eval", "exec", "yaml.unsafe_load"):
                    found.append(f"{path.name}:{part.lineno}")
    assert found == []


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("exploded",))


def test_a_checkpoint_and_an_array_that_hide_a_pickle_are_damaged(folder: Path) -> None:
    content = io.BytesIO()
    torch.save({"format": 3, "round": _Bomb()}, content)
    (folder / "checkpoints").mkdir()
    write_checksummed(folder / "checkpoints" / "000001.checkpoint", [content.getvalue()])
    with pytest.raises(Exception, match=r"000001\.checkpoint is damaged"):
        CheckpointFolder(folder).load()
    arrays = io.BytesIO()
    np.savez(arrays, inputs=np.array([_Bomb()], dtype=object))
    (folder / "truth").mkdir()
    write_checksummed(folder / "truth" / "truth.npz", [arrays.getvalue()])
    with pytest.raises(Damaged, match=r"truth\.npz is damaged"):
        read_ground_truth(folder)
    assert not (folder / "exploded").exists()
    pickle.loads(pickle.dumps(_Bomb()))
    assert (folder / "exploded").exists()  # it would have


def test_an_array_whose_header_promises_more_than_there_is_allocates_nothing(
    folder: Path,
) -> None:
    header = {"descr": "<f8", "fortran_order": False, "shape": (1 << 38,)}
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(member, header)
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("inputs.npy", member.getvalue())
    (folder / "truth").mkdir()
    path = folder / "truth" / "truth.npz"
    write_checksummed(path, [whole.getvalue()])
    with pytest.raises(Damaged, match=r"truth\.npz is damaged"):
        read_ground_truth(folder)
    with path.open("r+b") as file:
        file.truncate(1 << 42)  # takes no room on the disk
    with pytest.raises(Damaged, match=r"truth\.npz is damaged"):
        read_checksummed(path)


def test_json_that_is_not_as_it_was_written_is_damaged(folder: Path) -> None:
    path = folder / "some.json"
    write_json(path, {"a": [1, 2.5, None], "b": {"1": "x"}})
    values = json.loads(path.read_text())
    for text in (
        json.dumps({**values, "a": [1, 2.5, 0]}),
        json.dumps({"a": 1}),
        "[" * 100_000,
        "3",
        "",
        '{"checksum": "é"}',
    ):
        path.write_text(text)
        with pytest.raises(Damaged, match=r"some\.json is damaged"):
            read_json(path)
