"""Whatever arrays come over the wire, a kind accepts them or rejects them by name: no other error
ends the run."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from views import View

from fedkd.errors import UploadRejected
from fedkd.knowledge import (
    ClassPrototypes,
    ClassTables,
    GlobalHead,
    KnowledgeType,
    LastLayers,
    ModelWeights,
    PrivateLogits,
    PublicPredictions,
    Request,
)
from fedkd.knowledge.generated_features import GeneratedFeatures
from fedkd.knowledge.gram_matrices import GramMatrices
from fedkd.messages import Upload
from fedkd.strategies.fed_dfa import StepsToBoundary

STREAM = torch.Generator().manual_seed(0)
MODEL = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 3))
VIEW = View(
    own_logits=torch.randn(5, 3, generator=STREAM),
    own_features=torch.randn(5, 4, generator=STREAM),
    own_inputs=torch.randn(5, 1, 2, 2, generator=STREAM),
    own_labels=torch.tensor([0, 2, 2, 0, 2]),
    ids=torch.tensor([1, 4, 6]),
    logits=torch.randn(3, 3, generator=STREAM),
    inputs=torch.randn(3, 2, generator=STREAM),
    features=torch.randn(3, 4, generator=STREAM),
    model=MODEL,
    head="1",
)
REQUEST = Request(
    round=1,
    classes=3,
    public_ids=torch.tensor([1, 4, 6]),
    temperature=1.0,
    train_sizes={0: 5},
    label_counts={0: (2, 0, 3)},
    architectures=("linear",),
    shapes={"linear": {name: tuple(tensor.shape) for name, tensor in MODEL.state_dict().items()}},
    features={"linear": 4},
    heads={"linear": "1"},
)
KINDS: dict[str, KnowledgeType] = {
    "tables": ClassTables(weight=1.0),
    "weights": ModelWeights(),
    "last layers": ModelWeights(part=LastLayers(1)),
    "head": GlobalHead(),
    "prototypes": ClassPrototypes(weight=1.0),
    "private": PrivateLogits(weight=1.0, bits=16),
    "kernels": GramMatrices(weight=1.0),
    "layers": GeneratedFeatures(weight=1.0),
    "scored": PublicPredictions("logits", scorer=StepsToBoundary(steps=2, step=0.1, radius=0.1)),
}
every_kind = pytest.mark.parametrize("name", KINDS)
VALUES: Mapping[str, Any] = {
    "f": st.sampled_from([0.0, 1.0, -1.0, 0.5, 1e30, float("nan"), float("inf")]),
    "i": st.integers(-2, 7),
    "u": st.integers(0, 255),
    "b": st.booleans(),
    "U": st.sampled_from(["", "a"]),
    "c": st.just(1j),
}
DTYPES = (
    np.float16,
    np.float32,
    np.float64,
    np.int8,
    np.int32,
    np.int64,
    np.uint8,
    np.bool_,
    np.str_,
    np.complex64,
)


@st.composite
def arrays(draw: st.DrawFn, good: Mapping[str, np.ndarray]) -> np.ndarray:
    """An array like one of a good upload, or with one thing wrong: its shape, its dtype or a
    value."""
    shape = draw(
        st.sampled_from([a.shape for a in good.values()])
        | st.lists(st.integers(0, 6), max_size=3).map(tuple)
    )
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    value = draw(VALUES[dtype.kind])
    with np.errstate(over="ignore"):
        return np.full(shape, value, dtype=dtype)


@every_kind
def test_a_good_upload_survives_the_trip_to_the_bit_and_is_accepted(name: str):
    kind = KINDS[name]
    sent = kind.encode(kind.extract(VIEW))
    back = kind.decode(sent)
    again = kind.encode(back)
    assert list(again) == list(sent)
    assert all(
        np.array_equal(again[key], sent[key]) and again[key].dtype == sent[key].dtype
        for key in sent
    )
    kind.check(back, REQUEST, 0)


@every_kind
@given(data=st.data())
def test_a_malformed_upload_is_rejected_or_can_be_stacked(name: str, data: st.DataObject):
    kind = KINDS[name]
    good = kind.encode(kind.extract(VIEW))
    changed = data.draw(st.sampled_from([*good, "extra"]))
    sent = {**good, changed: data.draw(arrays(good))}
    if data.draw(st.integers(0, 4)) == 0:
        del sent[data.draw(st.sampled_from([*sent]))]
    try:
        knowledge = kind.decode(sent)
        kind.check(knowledge, REQUEST, 0)
    except UploadRejected:
        return
    upload = Upload(client_id=0, round=1, metrics={}, knowledge=knowledge)
    assert kind.stack([upload], REQUEST).client_ids == (0,)


@every_kind
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_none_are_rejected(name: str, value: float):
    kind = KINDS[name]
    good = kind.encode(kind.extract(VIEW))
    changed = next(key for key in good if good[key].dtype.kind == "f")
    bad = good[changed].copy()
    bad.flat[0] = value
    with pytest.raises(UploadRejected):
        kind.check(kind.decode({**good, changed: bad}), REQUEST, 0)
