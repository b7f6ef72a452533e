"""Client states in memory and on disk: what was put is what comes back, at the cost of its
bytes."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import scenario
from torch import Tensor, nn

from fedkd.errors import Damaged, StorageError
from fedkd.experiment.make_context import make_context
from fedkd.storage.atomic_files import read_checksummed, write_checksummed
from fedkd.storage.client_states import BackedStore, ClientStore, DiskStore, Layout, MemoryStore
from fedkd.training.hyperparameters import Phase
from fedkd.training.optimizers import Optimizer

ARCHITECTURES = ("a", "b", "a", "a")


def state(seed: int, name: str = "a") -> dict[str, Tensor]:
    stream = torch.Generator().manual_seed(seed)
    size = 3 if name == "a" else 5
    return {
        "weight": torch.randn(size, 7, generator=stream),
        "bias": torch.randn(size, generator=stream, dtype=torch.float64),
        "running": torch.randn(2, generator=stream).to(torch.bfloat16),
        "batches": torch.tensor(seed),
        "mask": torch.tensor([True, False, seed % 2 == 0]),
        "empty": torch.zeros(0, 4),
    }


LAYOUTS = {name: Layout.of(state(0, name)) for name in ("a", "b")}


def memory(folder: Path) -> ClientStore:
    return MemoryStore(LAYOUTS, ARCHITECTURES, range(4))


def backed(folder: Path, *, at_once: bool = False) -> BackedStore:
    held = MemoryStore(LAYOUTS, ARCHITECTURES, range(4))
    return BackedStore(held, DiskStore(folder, history=True), at_once=at_once)


MAKERS: list[Callable[[Path], ClientStore]] = [memory, DiskStore, backed]


@pytest.mark.parametrize("make", MAKERS)
def test_what_was_put_last_comes_back_to_the_bit(
    make: Callable[[Path], ClientStore], tmp_path: Path
) -> None:
    store = make(tmp_path)
    assert store.get(2) is None
    for round_number in (1, 2):
        for client, name in enumerate(ARCHITECTURES):
            store.put(client, round_number, state(10 * round_number + client, name))
    for client, name in enumerate(ARCHITECTURES):
        found, expected = store.get(client), state(20 + client, name)
        assert found is not None
        assert list(found) == list(expected)
        for key, tensor in expected.items():
            assert found[key].dtype == tensor.dtype
            assert torch.equal(found[key], tensor)


@pytest.mark.parametrize("make", MAKERS)
def test_a_store_keeps_a_copy(make: Callable[[Path], ClientStore], tmp_path: Path) -> None:
    store, given = make(tmp_path), state(1)
    store.put(0, 1, given)
    given["weight"].zero_()
    found = store.get(0)
    assert found is not None
    assert torch.equal(found["weight"], state(1)["weight"])


def test_another_process_would_find_what_was_put(tmp_path: Path) -> None:
    backed(tmp_path, at_once=True).put(3, 1, state(5))
    for store in (DiskStore(tmp_path), backed(tmp_path)):
        found = store.get(3)
        assert found is not None
        assert torch.equal(found["weight"], state(5)["weight"])


def test_states_in_memory_are_written_once_when_asked(tmp_path: Path) -> None:
    store, disk = backed(tmp_path), DiskStore(tmp_path, history=True)
    for seed in (1, 2):  # as by the two messages of a round
        store.put(0, 1, state(seed))
    store.put(3, 1, state(3, "b"))
    assert disk.client_ids() == []
    store.write_down()
    assert torch.equal(disk.read(0, 1)["weight"], state(2)["weight"])
    store.put(0, 2, state(4))
    store.write_down()
    assert (disk.rounds(0), disk.rounds(3)) == ([1, 2], [1])
    for path in tmp_path.rglob("*.state"):
        path.unlink()
    store.write_down()  # nothing has changed
    assert disk.rounds(0) == []


def test_history_is_kept_until_it_is_forgotten(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, history=True)
    for round_number in (1, 2, 5):
        store.put(0, round_number, state(round_number))
    assert store.rounds(0) == [1, 2, 5]
    assert torch.equal(store.read(0, 2)["weight"], state(2)["weight"])
    store.forget(0, before=2)
    store.forget(0, after=4)
    assert store.rounds(0) == [2]
    plain = DiskStore(tmp_path)
    plain.put(0, 6, state(6))
    assert plain.rounds(0) == [6]


@pytest.mark.slow
def test_a_store_in_memory_costs_its_bytes_and_no_more() -> None:
    """1.1 x parameters and optimizer state + 16 KiB a client, over 100 clients of 784-128-10 with
    Adam's moments."""
    model = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
    kept = Optimizer(model.parameters(), Phase()).blank()
    whole = {
        **model.state_dict(),
        **{f"optimizer of train/{name}": tensor for name, tensor in kept.items()},
    }
    size = sum(tensor.nbytes for tensor in whole.values())
    assert size > 3 * 4 * sum(p.numel() for p in model.parameters())
    layout = Layout.of(whole)
    before = _resident()
    store = MemoryStore({"m": layout}, ["m"] * 100, range(100))
    assert _resident() - before < 2**20  # nobody has taken part yet
    for client in range(100):
        store.put(client, 1, whole)
    assert layout.size <= 1.001 * size
    assert (_resident() - before) / 100 <= 1.1 * size + 16 * 1024


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_optimizers_go_on_from_their_restored_state() -> None:
    for phase in (
        Phase(),
        Phase(optimizer="sgd", momentum=0.9),
        Phase(optimizer="adamw", weight_decay=0.1),
    ):
        whole, parts = nn.Linear(4, 3), nn.Linear(4, 3)
        parts.load_state_dict(whole.state_dict())
        stream = torch.Generator().manual_seed(0)
        batches = [torch.randn(5, 4, generator=stream) for _ in range(6)]
        one = Optimizer(whole.parameters(), phase)
        tensors = Optimizer(nn.Linear(4, 3).parameters(), phase).blank()
        for batch in batches:
            other = Optimizer(parts.parameters(), phase)
            other.restore(tensors)
            for model, optimizer in ((whole, one), (parts, other)):
                optimizer.zero_grad()
                model(batch).square().sum().backward()
                optimizer.step()
            tensors = {name: tensor.clone() for name, tensor in other.tensors().items()}
        for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
            assert torch.equal(a, b)


