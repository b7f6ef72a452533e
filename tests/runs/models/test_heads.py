"""Heads in a run: what clients minimize, upload and are judged by; their twin; what they go with,
and what not."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import records, scenario
from torch import Tensor, nn

from fedkd.errors import SettingError
from fedkd.experiment.baseline import baseline_key
from fedkd.experiment.build import Experiment, build
from fedkd.experiment.run import execute
from fedkd.federation.batched_clients import reason_unbatched
from fedkd.federation.client import take_part
from fedkd.federation.context import ClientContext
from fedkd.messages import Download
from fedkd.models.dual_head import DualHead
from fedkd.models.factory import ImageModelSpec
from fedkd.models.heads import HEADS, label_logits, label_loss
from fedkd.models.stage_heads import StageHeads
from fedkd.privacy.dp_sgd_history import StepHistory
from fedkd.privacy.mechanisms import Schedule
from fedkd.privacy.private_training import check_sample_gradients, optimize_privately
from fedkd.runtime.seeding import numpy_stream, torch_seed

DUAL = {"name": "dual", "label_weight": 0.4, "label_share": 0.3, "sharpening": 0.5}
FURTHER = ["dual", "self_distillation"]
with_further_heads = pytest.mark.parametrize("heads", FURTHER)


def experiment(**changes: Any) -> Experiment:
    return build(scenario(**changes), threading.Event())


def ran(**changes: Any) -> tuple[Experiment, list[Any]]:
    stop, found = threading.Event(), []
    made = build(scenario(**changes), stop)
    execute(made, found.append, stop)
    return made, found


# A second implementation of a round with two heads: plain tensors, one client after the other.


def steps(
    context: ClientContext, client: int, purpose: str, size: int, phase: Any
) -> list[np.ndarray]:
    stream = numpy_stream(context.seed, "client", client, "round", 1, f"{purpose} batches")
    orders = [stream.permutation(size) for _ in range(phase.epochs)]
    return [
        order[i : i + phase.batch_size]
        for order in orders
        for i in range(0, size, phase.batch_size)
    ]


def naive_heads(model: DualHead, x: Tensor) -> tuple[Tensor, Tensor]:
    """Both heads' logits of a perceptron: flatten, linear, ReLU, linear."""
    features = model.model[1](x.flatten(1)).relu()
    head = model.model[3]
    return F.linear(features, head.weight, head.bias), F.linear(
        features, model.taught.weight, model.taught.bias
    )


def naive_mixture(model: DualHead, x: Tensor) -> Tensor:
    first, second = naive_heads(model, x)
    return 0.3 * first.softmax(dim=1) + 0.7 * (second / 0.5).softmax(dim=1)


def naive_round(context: ClientContext) -> tuple[list[DualHead], Tensor]:
    """Train every client, fuse by the mean of soft labels at T = 2, and distil it."""
    models, public = [], context.public_inputs
    for client, architecture in enumerate(context.architectures):
        model = architecture.build(torch_seed(context.seed, "client", client, "weights"))
        assert isinstance(model, DualHead)
        x, y = context.samples(context.train_rows(client))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for batch in steps(context, client, "train", len(y), context.training):
            optimizer.zero_grad()
            (0.4 * F.cross_entropy(naive_heads(model, x[batch])[0], y[batch])).backward()
            optimizer.step()
        models.append(model)
    with torch.no_grad():
        said = torch.stack(
            [naive_mixture(model, public).log().div(2.0).softmax(dim=1) for model in models]
        )
    teacher = said.mean(dim=0)
    for client, model in enumerate(models):
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for batch in steps(context, client, "distill", len(public), context.distillation):
            optimizer.zero_grad()
            log_probs = (naive_heads(model, public[batch])[1] / 2.0).log_softmax(dim=1)
            (0.6 * 4.0 * F.kl_div(log_probs, teacher[batch], reduction="batchmean")).backward()
            optimizer.step()
    return models, teacher


@pytest.mark.slow
def test_a_round_with_two_heads_is_that_of_a_naive_loop_and_judged_by_the_mixture():
    made, found = ran(
        models=["mlp"],
        strategy={"name": "dsfl", "aggregation": "mean"},
        heads=DUAL,
        rounds=1,
        train={"epochs": 2},
        distill={"temperature": 2.0, "epochs": 2},
    )
    context = made.context
    models, _ = naive_round(context)
    for client, model in enumerate(models):
        state = context.store.get(client)
        assert state is not None
        for name, tensor in model.state_dict().items():
            torch.testing.assert_close(state[name], tensor, rtol=1e-4, atol=1e-5)
        x, y = context.global_test
        right = (naive_mixture(model, x).argmax(dim=1) == y).double().mean().item()
        assert found[-1].clients[client].after_distillation.global_accuracy == pytest.approx(right)


