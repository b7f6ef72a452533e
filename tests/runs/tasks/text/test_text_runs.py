"""Whole runs on text through the simulator: repeated, resumed, coded, fused by any public-set
strategy."""

import json
import math
import re
import threading
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_text import CANARIES, TINY_TEXT, small_gru, text_experiment, text_records, text_scenario
from torch import nn

from fedkd.errors import SettingError
from fedkd.experiment.build import build
from fedkd.experiment.resume import resume
from fedkd.experiment.run import execute, run
from fedkd.federation.context import ClientContext
from fedkd.federation.round_records import RoundRecord
from fedkd.report import plots
from fedkd.report.console import ConsoleReport
from fedkd.report.folder import RunFolder
from fedkd.scenario.scenario import Scenario
from fedkd.tasks.text.text_task import TextTask
from fedkd.tasks.text.windows import IGNORED

VOLATILE = ("seconds", "resources", "folder", "versions", "engine")


class Wrapped(nn.Module):
    """A model that wraps its logits in an object, as Hugging Face models do."""

    def __init__(self, vocabulary_size: int, context: int) -> None:
        super().__init__()
        self.inner = small_gru(vocabulary_size, context)

    def forward(self, ids: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.inner(ids))


def wrapped(vocabulary_size: int, context: int) -> nn.Module:
    return Wrapped(vocabulary_size, context)


def figures(folder: Path) -> dict[str, Any]:
    """Return what a run wrote, without what time has a part in."""
    rounds = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    summary = json.loads((folder / "summary.json").read_text())
    return {
        "rounds": [{k: v for k, v in row.items() if k not in VOLATILE} for row in rounds],
        "summary": {k: v for k, v in summary.items() if k not in VOLATILE},
    }


