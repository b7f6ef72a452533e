"""KnFu against a second implementation in plain Python, by hand, and in limiting cases."""

import dataclasses
import itertools
import math
import typing
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedkd.errors import SettingError
from fedkd.fusion import effective_neighbors, soften
from fedkd.messages import Cohort, Fusion
from fedkd.strategies.knfu import KnFu

EPDS = ("mean_soft_label", "argmax_histogram", "label_histogram")
DIVERGENCES = ("kl", "js", "tv", "cosine", "l2")
NEIGHBORS: tuple[dict[str, Any], ...] = (
    {"neighbors": "all"},
    {"neighbors": "top_k", "top_k": 2},
    {"neighbors": "threshold", "threshold": 0.15},
)


def cohort_of(
    logits: Tensor,
    client_ids: tuple[int, ...] | None = None,
    temperature: float = 1.0,
    label_counts: Tensor | None = None,
) -> Cohort:
    return Cohort(
        round=1,
        client_ids=client_ids or tuple(range(len(logits))),
        public_ids=torch.arange(logits.shape[1]),
        values=logits,
        temperature=temperature,
        label_counts=label_counts,
    )


def random_cohort(
    seed: int, clients: int = 5, samples: int = 12, classes: int = 4, temperature: float = 1.0
) -> Cohort:
    """Clients with label skew, and as many label counts as logits say."""
    stream = torch.Generator().manual_seed(seed)
    skew = 2 * torch.randn(clients, 1, classes, generator=stream)
    logits = torch.randn(clients, samples, classes, generator=stream) + skew
    counts = torch.randint(1, 100, (clients, classes), generator=stream).float()
    return cohort_of(logits, temperature=temperature, label_counts=counts)


def skewed(shares: list[list[float]], samples: int = 2) -> Tensor:
    """Logits whose soft labels at temperature 1 are the same shares on every sample."""
    return torch.tensor(shares).log()[:, None, :].repeat(1, samples, 1)


# The second implementation: loops and math, no tensors.

Rows = list[list[float]]


def naive_softmax(row: list[float], temperature: float) -> list[float]:
    exponentials = [math.exp(x / temperature) for x in row]
    return [e / sum(exponentials) for e in exponentials]


def naive_estimate(settings: KnFu, logits: list[Rows], counts: Rows) -> Rows:
    estimates = []
    for client, rows in enumerate(logits):
        classes = range(len(rows[0]))
        if settings.epd == "label_histogram":
            estimates.append([counts[client][c] / sum(counts[client]) for c in classes])
            continue
        probs = [naive_softmax(row, 1.0) for row in rows]
        if settings.epd == "argmax_histogram":
            first = [max(classes, key=lambda c, row=row: row[c]) for row in probs]
            estimates.append([first.count(c) / len(rows) for c in classes])
        else:
            estimates.append([sum(row[c] for row in probs) / len(rows) for c in classes])
    return estimates


def naive_divergence(name: str, p: list[float], q: list[float]) -> float:
    pairs = list(zip(p, q, strict=True))
    if name == "kl":
        return sum(a * math.log(a / b) for a, b in pairs)
    if name == "js":
        middle = [(a + b) / 2 for a, b in pairs]
        return (naive_divergence("kl", p, middle) + naive_divergence("kl", q, middle)) / 2
    if name == "tv":
        return sum(abs(a - b) for a, b in pairs) / 2
    if name == "cosine":
        return 1 - sum(a * b for a, b in pairs) / (math.hypot(*p) * math.hypot(*q))
    return math.dist(p, q)


