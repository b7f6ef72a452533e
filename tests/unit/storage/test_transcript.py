import json
from pathlib import Path

import numpy as np
import pytest

from fedkd.errors import Damaged, SettingError
from fedkd.storage.checked_json import read_json, write_json
from fedkd.storage.transcript import (
    GroundTruth,
    TranscriptWriter,
    read_ground_truth,
    read_transcript,
    write_ground_truth,
)


def stored(run_dir: Path) -> TranscriptWriter:
    writer = TranscriptWriter(run_dir, "view", {"scale": "probs"})
    writer.add("public", {"inputs": np.zeros((2, 1, 2, 2), np.float32)}, round=0)
    for round_number in (1, 2):
        for client in (1, 0):
            probs = np.full((2, 3), round_number + client / 10, np.float16)
            writer.add(
                "upload",
                {"ids": np.arange(2), "probs:float16": probs},
                round=round_number,
                client=client,
            )
        writer.add("teacher", {"ids": np.arange(2), "probs": np.ones((2, 3))}, round=round_number)
        writer.save()
    return writer


def test_what_was_stored_comes_back_to_the_bit_in_order(tmp_path: Path) -> None:
    stored(tmp_path)
    transcript = read_transcript(tmp_path, "server")
    assert transcript.about == {"scale": "probs"}
    assert transcript.clients("upload") == [0, 1]
    found = [(e.round, e.client, a) for e, a in transcript.of("upload")]
    assert [(r, c) for r, c, _ in found] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert found[1][2]["probs:float16"].dtype == np.float16
    np.testing.assert_array_equal(found[1][2]["probs:float16"], np.full((2, 3), 1.1, np.float16))
    assert [e.round for e, _ in transcript.of("upload", client=1)] == [1, 2]


def test_other_clients_do_not_see_uploads_and_nobody_sees_the_lab(tmp_path: Path) -> None:
    stored(tmp_path)
    lab = TranscriptWriter(tmp_path, "lab", {})
    lab.add("model", {"0.weight": np.ones(3)}, round=2, client=0)
    lab.save()
    assert {e.what for e in read_transcript(tmp_path, "clients").entries} == {"public", "teacher"}
    assert {e.what for e in read_transcript(tmp_path, "server").entries} == {
        "public",
        "upload",
        "teacher",
    }
    assert {e.what for e in read_transcript(tmp_path, "lab").entries} == {"model"}
    with pytest.raises(SettingError, match="does not belong"):
        lab.add("upload", {}, round=1, client=0)


def test_what_is_torn_or_swapped_is_damaged(tmp_path: Path) -> None:
    stored(tmp_path)
    first, second = (tmp_path / "view" / f"upload_0000{r}_00000.npz" for r in (1, 2))
    first.write_bytes(second.read_bytes())
    with pytest.raises(Damaged, match="upload_00001_00000"):
        list(read_transcript(tmp_path, "server").of("upload"))
    torn = tmp_path / "view" / "upload_00002_00001.npz"
    torn.write_bytes(torn.read_bytes()[:-5])
    with pytest.raises(Damaged, match="upload_00002_00001"):
        list(read_transcript(tmp_path, "server").of("upload", client=1))
    index = tmp_path / "view" / "index.json"
    values = read_json(index)
    values["entries"][0]["file"] = "../truth/truth.npz"
    index.write_text(json.dumps(values))
    with pytest.raises(Damaged, match=r"index\.json is damaged"):
        read_transcript(tmp_path, "server")
    write_json(index, values)
    with pytest.raises(Damaged, match="outside"):
        read_transcript(tmp_path, "server")
    index.write_text("{")
    with pytest.raises(Damaged, match="index"):
        read_transcript(tmp_path, "server")


def test_a_resumed_run_keeps_the_rounds_it_goes_on_from(tmp_path: Path) -> None:
    stored(tmp_path)
    with pytest.raises(SettingError, match="already holds"):
        TranscriptWriter(tmp_path, "view", {})
    again = TranscriptWriter(tmp_path, "view", {"scale": "probs"}, resume_after=1)
    again.add("upload", {"probs": np.ones(1)}, round=2, client=0)
    again.save()
    entries = read_transcript(tmp_path, "server").entries
    assert [(e.what, e.round, e.client) for e in entries][-2:] == [
        ("upload", 1, 1),
        ("upload", 2, 0),
    ]
    assert len(list((tmp_path / "view").glob("*.npz"))) == len(entries)
    with pytest.raises(SettingError, match="stored already"):
        again.add("upload", {}, round=2, client=0)


def test_the_truth_is_apart_and_comes_back(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="truth"):
        read_ground_truth(tmp_path)
    truth = GroundTruth(
        np.zeros((2, 1, 1, 1)),
        np.array([0, 1]),
        np.array([0, 0]),
        np.array([True, False]),
        np.ones((1, 2)),
    )
    write_ground_truth(tmp_path, truth)
    np.testing.assert_array_equal(read_ground_truth(tmp_path).included, truth.included)
    with pytest.raises(SettingError, match="holds no view"):
        read_transcript(tmp_path, "server")
    with pytest.raises(SettingError, match="unknown adversary"):
        read_transcript(tmp_path, "sever")