def test_clients_of_a_workplace_start_with_weights_of_their_own() -> None:
    context = make_context(
        scenario(models=["mlp"]),
        lambda layouts, names: MemoryStore(layouts, names, range(4)),
        threading.Event(),
    )
    first = [context.borrow_model(i)[0].state_dict()["1.weight"].clone() for i in range(4)]
    assert all(not torch.equal(first[0], other) for other in first[1:])
    assert torch.equal(context.borrow_model(0)[0].state_dict()["1.weight"], first[0])


@pytest.mark.parametrize("at", [0, 10, 40, 48, -1])
def test_any_flipped_bit_of_a_sealed_file_is_found(at: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_checksummed(path, [b"some ", bytearray(b"bytes")], sync=True)
    assert bytes(read_checksummed(path)) == b"some bytes"
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(content)
    with pytest.raises(Damaged, match="file is damaged"):
        read_checksummed(path)


@pytest.mark.parametrize("length", [0, 5, 47, 50])
def test_a_cut_file_is_found(length: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_checksummed(path, [b"some bytes"])
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(Damaged):
        read_checksummed(path)
    with pytest.raises(Damaged, match="cannot be read"):
        read_checksummed(tmp_path / "nothing")


def test_what_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    with pytest.raises(StorageError, match="cannot be written: No such file or directory"):
        write_checksummed(path, [b"x"])
    path.parent.mkdir()
    write_checksummed(path, [b"before"])

    with pytest.raises((StorageError, BufferError, ValueError)):
        write_checksummed(
            path, [b"after", np.zeros(3)[::2].data]
        )  # not contiguous: the write fails half way
    assert bytes(read_checksummed(path)) == b"before"
