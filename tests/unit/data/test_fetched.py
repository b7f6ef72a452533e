"""Data sets that others fetch, as they would come, without a network."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.datasets
from datasets import ClassLabel, Dataset, Features, Value
from sklearn.utils import Bunch

from fedkd.data.fetched import Covertype
from fedkd.data.prepare import prepare
from fedkd.errors import SettingError
from fedkd.scenario.registry import create
from fedkd.tasks.find_task import find_task
from fedkd.tasks.text.labeled_text_task import LabeledTextTask


def test_covertype_has_its_two_categories_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.zeros((3, 54))
    values[:, 0] = 2596, 2590, 2804
    values[[0, 1, 2], [10 + 3, 10, 10 + 1]] = values[[0, 1, 2], [14, 14 + 39, 14 + 7]] = 1
    names = ["Elevation", *(f"N{i}" for i in range(1, 10)), *(f"H{i}" for i in range(44))]
    bunch = Bunch(data=values, target=np.array([5, 1, 7]), feature_names=names)
    monkeypatch.setattr(sklearn.datasets, "fetch_covtype", lambda **given: bunch)
    rows = Covertype().load()
    assert rows.numbers[:, 0].tolist() == [2596, 2590, 2804]
    assert rows.schema.names[0] == "elevation"
    assert rows.schema.names[-2:] == ("wilderness_area", "soil_type")
    assert rows.codes.tolist() == [[3, 0], [0, 39], [1, 7]]
    assert [rows.class_names[i] for i in rows.labels] == ["aspen", "spruce_fir", "krummholz"]


def test_covertype_without_a_network_is_told_with_a_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(**given: Any) -> None:
        raise OSError("no route")

    monkeypatch.setattr(sklearn.datasets, "fetch_covtype", fails)
    with pytest.raises(SettingError, match=r"data=covertype: .* no route; .*data\.path=FOLDER"):
        Covertype(path="~/data").load()


def test_ag_news_are_texts_with_four_classes(tmp_path: Path) -> None:
    topics = ["World", "Sports", "Business", "Sci/Tech"]
    features = Features({"text": Value("string"), "label": ClassLabel(names=topics)})
    for split, count in (("train", 12), ("test", 8)):
        rows = {"text": [f"news {i}" for i in range(count)], "label": [i % 4 for i in range(count)]}
        Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / f"{split}.parquet"))
    source: Any = create("data", {"name": "ag_news_topics", "path": str(tmp_path)}).value
    assert find_task(source) is LabeledTextTask
    found = prepare(source)
    assert found.class_names == tuple(topics)
    assert (found.train_size, len(found.labels)) == (12, 20)
