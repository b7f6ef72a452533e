"""Checkpoints: the last good one is found, and what it cannot hold is refused."""

import dataclasses
import io
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from fedkd.errors import RunError, SettingError
from fedkd.storage import checkpoint as module
from fedkd.storage.atomic_files import write_checksummed
from fedkd.storage.checkpoint import CheckpointFolder, Checkpoints, storable_copy


def saved(folder: CheckpointFolder, round_number: int, **server: Any) -> None:
    folder.save(
        round_number,
        changed=(),
        server=server,
        extents={"rounds.jsonl": (10 * round_number, "ab")},
        scenario={"seed": 0},
        versions={"torch": "2"},
    )


def test_a_checkpoint_comes_back_as_it_was_written(tmp_path: Path) -> None:
    saved(CheckpointFolder(tmp_path), 3, weights=torch.arange(3.0), seen=[1, 2])
    found, complaints = CheckpointFolder(tmp_path).load()
    assert (found.round, found.scenario) == (3, {"seed": 0})
    assert found.extents == {"rounds.jsonl": (30, "ab")}
    assert torch.equal(found.server["weights"], torch.arange(3.0))
    assert (found.server["seen"], found.versions, complaints) == ([1, 2], {"torch": "2"}, [])


def test_the_last_two_are_there_and_the_last_one_in_the_end(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    for round_number in (1, 2, 3):
        saved(folder, round_number)
    names = sorted(path.name for path in folder.folder.iterdir())
    assert names == ["000002.checkpoint", "000003.checkpoint"]
    folder.keep_last()
    assert [path.name for path in folder.folder.iterdir()] == ["000003.checkpoint"]


def test_a_damaged_one_is_named_and_the_one_before_is_taken(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    for round_number in (1, 2):
        saved(folder, round_number)
    last = folder.folder / "000002.checkpoint"
    last.write_bytes(last.read_bytes()[:-1])
    found, complaints = CheckpointFolder(tmp_path).load()
    assert found.round == 1
    assert len(complaints) == 1
    assert "000002.checkpoint" in complaints[0]
    assert not last.exists()  # what is later than the checkpoint is gone


def test_one_of_another_version_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, "FORMAT", 1)
        saved(CheckpointFolder(tmp_path), 1)
    with pytest.raises(RunError, match="is of another version of fedkd; use the one that wrote it"):
        CheckpointFolder(tmp_path).load()


@pytest.mark.parametrize("field", ["clients", "more"])
def test_one_with_a_field_more_or_less_says_which_version_made_it(
    field: str, tmp_path: Path
) -> None:
    content: dict[str, Any] = {name.name: {} for name in dataclasses.fields(module.Checkpoint)}
    content |= {"format": module.FORMAT, "round": 1, "versions": {"fedkd": "9.9"}}
    content[field] = content.pop(field, {}) if field == "more" else None
    if field == "clients":
        del content[field]
    payload = io.BytesIO()
    torch.save(content, payload)
    (tmp_path / "checkpoints").mkdir()
    path = tmp_path / "checkpoints" / "000001.checkpoint"
    write_checksummed(path, [payload.getvalue()])
    with pytest.raises(RunError, match=rf"other fields .*\({field}\); use the version .* \(9\.9\)"):
        CheckpointFolder(tmp_path).load()


def test_another_runs_state_is_not_taken_for_this_ones(tmp_path: Path) -> None:
    for name in ("one", "other"):
        folder = CheckpointFolder(tmp_path / name)
        folder.states.put(0, 1, {"weights": torch.full((3,), float(len(name)))})
        folder.save(1, changed=[0], server={}, extents={}, scenario={}, versions={})
    one, other = (tmp_path / n / "states" / "000000" / "000001.state" for n in ("one", "other"))
    shutil.copy(other, one)
    with pytest.raises(
        RunError, match=r"000001\.state is damaged: it is not the one that this run"
    ):
        CheckpointFolder(tmp_path / "one").load()


def test_without_any_the_reason_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no checkpoint to go on from: it was ended before its"):
        CheckpointFolder(tmp_path).load()


def test_a_copy_shares_no_memory_and_drags_nothing_along() -> None:
    whole = torch.arange(1000.0)
    copied = storable_copy({"part": whole[:3], "numbers": (1, 2.5, None, True)}, "server")
    whole[0] = 7.0
    assert copied["part"].tolist() == [0.0, 1.0, 2.0]
    assert copied["part"].untyped_storage().nbytes() == 12
    assert copied["numbers"] == (1, 2.5, None, True)


def test_what_needs_code_to_be_read_back_is_refused_with_its_place() -> None:
    with pytest.raises(RunError, match=r"server\['models'\]\[0\] holds a value of type Linear"):
        storable_copy({"models": [torch.nn.Linear(1, 1)]}, "server")


def test_rounds_between_checkpoints_are_no_fewer_than_none() -> None:
    assert Checkpoints(every=0).every == 0
    with pytest.raises(SettingError, match="every must be >= 0, got -1"):
        Checkpoints(every=-1)
