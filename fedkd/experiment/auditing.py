"""An audit's part in a run: what it stores, and its attacks at the end.

Before the rounds: the ground truth, in ``truth/``. During them: what travels, in ``view/``
(``fedkd.storage.transcript_recorder``). After them: where the lab is an adversary, the raw models'
answers to the candidates, in ``lab/``; then every adversary's attacks, from the files alone, so
that ``python -m fedkd.audit RUN_DIR`` finds the same.
"""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml

from fedkd.audit.attack_scores import AuditorModels
from fedkd.audit.audit_result import AuditResult
from fedkd.audit.audit_run import AuditPlan, audit_run
from fedkd.audit.audit_settings import Audit
from fedkd.audit.decoding import teachers_by_client
from fedkd.audit.report import summary_entry, write
from fedkd.audit.shadows import train_shadows
from fedkd.codecs import CODECS, Codec
from fedkd.errors import SettingError
from fedkd.experiment.build import Experiment
from fedkd.experiment.make_context import audit_candidates, make_context
from fedkd.federation.context import ClientContext
from fedkd.federation.protocol import resolve_round_order
from fedkd.runtime.devices import deterministic
from fedkd.scenario.scenario import Scenario
from fedkd.settings.schema import defaults, to_values
from fedkd.storage.client_states import ClientStore, DiskStore, Layout, MemoryStore
from fedkd.storage.transcript import (
    About,
    AboutAudit,
    GroundTruth,
    TranscriptWriter,
    read_ground_truth,
    read_transcript,
    write_ground_truth,
)
from fedkd.storage.transcript_recorder import TranscriptRecorder
from fedkd.training.loop import predict


def begin(
    experiment: Experiment, run_dir: Path, resume_after: int | None = None
) -> TranscriptRecorder | None:
    """Write the ground truth; return the recorder of what travels, None without an audit.

    Raises StorageError.
    """
    audit = _audit(experiment)
    if audit is None:
        return None
    context = experiment.context
    write_ground_truth(run_dir, _truth(experiment))
    return TranscriptRecorder(
        run_dir,
        _about(context, {
            "adversaries": list(adversaries(experiment)),
            "confidence": audit.confidence,
            "seed": experiment.scenario.federation.seed,
            "shadows": audit.shadows,
        }),
        context.public_inputs.cpu().numpy(),
        uploads=context.enforcer.central is None,
        resume_after=resume_after,
    )  # fmt: skip


def finish(
    experiment: Experiment, run_dir: Path, plots: bool
) -> tuple[list[AuditResult], dict[str, object] | None]:
    """Attack a finished run and write the audit's files.

    Returns the results, and the summary's entry of them.
    """
    audit = _audit(experiment)
    if audit is None:
        return [], None
    store_lab(experiment, run_dir)
    seed = experiment.scenario.federation.seed
    models = AuditorModels(context=experiment.context)
    if audit.shadows:
        models = shadow_models(
            experiment.scenario, experiment.context, run_dir, audit.shadows, seed
        )
    if audit.power and experiment.context.enforcer.claims:
        from fedkd.experiment.audit_power import run_without_noise

        run_without_noise(experiment.scenario, run_dir)
    plan = AuditPlan(adversaries(experiment), audit.confidence, seed, audit.shadows)
    results = attack(experiment.scenario, run_dir, plan, models)
    write(results, run_dir, plots=plots)
    return results, {**summary_entry(results), **audit.findings(run_dir)}


def attack(
    scenario: Scenario | None, run_dir: Path, plan: AuditPlan, models: AuditorModels
) -> list[AuditResult]:
    """Return the results of every adversary's attacks, with their power where it was measured.

    Args:
        scenario: The run's scenario; None where it is not known any more.
        run_dir: The run's folder.
        plan: Who attacks, and how.
        models: The auditor's.
    """
    from fedkd.experiment.audit_power import FOLDER, power_of

    silent = models
    if plan.shadows and scenario is not None and (run_dir / FOLDER / "view").is_dir():
        context = _context_of(scenario, noise_factor=0.0)
        silent = shadow_models(scenario, context, run_dir / FOLDER, plan.shadows, plan.seed)
    return [
        audit_run(
            run_dir,
            adversary,
            plan.confidence,
            plan.seed,
            models,
            power_of(run_dir, adversary, confidence=plan.confidence, seed=plan.seed, models=silent),
        )
        for adversary in plan.adversaries
    ]


