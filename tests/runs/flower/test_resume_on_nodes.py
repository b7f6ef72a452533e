"""A run on Flower's nodes that ends in a round goes on from its checkpoint and the states that the
nodes kept, to the figures of a run that nothing ended."""

import json
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid
from tiny import scenario

from fedkd.cli import flower_apps
from fedkd.cli.flower_apps import UNTOLD, on_flower, resumed
from fedkd.errors import SettingError
from fedkd.experiment.resume import check_place, resume
from fedkd.experiment.run import Driver, run
from fedkd.flower.engine_grid import message_identity
from fedkd.flower.engine_run import ClientPool
from fedkd.flower.local_grid import LocalGrid
from fedkd.flower.node_states import KEPT, NodeStates, go_back, states_name
from fedkd.flower.strategy_adapter import FederatedDistillation
from fedkd.scenario.scenario import Scenario
from fedkd.storage.client_states import DiskStore

ROUNDS = 5


class LinkIsGone(Exception):
    """What ends a run whose SuperLink is gone."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(flower_apps, "cache_folder", lambda: tmp_path / "cache")
    flower_apps._context.cache_clear()
    return tmp_path / "cache"


class Link:
    """A grid that is gone after some answers."""

    def __init__(self, grid: LocalGrid, answers: int) -> None:
        self._grid, self._answers = grid, answers

    def get_node_ids(self) -> Iterable[int]:
        return self._grid.get_node_ids()

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        for reply in self._grid.send_and_receive(messages, timeout=timeout):
            if self._answers == 0:
                raise LinkIsGone
            self._answers -= 1
            yield reply


def nodes(run_id: int, answers: int = -1) -> Driver:
    """Return nodes in this process; the link to them is gone after so many answers."""

    def start(strategy: FederatedDistillation) -> None:
        pool, stop = ClientPool(flower_apps.client_app), threading.Event()
        with message_identity():
            grid = LocalGrid(pool, 4, 1, stop, lambda _: None)
            try:
                strategy.start(cast(Grid, Link(grid, answers)))
            finally:
                grid.shut_down()

    return Driver("flower", start, str(run_id))


def figures(folder: Path) -> Any:
    """Return all figures of a run but its seconds."""
    rows = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    clients = (folder / "clients.csv").read_text().splitlines()
    columns = clients[0].split(",")
    seconds = columns.index("seconds")
    return (
        [{k: v for k, v in row.items() if k != "seconds"} for row in rows],
        [[v for i, v in enumerate(line.split(",")) if i != seconds] for line in clients],
    )


def chosen(**changes: Any) -> Scenario:
    return on_flower(scenario(rounds=ROUNDS, checkpoint={"every": 3}, **changes))


FEDAVG: dict[str, Any] = {"strategy": "fedavg", "models": ["mlp"], "participation": 0.5}
CASES: list[dict[str, Any]] = [
    {},
    {"strategy": "dsfl", "codec": {"name": "delta"}, "participation": 0.5},
    {"strategy": "dsfl", "privacy": {"name": "dp_sgd", "epsilon": 4.0}},
    {"strategy": "fedmd", "round_order": "distill_first"},
    {"strategy": "comet", "models": ["sklearn:DecisionTreeClassifier", "mlp"]},
]


def cut_and_resumed(folder: Path, cache: Path, answers: int, **changes: Any) -> None:
    """Require that a run whose link is gone after some answers ends as one whose link is not."""
    run(chosen(**changes), folder / "whole", nodes(1))
    with pytest.raises(LinkIsGone):
        run(chosen(**changes), folder / "cut", nodes(2, answers))
    done = len((folder / "cut" / "rounds.jsonl").read_text().splitlines())
    assert 0 < done < ROUNDS
    assert len(list((cache / "flower" / "2").glob("*/*.state"))) <= 4 * KEPT
    with pytest.raises(SettingError, match=r"on Flower's nodes; go on with: flwr run \. -c"):
        resume(chosen(**changes), folder / "cut")
    assert resume(chosen(**changes), folder / "cut", nodes(3))["status"] == "completed"
    assert figures(folder / "cut") == figures(folder / "whole")


@pytest.mark.slow
def test_a_run_whose_nodes_are_gone_goes_on_to_the_same_figures(
    tmp_path: Path, cache: Path
) -> None:
    cut_and_resumed(tmp_path, cache, 4 + 7, **FEDAVG)


@pytest.mark.slow
@pytest.mark.parametrize("answers", [4 + 4 * 3, 4 + 4 * 2 + 3])
@pytest.mark.parametrize("changes", CASES, ids=lambda c: str(c.get("strategy", "knfu")))
def test_all_that_a_run_remembers_goes_on(
    changes: dict[str, Any], answers: int, tmp_path: Path, cache: Path
) -> None:
    answers = answers if "participation" not in changes else 4 + (answers - 4) // 2
    cut_and_resumed(tmp_path, cache, answers, **changes)


def test_a_run_of_the_command_does_not_go_on_on_nodes() -> None:
    with pytest.raises(
        SettingError, match=r"in its folder; go on with: (python -m )?fedkd resume run"
    ):
        check_place(Path("run"), "", nodes(3))


def test_a_node_without_the_state_of_a_client_that_took_part_says_so(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, newest=KEPT)
    for round_number in range(1, 8):
        store.put(0, round_number, {"a": torch.tensor([round_number])})
    assert store.rounds(0) == [4, 5, 6, 7]
    resumption = NodeStates(name="1", after=5, clients=(0, 1))
    with message_identity():
        question = resumption.question(resumption.named(""))
        message = Message(question, dst_node_id=2, message_type="query.describe")
    go_back(message, 0, store)
    assert store.rounds(0) == [4, 5]
    go_back(message, 2, store)  # it has not taken part yet
    with pytest.raises(SettingError, match="no state of client 1 of round 5 or before"):
        go_back(message, 1, store)


def context(**run_config: str) -> Context:
    return Context(1, 1, {}, RecordDict(), dict(run_config))


def test_the_run_configuration_names_a_run_to_go_on_with(tmp_path: Path) -> None:
    assert resumed(context(resume="", scenario="digits")) is None
    with pytest.raises(SettingError, match="leave run-dir out"):
        resumed(context(resume="a", **{"run-dir": "b"}))
    with pytest.raises(SettingError, match=r"no config\.yaml"):
        resumed(context(resume=str(tmp_path)))
    (tmp_path / "config.yaml").write_text(chosen().text())
    assert resumed(context(resume=str(tmp_path))) == (chosen(), tmp_path)
    assert resumed(context(resume=str(tmp_path), overrides=UNTOLD)) == (chosen(), tmp_path)
    with pytest.raises(SettingError, match="seed=9 cannot be changed"):
        resumed(context(resume=str(tmp_path), overrides="seed=9"))


@pytest.mark.parametrize("name", ["../1", "", "1/2", "9" * 21])
def test_a_message_names_no_folder(name: str) -> None:
    with message_identity():
        content = RecordDict({"scenario": ConfigRecord({"text": "", "states": name})})
        message = Message(content, dst_node_id=2, message_type="train")
    with pytest.raises(SettingError, match="must be a run's number"):
        states_name(message)
