"""Codecs in a run: what both sides remember agrees whatever fails, and every byte is counted."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished import finished_records
from tiny import records, scenario

from fedkd.codecs import CODECS, Delta, coded_bytes
from fedkd.errors import SettingError, UploadRejected
from fedkd.experiment.resume import resume
from fedkd.experiment.run import run
from fedkd.flower import records as wire
from fedkd.flower.wire_arrays import unpack_arrays
from fedkd.storage.checkpoint import CheckpointFolder

STATEFUL: list[dict[str, Any]] = [
    {"name": "delta", "bits": 1},
    {"name": "delta", "bits": None},
    {"name": "cached", "duration": 2},
]
LOSSLESS: list[dict[str, Any]] = [{"name": "full"}, {"name": "delta", "bits": None}]


def figures(found: Any) -> list[Any]:
    return [
        (
            r.knowledge_sha256,
            [(c.status, c.after_distillation, c.after_training) for c in r.clients],
        )
        for r in found
    ]


@pytest.mark.fast(1)
@pytest.mark.parametrize("order", ["train_first", "distill_first"])
@pytest.mark.parametrize("strategy", ["dsfl", "knfu"])
def test_a_codec_that_loses_nothing_changes_no_figure(strategy: str, order: str) -> None:
    plain = finished_records(strategy=strategy, round_order=order, rounds=3)
    for codec in LOSSLESS:
        assert figures(
            records(strategy=strategy, round_order=order, rounds=3, codec=codec)
        ) == figures(plain)


@pytest.mark.fast(2)
@pytest.mark.parametrize("name", sorted(CODECS))
def test_every_codec_runs_at_any_number_of_workers_to_the_same_bit(name: str) -> None:
    one, two = (
        records(
            strategy="fedmd" if name == "low_rank" else "dsfl",  # soft labels have no low rank
            codec=name,
            rounds=3,
            participation=0.75,
            engine={"name": "local", "workers": n},
        )
        for n in (1, 2)
    )
    assert figures(one) == figures(two)
    assert [[c.bytes_up for c in r.clients] for r in one] == [
        [c.bytes_up for c in r.clients] for r in two
    ]
    assert {c.status for r in one for c in r.clients} == {"ok", "absent"}


@pytest.mark.fast(1)
@pytest.mark.parametrize("codec", STATEFUL, ids=str)
def test_a_resumed_run_remembers_what_was_sent(
    codec: dict[str, Any], tmp_path: Path, monkeypatch: Any
) -> None:
    changes = {
        "strategy": "dsfl",
        "codec": codec,
        "rounds": 4,
        "participation": 0.75,
        "round_order": "distill_first",
    }
    run(scenario(**changes), tmp_path / "whole")
    save = CheckpointFolder.save

    def failing(self: CheckpointFolder, round_number: int, *rest: Any, **named: Any) -> None:
        if round_number == 3:
            raise KeyboardInterrupt
        save(self, round_number, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointFolder, "save", failing)
        with pytest.raises(KeyboardInterrupt):
            run(scenario(**changes), tmp_path / "parts")
    resume(scenario(**changes), tmp_path / "parts")
    whole, parts = (
        [json.loads(line) for line in (tmp_path / folder / "rounds.jsonl").read_text().splitlines()]
        for folder in ("whole", "parts")
    )
    assert [{**row, "seconds": 0} for row in parts] == [{**row, "seconds": 0} for row in whole]


@pytest.mark.fast(2)
@pytest.mark.parametrize("lost", ["download", "upload"])
@pytest.mark.parametrize("codec", STATEFUL, ids=str)
def test_after_a_lost_message_both_sides_start_over(
    codec: dict[str, Any], lost: str, monkeypatch: Any
) -> None:
    """Client 1 raises in round 2, before it kept anything or just after; in round 3 it is back."""
    from fedkd.flower import client_app

    take_part = client_app.take_part

    def losing(context: Any, client_id: int, download: Any) -> Any:
        unlucky = (client_id, download.round) == (1, 2) and "train" in download.steps
        if unlucky and lost == "download":
            raise RuntimeError("lost")
        upload = take_part(context, client_id, download)
        if unlucky:
            raise RuntimeError("lost")
        return upload

    monkeypatch.setattr(client_app, "take_part", losing)
    found = records(strategy="dsfl", codec=codec, rounds=4)
    assert [r.clients[1].status for r in found] == ["ok", "failed", "ok", "ok"]
    if codec["name"] == "delta":
        # What is sent anew is a whole message, as in the first round; then changes again.
        assert found[2].clients[1].bytes_up >= found[0].clients[1].bytes_up - 8
    assert all(c.status == "ok" for r in found for c in r.clients if c.client_id != 1)


def test_an_upload_that_builds_on_nothing_is_rejected_and_the_next_starts_over(
    monkeypatch: Any,
) -> None:
    decode, calls = Delta.decode, []

    def failing(self: Delta, arrays: Any, memory: Any) -> Any:
        calls.append(memory is None)
        if len(calls) == 6:  # round 2, a client's upload
            raise UploadRejected("damaged on the way")
        return decode(self, arrays, memory)

    monkeypatch.setattr(Delta, "decode", failing)
    found = records(
        strategy="dsfl", codec={"name": "delta", "bits": 1}, rounds=3, round_order="distill_first"
    )
    statuses = [c.status for r in found for c in r.clients]
    assert sum(status != "ok" for status in statuses) == 1
    assert all(c.status == "ok" for c in found[2].clients)


@pytest.mark.slow
def test_one_bit_labels_cost_a_tenth_and_weights_an_eighth() -> None:
    full, labels = (
        records(strategy="dsfl", codec=c)[-1] for c in ("full", {"name": "quantized", "bits": 1})
    )
    assert sum(c.bytes_up for c in labels.clients) * 6 < sum(c.bytes_up for c in full.clients)
    weights = records(strategy="fedavg", models=["mlp"], codec={"name": "quantized", "bits": 4})[-1]
    whole = finished_records(strategy="fedavg", models=["mlp"])[-1]
    assert (
        7 < sum(c.bytes_up for c in whole.clients) / sum(c.bytes_up for c in weights.clients) <= 8
    )


def test_clients_with_fewer_bits_send_and_are_sent_fewer_bytes() -> None:
    codec = {"name": "quantized", "bits": [8, 4, 2, 1]}
    found = [
        records(strategy="dsfl", codec=codec, engine={"name": "local", "workers": n})
        for n in (1, 2)
    ]
    clients = found[0][-1].clients
    assert [c.status for c in clients] == ["ok"] * 4
    for sizes in ([c.bytes_up for c in clients], [c.bytes_down for c in clients]):
        assert sizes == sorted(set(sizes), reverse=True)
    assert figures(found[0]) == figures(found[1])


def test_entropy_bytes_are_those_of_the_arrays_that_travelled(monkeypatch: Any) -> None:
    seen: list[float] = []
    weigh = wire.upload_size

    def watching(content: Any) -> Any:
        arrays = unpack_arrays(content["knowledge"]) if "knowledge" in content else {}
        seen.append(coded_bytes({name: np.ascontiguousarray(a) for name, a in arrays.items()}))
        return weigh(content)

    monkeypatch.setattr(wire, "upload_size", watching)
    found = records(strategy="dsfl", codec="float16", rounds=1)
    assert sum(c.entropy_bytes_up for c in found[0].clients) == pytest.approx(sum(seen))
    assert all(0 < c.entropy_bytes_up < c.bytes_up for c in found[0].clients)
    assert all(0 < c.entropy_bytes_down < c.bytes_down for c in found[0].clients)


def test_a_codec_that_makes_no_sense_is_refused_before_the_run() -> None:
    with pytest.raises(
        SettingError, match=r"codec=cached cannot code what strategy=fd sends .*by their ids"
    ):
        records(strategy="fd", codec="cached")
    with pytest.raises(SettingError, match="codec=delta would do nothing: strategy=local_only"):
        records(strategy="local_only", codec="delta")
    with pytest.raises(SettingError, match="bits must be <= 8"):
        records(strategy="dsfl", codec={"name": "quantized", "bits": 9})


@pytest.mark.slow
def test_a_client_that_diverged_is_rejected_with_the_reason_under_every_codec() -> None:
    for name in CODECS:
        models = ["mlp", "toys:diverged"]
        strategy = "fedmd" if name == "low_rank" else "dsfl"  # soft labels have no low rank
        found = records(strategy=strategy, codec=name, models=models, rounds=1)[0]
        assert [c.status for c in found.clients] == ["ok", "rejected"] * 2
        assert "NaN" in found.clients[1].reason
