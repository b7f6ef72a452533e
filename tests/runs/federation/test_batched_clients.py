"""Clients that are trained together in a run: the figures of the loop, whatever the number of
workers."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finished import finished_records
from replayed import record_on_cpu
from tiny import records, scenario

from fedkd.errors import SettingError
from fedkd.experiment import worker_facts
from fedkd.experiment.build import Experiment, build
from fedkd.experiment.client_worker import create_clients
from fedkd.experiment.run import run, with_facts
from fedkd.experiment.worker_facts import WorkerFacts
from fedkd.federation import batched_clients, local_steps
from fedkd.federation.batch_trials import Tried
from fedkd.federation.batched_clients import batches_of_clients, reason_unbatched, wants_products
from fedkd.federation.context import ClientContext
from fedkd.federation.round_records import BY_NAME
from fedkd.flower.engine_run import WorkerSpec
from fedkd.scenario.scenario import Scenario
from fedkd.settings.measuring_points import column

MIXED = {"models": ["mlp*3", "cnn*1"], "clients": 8, "rounds": 2}


@pytest.mark.fast(1)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"round_order": "distill_first", "strategy": "fedmd"},
        {"participation": 0.7, "public": {"size": 40, "per_round": 20}},
        {"strategy": "local_only"},
        {"distill": {"loss": "js", "loss_skew": 0.3}},
        {
            "train": {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.05},
            "distill": {"temperature": 3.0},
        },
        {"public": {"size": 40, "labeled": True}, "train": {"public_epochs": 2}},
    ],
    ids=str,
)
def test_a_run_together_has_the_figures_of_the_loop_up_to_rounding(
    changes: dict[str, object],
) -> None:
    loop = finished_records(**{**MIXED, **changes})
    together = records(**{**MIXED, **changes}, batch_clients=["mlp"])
    for one, other in zip(loop, together, strict=True):
        for a, b in zip(one.clients, other.clients, strict=True):
            assert a.status == b.status
            for name in ("train_loss", "distill_loss"):
                before, after = getattr(a, name), getattr(b, name)
                assert after == (
                    None if before is None else pytest.approx(before, rel=1e-3, abs=1e-4)
                )
            assert (a.bytes_up, a.bytes_down) == (b.bytes_up, b.bytes_down)
            assert (b.seconds > 0) == (b.status == "ok")


@pytest.mark.slow
def test_the_knowledge_is_the_same_at_any_number_of_workers() -> None:
    found = {
        records(**MIXED, batch_clients=["mlp"], engine={"name": "local", "workers": workers})[
            -1
        ].knowledge_sha256
        for workers in (1, 2, 3)
    }
    assert len(found) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("ray_and_trigger")
def test_the_knowledge_is_the_same_on_ray() -> None:
    local = records(**MIXED, batch_clients=["mlp"])[-1].knowledge_sha256
    assert (
        records(**MIXED, batch_clients=["mlp"], engine={"name": "ray", "workers": 1})[
            -1
        ].knowledge_sha256
        == local
    )


def test_clients_are_really_trained_together(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    original = batched_clients.optimize_together

    def counting(
        model: torch.nn.Module,
        states: dict[str, torch.Tensor],
        sizes: list[int],
        *rest: object,
        **more: object,
    ):  # type: ignore[no-untyped-def]
        seen.append(len(sizes))
        return original(model, states, sizes, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(batched_clients, "optimize_together", counting)
    records(**MIXED, batch_clients=["mlp"])
    assert seen == [6, 6] * 2  # training and distilling, in each round


@pytest.mark.slow
def test_clients_that_are_measured_together_have_the_figures_of_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a GPU, where a forward pass of one small model is mostly overhead."""
    loop = records(**MIXED, batch_clients=["mlp"])
    monkeypatch.setattr("fedkd.federation.batched_clients.are_foreseen", lambda _: True)
    asked: list[int] = []
    original = local_steps.measured_ahead

    def counted(*given: Any) -> Any:
        found = original(*given)
        asked.append(found is not None)
        return found

    monkeypatch.setattr(local_steps, "measured_ahead", counted)
    loaded: list[object] = []
    borrow = ClientContext.borrow_module

    def counted_module(context: Any, client: Any, state: Any, weights: Any = None) -> Any:
        loaded.append(weights)
        return borrow(context, client, state, weights)

    monkeypatch.setattr(ClientContext, "borrow_module", counted_module)
    together = records(**MIXED, batch_clients=["mlp"])
    assert all(weights is None for weights in loaded)  # no model was loaded that was trained ahead
    assert (sum(asked), len(asked)) == (2 * 2 * 2 * 6, 2 * 2 * 2 * 8)  # all but those of cnn
    for one, other in zip(loop, together, strict=True):
        for a, b in zip(one.clients, other.clients, strict=True):
            assert (a.status, b.status) == ("ok", "ok")
            for name in ("global_nll", "personal_nll", "global_ece", "personal_accuracy"):
                for point in ("training", "distillation"):
                    of = BY_NAME[column(name, point)].of
                    assert of(a) == pytest.approx(of(b), rel=1e-5, abs=1e-6)


