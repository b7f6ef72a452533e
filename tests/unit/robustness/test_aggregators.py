"""Every entry of ROBUST aggregates on both scales, and refuses settings that cannot work."""

import pytest
import torch
from torch import Tensor

from fedkd.errors import SettingError
from fedkd.fusion import mean_over_clients, soften
from fedkd.knowledge import KINDS, Request
from fedkd.messages import Fusion
from fedkd.robustness.aggregators import (
    ROBUST,
    Cronus,
    GeometricMedian,
    Krum,
    Mean,
    Median,
    Robust,
    TrimmedMean,
)
from fedkd.settings.schema import defaults, documentation, parse

SCALES = ("logits", "probs")


def uploads(scale: str, clients: int = 10, seed: int = 0) -> Tensor:
    logits = 3 * torch.randn(clients, 6, 4, generator=torch.Generator().manual_seed(seed))
    return logits if scale == "logits" else soften(logits)


@pytest.mark.parametrize("name", ROBUST)
def test_every_entry_is_a_robust_mean_whose_settings_are_documented(name: str):
    assert isinstance(ROBUST[name](), Robust)
    assert set(documentation(ROBUST[name])) == set(defaults(ROBUST[name]))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("clients", [1, 2, 3, 4, 10, 31])
@pytest.mark.parametrize("name", ROBUST)
def test_any_number_of_clients_makes_teachers_that_the_server_accepts(
    name: str, clients: int, scale: str
):
    """A round may have fewer clients than the run."""
    values = uploads(scale, clients)
    aggregate, weights = ROBUST[name]().aggregate(values, scale)
    fusion = Fusion(weights=weights.expand(clients, clients), teachers=aggregate)
    request = Request(
        round=1, classes=4, public_ids=torch.arange(6), temperature=1.0, train_sizes={}
    )
    KINDS[scale].check_fusion(fusion, range(clients), request, scale)
    assert aggregate.dtype == weights.dtype == torch.float32
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0))
    if scale == "probs":
        torch.testing.assert_close(aggregate.sum(dim=-1), torch.ones(6))


@pytest.mark.parametrize("scale", SCALES)
def test_none_is_the_mean(scale: str):
    aggregate, weights = Mean().aggregate(uploads(scale), scale)
    assert torch.equal(aggregate, mean_over_clients(uploads(scale)))
    assert weights.tolist() == [pytest.approx(0.1)] * 10


@pytest.mark.parametrize("name", [name for name in ROBUST if name != "none"])
def test_the_default_settings_hold_against_two_of_ten_and_the_mean_does_not(name: str):
    values = 0.1 * uploads("logits")
    values[[3, 8]] = 1e5
    aggregate, weights = ROBUST[name]().aggregate(values, "logits")
    assert aggregate.abs().max() < 2
    assert weights[[3, 8]].sum() < 1e-3
    assert Mean().aggregate(values, "logits")[0].min() > 1e4


def test_where_no_class_has_a_majority_the_median_of_soft_labels_is_their_mean():
    certain = torch.eye(4)[:3, None, :]
    aggregate, _ = Median().aggregate(certain, "probs")
    torch.testing.assert_close(aggregate, torch.tensor([[1 / 3, 1 / 3, 1 / 3, 0.0]]))


def test_a_geometric_median_of_uploads_weighs_a_client_the_same_on_all_samples():
    values = uploads("logits")
    aggregate, weights = GeometricMedian(per="upload").aggregate(values, "logits")
    torch.testing.assert_close(aggregate, torch.einsum("k,knc->nc", weights, values))
    assert not torch.allclose(
        aggregate, GeometricMedian().aggregate(values, "logits")[0], atol=1e-2
    )


def test_null_averages_all_but_those_that_krum_tolerates():
    weights = Krum(tolerate=0.2, average=None).aggregate(uploads("logits"), "logits")[1]
    assert sorted(weights.tolist()) == pytest.approx([0.0] * 2 + [1 / 8] * 8)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (TrimmedMean(trim=0.1), TrimmedMean(trim=0.3)),
        (GeometricMedian(iterations=1), GeometricMedian()),
        (Krum(), Krum(average=3)),
        (Krum(tolerate=0.1, average=None), Krum(tolerate=0.3, average=None)),
        (Cronus(tolerate=0.1), Cronus(tolerate=0.4)),
        (Cronus(), Cronus(threshold=0.2)),
    ],
)
def test_every_setting_changes_the_result(one: Robust, other: Robust):
    values = uploads("logits")
    values[0] += 5.0
    assert not torch.equal(one.aggregate(values, "logits")[0], other.aggregate(values, "logits")[0])


@pytest.mark.parametrize("share", [0.0, 0.5, 0.7, -0.1, float("nan")])
@pytest.mark.parametrize(
    ("rule", "name"), [(TrimmedMean, "trim"), (Krum, "tolerate"), (Cronus, "tolerate")]
)
def test_no_more_than_a_minority_can_be_tolerated(rule: type, name: str, share: float):
    with pytest.raises(SettingError, match=f"{name} must be above 0 and below 0.5"):
        rule(**{name: share})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: parse(GeometricMedian, {"per": "class"}, "robust"),
            "robust.per must be one of sample, upload",
        ),
        (lambda: GeometricMedian(iterations=0), "iterations must be >= 1"),
        (lambda: GeometricMedian(iterations=20_000), "iterations must be <= 10000"),
        (lambda: Krum(average=0), "average must be >= 1"),
        (lambda: Cronus(threshold=0.0), "threshold must be > 0"),
    ],
)
def test_settings_out_of_range_are_errors(make, message: str):
    with pytest.raises(SettingError, match=message):
        make()


@pytest.mark.parametrize(
    ("rule", "clients", "message"),
    [
        (Median(), 2, "median would do nothing: of 2 clients it is the mean; it needs 3"),
        (GeometricMedian(), 2, "geometric_median would do nothing"),
        (Cronus(), 2, "cronus would do nothing"),
        (
            TrimmedMean(trim=0.4),
            4,
            "trim=0.4 cuts 2 of 4 clients on each side, which leaves none; cut fewer",
        ),
        (TrimmedMean(), 2, "trim=0.2 cuts 1 of 2 clients"),
        (Krum(tolerate=0.4), 10, "tolerate=0.4 is 4 of 10 clients, for which krum needs 11"),
        (
            Krum(average=9),
            10,
            "average=9 would take in attackers: tolerate=0.2 leaves 8 of 10 clients",
        ),
    ],
)
def test_too_few_clients_are_refused(rule: Robust, clients: int, message: str):
    with pytest.raises(SettingError, match=message):
        rule.check(clients)


@pytest.mark.parametrize("name", ROBUST)
def test_ten_clients_suit_every_default(name: str):
    ROBUST[name]().check(10)
