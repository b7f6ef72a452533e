import pytest
import torch

from fedkd.knowledge import KINDS, ClassTables, ModelWeights, narrowed
from fedkd.messages import Predictions


def test_knowledge_of_another_kind_is_named_and_not_looked_into() -> None:
    predictions = Predictions(ids=torch.arange(2), values=torch.zeros(2, 3), scale="logits")
    assert narrowed(predictions, Predictions) is predictions
    with pytest.raises(TypeError, match="expected a ClassTable, got a Predictions"):
        ClassTables(weight=1.0).encode(predictions)
    with pytest.raises(TypeError, match="expected a Predictions, got a dict"):
        KINDS["logits"].encode({"weight": torch.zeros(1)})
    with pytest.raises(TypeError, match="expected a model's state, got a Predictions"):
        ModelWeights().encode(predictions)
