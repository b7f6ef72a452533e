"""Tables and series in whole runs: from a file of one's own, and with foreign public rows."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny import mean, records

from fedkd.errors import SettingError


def patients(count: int, seed: int) -> pd.DataFrame:
    """Return patients whose class is nearly what their numbers and categories say."""
    stream = np.random.default_rng(seed)
    age, smokes = stream.normal(50, 10, count), stream.choice(["no", "yes"], count)
    ill = age + 20 * (smokes == "yes") > 60
    age[::9] = np.nan
    columns = {"ward": stream.choice(list("abcd"), count), "age": age, "smokes": smokes}
    return pd.DataFrame({**columns, "label": np.where(ill, "ill", "well")})


def test_a_table_of_ones_own_is_learned_with_a_public_file(tmp_path: Path) -> None:
    patients(400, 0).to_csv(tmp_path / "own.csv", index=False)
    patients(60, 1).drop(columns=["label", "ward"]).to_csv(tmp_path / "public.csv", index=False)
    settings = {
        "data": {"name": "csv", "path": str(tmp_path / "own.csv"), "leave_out": ["ward"]},
        "public_data": {"name": "csv", "path": str(tmp_path / "public.csv")},
        "partition": {"name": "natural_id", "column": "ward"},
        "models": ["mlp"],
        "samples_per_client": None,
        "train": {"epochs": 4, "batch_size": 8, "learning_rate": 0.01},
    }
    last = records(**settings)[-1]
    assert mean(last, "global_accuracy_after_training") > 0.75
    patients(60, 1).assign(pulse=60).to_csv(tmp_path / "public.csv", index=False)
    with pytest.raises(SettingError, match="public_data: the table has the column pulse, ward"):
        records(**settings)


def test_clients_that_scale_by_their_own_rows_exchange_the_same_public_ids() -> None:
    changed = {"data": "breast_cancer", "models": ["mlp"]}
    shared, own = (records(**changed, preprocessing={"fit": fit})[-1] for fit in ("public", "own"))
    assert [c.bytes_up for c in own.clients] == [c.bytes_up for c in shared.clients]
    name = "global_nll_after_training"
    assert mean(own, name) != mean(shared, name)


def test_series_are_learned_with_noise_as_the_public_set() -> None:
    changed = {"models": ["cnn1d"], "public_data": {"name": "noise", "law": "gaussian"}}
    last = records(data={"name": "digit_series"}, train={"epochs": 6}, **changed)[-1]
    assert mean(last, "personal_accuracy_after_training") > 0.3
