"""The baseline of a protected run: trained plainly, or by the same mechanism without exchange."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from tiny import scenario
from tiny_text import text_scenario

from fedkd.errors import SettingError
from fedkd.experiment.baseline import baseline_key, baseline_scenario
from fedkd.experiment.build import Experiment, build
from fedkd.experiment.run import run
from fedkd.privacy.mechanisms import DpSgd
from fedkd.scenario.scenario import Scenario


def protected(baseline: str, epsilon: float = 4.0, **changes: Any) -> Scenario:
    privacy = changes.pop("privacy", {"name": "dp_sgd", "epsilon": epsilon})
    changes = {"strategy": "fedmd", "models": ["mlp"], "rounds": 1, **changes}
    return scenario(baseline=baseline, privacy=privacy, **changes)


def twin(of: Scenario) -> Experiment:
    return build(baseline_scenario(of), threading.Event())


@pytest.mark.slow
def test_a_private_baseline_trains_with_the_runs_mechanism_noise_and_schedule() -> None:
    own = build(protected("local_only_private"), threading.Event()).context.enforcer
    alone = twin(protected("local_only_private")).context.enforcer
    assert own.mechanism == alone.mechanism
    assert isinstance(alone.mechanism, DpSgd)
    assert alone.joins_training
    assert own.mechanism.noise_in(own.plan) == alone.mechanism.noise_in(alone.plan)
    assert own.client_round(1, 1, 9, {}).stream("n").random() == pytest.approx(
        alone.client_round(1, 1, 9, {}).stream("n").random()
    )
    assert not twin(protected("local_only")).context.enforcer.claims


@pytest.mark.slow
def test_budgets_share_a_plain_baseline_and_have_private_ones_of_their_own() -> None:
    keys = {
        (name, epsilon): baseline_key(build(protected(name, epsilon), threading.Event()))
        for name in ("local_only", "local_only_private")
        for epsilon in (1.0, 4.0)
    }
    assert keys["local_only", 1.0] == keys["local_only", 4.0]
    assert len(set(keys.values())) == 3


@pytest.mark.slow
def test_a_run_says_which_baseline_its_gain_is_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = {}
    for name in ("local_only", "local_only_private"):
        run(protected(name, 0.2, report={"console": True, "plots": False}), tmp_path / name)
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        assert summary["baseline"] == name
        alone[name] = summary["local_only"]
        assert f"gain over {name} in points" in capsys.readouterr().out
    assert alone["local_only_private"] != alone["local_only"]


@pytest.mark.parametrize("privacy", ["none", {"name": "gaussian", "sigma": 1.0, "clip_norm": 1.0}])
def test_a_private_baseline_is_refused_where_training_is_not_protected(privacy: Any) -> None:
    with pytest.raises(SettingError, match="local_only_private would do nothing"):
        build(protected("local_only_private", privacy=privacy), threading.Event())


def test_an_infinite_budget_has_the_plain_baseline() -> None:
    assert not twin(protected("local_only_private", float("inf"))).context.enforcer.claims


@pytest.mark.slow
def test_texts_have_windows_of_their_own_in_a_private_baseline_alone() -> None:
    counts = {}
    for name in ("local_only", "local_only_private"):
        of = text_scenario(
            baseline=name,
            privacy={"name": "dp_sgd", "epsilon": 8.0},
            models=["tiny_text:small_decoder"],
            tokens={"context": 20, "windows_per_text": 1},
        )
        counts[name] = twin(of).plan.train_sizes
    assert counts["local_only"] != counts["local_only_private"]