def test_a_client_that_raises_in_company_fails_alone() -> None:
    run = records(models=["toys:raising*1", "mlp*3"], batch_clients=["toys:raising", "mlp"])
    assert [c.status for c in run[-1].clients] == ["failed", "ok", "ok", "ok"]


@pytest.mark.parametrize(
    ("models", "said"),
    [
        (["toys:dropping"], "draws random numbers"),
        (["toys:with_batch_norm"], "changes its buffer|depends on the rest of the batch"),
    ],
)
def test_a_model_that_cannot_be_trained_together_is_refused_with_the_reason(
    models: list[str], said: str
) -> None:
    with pytest.raises(SettingError, match=said):
        build(scenario(models=models, batch_clients=models), threading.Event())


def test_a_model_whose_bits_depend_on_its_company_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fedkd.federation.batched_clients.depends_on_batch", lambda *_, **__: True)
    with pytest.raises(SettingError, match="would depend on workers"):
        build(scenario(batch_clients=["mlp"]), threading.Event())


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_a_client_has_the_same_bits_in_a_batch_of_one(model: str) -> None:
    """Two workers train four clients and one, one worker all five."""
    changes = {"models": [model], "clients": 5, "rounds": 1, "batch_clients": [model]}
    engines = [{"name": "local", "workers": workers} for workers in (1, 2)]
    one, other = (records(**changes, engine=engine)[-1] for engine in engines)
    assert one.knowledge_sha256 == other.knowledge_sha256


