"""Runs whose clients are estimators and networks side by side."""

from pathlib import Path
from typing import Any

from tiny import records, scenario

from fedkd.experiment.run import run
from fedkd.experiment.stored_run import StoredRun
from fedkd.models.estimators import estimator_module

TREE = "sklearn:DecisionTreeClassifier(max_depth=4)"
MIXED: dict[str, Any] = {"models": [TREE, "mlp"], "clients": 2, "strategy": "dsfl"}


def test_a_tree_is_made_of_its_rows_and_the_last_teacher(tmp_path: Path) -> None:
    run(scenario(**MIXED), tmp_path / "run")
    stored = StoredRun(tmp_path / "run")
    rows = stored.clients
    trees = rows[rows["client"] == 0].to_dict("records")
    names = ("global_accuracy", "global_nll", "personal_accuracy")
    trained, distilled = (
        [[row[f"{name}_after_{point}"] for name in names] for row in trees]
        for point in ("training", "distillation")
    )
    assert trained[0] != distilled[0]  # the first teacher
    assert trained[1] == distilled[0]  # private rows it knows already
    assert distilled[1] != distilled[0]  # the second teacher in place of the first
    assert rows.groupby("client")["bytes_up"].sum().nunique() == 1  # rows of C numbers, as others'
    # What is stored is no tree, and makes the same one in another process.
    state = stored.experiment.context.store.get(0) or stored._states().get(0)
    assert state is not None
    assert sorted(state) == [
        *("classes", "fitted to ids", "fitted to private", "fitted to probs", "fitted to weights")
    ]
    estimator_module._RECENT._found.clear()
    task = stored.experiment.context.task
    found = task.evaluate(stored.model(0), stored.experiment.context.global_test)
    assert [found.accuracy, found.nll] == distilled[1][:2]


def test_public_labels_and_a_warm_up_come_before_the_first_teacher() -> None:
    plain = records(**MIXED, rounds=1, train={"warm_up_epochs": 1})[0].clients[0]
    pretrained = {"train": {"public_epochs": 1}, "public": {"labeled": True}}
    labeled = records(**MIXED, rounds=1, **pretrained)[0].clients[0]
    alone = records(**MIXED, rounds=1)[0].clients[0]
    assert plain.after_training == alone.after_training  # once more is no more
    assert labeled.after_training != alone.after_training
