"""Estimators as models: what they are fitted to, what they predict, which there are."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import TINY
from torch import nn

from fedkd.errors import SettingError
from fedkd.knowledge import ModelWeights
from fedkd.models.dual_head import DualHeadSettings
from fedkd.models.estimators.estimator_module import EstimatorModule
from fedkd.models.estimators.weighted_rows import log_probabilities, soft_label_rows, weighted_rows
from fedkd.models.factory import ImageModelSpec, probe
from fedkd.models.fitting import FitData, FitsItself
from fedkd.models.libraries import fitted_models
from fedkd.privacy.mechanisms.dp_sgd import DpSgd
from fedkd.scenario.compatibility import check_precision
from fedkd.scenario.scenario import Scenario
from fedkd.settings.conditions import Compatible, RunConditions
from fedkd.strategy import Needs
from fedkd.training.hyperparameters import DistillationSettings, TrainingSettings

FOREST = "sklearn:RandomForestClassifier(n_estimators=2)"
ESTIMATORS = RunConditions(fitted_models=(FOREST,), only_fitted=True)


def data(**changes: Any) -> FitData:
    stream = torch.Generator().manual_seed(0)
    usual = {
        "inputs": torch.randn(12, 1, 2, 2, generator=stream),
        "labels": torch.arange(12) % 2,
        "taught_inputs": torch.randn(4, 1, 2, 2, generator=stream),
        "probs": torch.tensor([[0.0, 0.7, 0.3]]).repeat(4, 1),
        "weights": torch.ones(4),
        "taught_weight": 0.5,
    }
    return FitData(**{**usual, **changes})


UNTAUGHT: dict[str, Any] = {
    "taught_inputs": torch.zeros(0, 1, 2, 2),
    "probs": torch.zeros(0, 3),
    "weights": torch.zeros(0),
}


def built(name: str = FOREST, classes: int = 3) -> Any:
    return ImageModelSpec(name, (1, 2, 2), classes).build(0)


@given(st.lists(st.lists(st.floats(0.001, 1), min_size=3, max_size=3), min_size=1, max_size=6))
def test_rows_of_soft_labels_have_its_expected_loss(probs: list[list[float]]) -> None:
    p = np.array(probs) / np.sum(probs, axis=1, keepdims=True)
    weights = np.arange(1.0, len(p) + 1)
    rows = soft_label_rows(np.arange(float(len(p)))[:, None], p, weights)
    losses = np.random.default_rng(0).normal(size=p.shape)
    found = (rows.weights * losses[rows.inputs[:, 0].astype(int), rows.labels]).sum()
    shares = np.where(p < 0.01 / 3, 0, p)
    shares /= shares.sum(axis=1, keepdims=True)
    assert found == pytest.approx((weights[:, None] * shares * losses).sum())


def test_soft_labels_together_weigh_what_the_setting_says() -> None:
    rows = weighted_rows(data(taught_weight=0.25, weights=torch.tensor([0.0, 3.0, 1.0, 0.0])))
    assert rows.weights[:12].tolist() == [1.0] * 12
    assert rows.weights[12:].sum() == pytest.approx(3)
    assert rows.weights[12:] == pytest.approx([1.575, 0.675, 0.525, 0.225], rel=1e-5)
    alone = weighted_rows(
        data(inputs=torch.zeros(0, 1, 2, 2), labels=torch.zeros(0, dtype=torch.int64))
    )
    assert alone.weights.sum() == pytest.approx(4)


def test_logits_are_log_probabilities_with_a_floor() -> None:
    found = np.exp(log_probabilities(np.array([[0.0, 1.0], [0.4, 0.6]]), np.array([2, 0]), 3))
    assert found.sum(axis=1) == pytest.approx([1, 1])
    assert found[0] == pytest.approx(np.array([1, 1 / 300, 1 / 300]) / (1 + 2 / 300))
    assert found.argmax(axis=1).tolist() == [0, 0]


@pytest.mark.parametrize(
    "name",
    [FOREST, "xgboost:XGBClassifier(n_estimators=2)", "lightgbm:LGBMClassifier(n_estimators=2)"],
)
def test_an_estimator_is_a_module_without_weights_that_repeats_to_the_bit(name: str) -> None:
    first, second = built(name), built(name)
    x = data().inputs
    assert isinstance(first, nn.Module)
    assert isinstance(first, FitsItself)
    assert list(first.state_dict()) == ["classes"]
    assert not list(first.parameters())
    assert first(x).exp().allclose(torch.full((12, 3), 1 / 3))  # it was taught nothing
    first.learn(data, 5)
    found = first(x)
    second.learn(lambda: data(probs=data().probs.clone()), 5)
    assert torch.equal(found, second(x))
    assert found.exp().sum(dim=1).allclose(torch.ones(12))
    assert first(x[:0]).shape == (0, 3)
    second.learn(lambda: data(probs=torch.tensor([[0.0, 0.3, 0.7]]).repeat(4, 1)), 5)
    assert not torch.equal(found, second(x))
    second.learn(None, 5)
    assert second(x).exp().allclose(torch.full((12, 3), 1 / 3))


def test_a_seed_decides_and_rows_of_one_class_need_no_fit() -> None:
    model = built()
    answers = []
    for seed in (1, 2):
        model.learn(data, seed)
        answers.append(model(data().inputs))
    assert not torch.equal(*answers)
    one = data(labels=torch.full((12,), 2), **UNTAUGHT)
    model.learn(lambda: one, 0)
    assert model(one.inputs[:1]).exp()[0].tolist() == pytest.approx([1 / 302, 1 / 302, 300 / 302])
    with pytest.raises(SettingError, match="was taught one class alone; train it first"):
        model.write(Path())


@pytest.mark.parametrize("shape", [(5,), (2, 3), (1, 2, 2)])
def test_a_trial_fits_an_estimator_to_noise_of_any_shape(shape: tuple[int, ...]) -> None:
    found = probe(ImageModelSpec(FOREST, shape, 3))
    assert (found.fits_itself, found.parameters, found.head) == (True, 0, None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sklearn:RandomForrest", "unknown classifier of sklearn 'RandomForrest'; did you mean"),
        ("sklearn:KNeighborsClassifier", r"takes no weights of rows \(sample_weight\)"),
        ("sklearn:RidgeClassifier", "predicts no probabilities"),
        ("sklearn:SVC", "SVC predicts no probabilities"),
        ("sklearn:Ridge", "unknown classifier of sklearn"),
        ("sklearn:GaussianNB(n_jobs=2)", "leave n_jobs of sklearn:GaussianNB out: an estimator"),
        (f"{FOREST[:-1]}, random_state=3)", "it comes from the run's seed"),
        ("xgboost:XGBClassifier(n_estimatorz=3)", "unknown argument of xgboost:XGBClassifier"),
        ("sklearn:StackingClassifier", "StackingClassifier takes no weights"),
        ("sklearn:DecisionTreeClassifier(max_depth=-1)", "cannot be fitted: InvalidParameterError"),
    ],
)
def test_what_cannot_be_an_estimator_is_refused_in_a_trial(name: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        probe(ImageModelSpec(name, (1, 2, 2), 3))


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (ModelWeights(), "clients of strategy=fedmd take over weights"),
        (Needs(features="any"), "strategy=fedmd needs the features of models"),
        (Needs(server_models=()), "the server of strategy=fedmd trains models of its own"),
        (Needs(server_models=(FOREST,)), "the server of strategy=fedmd trains models of its own"),
        (DpSgd(epsilon=1.0), "privacy=dp_sgd protects the gradients of private training"),
        (DualHeadSettings(), "heads=dual puts layers on a network"),
        (DistillationSettings(relational_weight=1.0), "distill.relational_weight=1.0 adds a loss"),
        (DistillationSettings(student_augmentation="shift"), "shows other samples"),
        (TrainingSettings(clip_grad_norm=1.0), "train.clip_grad_norm=1.0 would do nothing"),
    ],
)
def test_what_needs_gradients_or_weights_refuses_estimators(part: Compatible, reason: str) -> None:
    components = {"privacy": "dp_sgd", "heads": "dual"}
    networks = RunConditions(components=components)
    assert part.conflict(networks) is None
    conditions = RunConditions(components=components, fitted_models=(FOREST,), only_fitted=True)
    found = part.conflict(conditions)
    assert found is not None
    assert reason in found


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"optimizer": "sgd"}, "optimizer=sgd would .* or say train.optimizer=adam$"),
        ({"weight_decay": 0.1}, "weight_decay=0.1 .* or say train.weight_decay=0.0$"),
        ({"freeze": ("backbone",)}, r"freeze=\[backbone\] .* or say train.freeze=\[\]$"),
        ({"head_learning_rate": 0.1}, "head_learning_rate=0.1 .* train.head_learning_rate=null$"),
    ],
)
def test_a_setting_of_networks_is_refused_where_no_client_has_one(
    asked: dict[str, Any], said: str
) -> None:
    found = TrainingSettings(**asked).conflict(ESTIMATORS)
    assert found is not None
    assert re.match(f"train.{said}", found)
    mixed = RunConditions(fitted_models=(FOREST,))
    assert TrainingSettings(**asked).conflict(mixed) is None
    taught = replace(ESTIMATORS, trains_server=True)  # distill is then the server's
    assert DistillationSettings(**asked).conflict(taught) is None
    assert DistillationSettings(**asked).conflict(ESTIMATORS) is not None


def test_what_every_scenario_says_is_not_refused_with_estimators() -> None:
    usual = TrainingSettings(epochs=3, batch_size=16, learning_rate=0.1)
    assert usual.conflict(ESTIMATORS) is None


def test_a_precision_is_refused_where_no_network_computes() -> None:
    asked = Scenario.parse({**TINY, "precision": "bf16", "models": [FOREST]})
    with pytest.raises(SettingError, match="precision=bf16 would do nothing: all models are est"):
        check_precision(asked, ESTIMATORS)
    check_precision(asked, replace(ESTIMATORS, trains_server=True))
    check_precision(asked, RunConditions(fitted_models=(FOREST,)))


def test_what_an_estimator_can_do_is_not_refused() -> None:
    able = DistillationSettings(soft_label_weight=2.0, margin_weights=True)
    assert able.conflict(ESTIMATORS) is None
    assert Needs(server_models=("mlp",)).conflict(ESTIMATORS) is None
    found = able.conflict(RunConditions())
    assert found is not None
    assert "distill.soft_label_weight=2 would do nothing" in found
    assert fitted_models((f"{FOREST}*2", "mlp*1", FOREST)) == (FOREST,)


def test_xgboost_and_lightgbm_write_what_they_read(tmp_path: Path) -> None:
    for name in (
        "xgboost:XGBClassifier(n_estimators=2)",
        "lightgbm:LGBMClassifier(n_estimators=2)",
    ):
        model = built(name)
        assert isinstance(model, EstimatorModule)
        model.learn(data, 0)
        exported = model.write(tmp_path)
        scope: dict[str, Any] = {"HERE": tmp_path}
        exec(f"{exported.imports}\ndef read():\n{exported.loads}\nfound = read()", scope)
        x = data().inputs
        wanted = np.exp(model(x).numpy())
        assert np.allclose(scope["found"](x.flatten(1).numpy()), wanted, atol=0.02)
        assert exported.classes == (0, 1, 2)