@pytest.mark.parametrize("label_share", [0.0, 1.0])
def test_the_share_of_a_head_decides_what_is_uploaded(label_share: float):
    runs = [
        records(strategy="dsfl", heads={"name": "dual", "label_share": share}, rounds=1)[-1]
        for share in (label_share, 0.5)
    ]
    assert runs[0].knowledge_sha256 != runs[1].knowledge_sha256
    assert [c.train_loss for c in runs[0].clients] == [c.train_loss for c in runs[1].clients]


def test_stages_are_trained_by_the_layered_loss_before_anything_is_uploaded():
    made, found = ran(
        models=["mlp"],
        strategy="fedmd",
        heads={"name": "self_distillation", "stage_weight": 0.5},
        rounds=1,
    )
    context = made.context
    for client, architecture in enumerate(context.architectures):
        model = architecture.build(torch_seed(context.seed, "client", client, "weights"))
        assert isinstance(model, StageHeads)
        x, y = context.samples(context.train_rows(client))
        optimizer, losses = torch.optim.Adam(model.parameters(), lr=1e-3), []
        for batch in steps(context, client, "train", len(y), context.training):
            hidden = model.model[1](x[batch].flatten(1))
            last, stage = model.model[3](hidden.relu()), model.heads[0](hidden)
            target = (last.detach() / 3).softmax(dim=1)
            apart = F.kl_div((stage / 3).log_softmax(dim=1), target, reduction="batchmean")
            loss = (
                F.cross_entropy(last, y[batch]) + F.cross_entropy(stage, y[batch]) + 0.5 * 9 * apart
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item() * len(batch))
        assert found[-1].clients[client].train_loss == pytest.approx(sum(losses) / len(y), rel=1e-5)


# As parts of a run.


@pytest.mark.fast(1)
@with_further_heads
@pytest.mark.parametrize("strategy", ["knfu", "cfd"])
def test_a_run_with_heads_repeats_to_the_bit_at_any_number_of_workers(heads: str, strategy: str):
    one, other = (
        records(
            heads=heads,
            strategy=strategy,
            train={"optimizer_state": "kept"},
            engine={"name": "local", "workers": n},
        )
        for n in (1, 2)
    )
    assert [r.knowledge_sha256 for r in one] == [r.knowledge_sha256 for r in other]
    assert [c.status for c in one[-1].clients] == ["ok"] * 4
    assert [c.after_distillation for c in one[-1].clients] == [
        c.after_distillation for c in other[-1].clients
    ]


@pytest.mark.fast(2)
@pytest.mark.parametrize(
    "changes",
    [
        {"round_order": "distill_first", "strategy": "fedmd"},
        {
            "strategy": "knfu",
            "distill": {"confidence_gate": True, "relational_weight": 0.5, "margin_weights": True},
        },
        {"strategy": "selective_fd"},
        {"strategy": "dsfl", "codec": "quantized"},
        {"strategy": "fedmd", "attacks": "sign_flip", "robust": "median"},
        {"strategy": "ktpfl", "public": {"labeled": True}, "train": {"public_epochs": 1}},
    ],
    ids=str,
)
def test_two_heads_go_with_what_clients_are_asked_and_taught(changes: dict[str, Any]):
    assert [c.status for c in records(heads="dual", **changes)[-1].clients] == ["ok"] * 4


def test_the_weights_of_stages_may_be_averaged():
    assert [
        c.status
        for c in records(heads="self_distillation", strategy="fedavg", models=["mlp"])[-1].clients
    ] == ["ok"] * 4


@pytest.mark.parametrize("strategy", ["fedproto", "feddf"])
def test_models_of_two_architectures_share_frozen_classes(strategy: str):
    """Their features are equally wide without pooling, and the vectors stay at home."""
    made, found = ran(heads="shared_classes", strategy=strategy, models=["mlp", "cnn"], rounds=2)
    assert [c.status for c in found[-1].clients] == ["ok"] * 4
    state = made.context.store.get(0)
    assert state is not None
    assert [name for name in state if name.startswith("3.")] == ["3.0.weight", "3.0.bias"]


# The twin.


