"""Estimators beside networks: in every strategy, resumed, in other processes, and taken out."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from every_strategy import NAMES, settings_for
from tiny import records, scenario

from fedkd.errors import FitFailed, SettingError
from fedkd.experiment.export_model import export
from fedkd.experiment.resume import resume
from fedkd.experiment.run import run
from fedkd.experiment.stored_run import StoredRun
from fedkd.models.estimators import estimator_module
from fedkd.report.folder import RunFolder

TREE = "sklearn:DecisionTreeClassifier(max_depth=4)"
BOOSTED = "xgboost:XGBClassifier(n_estimators=2)"
MODELS = [TREE, "mlp", BOOSTED, "lightgbm:LGBMClassifier(n_estimators=2)"]
WEIGHTS = {"fedavg", "fedprox", "feddf", "centralized", "lg_fedavg", "fml", "fedkd", "fedmrl"}
WEIGHTS |= {"local_teacher", "dense"}
PRIVATE = {"fd", "fedproto", "fedcache", "fedgh", "fedtgp", "fedhenn", "fedgen", "fccl", "talking"}


@pytest.mark.parametrize("name", NAMES)
def test_every_strategy_takes_estimators_or_says_why_not(name: str) -> None:
    settings = {**settings_for(name), "models": [TREE, "mlp"]}
    if name in WEIGHTS:
        with pytest.raises(SettingError, match=f"strategy={name} take over weights, and sklearn:"):
            records(**settings)
    elif name in PRIVATE:
        with pytest.raises(SettingError, match=f"strategy={name} adds a term to the loss of priv"):
            records(**settings)
    elif name == "fed_dfa":
        with pytest.raises(SettingError, match="moves inputs along the gradients of models"):
            records(**settings)
    else:
        assert [client.status for client in records(**settings)[-1].clients] == ["ok"] * 4


def test_a_fit_that_fails_is_of_one_client_and_round(monkeypatch: pytest.MonkeyPatch) -> None:
    fits, fit = [0], estimator_module._fit

    def failing(*given: Any) -> Any:
        fits[0] += 1
        if fits[0] == 2:  # after the trial
            raise FitFailed("models: a tree cannot be fitted")
        return fit(*given)

    monkeypatch.setattr(estimator_module, "_fit", failing)
    estimator_module._RECENT._found.clear()
    first, second = (
        [client.status for client in record.clients]
        for record in records(strategy="dsfl", models=[TREE])
    )
    assert sorted(first) == ["failed", "ok", "ok", "ok"]
    assert second == ["ok"] * 4


def figures(folder: Path) -> Any:
    rows = StoredRun(folder).clients
    return rows.drop(columns=[name for name in rows if "seconds" in name])


def test_a_run_goes_on_to_the_same_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"strategy": "knfu", "models": MODELS, "rounds": 3}
    run(scenario(**changes), tmp_path / "whole")

    def ended(self: RunFolder, row: Any, *rest: Any) -> None:
        if row["round"] == 2:
            raise KeyboardInterrupt
        add_round(self, row, *rest)

    add_round = RunFolder.add_round
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "add_round", ended)
        with pytest.raises(KeyboardInterrupt):
            run(scenario(**changes), tmp_path / "cut")
    estimator_module._RECENT._found.clear()  # as in another process
    resume(scenario(**changes), tmp_path / "cut")
    assert figures(tmp_path / "cut").equals(figures(tmp_path / "whole"))


def test_a_client_that_scales_its_rows_itself_has_its_estimator_again(tmp_path: Path) -> None:
    changes = {"data": "breast_cancer", "preprocessing": {"fit": "own"}, "strategy": "dsfl"}
    run(scenario(**changes, models=[TREE]), tmp_path / "run")
    estimator_module._RECENT._found.clear()
    stored = StoredRun(tmp_path / "run")
    rows, context = stored.clients, stored.experiment.context
    last = rows[rows["round"] == 2]["global_nll_after_distillation"].tolist()
    own = [context.seen_by(client) for client in range(4)]
    tests = [seen.task.test_set(seen.division.global_test) for seen in own]
    found = [own[i].task.evaluate(stored.model(i), tests[i]).nll for i in range(4)]
    assert found == last


def test_an_export_predicts_as_the_run_without_fedkd(tmp_path: Path) -> None:
    run(scenario(strategy="dsfl", models=MODELS, rounds=1), tmp_path / "run")
    x = np.random.default_rng(0).normal(size=(20, 1, 8, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    code = "import numpy, load_model; numpy.save('p.npy', load_model.load().predict_proba(X))"
    code = code.replace("X", f"numpy.load({str(tmp_path / 'x.npy')!r})")
    for client in (0, 2):
        folder = export(tmp_path / "run", client)
        subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, env={})
        found = np.load(folder / "p.npy")
        logits = StoredRun(tmp_path / "run").model(client)(torch.from_numpy(x))
        assert found.shape == (20, 10)
        assert np.abs(found - logits.exp().numpy()).max() < 0.02
