"""What a run says of itself before its first round: sizes, models, privacy, warnings."""

from collections.abc import Mapping

import numpy as np

from fedkd.federation.context import ClientContext
from fedkd.federation.measured_points import reported_point
from fedkd.federation.server import Server
from fedkd.flower.engine_run import Engine, on_device
from fedkd.knowledge import KnowledgeType
from fedkd.models.factory import ModelInfo
from fedkd.privacy import statements
from fedkd.report.record_rows import RunPlan
from fedkd.runtime.devices import describe_device
from fedkd.scenario.run_names import run_name
from fedkd.scenario.scenario import Scenario


def make_plan(scenario: Scenario, context: ClientContext, server: Server, loss: str) -> RunPlan:
    """Return the plan that is printed before a run.

    Args:
        scenario: The scenario with nothing left to choose.
        context: What the clients share.
        server: The server.
        loss: The name of the distillation loss.
    """
    task = context.task
    class_names, train = context.prepared.class_names, context.division.train
    counts = [
        np.bincount(context.prepared.labels[rows], minlength=len(class_names)) for rows in train
    ]
    is_reference = context.kind is None or server.pools
    engine = on_device(scenario.engine.value, context.device)
    return RunPlan(
        name=scenario.name,
        title=run_name(scenario),
        scenario=scenario.to_dict(),
        strategy=scenario.strategy.name.rpartition(":")[2],
        rounds=scenario.protocol.rounds,
        architectures=tuple(architecture.name for architecture in context.architectures),
        parameters={model: trait.parameters for model, trait in context.traits.items()},
        train_sizes=tuple(
            task.training_size(rows, (client_id,)) for client_id, rows in enumerate(train)
        ),
        label_counts=np.array(counts),
        class_names=class_names,
        examples=task.examples,
        dealt=task.dealt,
        public_set=task.describe(scenario.public, scenario.public_data.name),
        device=describe_device(context.device, scenario.federation.device),
        engine=f"{scenario.engine.name} engine, {engine.describe()}",
        loss=loss,
        exchanges=context.kind is not None,
        privacy=statements.before_run(context.enforcer, sends_metrics=context.sends_metrics),
        sends_metrics=context.sends_metrics,
        is_reference=is_reference,
        measured=server.measured,
        measurement=scenario.measurement.describe(),
        shift=scenario.shift.describe(scenario.federation.clients, scenario.federation.seed),
        after=reported_point(
            server.measured,
            "auto" if is_reference else scenario.report.after,
            server.aggregator.declared.evaluated_after,
        ),
        attackers=server.aggregator.threat_model.attacker_ids,
        warnings=run_warnings(scenario, context),
        method=(type(scenario.strategy.value).__doc__ or "").strip().partition("\n")[0],
        exchanged=_exchanged(context.kind),
    )


def _exchanged(kind: KnowledgeType | None) -> str:
    """Return what clients send, and how they learn from what comes back, in words."""
    if kind is None:
        return "Clients send nothing: each trains alone."
    learned = {
        "distill": "distill what the server makes of it",
        "train": "learn from what the server makes of it in their private training",
        "adopt": "take over what the server makes of it",
    }
    return f"Clients send {kind.in_words}, and {learned[kind.learned_by]}."


def run_warnings(scenario: Scenario, context: ClientContext) -> tuple[str, ...]:
    """Return what is doubtful about a run, a line each."""
    division = context.division
    sizes = [len(a) + len(b) for a, b in zip(division.train, division.validation, strict=True)]
    return (
        *_size_warnings(scenario.federation.samples_per_client, sizes),
        *_thread_warnings(on_device(scenario.engine.value, context.device), context.traits),
        *_output_warnings(context.traits),
        *statements.warnings(context.enforcer),
        *_audit_warnings(scenario),
    )


def _size_warnings(asked: int | None, sizes: list[int]) -> tuple[str, ...]:
    short = [i for i, size in enumerate(sizes) if asked is not None and size < asked]
    if not short:
        return ()
    return (
        f"samples_per_client={asked}, but the partition deals fewer to {len(short)} of {len(sizes)}"
        f" clients (client {short[0]} has {sizes[short[0]]})",
    )


def _thread_warnings(engine: Engine, traits: Mapping[str, ModelInfo]) -> tuple[str, ...]:
    random_models = [model for model, trait in traits.items() if trait.draws_randomness]
    if not random_models or not engine.here or getattr(engine, "threads", None) == 1:
        return ()
    return (
        f"{', '.join(random_models)} draws from torch's global generator in training (dropout?);"
        " such clients train one at a time, so that the run repeats",
    )


def _output_warnings(traits: Mapping[str, ModelInfo]) -> tuple[str, ...]:
    soft = [model for model, trait in traits.items() if trait.sums_to_one]
    if not soft:
        return ()
    return (
        f"{', '.join(soft)} puts out rows that sum to 1, as after a softmax, and they are taken for"
        " logits; leave the softmax out",
    )


def _audit_warnings(scenario: Scenario) -> tuple[str, ...]:
    if not scenario.audit.value.asks_models:
        return ()
    return (
        "audit.adversaries names the lab: raw answers of the clients' models are stored in lab/; no"
        " claim but dp_sgd's covers them",
    )