def naive_knfu(settings: KnFu, cohort: Cohort) -> tuple[Rows, list[Rows]]:
    """Weights and personal teachers of one round, as the docstring of KnFu describes them."""
    logits = cohort.values.tolist()
    counts = cohort.label_counts.tolist() if cohort.label_counts is not None else []
    estimates = [
        [(x + 0.001) / (1 + 0.001 * len(row)) for x in row]
        for row in naive_estimate(settings, logits, counts)
    ]
    clients = range(len(logits))
    weights, teachers = [], []
    all_apart = [
        [naive_divergence(settings.divergence, estimates[i], estimates[j]) for j in clients]
        for i in clients
    ]
    for i in clients:
        apart = all_apart[i]
        if settings.scale == "largest":
            apart = [d / max(max(row) for row in all_apart) for d in apart]
        if settings.scale == "row":
            apart = [d / max(all_apart[i]) for d in apart]
        allowed = [j for j in clients if settings.include_self or j != i]
        if settings.neighbors == "top_k" and allowed:
            last = sorted(apart[j] for j in allowed)[: settings.top_k][-1]
            allowed = [j for j in allowed if apart[j] <= last]
        if settings.neighbors == "threshold":
            allowed = [j for j in allowed if apart[j] <= settings.threshold]
        allowed = allowed or [i]
        effect = {j: math.exp(-settings.beta * apart[j]) for j in allowed}
        weights.append([effect.get(j, 0.0) / sum(effect.values()) for j in clients])
        teachers.append(
            [
                [
                    sum(
                        weights[i][j] * naive_softmax(logits[j][x], cohort.temperature)[c]
                        for j in clients
                    )
                    for c in range(len(logits[0][0]))
                ]
                for x in range(len(logits[0]))
            ]
        )
    return weights, teachers


