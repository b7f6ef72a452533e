"""Every kind of data with every kind of model: a run ends and goes on to the bit, or is refused."""

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tiny import TINY
from tiny_hub import save_bert, save_gpt2, save_vit
from tiny_text import TINY_TEXT

from fedkd.errors import SettingError
from fedkd.experiment.resume import resume
from fedkd.experiment.round_watchers import RoundView, RoundWatchers
from fedkd.experiment.run import run
from fedkd.experiment.run_report import Onlookers
from fedkd.experiment.stored_run import StoredRun
from fedkd.scenario.scenario import Scenario

ROWS: dict[str, Any] = {**TINY, "train": {"epochs": 1, "batch_size": 8, "learning_rate": 1e-2}}
KINDS: dict[str, dict[str, Any]] = {
    "images": {**ROWS, "models": ["mlp", "cnn"]},
    "tables": {**ROWS, "data": "breast_cancer", "models": ["mlp"]},
    "series": {**ROWS, "data": "digit_series", "models": ["cnn1d", "mlp"]},
    "labeled texts": {**ROWS, "data": "scipy_docs", "models": ["bag", "text_cnn"]},
    "texts": {**TINY_TEXT, "clients": 4, "rounds": 2},
}
FOREST = "sklearn:RandomForestClassifier(n_estimators=5)"
BOOSTED = ("xgboost:XGBClassifier(n_estimators=2)", "lightgbm:LGBMClassifier(n_estimators=2)")
HELLO = ["a sparse matrix of numbers", "the mean of a distribution", "an image and its edges"]
STRATEGIES = ("knfu", "fedmd", "dsfl", "fd")
REFUSED = {
    ("texts", "any", "fd"): "next tokens are no classes",
    ("texts", "forest", "any"): "has no models of next tokens here",
    ("any", "forest", "fd"): "adds a term to the loss of private training, and .* is an estimator",
    ("labeled texts", "forest", "any"): "has no models of texts here",
}


def refusal(kind: str, model: str, strategy: str) -> str | None:
    """Return what the reason says for which such a run is refused; None where it ends."""
    for (of_kind, of_model, of_strategy), said in REFUSED.items():
        asked = zip((of_kind, of_model, of_strategy), (kind, model, strategy), strict=True)
        if all(one in ("any", other) for one, other in asked):
            return said
    return None


def pretrained(kind: str, folder: Path) -> list[str] | None:
    """Return the tiny models of Hugging Face for a kind of data; None where it has none."""
    if kind == "images":
        return [f"hf:{save_vit(folder / 'vit')}"]
    if kind == "labeled texts":
        return [f"hf:{save_bert(folder / 'bert', HELLO, max_position_embeddings=64)}"]
    if kind == "texts":
        return [f"hf:{save_gpt2(folder / 'gpt2', HELLO)}"]
    return None


def stops(view: RoundView) -> None:
    view.stop("as the test wants")


def goes_on_to_the_bit(plain: dict[str, Any], folder: Path, engine: str = "local") -> None:
    """Assert that a run stopped after its first round has the figures of a whole local one.

    Args:
        plain: The run's settings.
        folder: Where both are written.
        engine: The engine of the one that is stopped and resumed.
    """
    whole, parts = folder / "whole", folder / "parts"
    run(Scenario.parse(plain), whole)
    chosen = Scenario.parse({**plain, "engine": {"name": engine, "workers": 1}})
    run(chosen, parts, onlookers=Onlookers(watchers=RoundWatchers(stops)))
    assert StoredRun(parts).status == "stopped"
    resume(chosen, parts)
    one, other = (StoredRun(path).clients.drop(columns="seconds") for path in (whole, parts))
    assert set(one["status"]) == {"ok"}
    pd.testing.assert_frame_equal(one, other, check_exact=True)


def cases() -> list[Any]:
    """Return all combinations; by night two more strategies with models other than networks."""
    found = []
    for kind in KINDS:
        for model in ("network", "forest", "pre-trained"):
            for strategy in STRATEGIES:
                by_night = model != "network" and strategy in ("fedmd", "dsfl")
                marks = [pytest.mark.nightly] if by_night else []
                name = f"{kind}-{model}-{strategy}"
                found.append(pytest.param(kind, model, strategy, marks=marks, id=name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "model", "strategy"), cases())
def test_every_kind_of_data_with_every_kind_of_model(
    kind: str, model: str, strategy: str, tmp_path: Path
) -> None:
    models = {
        "network": lambda: KINDS[kind]["models"],
        "forest": lambda: [FOREST],
        "pre-trained": partial(pretrained, kind, tmp_path),
    }[model]()
    if models is None:
        pytest.skip("no such model is made here for this kind")
    plain = {**KINDS[kind], "models": models, "strategy": strategy}
    if kind == "texts" and model == "pre-trained":
        plain["tokens"] = {"context": 40}
    said = refusal(kind, model, strategy)
    if said is None:
        goes_on_to_the_bit(plain, tmp_path / "runs")
        return
    with pytest.raises(SettingError, match=said):
        run(Scenario.parse(plain), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.daily(0)
@pytest.mark.usefixtures("ray_and_trigger")
@pytest.mark.parametrize("kind", ["tables", "series", "labeled texts"])
def test_all_kinds_of_models_together_go_on_to_the_bit_on_ray(kind: str, tmp_path: Path) -> None:
    """Images and next tokens have tests of their own, in ``tests/runs/flower``."""
    forests = [] if "texts" in kind else [FOREST, *BOOSTED]
    models = [*KINDS[kind]["models"], *forests, *(pretrained(kind, tmp_path) or ())]
    plain = {**KINDS[kind], "models": models, "strategy": "knfu"}
    goes_on_to_the_bit(plain, tmp_path, "ray")
