"""What clients measure leaves them on Flower's engines with privacy only where a run says that it
is a simulation."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message
from flwr.common.serde import recorddict_to_proto
from tiny import scenario

from fedkd.cli import flower_apps
from fedkd.errors import SettingError
from fedkd.experiment.run import Driver, run
from fedkd.federation.round_records import MEASURES
from fedkd.flower.engine_grid import message_identity
from fedkd.flower.engine_run import ClientPool
from fedkd.flower.local_grid import LocalGrid
from fedkd.flower.strategy_adapter import FederatedDistillation

NOISY: dict[str, Any] = {"strategy": "dsfl", "privacy": {"name": "gaussian", "sigma": 0.1}}
FIGURES = [m.name for m in MEASURES if m.by_client]
Found = tuple[list[str], dict[str, Any], Path]


@pytest.fixture
def on_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Found]:
    """Return a function that runs a tiny scenario with the nodes' own client app.

    It returns the figures whose names are in the bytes of replies, the summary, and the folder.
    """
    monkeypatch.setattr(flower_apps, "states_folder", lambda _: tmp_path / "states")
    flower_apps._context.cache_clear()

    def run_on_nodes(**changes: Any) -> Found:
        sent: list[bytes] = []

        def keep(reply: Message) -> None:
            sent.append(recorddict_to_proto(reply.content).SerializeToString())

        def start(strategy: FederatedDistillation) -> None:
            with message_identity():
                pool = ClientPool(flower_apps.client_app)
                grid = LocalGrid(pool, 4, 1, threading.Event(), keep)
                strategy.start(grid)
                grid.shut_down()

        folder, chosen = tmp_path / "run", flower_apps.on_flower(scenario(**changes))
        run(chosen, folder, Driver("flower", start))
        assert len(sent) == 4 + 2 * 4 + 4  # cards, joined rounds, the last teacher
        carried = [name for name in FIGURES if name.encode() in b"".join(sent)]
        return carried, json.loads((folder / "summary.json").read_text()), folder

    return run_on_nodes


@pytest.mark.fast(2)
def test_no_figure_of_a_client_is_in_the_bytes_of_a_private_runs_replies(
    on_nodes: Callable[..., Found],
) -> None:
    carried, summary, _ = on_nodes(**NOISY)
    assert carried == []
    assert summary["status"] == "completed"
    assert summary["privacy"]["epsilon"] > 0
    assert summary["client_metrics"] == "kept by the clients"
    assert "stay with it and are not sent" in summary["privacy"]["outside"][0]
    assert {summary[name] for name in FIGURES if name in summary} == {None}


@pytest.mark.slow
def test_no_picture_is_drawn_of_figures_that_nobody_got(on_nodes: Callable[..., Found]) -> None:
    _, _, folder = on_nodes(**NOISY, report={"plots": True})
    assert {path.stem for path in (folder / "plots").glob("*.png")} == {"partition", "weights"}


@pytest.mark.slow
@pytest.mark.fast(2)
@pytest.mark.parametrize(
    "changes",
    [{"strategy": "fedmd"}, {**NOISY, "report": {"client_metrics": "simulation"}}],
    ids=["no privacy", "a simulation"],
)
def test_figures_are_sent_without_privacy_or_where_the_run_is_called_a_simulation(
    on_nodes: Callable[..., Found], changes: dict[str, Any]
) -> None:
    carried, summary, _ = on_nodes(**changes)
    assert {"personal_accuracy_after_training", "label_leakage", "train_loss"} <= {*carried}
    assert summary["client_metrics"] == "sent"
    for fact in summary["privacy"].get("outside", [])[:1]:
        assert "this is a simulation" in fact


def test_a_node_settles_for_itself_what_leaves_it() -> None:
    """A server that wrote auto, as for an engine of fedkd's own, gets no figures all the same."""
    for changes, sends in (({}, True), (NOISY, False)):
        context = flower_apps._context(scenario(**changes).text(), 1)
        assert context.sends_metrics is sends


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "local_only"}, "nothing to compare with; say baseline=none"),
        ({"report": {"after": "training"}}, "report.after=training would do nothing"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_needs_the_figures_is_refused_on_nodes(
    on_nodes: Callable[..., Found], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingError, match=message) as refused:
        on_nodes(**NOISY, **changes)
    assert str(refused.value).endswith("or report.client_metrics=simulation")
