"""States that stay on a device, here the CPU: what is put is found, and written when asked."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fedkd.storage import device_states
from fedkd.storage.client_states import DiskStore, Layout
from fedkd.storage.device_states import DeviceStore, fits

CPU = torch.device("cpu")
NAMES = ["mlp", "cnn", "mlp"]


def state(value: float, extra: bool = False) -> dict[str, Tensor]:
    found = {"weight": torch.full((2, 3), value), "steps": torch.tensor(int(value))}
    return {**found, "codec up/probs": torch.tensor([value])} if extra else found


LAYOUTS = {"mlp": Layout.of(state(0)), "cnn": Layout.of(state(0))}


def store(disk: DiskStore | None = None, **more: bool) -> DeviceStore:
    return DeviceStore(LAYOUTS, NAMES, range(3), CPU, disk, **more)


def same(found: Mapping[str, Tensor] | None, expected: Mapping[str, Tensor]) -> bool:
    assert found is not None
    return found.keys() == expected.keys() and all(
        torch.equal(found[name], value) and found[name].dtype == value.dtype
        for name, value in expected.items()
    )


def test_a_state_is_found_as_it_was_put_beside_others() -> None:
    there = store()
    assert there.get(0) is None
    for client_id in range(3):
        there.put(client_id, 1, state(client_id + 1, extra=client_id == 2))
    assert all(same(there.get(i), state(i + 1, extra=i == 2)) for i in range(3))
    there.put(2, 2, state(9))
    assert same(there.get(2), state(9))
    assert same(there.get(0), state(1))


def test_files_are_written_when_asked_with_the_round_of_each_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_states, "COPIED_BYTES", 1)  # a row at a time
    disk = DiskStore(tmp_path, history=True)
    there = store(disk)
    there.put(0, 3, state(1))
    there.put(2, 4, state(2, extra=True))
    assert disk.client_ids() == []
    there.write_down()
    there.put(0, 5, state(7))
    there.write_down()
    assert (disk.rounds(0), disk.rounds(1), disk.rounds(2)) == ([3, 5], [], [4])
    assert same(disk.read(0, 3), state(1))
    assert same(disk.read(2, 4), state(2, extra=True))
    again = store(disk)  # as on resume
    assert same(again.get(0), state(7))
    assert same(again.get(2), state(2, extra=True))
    assert again.get(1) is None


def test_what_another_process_reads_is_written_at_once(tmp_path: Path) -> None:
    disk = DiskStore(tmp_path)
    store(disk, at_once=True).put(1, 1, state(3))
    assert same(disk.get(1), state(3))


def test_states_stay_on_the_host_where_they_are_large_or_the_device_is_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size = 3 * LAYOUTS["mlp"].size
    assert not fits(LAYOUTS, NAMES, range(3), CPU)
    for free, there in ((4 * size, True), (4 * size - 1, False), (None, True)):
        monkeypatch.setattr(device_states, "free_memory", lambda _, free=free: free)
        assert fits(LAYOUTS, NAMES, range(3), torch.device("cuda")) == there
