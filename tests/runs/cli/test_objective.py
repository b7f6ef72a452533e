"""What a sweep's runs return to a sweeper that chooses by results, such as Optuna's."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

from fedkd.cli.command import main

LEAST = [
    "clients=2",
    "samples_per_client=20",
    "models=[mlp]",
    "rounds=1",
    "public.size=40",
    "test.global_size=50",
    "train.epochs=1",
    "engine.workers=1",
    "report.plots=false",
    "report.console=false",
    "baseline=none",
]


class Chooser(Sweeper):
    """Runs one job after the other and takes what it returns for a number, as Optuna's does."""

    returned: ClassVar[list[float]] = []

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        for index, beta in enumerate((1.0, 3.0)):
            job = [*arguments, f"++strategy.beta={beta}"]
            (done,) = self.launcher.launch([job], initial_job_idx=index)
            self.returned.append(float(done.return_value))


@pytest.fixture
def chooser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the arguments of a sweep by a sweeper that chooses by results."""
    monkeypatch.chdir(tmp_path)
    Plugins.instance()  # looks for real plugins first
    package, module = ModuleType("hydra_plugins"), ModuleType("hydra_plugins.chooser")
    package.__path__ = []
    module.Chooser, package.chooser = Chooser, module  # type: ignore[attr-defined]
    for found in (package, module):
        monkeypatch.setitem(sys.modules, found.__name__, found)
    monkeypatch.setattr(Chooser, "__module__", module.__name__)
    monkeypatch.setattr(Chooser, "returned", [])
    Plugins.instance().register(Chooser)
    node = {"_target_": "hydra_plugins.chooser.Chooser"}
    ConfigStore.instance().store(group="hydra/sweeper", name="chooser", node=node)
    return [*LEAST, "-m", "hydra/sweeper=chooser", "hydra.sweep.dir=sweep"]


@pytest.mark.slow
def test_a_sweeper_that_chooses_gets_the_figure_of_each_run_as_a_number(chooser: list[str]) -> None:
    assert main([*chooser, "objective=global_accuracy"]) == 0
    summaries = [json.loads(p.read_text()) for p in sorted(Path("sweep").glob("*/summary.json"))]
    assert [one["strategy"]["beta"] for one in summaries] == [1.0, 3.0]
    assert Chooser.returned == [one[f"global_accuracy_after_{one['after']}"] for one in summaries]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "hydra/sweeper=chooser chooses runs by a figure; say which, as in objective="),
        (["objective=global_acuracy"], "unknown objective 'global_acuracy'; did you mean"),
    ],
)
def test_without_a_figure_nothing_is_run(
    given: list[str], said: str, chooser: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*chooser, *given]) == 2
    assert said in capsys.readouterr().err
    assert not list(Path("sweep").glob("*/config.yaml"))
    assert Chooser.returned == []