@pytest.mark.slow
def test_the_twin_of_two_heads_trains_alike_and_predicts_by_the_head_for_labels():
    """Its training is the run's own up to the first teacher, whatever the shares and the loss of
    distillation are."""
    shared = {"strategy": "dsfl", "rounds": 2, "round_order": "distill_first"}
    run = records(heads=DUAL, **shared)[0]
    alone = {"name": "dual", "label_weight": 0.4, "label_share": 1.0}
    twin = records(heads=alone, strategy="local_only", rounds=1)[-1]
    assert [c.train_loss for c in run.clients] == [c.train_loss for c in twin.clients]
    first_head = records(heads=alone, **shared)[0]
    assert [c.after_training for c in first_head.clients] == [
        c.after_training for c in twin.clients
    ]
    keys = [
        baseline_key(experiment(strategy="dsfl", heads=heads))
        for heads in (
            DUAL,
            alone,
            {"name": "dual", "label_weight": 0.4, "label_share": 0.0},
            "dual",
            "none",
            "self_distillation",
        )
    ]
    assert keys[0] == keys[1] == keys[2]
    assert len(set(keys)) == 4


def test_a_run_prints_its_heads_and_stands_beside_their_twin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    from fedkd.experiment.run import run

    changes: dict[str, Any] = {"report": {"console": True}, "baseline": "local_only", "rounds": 1}
    summary = run(scenario(heads=DUAL, strategy="dsfl", **changes), tmp_path / "run")
    assert "dual (label_weight=0.4, label_share=0.3, sharpening=0.5)" in " ".join(
        capsys.readouterr().out.split()
    )
    alone = {"name": "dual", "label_weight": 0.4, "label_share": 1.0}
    twin = records(heads=alone, strategy="local_only", rounds=1)[-1]
    expected = sum(c.after_training.global_accuracy for c in twin.clients) / 4
    assert summary["local_only"]["global_accuracy_after_training"] == pytest.approx(expected)


# DP-SGD.


@pytest.mark.parametrize("heads", [*FURTHER, "shared_classes"])
@pytest.mark.parametrize("model", ["mlp", "cnn", "resnet", "vit"])
def test_single_samples_gradients_are_found_through_the_heads(heads: str, model: str):
    built = ImageModelSpec(model, (1, 8, 8), 4, HEADS[heads]()).build(0)
    few = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    check_sample_gradients(built, few, model, lambda x: label_logits(built, x))


