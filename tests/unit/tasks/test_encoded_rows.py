"""Rows of tables as inputs: the used ones encoded once, each client's a view of them."""

import threading

import numpy as np
import pytest
import torch
from tiny import scenario

from fedkd.experiment.build import build
from fedkd.federation.context import ClientContext
from fedkd.tasks.encoded_rows import EncodedRowsTask


@pytest.fixture(scope="module")
def context() -> ClientContext:
    return build(scenario(data="breast_cancer", models=["mlp"]), threading.Event()).context


def test_whatever_rows_are_asked_for_are_encoded_as_they_would_be_alone(
    context: ClientContext,
) -> None:
    task, division = context.task, context.division
    assert isinstance(task, EncodedRowsTask)
    own = division.train[1]
    asked = [own, own[::-1].copy(), own[:3], division.test[0], division.global_test, own[:0]]
    asked += [division.held_back, np.concatenate([own[:2], division.held_back[:1]])]
    for rows in asked:
        alone = torch.from_numpy(task.encoder.encode(task.prepared, rows)) if len(rows) else None
        for inputs, labels in (task.training_set(rows, (1,)), task.test_set(rows)):
            assert labels.tolist() == task.prepared.labels[rows].tolist()
            assert len(inputs) == 0 if alone is None else torch.equal(inputs, alone)


def test_only_rows_that_somebody_has_are_encoded_and_a_clients_own_are_no_copy(
    context: ClientContext,
) -> None:
    task, division = context.task, context.division
    assert isinstance(task, EncodedRowsTask)
    used = [*division.train, *division.test, *division.validation, division.global_test]
    assert len(task.encoded) == sum(map(len, used)) < len(task.prepared.labels)
    inputs, _ = task.training_set(division.train[1], (1,))
    assert inputs.untyped_storage().data_ptr() == task.encoded.untyped_storage().data_ptr()
