"""From accepted uploads to a fusion: streamed or stacked, attacked or not."""

from typing import Any

import pytest
import torch
from small_server import logits, upload

from fedkd.errors import RunError, SettingError
from fedkd.federation.aggregation import Aggregator, StackedUploads, StreamedUploads
from fedkd.federation.public_sampling import PublicSampler
from fedkd.fusion import mean_over_clients
from fedkd.knowledge import ModelWeights, Request
from fedkd.messages import Fusion
from fedkd.robustness.aggregators import Median
from fedkd.robustness.attacks.no_attack import NoAttack
from fedkd.robustness.threat_model import ThreatModel, threat_model
from fedkd.strategies.fedmd import FedMD
from fedkd.strategy import declaration

REQUEST = Request(
    round=1,
    classes=4,
    public_ids=torch.arange(8),
    temperature=1.0,
    train_sizes=dict.fromkeys(range(5), 10),
    architectures=("mlp",) * 5,
)


def aggregator(strategy: Any = None, **changes: Any) -> Aggregator:
    strategy = strategy or FedMD()
    return Aggregator(strategy, declaration(strategy, "test"), PublicSampler(8), **changes)


def fused(found: Aggregator, clients: tuple[int, ...] = (0, 1, 2)) -> Any:
    uploads = found.gather((0, 1, 2))
    for i in (2, 0, 1):
        found.take(uploads, i, upload(i) if i in clients else None)
    return found.fuse(uploads, REQUEST, asked=3)


def test_a_mean_is_streamed_and_equal_to_the_stacked_one() -> None:
    streamed, stacked = aggregator(), aggregator(threat_model=ThreatModel(robust=Median()))
    assert isinstance(streamed.gather((0,)), StreamedUploads)
    assert isinstance(stacked.gather((0,)), StackedUploads)
    found = fused(streamed)
    assert found.client_ids == (0, 1, 2)
    expected = mean_over_clients(torch.stack([logits(i) for i in range(3)]))
    assert torch.equal(found.fusion.teachers, expected)
    assert torch.equal(found.teachers.of(4).values, expected)


def test_a_client_without_a_usable_upload_has_no_row() -> None:
    assert fused(aggregator(), (0, 2)).client_ids == (0, 2)
    assert fused(aggregator(), ()) is None


def test_the_strategys_state_comes_back_with_the_next_cohort() -> None:
    class Counting:
        def fuse(self, cohort: Any, state: Any) -> Fusion:
            teachers = mean_over_clients(cohort.probs)
            return Fusion(weights=torch.eye(cohort.size), teachers=teachers, state=(state or 0) + 1)

    found = aggregator(Counting())
    for expected in (1, 2, 3):
        fused(found)
        assert found.state == expected


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "fuse returned None, expected a fedkd.messages.Fusion"),
        (Fusion(weights=torch.eye(2), teachers=torch.full((8, 4), 0.25)), "weights"),
    ],
)
def test_a_strategy_that_breaks_its_promise_is_told_so(returned: Any, message: str) -> None:
    class Wrong:
        def fuse(self, cohort: Any, state: Any) -> Any:
            return returned

    with pytest.raises(RunError, match=message):
        fused(aggregator(Wrong()))


def test_an_exception_in_a_strategy_is_named_as_the_strategys() -> None:
    class Broken:
        def fuse(self, cohort: Any, state: Any) -> Any:
            raise ValueError("no such thing")

    with pytest.raises(RunError, match="strategy Broken failed: ValueError: no such thing"):
        fused(aggregator(Broken()))


class Undeclared:
    def fuse(self, cohort: Any, state: Any) -> Any:
        labels = cohort.public_labels
        return torch.nn.functional.one_hot(labels)


def test_what_a_strategy_reads_without_declaring_it_is_named_once_it_fails() -> None:
    with pytest.raises(
        RunError,
        match=r"strategy Undeclared failed: .*; cohort.public_labels is None without needs ="
        r" Needs\(public_labels=True\), from fedkd.strategy$",
    ):
        fused(aggregator(Undeclared()))


@pytest.mark.parametrize("name", ["probs", "values", "logits"])
def test_a_strategy_that_writes_into_its_cohort_is_refused(name: str) -> None:
    class Writing:
        def fuse(self, cohort: Any, state: Any) -> Any:
            getattr(cohort, name).clamp_(min=0.1)
            return FedMD().fuse(cohort, state)

    with pytest.raises(RunError, match=r"Writing wrote into cohort.\w+, which is not its own; tak"):
        fused(aggregator(Writing()))


class NoKind:
    knowledge: Any = "softmax"

    def fuse(self, cohort: Any, state: Any) -> Any:
        return None


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        (
            "knowledge",
            "softmax",
            r"'nothing', or .*: from fedkd.knowledge import ModelWeights; know",
        ),
        (
            "knowledge",
            ModelWeights,
            r"declares knowledge = ModelWeights; .*knowledge = ModelWeights\(\)",
        ),
        (
            "needs",
            {"public_labels": True},
            r"it must be a fedkd.strategy.Needs, as in needs = Needs",
        ),
    ],
)
def test_a_wrong_declaration_is_told_what_to_import(
    attribute: str, value: object, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NoKind, "knowledge", "logits")
    monkeypatch.setattr(NoKind, attribute, value, raising=False)
    with pytest.raises(SettingError, match=message):
        declaration(NoKind(), "mine:NoKind")


def test_a_threat_model_without_attack_and_robust_mean_does_nothing() -> None:
    from fedkd.robustness.aggregators import Mean

    nothing = threat_model(NoAttack(), Mean(), clients=5, classes=4, seed=0)
    for model in (nothing, ThreatModel()):
        assert not model.acts
        assert model.attacker_ids == ()
    assert threat_model(NoAttack(), Median(), clients=5, classes=4, seed=0).acts