@with_further_heads
def test_private_training_through_heads_is_that_of_the_definition(heads: str):
    """Sample by sample, clipped in sum over all that the phase trains; noise is too small to
    see."""
    size, generator = 12, torch.Generator().manual_seed(0)
    x, y = torch.randn(size, 1, 8, 8, generator=generator), torch.arange(size) % 4
    schedule = Schedule(sample_rate=0.5, steps=3, expected_batch_size=6.0)
    ours, naive = (ImageModelSpec("mlp", (1, 8, 8), 4, HEADS[heads]()).build(0) for _ in range(2))

    def own_loss(model: nn.Module) -> Any:
        return lambda batch: label_loss(model, x[batch], y[batch])

    optimize_privately(
        ours,
        size,
        own_loss(ours),
        torch.optim.SGD(ours.parameters(), lr=0.1),
        schedule,
        noise_multiplier=1e-9,
        clip_norm=0.3,
        batches=numpy_stream(0, "batches"),
        noise=numpy_stream(0, "noise"),
        history=StepHistory(),
    )
    batches, parameters = numpy_stream(0, "batches"), list(naive.parameters())
    for _ in range(schedule.steps):
        total = [torch.zeros_like(p) for p in parameters]
        for i in np.flatnonzero(batches.random(size) < schedule.sample_rate):
            loss = own_loss(naive)(torch.tensor([i]))
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
            gradients = [
                torch.zeros_like(p) if g is None else g
                for g, p in zip(found, parameters, strict=True)
            ]
            norm = sum(g.square().sum() for g in gradients).sqrt()
            total = [
                t + g * min(1.0, 0.3 / norm.item()) for t, g in zip(total, gradients, strict=True)
            ]
        with torch.no_grad():
            for p, t in zip(parameters, total, strict=True):
                p -= 0.1 * t / schedule.expected_batch_size
    for (name, one), other in zip(ours.named_parameters(), naive.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("optimizer_state", ["fresh", "kept"])
def test_private_training_adds_no_noise_to_the_head_that_it_does_not_train(optimizer_state: str):
    privacy = {"name": "dp_sgd", "noise_multiplier": 1.0}
    made = experiment(
        strategy="dsfl", heads="dual", train={"optimizer_state": optimizer_state}, privacy=privacy
    )
    for client, architecture in enumerate(made.context.architectures):
        before = architecture.build(
            torch_seed(made.context.seed, "client", client, "weights")
        ).state_dict()
        for round_number in (1, 2):
            take_part(made.context, client, Download(round=round_number, steps=("train",)))
        after = made.context.store.get(client)
        assert after is not None
        moved = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
        assert moved == {name for name in before if not name.startswith("taught.")}


@pytest.mark.fast(0)
@with_further_heads
def test_private_training_with_heads_runs_for_rounds_and_claims_its_epsilon(heads: str):
    run = records(
        strategy="dsfl", heads=heads, privacy={"name": "dp_sgd", "epsilon": 8.0, "delta": 1e-3}
    )[-1]
    assert [c.status for c in run.clients] == ["ok"] * 4
    assert all(0 < c.epsilon <= 8.0 for c in run.clients)


# What is refused, and what falls back.


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"heads": "dual", "strategy": "fedavg", "models": ["mlp"]},
            "take weights over and distill nothing",
        ),
        ({"heads": "dual", "strategy": "feddf"}, "take weights over and distill nothing"),
        ({"heads": "dual", "strategy": "centralized"}, "take weights over and distill nothing"),
        (
            {"heads": "dual", "strategy": "local_only"},
            "nobody would teach the second head; .*label_share=1",
        ),
        ({"heads": "dual", "strategy": "fd"}, "has a term of its own"),
        ({"heads": "self_distillation", "strategy": "fd"}, "has a term of its own"),
        (
            {"heads": "self_distillation", "strategy": "fedproto", "models": ["mlp"]},
            "has a term of its own",
        ),
        (
            {"heads": "self_distillation", "strategy": "fedprox", "models": ["mlp"]},
            "has a term of its own",
        ),
        (
            {"heads": "dual", "strategy": {"name": "selective_fd", "density": "feature_gaussian"}},
            "a mixture of two heads is the output of no such layer",
        ),
        (
            {"heads": "shared_classes", "strategy": "fedgh", "models": ["mlp"]},
            "heads=shared_classes: strategy=fedgh trains or sends the last layer of models",
        ),
        (
            {"heads": "shared_classes", "strategy": "lg_fedavg", "models": ["mlp"]},
            "strategy=lg_fedavg trains or sends the last layer",
        ),
        (
            {"heads": {"name": "shared_classes", "width": 3}},
            "heads.width=3 is less than the 10 classes",
        ),
        (
            {"heads": {"name": "shared_classes", "width": 64, "text_encoder": "folder"}},
            "width=64 would do nothing",
        ),
        ({"heads": {"name": "shared_classes", "text_encoder": "nowhere"}}, "is no folder"),
        ({"heads": {"name": "shared_classes", "sharpness": 0}}, "sharpness must be > 0"),
        (
            {"heads": "shared_classes", "train": {"head_learning_rate": 0.1}},
            "head_learning_rate would do nothing: the last layer of mlp is frozen",
        ),
        (
            {"heads": "shared_classes", "models": ["sklearn:GaussianNB"], "strategy": "dsfl"},
            "sklearn:GaussianNB is an estimator",
        ),
        ({"heads": "duel"}, "did you mean 'dual'"),
        (
            {"heads": {"name": "dual", "temperature": 2.0}},
            "there is no setting 'heads.temperature'",
        ),
        (
            {"heads": {"name": "self_distillation", "stages": ["nowhere"]}},
            "stages: .* has no module nowhere",
        ),
        ({"heads": "builtins:object"}, "must be derived from fedkd.models.head_settings.Heads"),
    ],
    ids=str,
)
def test_what_makes_no_sense_with_heads_is_refused_with_the_reason(
    changes: dict[str, Any], reason: str
):
    with pytest.raises(SettingError, match=reason):
        experiment(**changes)


@with_further_heads
def test_clients_with_heads_are_trained_one_by_one(heads: str):
    with pytest.raises(SettingError, match="it has heads that are put on it"):
        experiment(heads=heads, batch_clients=["mlp"])
    made = experiment(heads=heads, batch_clients="auto")
    assert made.context.batching.models == frozenset()
    assert reason_unbatched(made.context, "mlp") is not None