@pytest.mark.fast(30)
@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("neighbors", NEIGHBORS, ids=lambda n: n["neighbors"])
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("epd", EPDS)
def test_knfu_equals_the_naive_version(
    epd: Any, divergence: Any, neighbors: dict[str, Any], include_self: bool
):
    settings = KnFu(epd=epd, divergence=divergence, include_self=include_self, **neighbors)
    for seed, temperature in ((0, 1.0), (1, 2.0), (2, 1.0)):
        cohort = random_cohort(seed, samples=13, temperature=temperature)
        weights, teachers = naive_knfu(settings, cohort)
        found = settings.fuse(cohort, None)
        torch.testing.assert_close(found.weights, torch.tensor(weights), rtol=0, atol=1e-5)
        torch.testing.assert_close(found.teachers, torch.tensor(teachers), rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", ["largest", "row"])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_knfu_with_scaled_divergences_equals_the_naive_version(divergence: Any, scale: Any):
    settings, cohort = KnFu(divergence=divergence, scale=scale), random_cohort(5)
    weights, teachers = naive_knfu(settings, cohort)
    found = settings.fuse(cohort, None)
    torch.testing.assert_close(found.weights, torch.tensor(weights), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.teachers, torch.tensor(teachers), rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", ["largest", "row"])
def test_clients_that_are_alike_weigh_the_same_where_divergences_are_scaled(scale: Any):
    weights = KnFu(scale=scale).fuse(cohort_of(torch.zeros(4, 6, 3)), None).weights
    torch.testing.assert_close(weights, torch.full((4, 4), 0.25))


def test_a_scaled_divergence_gives_the_farthest_client_the_weight_e_to_minus_beta_of_oneself():
    cohort = random_cohort(7)
    for divergence in DIVERGENCES:
        settings: dict[str, Any] = {"divergence": divergence, "scale": "row"}
        weights = KnFu(beta=2.0, **settings).fuse(cohort, None).weights
        ratio = weights.amin(dim=1) / weights.diagonal()
        torch.testing.assert_close(ratio, torch.full_like(ratio, math.exp(-2.0)))


@pytest.mark.parametrize("beta", [0.0, 0.5, 3.0, 30.0])
def test_knfu_equals_the_naive_version_for_every_beta(beta: float):
    cohort = random_cohort(3)
    weights, teachers = naive_knfu(KnFu(beta=beta), cohort)
    found = KnFu(beta=beta).fuse(cohort, None)
    torch.testing.assert_close(found.weights, torch.tensor(weights), rtol=0, atol=2e-5)
    torch.testing.assert_close(found.teachers, torch.tensor(teachers), rtol=0, atol=2e-5)


# By hand.

TWO_CLIENTS = torch.tensor([[[0.9, 0.1], [0.7, 0.3]], [[0.2, 0.8], [0.4, 0.6]]]).log()
"""Soft labels of two clients on two samples: their means are (0.8, 0.2) and (0.3, 0.7)."""


def test_two_clients_by_total_variation_by_hand():
    """beta = 2.004 ln 3 makes the weights whole quarters.

    Smoothed, the EPDs are (0.801, 0.201) / 1.002 and (0.301, 0.701) / 1.002; their total variation
    is 0.5 / 1.002. beta d = 2.004 ln 3 * 0.5 / 1.002 = ln 3, hence exp(-beta d) = 1/3 and the
    weights are 1 : 1/3, or 3/4 and 1/4.

    q_0(x_0) = 0.75 * 0.9 + 0.25 * 0.2 = 0.725      q_0(x_1) = 0.75 * 0.7 + 0.25 * 0.4 = 0.625
    q_1(x_0) = 0.25 * 0.9 + 0.75 * 0.2 = 0.375      q_1(x_1) = 0.25 * 0.7 + 0.75 * 0.4 = 0.475
    """
    fusion = KnFu(beta=2.004 * math.log(3), divergence="tv").fuse(cohort_of(TWO_CLIENTS), None)
    torch.testing.assert_close(
        fusion.weights, torch.tensor([[0.75, 0.25], [0.25, 0.75]]), rtol=0, atol=1e-6
    )
    expected = torch.tensor([[[0.725, 0.275], [0.625, 0.375]], [[0.375, 0.625], [0.475, 0.525]]])
    torch.testing.assert_close(fusion.teachers, expected, rtol=0, atol=1e-6)


def test_two_clients_by_kl_by_hand():
    """beta = 2, with ln(0.801/0.301) = 0.97875068 and ln(0.201/0.701) = -1.24920298.

    d_01 = (0.801 * 0.97875068 - 0.201 * 1.24920298) / 1.002 = 0.53182585 d_10 = (-0.301 *
    0.97875068 + 0.701 * 1.24920298) / 1.002 = 0.57992748 W_01 = exp(-2 d_01) / (1 + exp(-2 d_01)) =
    0.34519297 / 1.34519297 = 0.25661223 W_10 = exp(-2 d_10) / (1 + exp(-2 d_10)) = 0.31353165 /
    1.31353165 = 0.23869364 q_0(x_0) = 0.9 - 0.7 W_01 = 0.72037144 for the first class, q_1(x_0) =
    0.2 + 0.7 W_10 = 0.36708555
    """
    fusion = KnFu(beta=2.0).fuse(cohort_of(TWO_CLIENTS), None)
    torch.testing.assert_close(
        fusion.weights,
        torch.tensor([[1 - 0.25661223, 0.25661223], [0.23869364, 1 - 0.23869364]]),
        rtol=0,
        atol=1e-6,
    )
    torch.testing.assert_close(
        fusion.teachers[:, 0, 0], torch.tensor([0.72037144, 0.36708555]), rtol=0, atol=1e-6
    )


def test_the_three_estimates_by_hand():
    """On two samples client 0 says (0.9, 0.1) and (0.45, 0.55), client 1 (0.2, 0.8) twice; it has
    30 and 10 labels.

    Means (0.675, 0.325) and (0.2, 0.8); first choices (1/2, 1/2) and (0, 1); labels (3/4, 1/4) and
    (1/4, 3/4).
    """
    logits = torch.tensor([[[0.9, 0.1], [0.45, 0.55]], [[0.2, 0.8], [0.2, 0.8]]]).log()
    cohort = cohort_of(logits, label_counts=torch.tensor([[30.0, 10.0], [10.0, 30.0]]))
    expected = {
        "mean_soft_label": [[0.675, 0.325], [0.2, 0.8]],
        "argmax_histogram": [[0.5, 0.5], [0.0, 1.0]],
        "label_histogram": [[0.75, 0.25], [0.25, 0.75]],
    }
    assert set(expected) == set(EPDS)
    for epd, shares in expected.items():
        found = KnFu(epd=epd).estimate(cohort)
        torch.testing.assert_close(found, torch.tensor(shares), rtol=0, atol=1e-6)


# Limiting cases and laws.


@st.composite
def cohorts(draw: st.DrawFn, fewest_clients: int = 1) -> Cohort:
    return random_cohort(
        draw(st.integers(0, 2**20)),
        draw(st.integers(fewest_clients, 6)),
        draw(st.integers(1, 8)),
        draw(st.integers(2, 6)),
        draw(st.sampled_from([1.0, 2.0])),
    )


@given(cohort=cohorts(), divergence=st.sampled_from(DIVERGENCES))
def test_beta_zero_is_the_plain_mean_of_soft_labels(cohort: Cohort, divergence: Any):
    fusion = KnFu(beta=0.0, divergence=divergence).fuse(cohort, None)
    torch.testing.assert_close(fusion.weights, torch.full_like(fusion.weights, 1 / cohort.size))
    mean = soften(cohort.values, cohort.temperature).mean(dim=0)
    torch.testing.assert_close(fusion.teachers, mean.expand_as(fusion.teachers))


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_huge_beta_is_self_distillation_where_the_estimates_differ(divergence: Any):
    cohort = random_cohort(0)
    fusion = KnFu(beta=1e6, divergence=divergence).fuse(cohort, None)
    assert torch.equal(fusion.weights, torch.eye(cohort.size))
    torch.testing.assert_close(fusion.teachers, cohort.probs)


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("beta", [1e9, 1e30, 1e38, 1e39, 1e300])
def test_every_beta_that_is_accepted_gives_weights_without_nan(beta: float, include_self: bool):
    """Float32 ends at 3.4e38: a beta beyond what the arithmetic takes must be refused as a setting,
    not in a round."""
    try:
        settings = KnFu(beta=beta, include_self=include_self)
    except SettingError:
        return
    weights = settings.fuse(random_cohort(0), None).weights
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(5))
    assert (weights.diagonal() == float(include_self)).all()


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("beta", [0.0, 1.0, 10.0, 1e6])
def test_identical_clients_weigh_the_same_for_every_beta(beta: float, divergence: Any):
    one = random_cohort(0, clients=1)
    cohort = cohort_of(one.values.repeat(4, 1, 1))
    fusion = KnFu(beta=beta, divergence=divergence).fuse(cohort, None)
    torch.testing.assert_close(fusion.weights, torch.full((4, 4), 0.25))
    torch.testing.assert_close(fusion.teachers, cohort.probs)


@given(cohort=cohorts(fewest_clients=2), low=st.floats(0, 20), more=st.floats(0.1, 20))
def test_a_larger_beta_gives_more_weight_to_oneself(cohort: Cohort, low: float, more: float):
    before, after = (KnFu(beta=beta).fuse(cohort, None).weights for beta in (low, low + more))
    assert (after.diagonal() >= before.diagonal() - 1e-5).all()
    assert (effective_neighbors(after) <= effective_neighbors(before) + 1e-3).all()


@given(cohort=cohorts(fewest_clients=2), divergence=st.sampled_from(DIVERGENCES))
def test_the_nearer_weighs_the_more(cohort: Cohort, divergence: Any):
    settings = KnFu(divergence=divergence)
    weights = settings.fuse(cohort, None).weights.tolist()
    estimates = naive_estimate(settings, cohort.values.tolist(), [])
    estimates = [[(x + 0.001) / (1 + 0.001 * len(row)) for x in row] for row in estimates]
    for i, j, k in itertools.product(range(cohort.size), repeat=3):
        near, far = (naive_divergence(divergence, estimates[i], estimates[x]) for x in (j, k))
        if near < far - 1e-4:
            assert weights[i][j] >= weights[i][k]


def test_weights_follow_label_similarity_and_are_no_mean():
    """Clients 0 and 1 hold classes 0 and 1, clients 2 and 3 classes 2 and 3: a plain mean would
    weigh all 1/4."""
    shares = [
        [0.55, 0.35, 0.05, 0.05],
        [0.35, 0.55, 0.05, 0.05],
        [0.05, 0.05, 0.55, 0.35],
        [0.05, 0.05, 0.35, 0.55],
    ]
    cohort = cohort_of(skewed(shares))
    for divergence in DIVERGENCES:
        weights = KnFu(divergence=divergence).fuse(cohort, None).weights
        assert (weights.diagonal() > 0.35).all()
        assert (effective_neighbors(weights) < 3).all()
        for i, similar in enumerate((1, 0, 3, 2)):
            others = [j for j in range(4) if j not in (i, similar)]
            assert weights[i, i] > weights[i, similar] > 5 * weights[i, others].max()
    teachers = KnFu().fuse(cohort, None).teachers
    assert (teachers.argmax(dim=-1) == cohort.probs.argmax(dim=-1)).all()
    assert (teachers[0] - teachers[2]).abs().max() > 0.3


def test_kl_is_taken_from_the_recipient_to_the_contributor():
    """Client 0 is certain, client 1 spreads: KL(P_0 || P_1) < KL(P_1 || P_0), so 0 listens to 1
    more than 1 to 0.

    0.98 ln(0.98/0.5) + 0.02 ln(0.02/0.5) = 0.6595 - 0.0644 = 0.595; 0.5 ln(0.5/0.98) + 0.5
    ln(0.5/0.02) = 1.273.
    """
    weights = KnFu(beta=1.0).fuse(cohort_of(skewed([[0.98, 0.02], [0.5, 0.5]])), None).weights
    assert weights[0, 1].item() == pytest.approx(1 / (1 + math.exp(0.595)), abs=0.005)
    assert weights[1, 0].item() == pytest.approx(1 / (1 + math.exp(1.273)), abs=0.02)


def test_the_estimate_ignores_the_distillation_temperature():
    cool, warm = (random_cohort(0, temperature=t) for t in (1.0, 5.0))
    assert torch.equal(KnFu().fuse(cool, None).weights, KnFu().fuse(warm, None).weights)
    assert not torch.allclose(KnFu().fuse(cool, None).teachers, KnFu().fuse(warm, None).teachers)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("epd", ["mean_soft_label", "argmax_histogram"])
def test_a_class_that_one_client_never_predicts_keeps_everything_finite(epd: Any, divergence: Any):
    certain = 200 * torch.eye(3)[:, None, :].repeat(1, 4, 1)
    fusion = KnFu(epd=epd, divergence=divergence).fuse(cohort_of(certain), None)
    assert torch.isfinite(fusion.weights).all()
    assert (fusion.weights.diagonal() > 0.99).all()


# Neighbors.


def test_a_client_alone_teaches_itself_for_want_of_another():
    cohort = random_cohort(0, clients=1)
    fusion = KnFu(include_self=False).fuse(cohort, None)
    assert fusion.weights.tolist() == [[1.0]]
    assert torch.equal(fusion.teachers, cohort.probs)


def test_a_client_without_neighbors_teaches_itself():
    """Clients 0 and 1 are alike, client 2 is farther from both than the threshold."""
    cohort = cohort_of(skewed([[0.8, 0.2], [0.75, 0.25], [0.1, 0.9]]))
    fusion = KnFu(neighbors="threshold", threshold=0.1, divergence="tv", include_self=False).fuse(
        cohort, None
    )
    assert fusion.weights.tolist() == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    torch.testing.assert_close(fusion.teachers, cohort.probs[[1, 0, 2]])


def test_only_those_within_the_threshold_teach():
    """Total variations from client 0: 0.05 and 0.7, of which the threshold lets the first pass."""
    cohort = cohort_of(skewed([[0.8, 0.2], [0.75, 0.25], [0.1, 0.9]]))
    weights = KnFu(neighbors="threshold", threshold=0.1, divergence="tv").fuse(cohort, None).weights
    assert (
        (weights > 0)
        == torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    ).all()


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_top_k_clients_teach_the_client_itself_among_them_if_it_may(count: int, include_self: bool):
    weights = (
        KnFu(neighbors="top_k", top_k=count, include_self=include_self)
        .fuse(random_cohort(4), None)
        .weights
    )
    assert ((weights > 0).sum(dim=1) == count).all()
    assert ((weights.diagonal() > 0) == include_self).all()


def test_more_neighbors_than_clients_are_all_clients():
    cohort = random_cohort(0)
    everyone = KnFu().fuse(cohort, None)
    assert torch.equal(
        KnFu(neighbors="top_k", top_k=99).fuse(cohort, None).weights, everyone.weights
    )
    assert torch.equal(
        KnFu(neighbors="threshold", threshold=1e6).fuse(cohort, None).weights, everyone.weights
    )


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_neighbors_that_tie_all_teach_however_the_classes_are_numbered(divergence: Any):
    """Clients 1 to 3 hold (70, 20, 10) in three orders, equally far from client 0, who holds as
    many of each class.

    Such ties are common: where a partition deals every client two classes, most pairs are equally
    far apart.
    """
    counts = torch.tensor(
        [[30.0, 30.0, 30.0], [70.0, 20.0, 10.0], [10.0, 70.0, 20.0], [20.0, 10.0, 70.0]]
    )
    settings = KnFu(
        neighbors="top_k", top_k=1, include_self=False, divergence=divergence, epd="label_histogram"
    )
    weights = settings.fuse(cohort_of(torch.zeros(4, 2, 3), label_counts=counts), None).weights
    torch.testing.assert_close(
        weights[0], torch.tensor([0.0, 1 / 3, 1 / 3, 1 / 3]), rtol=0, atol=1e-5
    )


# Every option counts.

COMPANIONS: dict[str, dict[Any, dict[str, Any]]] = {
    "neighbors": {"top_k": {"top_k": 2}, "threshold": {"threshold": 0.15}},
}


def options() -> list[tuple[str, Any, Any]]:
    """Each pair of values of each setting with a closed list of them, found in the annotations."""
    found = []
    for name, hint in typing.get_type_hints(KnFu).items():
        values = (True, False) if hint is bool else typing.get_args(hint)
        if hint is bool or typing.get_origin(hint) is typing.Literal:
            found += [(name, *pair) for pair in itertools.combinations(values, 2)]
    return found


def second_round(settings: KnFu) -> Fusion:
    """The fusion of a second round, when the clients' predictions have changed since the first."""
    state = settings.fuse(random_cohort(0), None).state
    return settings.fuse(random_cohort(1), state)


@pytest.mark.parametrize(("setting", "one", "other"), options())
def test_each_value_of_each_setting_changes_the_result(setting: str, one: Any, other: Any):
    fusions = [
        second_round(KnFu(**{setting: value}, **COMPANIONS.get(setting, {}).get(value, {})))
        for value in (one, other)
    ]
    assert (fusions[0].weights - fusions[1].weights).abs().max() > 1e-3
    assert (fusions[0].teachers - fusions[1].teachers).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"beta": 10.0}, {"beta": 5.0}),
        ({"neighbors": "top_k", "top_k": 2}, {"neighbors": "top_k", "top_k": 3}),
        (
            {"neighbors": "threshold", "threshold": 0.01},
            {"neighbors": "threshold", "threshold": 0.5},
        ),
    ],
)
def test_each_number_changes_the_result(one: dict[str, Any], other: dict[str, Any]):
    assert (
        second_round(KnFu(**one)).weights - second_round(KnFu(**other)).weights
    ).abs().max() > 1e-3