def shadow_models(
    scenario: Scenario, context: ClientContext, run_dir: Path, count: int, seed: int
) -> AuditorModels:
    """Return the auditor's models of a stored run, with shadow models of every client.

    Args:
        scenario: The run's scenario.
        context: What its clients share.
        run_dir: The run's folder.
        count: Number of shadow models of a client.
        seed: The run's seed.

    Raises:
        SettingError: The run has no candidates, or the data set has changed since.
    """
    candidates, kind = audit_candidates(scenario), context.kind
    if candidates is None or kind is None:
        raise SettingError(
            f"shadows={count}: {run_dir} has no candidates to train them with or without"
        )
    if not np.array_equal(candidates.included, read_ground_truth(run_dir).included):
        raise SettingError(
            f"shadows={count}: the data set is no longer the one that {run_dir} was run on"
        )
    shadows = train_shadows(
        context,
        candidates,
        teachers_by_client(read_transcript(run_dir, "clients"), kind),
        rounds=scenario.protocol.rounds,
        distills_first=resolve_round_order(scenario.protocol, kind) == "distill_first",
        count=count,
        seed=seed,
    )
    return AuditorModels(context=context, shadows=shadows)


def stored_scenario(run_dir: Path) -> Scenario | None:
    """Return the scenario of a run's ``config.yaml``; None where there is no such file."""
    if not (run_dir / "config.yaml").is_file():
        return None
    return Scenario.parse(yaml.safe_load((run_dir / "config.yaml").read_text(encoding="utf-8")))


def auditor_models(run_dir: Path, count: int, seed: int) -> AuditorModels:
    """Return the auditor's models of a finished run, made again from its ``config.yaml``.

    Where there is no such file only surrogates are left. Raises SettingError where it cannot be
    built again.
    """
    scenario = stored_scenario(run_dir)
    if scenario is None:
        if count:
            raise SettingError(
                f"shadows={count}: {run_dir} has no config.yaml to train shadow models from"
            )
        return AuditorModels()
    context = _context_of(scenario)
    return (
        shadow_models(scenario, context, run_dir, count, seed)
        if count
        else AuditorModels(context=context)
    )


def _context_of(scenario: Scenario, noise_factor: float = 1.0) -> ClientContext:
    """Return what a scenario's clients share, with none of their states."""

    def nothing(layouts: Mapping[str, Layout], architectures: Sequence[str]) -> ClientStore:
        return MemoryStore(layouts, architectures, ())

    return make_context(scenario, nothing, threading.Event(), noise_factor=noise_factor)


def adversaries(experiment: Experiment) -> tuple[str, ...]:
    """Return the adversaries: those named, else the server, or the clients where it is trusted."""
    audit = _audit(experiment)
    if audit is None:
        return ()
    return audit.adversaries or (
        ("clients",) if experiment.context.enforcer.central is not None else ("server",)
    )


def _audit(experiment: Experiment) -> Audit | None:
    audit: Audit = experiment.scenario.audit.value
    return audit if audit.stores else None


def _truth(experiment: Experiment) -> GroundTruth:
    context, candidates = experiment.context, experiment.candidates
    rows = np.arange(0) if candidates is None else candidates.rows
    return GroundTruth(
        inputs=context.task.test_set(rows)[0].cpu().numpy(),
        labels=rows if candidates is None else candidates.labels,
        client_ids=rows if candidates is None else candidates.client_ids,
        included=np.zeros(0, bool) if candidates is None else candidates.included,
        label_counts=np.array([context.label_counts(i) for i in range(len(context.architectures))]),
    )


def _about(context: ClientContext, audit: AboutAudit) -> About:
    """Return what every adversary knows of the protocol."""
    codecs = (
        {}
        if context.codecs is None
        else {"upload": context.codecs.up, "teacher": context.codecs.down}
    )
    return {
        "kind": type(context.kind).__name__,
        "scale": None if context.kind is None else context.kind.upload_scale,
        "temperature": context.distillation.temperature,
        "codecs": {what: _named(codec) for what, codec in codecs.items()},
        "audit": audit,
    }


def _named(codec: Codec) -> Mapping[str, object]:
    """Return a codec's name, or its import path, and its settings.

    ``fedkd.audit.decoding.codec_of`` reads them.
    """
    own = type(codec)
    name = next(
        (name for name, cls in CODECS.items() if cls is own), f"{own.__module__}:{own.__qualname__}"
    )
    return {"name": name, **{key: to_values(getattr(codec, key)) for key in defaults(own)}}


def store_lab(experiment: Experiment, run_dir: Path) -> None:
    """Store every model's answers to all candidates after the last round, for the lab if any."""
    if "lab" not in adversaries(experiment):
        return
    context, candidates = experiment.context, experiment.candidates
    assert candidates is not None, "checked with the settings"
    # An engine with other processes keeps states in files, which this process sees too.
    store: ClientStore = (
        context.store if experiment.scenario.engine.value.here else DiskStore(experiment.states)
    )
    x, _ = context.task.test_set(candidates.rows)
    writer = TranscriptWriter(run_dir, "lab", {}, resume_after=0)
    for client in range(len(context.architectures)):
        with deterministic(context.device):
            logits = predict(context.own_model(client, store), x).cpu().numpy()
        writer.add("query", {"logits": logits}, round=experiment.plan.rounds, client=client)
    writer.save()
