"""The objects of a run are made of the scenario, and doubts become warnings."""

import threading
from dataclasses import replace

import pytest
import torch
from tiny import scenario

from fedkd.data.sources import Digits
from fedkd.errors import SettingError
from fedkd.experiment.build import build
from fedkd.experiment.make_context import audit_candidates, named_batching
from fedkd.experiment.make_plan import run_warnings
from fedkd.tasks.find_task import find_task
from fedkd.tasks.images import ImageTask
from fedkd.tasks.text.text_sources import Sentences
from fedkd.tasks.text.text_task import TextTask


def test_what_the_scenario_leaves_open_is_named_in_the_experiment() -> None:
    experiment = build(scenario(strategy="fedmd"), threading.Event())
    resolved = experiment.scenario
    assert resolved.protocol.round_order == "train_first"
    assert resolved.distill.loss == experiment.plan.loss
    assert experiment.plan.scenario == resolved.to_dict()
    assert experiment.checkpoints is None
    assert experiment.exposures is None


def test_nothing_exchanged_leaves_the_scenario_as_it_is() -> None:
    chosen = scenario(strategy="local_only")
    experiment = build(chosen, threading.Event())
    assert experiment.scenario == chosen
    assert not experiment.plan.exchanges


def test_the_plan_counts_what_clients_train_on() -> None:
    experiment = build(scenario(strategy="fedmd"), threading.Event())
    plan = experiment.plan
    assert plan.train_sizes == tuple(int(row.sum()) for row in plan.label_counts)
    assert (plan.examples, plan.dealt, plan.public_set) == ("samples", "samples", "40 samples")
    assert plan.attackers == ()


def test_clients_with_fewer_samples_than_asked_for_are_a_warning() -> None:
    chosen = scenario(strategy="fedmd")
    context = build(chosen, threading.Event()).context
    many = replace(chosen.federation, samples_per_client=10_000)
    (warning,) = run_warnings(chosen.changed(federation=many), context)
    assert "deals fewer to 4 of 4 clients" in warning


def test_a_model_that_puts_out_probabilities_is_a_warning() -> None:
    chosen = scenario(strategy="fedmd")
    context = build(chosen, threading.Event()).context
    traits = {name: replace(trait, sums_to_one=True) for name, trait in context.traits.items()}
    (warning,) = run_warnings(chosen, replace(context, traits=traits))
    assert warning.startswith(", ".join(traits) + " puts out rows that sum to 1")
    assert run_warnings(chosen, context) == ()


def test_an_unknown_model_and_an_unbatchable_one_are_refused() -> None:
    with pytest.raises(SettingError, match="model"):
        build(scenario(models=["mlpp"]), threading.Event())
    with pytest.raises(SettingError, match="model in batch_clients"):
        build(scenario(batch_clients=["resnet"]), threading.Event())


def test_models_are_batched_as_far_as_they_are_named() -> None:
    assert named_batching(scenario(batch_clients=["mlp"]), fixed=False).models == {"mlp"}
    assert named_batching(scenario(batch_clients="auto"), fixed=False).models == frozenset()


def test_an_audit_without_candidates_has_none() -> None:
    assert audit_candidates(scenario(audit="store")) is None
    found = audit_candidates(scenario(audit={"name": "canaries", "per_client": 4}))
    assert found is not None
    assert len(found.rows) == 16


class Older:
    holds = "texts"


class Named:
    task = "sounds"


class NoTask:
    task = torch.nn.Linear


def test_a_data_set_names_its_task() -> None:
    assert find_task(Digits()) is ImageTask
    assert find_task(Sentences()) is TextTask
    for source, reason in ((Older(), "holds is now"), (Named(), "sounds"), (NoTask(), "derived")):
        with pytest.raises(SettingError, match=reason):
            find_task(source)  # type: ignore[arg-type]