@pytest.mark.slow
def test_a_run_repeats_with_any_number_of_workers_and_when_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {
        "rounds": 2,
        "text_canaries": {**CANARIES, "upload_history": True},
        "privacy": {"name": "swing", "detector": "oracle"},
    }
    whole = run(text_scenario(**changes), tmp_path / "whole")
    run(text_scenario(**changes, engine={"name": "local", "workers": 2}), tmp_path / "two")
    assert figures(tmp_path / "two") == figures(tmp_path / "whole")
    assert whole["exposure"]["by_adversary"].keys() == {
        "own_model",
        "server_uploads",
        "server_history",
        "server_student",
        "peers",
    }

    class Ended(Exception):
        pass

    add_round = RunFolder.add_round

    def failing(self: RunFolder, row: Any, *rest: Any) -> None:
        add_round(self, row, *rest)
        if row["round"] == 2:
            raise Ended

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "add_round", failing)
        with pytest.raises(Ended):
            run(text_scenario(**changes), tmp_path / "parts")
    resume(text_scenario(**changes), tmp_path / "parts")
    assert figures(tmp_path / "parts") == figures(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_and_trigger")
def test_text_runs_on_ray_to_the_figures_of_the_local_engine(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "rounds": 2,
        "text_canaries": CANARIES,
        "privacy": {"name": "swing", "detector": "pattern"},
    }
    run(text_scenario(**changes), tmp_path / "local")
    run(text_scenario(**changes, engine={"name": "ray", "workers": 1}), tmp_path / "ray")
    assert figures(tmp_path / "ray") == figures(tmp_path / "local")


@pytest.mark.fast(1)
@pytest.mark.parametrize(
    "strategy",
    [
        "knfu",
        "dsfl",
        "fedmd",
        "cronus",
        "comet",
        "ktpfl",
        "scarlet",
        "cfd",
        "feddf",
        "fedavg",
        "fedprox",
    ],
)
def test_strategies_of_public_samples_and_of_weights_run_on_tokens(strategy: str) -> None:
    changes: dict[str, Any] = {"strategy": strategy}
    if strategy == "cfd":
        changes["strategy"] = {"name": "cfd", "server": "tiny_text:small_gru"}
    if strategy in ("fedavg", "fedprox", "feddf"):
        changes["models"] = ["tiny_text:small_gru"]
    (record,) = text_records(**changes)
    assert record.knowledge_sha256 is not None
    assert all(
        client.status == "ok" and client.after_distillation.global_accuracy is not None
        for client in record.clients
    )


def test_public_ids_are_the_positions_of_public_text_that_have_a_next_token() -> None:
    task = text_experiment().context.task
    inputs, targets = task.public_set()
    assert task.public_size == int((targets != IGNORED).sum()) == len(task.public_labels)
    ids = torch.tensor([7, 3, 41])
    model = nn.Embedding(task.classes, task.classes)
    every = model(inputs)[targets != IGNORED]
    assert torch.equal(task.ask().predict(model), every)
    assert torch.equal(task.ask(ids).predict(model), every[ids])
    assert torch.equal(task.public_labels[ids], targets[targets != IGNORED][ids])
    assert torch.equal(task.public_sequences, (targets != IGNORED).nonzero()[:, 0])


def test_a_window_of_public_text_is_taught_to_one_of_two_clients_as_a_whole() -> None:
    """The other one is its best predictor; what top k left out has a loss too."""
    made = text_experiment(
        strategy="fedmkt", public={"size": 14, "labeled": True}, codec={"name": "top_k", "k": 4}
    )
    records: list[RoundRecord] = []
    execute(made, records.append, threading.Event())
    windows = made.server.template.sequences
    assert windows is not None
    assert made.server.teachers is not None
    taught = [made.server.teachers.of(i) for i in range(2)]
    found = [set() if t is None else set(windows[t.ids].tolist()) for t in taught]
    assert found[0].isdisjoint(found[1])
    assert found[0] | found[1] == set(windows.tolist())
    assert sum(len(t.ids) for t in taught if t is not None) == len(windows)
    assert records[0].metrics["taught"] == pytest.approx(0.5)


def test_distilling_some_positions_is_the_mean_over_them_alone() -> None:
    task = text_experiment().context.task
    model, ids = nn.Embedding(task.classes, task.classes), torch.tensor([5, 200, 2])
    asked = task.ask(ids)
    target = torch.rand(3, task.classes).softmax(-1)
    batch = torch.arange(asked.size)
    found = asked.taught_loss(
        model, batch, lambda logits, rows: F.cross_entropy(logits, target[rows])
    )
    assert asked.size <= 3
    assert found.item() == pytest.approx(
        F.cross_entropy(task.ask().predict(model)[ids], target).item(), rel=1e-6
    )


def test_a_windows_loss_depends_on_no_other_window() -> None:
    """As the clipped gradients of DP-SGD must: a short last window weighs as much as a full one."""
    task = text_experiment().context.task
    model, (x, y) = nn.Embedding(task.classes, task.classes), task.public_set()
    alone = [task.training_loss(model, x[i : i + 1], y[i : i + 1]).item() for i in range(len(x))]
    assert task.training_loss(model, x, y).item() == pytest.approx(
        sum(alone) / len(alone), rel=1e-5
    )


DP_SGD: dict[str, Any] = {
    "privacy": {"name": "dp_sgd", "epsilon": 8.0},
    "models": ["tiny_text:small_decoder"],
}


def private_windows(context: ClientContext, without: int | None = None) -> Counter[Any]:
    """The windows that client 0 trains on, with or without one of its texts."""
    rows = np.delete(context.train_rows(0), [] if without is None else without)
    x, y = context.task.training_set(rows, (0,))
    return Counter((tuple(a), tuple(b)) for a, b in zip(x.tolist(), y.tolist(), strict=True))


@pytest.mark.fast(1)
@pytest.mark.parametrize("length", [20, 128])
def test_leaving_a_text_out_changes_its_own_windows_alone_under_dp_sgd(length: int) -> None:
    context = text_experiment(tokens={"context": length}, **DP_SGD).context
    everything = private_windows(context)
    for text in (0, 3, 7):
        others = private_windows(context, without=text)
        assert not others - everything
        assert 1 <= (everything - others).total() <= context.enforcer.plan.group


def test_leaving_a_text_out_moves_all_that_are_packed_behind_it() -> None:
    context = text_experiment(tokens={"context": 128}).context
    everything = private_windows(context)
    assert (everything - private_windows(context, without=0)).total() > everything.total() / 2


def test_a_text_has_as_many_windows_as_the_claim_counts() -> None:
    tokens = {"context": 20, "windows_per_text": 2}
    experiment = text_experiment(tokens=tokens, **DP_SGD)
    task, plan = experiment.context.task, experiment.context.enforcer.plan
    each = [len(task.training_set(np.array([row]), (0,))[0]) for row in range(20)]
    assert max(each) == plan.group == 2
    unbounded = text_experiment(tokens={"context": 20}, **DP_SGD)
    free, rows = unbounded.context, unbounded.context.division.train
    longest = max(
        len(free.task.training_set(np.array([row]), (0,))[0]) for row in np.concatenate(rows)
    )
    assert free.enforcer.plan.group == longest > 2
    assert f"it has {longest} of them at most (the largest" in unbounded.plan.privacy["reason"]
    assert "it has 2 of them at most (by a setting)" in experiment.plan.privacy["reason"]
    assert "up to 2 of a record" in experiment.plan.privacy["reason"]


def test_what_is_measured_are_next_tokens() -> None:
    experiment = text_experiment()
    context = experiment.context
    model, (x, y) = context.borrow_model(0)[0], context.global_test
    found = context.task.evaluate(model, (x, y))
    rows = [(row, place) for row, place in (y != IGNORED).nonzero().tolist()]
    with torch.no_grad():
        log_probs = torch.log_softmax(model(x), dim=-1)
    right = [log_probs[r, p].argmax() == y[r, p] for r, p in rows]
    assert found.accuracy == pytest.approx(sum(map(float, right)) / len(rows))
    surprisal = [-log_probs[r, p, y[r, p]].item() for r, p in rows]
    assert found.nll == pytest.approx(sum(surprisal) / len(rows), rel=1e-5)


def test_a_share_of_the_publics_own_tokens_is_part_of_what_is_distilled() -> None:
    """0.25 CE(next token, all positions of the windows) + 0.75 of the comparison with a teacher."""
    plain, shared = (
        text_experiment(tokens={"label_share": share}).context.task for share in (0.0, 0.25)
    )
    model, ids = nn.Embedding(plain.classes, plain.classes), torch.tensor([5, 200, 2])
    target = torch.rand(3, plain.classes).softmax(-1)

    def compare(logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits, target[rows])

    asked = shared.ask(ids)
    batch = torch.arange(asked.size)
    own = F.cross_entropy(
        model(asked.inputs).flatten(0, 1), asked.targets.flatten(), ignore_index=IGNORED
    )
    taught = plain.ask(ids).taught_loss(model, batch, compare)
    assert asked.taught_loss(model, batch, compare).item() == pytest.approx(
        (0.25 * own + 0.75 * taught).item(), rel=1e-6
    )


@pytest.mark.parametrize("skip", ["pattern", "oracle"])
def test_nobody_is_asked_about_positions_that_are_skipped(skip: str) -> None:
    every, some = (
        text_experiment(text_canaries=CANARIES, tokens={"skip": which}).context.task
        for which in ("none", skip)
    )
    # The only digits of this text are those of the secrets' context.
    assert some.public_size == every.public_size - int(every.flagged().sum()) < every.public_size
    assert not some.flagged().any()
    assert torch.equal(some.public_inputs, every.public_inputs)
    assert torch.equal(some.public_labels, every.public_labels[~every.flagged()])


@pytest.mark.slow
def test_the_summary_has_bits_a_token_and_a_twin_without_exchange(tmp_path: Path) -> None:
    summary = run(text_scenario(baseline="local_only"), tmp_path / "run")
    bits = summary["bits_per_token"]
    assert bits["balanced test"] == pytest.approx(
        summary["global_nll_after_training"] / math.log(2)
    )
    assert 0 < bits["own distribution"] < math.log2(40)
    assert summary["local_only"]["global_accuracy_after_training"] > 0
    assert summary["exposure"] is None


def test_clients_get_whole_topics() -> None:
    context = text_experiment().context
    topics = [set(context.prepared.labels[rows].tolist()) for rows in context.division.train]
    assert not topics[0] & topics[1]
    assert len(topics[0] | topics[1]) == 7
    for changes in (
        {"name": "dirichlet", "alpha": 1.0},
        {"name": "iid"},
        {"name": "natural_id", "column": "label"},
    ):
        assert len(text_experiment(partition=changes).context.division.train) == 2


@pytest.mark.parametrize(
    "vocabulary", [{"vocabulary": "bytes"}, {"vocabulary": "byte_pairs", "vocabulary_size": 300}]
)
def test_vocabularies_are_made_of_public_text(vocabulary: dict[str, Any]) -> None:
    changes: dict[str, Any] = {"tokens": {"context": 80, **vocabulary}, "text_canaries": CANARIES}
    assert text_experiment(**changes).context.task.classes == vocabulary.get("vocabulary_size", 257)
    (record,) = text_records(**changes, train={"epochs": 1})
    assert all(client.status == "ok" for client in record.clients)


@pytest.mark.slow
def test_fewer_entries_of_each_row_cost_fewer_bytes() -> None:
    (full,), (some,), (coarse,) = (
        text_records(strategy="dsfl", **changes, train={"epochs": 1})
        for changes in (
            {},
            {"codec": {"name": "top_k", "k": 4}},
            {"codec": {"name": "quantized", "bits": 2}},
        )
    )
    positions = text_experiment().context.task.public_size
    assert full.clients[0].bytes_up >= 4 * positions * text_experiment().context.task.classes
    assert some.clients[0].bytes_up < full.clients[0].bytes_up / 3
    assert coarse.clients[0].bytes_up < full.clients[0].bytes_up / 3


def test_any_causal_model_with_logits_takes_part() -> None:
    (record,) = text_records(models=[f"{__name__}:wrapped"])
    assert all(client.status == "ok" for client in record.clients)


@pytest.mark.slow
def test_a_round_may_ask_about_some_positions() -> None:
    for choice in ("random", "disagreement"):
        first, second = text_records(
            rounds=2, public={"size": 20, "per_round": 50, "sampling": choice}
        )
        asked = [record.clients[0].bytes_up for record in (first, second)]
        assert asked[1] <= asked[0]
        assert asked[1] < 50 * 4 * 45
    with pytest.raises(
        SettingError, match=r"public.per_round=100000 is more than the public set has"
    ):
        text_experiment(public={"size": 20, "per_round": 100_000})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"strategy": "fd"}, "next tokens are no classes"),
        ({"strategy": "fedproto"}, "next tokens are no classes"),
        ({"strategy": "fedcache"}, "next tokens are no classes"),
        ({"strategy": {"name": "selective_fd"}}, "density of images"),
        ({"public_data": "noise"}, "public_data=noise does not go with data=sentences"),
        ({"public": {"size": 20, "augmented_views": 2}}, "public.augmented_views does not go with"),
        (
            {"public": {"size": 20, "corruption": "blur", "severity": 1}},
            "public.corruption does not go with",
        ),
        (
            {"distill": {"student_augmentation": "shift"}},
            "distill.student_augmentation does not go with",
        ),
        ({"attacks": "label_swap"}, "attacks does not go with"),
        ({"heads": "dual"}, "heads does not go with"),
        ({"audit": "store"}, "audit does not go with"),
        ({"models": ["mlp"]}, "gru"),
        ({"strategy": "fedavg", "public": {"size": 0}}, "made of public text"),
        ({"batch_clients": ["tiny_text:small_gru"]}, "only image models"),
        ({"tokens": {"context": 3}, "text_canaries": CANARIES}, "does not fit in a context of 3"),
        ({"text_canaries": {**CANARIES, "repeats": 0}}, "repeats must be >= 1"),
        ({"text_canaries": {**CANARIES, "visits": "never"}}, "visit_times"),
        ({"test": {"global_size": 80}}, "more than half of the samples"),
        ({"tokens": {"vocabulary_size": 300}}, "vocabulary_size"),
        ({"tokens": {"skip": "oracle"}}, "skip=oracle needs canaries"),
        ({"tokens": {"skip": "pattern"}}, "skip=pattern would do nothing"),
        ({"tokens": {"label_share": 1.0}}, "label_share must be below 1"),
        ({"tokens": {"windows_per_text": 2}}, "windows_per_text=2 would do nothing"),
        ({"tokens": {"windows_per_text": 0}}, "windows_per_text must be >= 1"),
        ({"text_canaries": {**CANARIES, "upload_history": True}}, "upload_history=true would do"),
        ({"text_canaries": {**CANARIES, "names": ["anna"]}}, "go together"),
        (
            {"text_canaries": {**CANARIES, "prefix": "{name} ", "names": ["anna", "joanna"]}},
            "occurs in",
        ),
    ],
    ids=str,
)
def test_what_makes_no_sense_on_text_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingError, match=reason):
        text_experiment(**changes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tokens": {}, "text_canaries": CANARIES}, "text_canaries=form are secrets in texts"),
        ({"tokens": {"context": 32}}, "tokens.context would do nothing"),
    ],
)
def test_what_is_for_text_is_refused_beside_images(changes: dict[str, Any], reason: str) -> None:
    images = {"data": {"name": "digits"}, "partition": {"name": "iid"}, "models": ["mlp"]}
    with pytest.raises(SettingError, match=reason):
        build(Scenario.parse({**TINY_TEXT, **images, **changes}), threading.Event())


