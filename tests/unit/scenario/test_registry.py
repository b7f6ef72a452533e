"""Components by name and by import path."""

import sys
from pathlib import Path
from typing import Any

import pytest

from fedkd.codecs.codec import Codec
from fedkd.errors import SettingError
from fedkd.robustness.attacks import Attack
from fedkd.scenario.registry import GROUPS, create, find, names
from fedkd.tasks.find_task import find_task
from fedkd.tasks.task import Task


def test_strategies_are_found_by_their_files() -> None:
    assert "knfu" in names("strategy")
    assert names("strategy") == sorted(names("strategy"))
    assert not any(name.startswith("_") for name in names("strategy"))


@pytest.mark.parametrize("group", GROUPS)
def test_every_name_of_a_group_leads_to_a_class(group: str) -> None:
    for name in names(group):
        cls, settings = find(group, name)
        assert callable(cls)
        assert isinstance(settings, dict)


def test_a_name_may_stand_for_a_class_with_settings_of_its_own() -> None:
    component = create("data", {"name": "mnist"})
    assert component.fields == {**find("data", "mnist")[1]}
    assert component.to_dict() == {"name": "mnist", **component.fields}


def test_a_component_holds_its_settings_as_it_was_given_them() -> None:
    component = create("strategy", {"name": "knfu", "beta": 2.5})
    assert component.fields["beta"] == component.value.beta == 2.5


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(SettingError, match="unknown strategy 'knfuu'; did you mean 'knfu'"):
        create("strategy", {"name": "knfuu"})


def test_an_old_name_is_refused_with_the_new_one() -> None:
    with pytest.raises(SettingError, match="heads=stages is now heads=self_distillation"):
        find("heads", "stages")


def test_a_section_without_a_name_is_refused_with_the_names() -> None:
    with pytest.raises(SettingError, match=r"codec.name must say which one, of own, .*got None"):
        create("codec", {})


def test_a_class_of_ones_own_comes_by_its_import_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_parts.py").write_text(
        "from dataclasses import dataclass\n\n\n@dataclass(frozen=True)\nclass Mine:\n"
        "    power: float = 2.0\n\n    def partitioner(self, clients, rows, seed): ...\n\n\n"
        "nothing = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    component = create("partition", {"name": "my_parts:Mine", "power": 3.0})
    assert component.value.power == component.fields["power"] == 3.0
    with pytest.raises(SettingError, match=r"must name a class, as in package.module:Class"):
        find("partition", "my_parts:nothing")
    del sys.modules["my_parts"]


@pytest.mark.parametrize("group", GROUPS)
def test_no_object_is_called_that_is_not_shown_to_be_of_its_group(
    group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each group asks something of a class of one's own, so that no other callable passes."""
    (tmp_path / "my_harm.py").write_text(
        "from pathlib import Path\n\n\nclass Harm:\n    def __init__(self, path: str) -> None:\n"
        "        Path(path).touch()\n\n\ndef harm(path: str) -> None:\n    Path(path).touch()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("my_harm:Harm", "my_harm:harm", "subprocess:Popen", "fedkd.simulate:main"):
        with pytest.raises(SettingError, match=f"^{group}={name}"):
            create(group, {"name": name, "path": str(tmp_path / "done")})
    assert not (tmp_path / "done").exists()
    del sys.modules["my_harm"]


class EngineWithoutHere:
    def describe(self) -> str:
        return ""

    def session(self, architectures: Any, device: str) -> None: ...

    def run(self, engine_run: Any) -> None: ...


class CodecWithoutDecode(Codec):
    def encode(self, arrays: Any, memory: Any) -> Any: ...


class AttackWithoutAnything(Attack):
    pass


class Halfway(Task):
    pass


class OfHalfway:
    task = Halfway

    def content_key(self) -> str:
        return "x"

    def load(self) -> None: ...


@pytest.mark.parametrize(
    ("group", "cls", "message"),
    [
        ("engine", EngineWithoutHere, "EngineWithoutHere has no attribute here"),
        ("codec", CodecWithoutDecode, "CodecWithoutDecode has no method decode"),
        ("attacks", AttackWithoutAnything, "has no method fraction and no method poison"),
    ],
)
def test_a_part_of_ones_own_is_told_what_it_lacks(group: str, cls: type, message: str) -> None:
    with pytest.raises(SettingError, match=f"^{group}=.*{message}"):
        create(group, {"name": f"{__name__}:{cls.__name__}"})


def test_a_task_of_ones_own_is_told_what_it_lacks() -> None:
    with pytest.raises(SettingError, match=r"OfHalfway.task: Halfway has no .*make.*training_set"):
        find_task(OfHalfway())