def test_a_client_is_trained_alike_whatever_its_batch_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In its first round a client also warms up; others of its batch took part before."""
    changes: dict[str, Any] = {"models": ["mlp"], "clients": 4, "rounds": 3, "participation": 0.75}
    changes |= {"train": {"warm_up_epochs": 1}}
    sizes: list[int] = []
    original = batched_clients._train_alike

    def counting(context: Any, batch: Any) -> None:
        sizes.append(len(batch))
        original(context, batch)

    monkeypatch.setattr(batched_clients, "_train_alike", counting)
    together = records(**changes, batch_clients=["mlp"])
    assert sum(sizes) == sum(c.status == "ok" for round in together for c in round.clients) * 2
    assert 1 in sizes


def test_convolutions_as_products_are_near_the_loop() -> None:
    """Grouped convolutions would depend on the workers, and so are refused."""
    changes = {"models": ["cnn"], "clients": 3, "rounds": 1, "batch_clients": ["cnn"]}
    one = records(**changes)[-1]
    alone = records(**{**changes, "batch_clients": "never"})[-1]
    for a, b in zip(one.clients, alone.clients, strict=True):
        assert a.train_loss == pytest.approx(b.train_loss, rel=1e-4)
        assert a.train_loss is not None
    made = build(scenario(**changes), threading.Event())
    assert made.scenario.federation.product_convolutions == ("cnn",)
    with pytest.raises(SettingError, match="depend on workers; product_convolutions=auto mends"):
        build(scenario(**changes, product_convolutions="never"), threading.Event())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch_clients": ["mlp"], "product_convolutions": ["mlp"]}, "mlp has no convolution"),
        ({"models": ["cnn"], "product_convolutions": ["cnn"]}, r"set batch_clients=\[cnn\] too"),
        ({"product_convolutions": ["mpl"]}, "did you mean 'mlp'"),
        ({"step_graphs": ["mlp"]}, r"set batch_clients=\[mlp\] too"),
        ({"batch_clients": ["mlp"], "step_graphs": ["mlp"]}, "set device=cuda"),
    ],
)
def test_what_would_do_nothing_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        build(scenario(**changes), threading.Event())


@pytest.mark.parametrize("faster", [True, False])
def test_on_a_gpu_a_trial_chooses_the_convolutions(
    faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = build(scenario(models=["cnn"]), threading.Event()).context
    found: list[int] = []

    def pay(tried: Tried) -> bool:
        found.append(len(tried.sizes))
        return faster

    monkeypatch.setattr(batched_clients, "products_pay", pay)
    assert wants_products(context, "cnn")
    assert not found
    assert wants_products(replace(context, device=torch.device("cuda")), "cnn") is faster
    assert set(found) == {len(context.architectures)}


def test_a_run_with_replayed_steps_has_the_figures_of_a_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a GPU, where Adam is fused: graphs of both phases serve all rounds."""
    recorded: list[torch.Tensor] = []

    def record(call: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        replay, found = record_on_cpu(call)
        recorded.append(found)
        return replay, found

    monkeypatch.setattr("fedkd.federation.step_graphs.record", record)
    monkeypatch.setattr("fedkd.training.optimizers.is_fused", lambda _: True)
    monkeypatch.setattr(worker_facts, "reason_ungraphed", lambda *_, **__: None)
    changes: dict[str, Any] = {"models": ["mlp"], "rounds": 3, "batch_clients": ["mlp"]}
    changes["train"] = changes["distill"] = {"batch_size": 4}
    usual = records(**changes)[-1]
    assert not recorded
    found = records(**changes, step_graphs="auto")[-1]
    assert len(recorded) == 2
    for one, other in zip(usual.clients, found.clients, strict=True):
        assert other.train_loss == pytest.approx(one.train_loss, rel=1e-4)
        assert other.distill_loss == pytest.approx(one.distill_loss, rel=1e-4)


def test_kept_optimizers_and_unknown_names_are_refused() -> None:
    with pytest.raises(SettingError, match="optimizer_state=kept"):
        build(scenario(batch_clients=["mlp"], train={"optimizer_state": "kept"}), threading.Event())
    with pytest.raises(SettingError, match="did you mean 'mlp'"):
        build(scenario(batch_clients=["mpl"]), threading.Event())


@pytest.mark.slow
def test_auto_tries_with_one_intra_op_thread_as_engines_train(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(
        worker_facts,
        "is_faster",
        lambda context, name, products: bool(seen.append(torch.get_num_threads())),
    )
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        build(scenario(**MIXED, batch_clients="auto"), threading.Event())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {1}


def test_auto_asks_the_trial_once_and_the_run_names_what_it_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(worker_facts, "is_faster", lambda _, name, products: name == "mlp")
    run(scenario(**MIXED, batch_clients="auto"), tmp_path / "run")
    config = (tmp_path / "run" / "config.yaml").read_text()
    import yaml

    assert Scenario.parse(yaml.safe_load(config)).federation.batch_clients == ("mlp",)


@pytest.mark.slow
def test_companies_hold_every_client_once_and_share_out_the_workers() -> None:
    context = build(
        scenario(models=["mlp"], clients=12, batch_clients=["mlp"]), threading.Event()
    ).context
    assert reason_unbatched(context, "mlp") is None
    for workers, most in ((1, 12), (2, 6), (3, 4), (12, 4)):
        groups = batches_of_clients(context, range(12), workers)
        assert sorted(i for group in groups for i in group) == list(range(12))
        assert max(map(len, groups)) == most


def test_on_a_gpu_batches_are_of_all_clients_whatever_the_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fedkd.federation.batched_clients.ON_GPU_AT_ONCE", 5)
    made = build(scenario(**{**MIXED, "clients": 9}, batch_clients=["mlp"]), threading.Event())
    context = replace(made.context, batching=replace(made.context.batching, fixed=True))
    whole = batches_of_clients(context, range(9), 1)
    assert sorted(map(len, whole)) == [1, 1, 3, 4]
    assert all(batches_of_clients(context, range(9), workers) == whole for workers in (2, 9))
    some = batches_of_clients(context, [0, 1, 2, 5, 8], 1)
    assert all(any(set(part) <= set(batch) for batch in whole) for part in some)


class Elsewhere:
    """An engine whose clients work in a process with a GPU."""

    here = False

    def __init__(self, name: str | None) -> None:
        self._name = name

    def describe(self) -> str:
        return "elsewhere"

    def ask_worker(
        self, call: Callable[[WorkerSpec], WorkerFacts], spec: WorkerSpec, *_: object
    ) -> WorkerFacts | None:
        found = call(replace(spec, device="cpu"))
        return None if self._name is None else replace(found, device=self._name)


@pytest.mark.slow
def test_choices_and_records_are_about_the_process_that_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_facts, "is_faster", lambda _, name, products: name == "mlp")
    asked = scenario(**MIXED, engine="ray", device="cuda", precision="tf32", batch_clients="auto")
    made = build(asked, threading.Event())
    assert made.scenario.federation.batch_clients == "auto"  # nothing was tried here

    def on(name: str | None) -> Experiment:
        engine = replace(made.scenario.engine, value=Elsewhere(name))
        return replace(made, scenario=made.scenario.changed(engine=engine))

    with pytest.raises(SettingError, match="precision=tf32 would do nothing on device=cpu"):
        with_facts(on(None))
    found = with_facts(on("NVIDIA H200"))
    assert found.scenario.federation.batch_clients == ("mlp",)
    assert found.context.batching.models == {"mlp"}
    assert found.context.batching.fixed
    assert (found.plan.device, found.plan.scenario["batch_clients"]) == ("NVIDIA H200", ["mlp"])
    assert found.facts is not None
    assert len(found.facts.costs) == 8


def test_a_worker_without_a_gpu_computes_on_the_cpu(tmp_path: Path) -> None:
    text = scenario(engine="ray", device="cuda").text()
    spec = WorkerSpec(scenario=text, states=tmp_path, history=False, owned=(0,))
    with pytest.raises(SettingError, match="PyTorch finds no CUDA device here"):
        create_clients(spec)
    create_clients(replace(spec, device="cpu"))