def test_every_setting_is_tried_above():
    tried = {name for name, *_ in options()} | {"beta", "top_k", "threshold"}
    assert tried == {field.name for field in dataclasses.fields(KnFu)}


# Timing of the estimate.


def test_first_round_keeps_the_first_estimate():
    settings = KnFu(epd_timing="first_round")
    first, second = random_cohort(0), random_cohort(1)
    opening = settings.fuse(first, None)
    following = settings.fuse(second, opening.state)
    third = settings.fuse(random_cohort(2), following.state)
    assert torch.equal(following.weights, opening.weights)
    assert torch.equal(third.weights, opening.weights)
    expected = torch.einsum("ij,jnc->inc", opening.weights, second.probs)
    torch.testing.assert_close(following.teachers, expected)


def test_each_round_estimates_again():
    settings, second = KnFu(epd_timing="each_round"), random_cohort(1)
    state = settings.fuse(random_cohort(0), None).state
    assert torch.equal(settings.fuse(second, state).weights, settings.fuse(second, None).weights)


def test_a_client_that_joins_later_keeps_the_estimate_of_its_own_first_round():
    """Clients 0 and 1 come first, 1 and 2 in the second round, and all three in the third."""
    settings = KnFu(epd_timing="first_round")
    first, second, third = random_cohort(0).values, random_cohort(1).values, random_cohort(2).values
    state = settings.fuse(cohort_of(first[:2], client_ids=(0, 1)), None).state
    fusion = settings.fuse(cohort_of(second[1:3], client_ids=(1, 2)), state)
    first_seen = torch.stack([first[0], first[1], second[2]])
    estimates = soften(first_seen).mean(dim=1)
    torch.testing.assert_close(fusion.weights, settings.weigh(estimates[1:]))
    fusion = settings.fuse(cohort_of(third[:3], client_ids=(0, 1, 2)), fusion.state)
    torch.testing.assert_close(fusion.weights, settings.weigh(estimates))


