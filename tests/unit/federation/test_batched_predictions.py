"""Predictions of several models in one call, and their figures, against one by one."""

import pytest
import torch

from fedkd.federation.batched_predictions import predict_together
from fedkd.models.factory import ImageModelSpec
from fedkd.training.loop import predict
from fedkd.training.metrics import quality_in_one_read, quality_of_many


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_models_predict_together_what_they_predict_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedkd.training.loop.ROWS_AT_ONCE", 5)
    spec = ImageModelSpec(name, (1, 8, 8), 4)
    models = [spec.build(seed) for seed in range(3)]
    states = {
        key: torch.stack([model.state_dict()[key] for model in models])
        for key in models[0].state_dict()
    }
    own = torch.randn(3, 11, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    alone = torch.stack([predict(model, x) for model, x in zip(models, own, strict=True)])
    with torch.no_grad():
        found = predict_together(spec.build(9), states, own, shared=False)
        torch.testing.assert_close(found, alone)
        of_one = predict_together(spec.build(9), states, own[0], shared=True)
        torch.testing.assert_close(of_one[0], alone[0])
        torch.testing.assert_close(of_one[2], predict(models[2], own[0]))


def test_figures_of_many_models_are_those_of_each() -> None:
    stream = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(3, 20, 4, generator=stream), torch.arange(60).view(3, 20) % 4
    logits[1, 2, 1], logits[1, 3] = torch.nan, torch.nan
    counts = torch.tensor([20, 12, 1])
    found = quality_of_many(logits, labels, counts)
    for one, x, y, count in zip(found.tolist(), logits, labels, counts.tolist(), strict=True):
        expected = quality_in_one_read(x[:count], y[:count])
        assert one == pytest.approx(expected, rel=1e-12, nan_ok=True)
