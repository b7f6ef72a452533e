"""What a hostile client sent is stored as it came, and an audit leaves out what is no knowledge."""

from pathlib import Path

import numpy as np
import pytest

from fedkd.audit.decoding import upload_probs
from fedkd.storage.transcript import TranscriptWriter, read_transcript

HONEST = {"ids": np.arange(3, dtype=np.int32), "logits": np.eye(3, dtype=np.float32)}
JUNK = {
    "ids of two axes": {"ids": np.zeros((3, 1), np.int32), "logits": HONEST["logits"]},
    "ids that are no whole numbers": {"ids": np.zeros(3), "logits": HONEST["logits"]},
    "a scalar": {"ids": HONEST["ids"], "logits": np.float32(1).reshape(())},
    "too few rows": {"ids": HONEST["ids"], "logits": np.eye(2, dtype=np.float32)},
    "other classes": {"ids": HONEST["ids"], "logits": np.zeros((3, 9), np.float32)},
    "no numbers": {"ids": HONEST["ids"], "logits": np.full((3, 3), np.nan, np.float32)},
    "coded as nothing": {"ids": HONEST["ids"], "logits:codes": np.zeros(1, np.uint8)},
}


@pytest.mark.parametrize("name", JUNK)
def test_a_message_that_is_no_knowledge_is_left_out_of_an_audit(name: str, tmp_path: Path) -> None:
    writer = TranscriptWriter(tmp_path, "view", {"scale": "logits"})
    for round_number, arrays in enumerate((HONEST, JUNK[name]), start=1):
        writer.add("upload", arrays, round=round_number, client=0)
    writer.save()
    found = upload_probs(read_transcript(tmp_path, "server"))
    assert sorted(found[0]) == [0, 1, 2]
    assert all(np.isclose(rows.sum(), 1) and rows.argmax() == i for i, rows in found[0].items())