def test_a_client_that_pauses_finds_its_estimate_again():
    settings = KnFu(epd_timing="first_round")
    opening = settings.fuse(random_cohort(0), None)
    without = settings.fuse(
        cohort_of(random_cohort(1).values[:2], client_ids=(3, 4)), opening.state
    )
    back = settings.fuse(random_cohort(2), without.state)
    assert torch.equal(back.weights, opening.weights)


def test_a_state_is_not_written_into():
    settings = KnFu(epd_timing="first_round")
    state = settings.fuse(cohort_of(random_cohort(0).values[:2], client_ids=(0, 1)), None).state
    before = {i: estimate.clone() for i, estimate in state.items()}
    settings.fuse(random_cohort(1), state)
    assert list(state) == list(before) == [0, 1]
    assert all(torch.equal(state[i], before[i]) for i in before)


# Declarations and settings.


def test_beta_is_10_as_in_the_paper():
    assert KnFu().beta == 10


@pytest.mark.parametrize("epd", EPDS)
def test_only_the_oracle_needs_label_counts(epd: Any):
    assert KnFu(epd=epd).needs.label_counts == (epd == "label_histogram")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": -1.0}, r"beta must be >= 0, got -1\.0"),
        ({"beta": math.nan}, "beta must be a finite number, got nan"),
        ({"beta": math.inf}, "beta must be a finite number, got inf"),
        (
            {"epd": "mean"},
            "epd must be one of mean_soft_label, argmax_histogram, label_histogram, got 'mean'",
        ),
        ({"epd_timing": "never"}, "epd_timing must be one of first_round, each_round, got 'never'"),
        ({"divergence": "kld"}, "divergence must be one of kl, js, tv, cosine, l2, got 'kld'"),
        ({"neighbors": "some"}, "neighbors must be one of all, top_k, threshold, got 'some'"),
        ({"top_k": 3}, "top_k=3 would do nothing: neighbors=all"),
        ({"threshold": 0.5}, r"threshold=0\.5 would do nothing: neighbors=all"),
        (
            {"neighbors": "threshold", "threshold": 0.5, "top_k": 3},
            "top_k=3 would do nothing: neighbors=threshold",
        ),
        (
            {"neighbors": "top_k", "top_k": 3, "threshold": 0.5},
            r"threshold=0\.5 would do nothing: neighbors=top_k",
        ),
        ({"neighbors": "top_k"}, "top_k must be given with neighbors=top_k"),
        ({"neighbors": "threshold"}, "threshold must be given with neighbors=threshold"),
        ({"neighbors": "top_k", "top_k": 0}, "top_k must be >= 1, got 0"),
        ({"neighbors": "threshold", "threshold": 0.0}, r"threshold must be > 0, got 0\.0"),
        ({"neighbors": "threshold", "threshold": -0.1}, r"threshold must be > 0, got -0\.1"),
        (
            {"neighbors": "threshold", "threshold": math.nan},
            "threshold must be a finite number, got nan",
        ),
        (
            {"epd": "label_histogram", "epd_timing": "first_round"},
            "epd_timing=first_round would do nothing",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(SettingError, match=message):
        KnFu(**settings)