def test_the_plan_the_tables_and_the_picture_say_whether_they_count_windows_or_texts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan = text_experiment().plan
    assert plan.label_counts.sum() < sum(plan.train_sizes)  # a text is more than one window
    assert (
        plots.partition(plan).axes[0].get_title()
        == "Training texts by class and client (whole_ids)"
    )
    ConsoleReport().plan(plan, "out")
    sizes = f"{min(plan.train_sizes)} to {max(plan.train_sizes)}"
    assert re.search(rf"with {sizes} \(median \d+\) training windows of", capsys.readouterr().out)


@pytest.mark.parametrize("share", [None, 0.5])
def test_public_text_may_be_of_another_data_set(tmp_path: Path, share: float | None) -> None:
    """Words that no sentence of the clients has, in the vocabulary, too."""
    words = [f"zq{chr(97 + i)} zz." for i in range(20)]
    (tmp_path / "other.jsonl").write_text("".join(json.dumps({"text": w}) + "\n" for w in words))
    source = {"name": "jsonl", "path": str(tmp_path / "other.jsonl"), "inputs": ["text"]}
    public = {"size": 14, "foreign_share": share}
    made = text_experiment(public_data=source, public=public)
    task = made.context.task
    assert isinstance(task, TextTask)
    tokens = task.public.inputs.flatten().tolist()
    text = b"".join(task.vocabulary.token_bytes(token) for token in tokens).decode()
    assert text.count("zz.") == (14 if share is None else 7)
    assert ("the" in text) is (share is not None)
    assert "14 texts of jsonl" in made.plan.public_set
    assert text_records(public_data=source, public=public)[-1].knowledge_sha256


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("wine", "public_data holds no texts"),
        ({"name": "sentences", "texts": 70}, "the clients' own data set"),
        ({"name": "sentences", "texts": 71}, None),
    ],
)
def test_public_text_of_the_wrong_kind_is_refused(source: object, said: str | None) -> None:
    with pytest.raises(SettingError, match=said) if said else nullcontext():
        text_experiment(public_data=source)
