"""COMET: planted groups are found, centroids are theirs, and the order of clients does not
matter."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedkd.errors import SettingError
from fedkd.messages import Cohort, Fusion
from fedkd.strategies.comet import COMET
from fedkd.strategies.comet import clusters_of as clusters_of_sets


def fused(probs: Tensor, **settings: Any) -> Fusion:
    cohort = Cohort(
        round=1,
        client_ids=tuple(range(len(probs))),
        public_ids=torch.arange(probs.shape[1]),
        values=probs,
        scale="probs",
    )
    return COMET(**settings).fuse(cohort, None)


def clusters_of(points: Tensor, count: int, starts: int = 5) -> Tensor:
    """Clusters of one set of points."""
    return clusters_of_sets(points[None], count, starts)[0]


def squares(points: Tensor, clusters: Tensor) -> float:
    """Squared distances from the centres of clusters, by a loop."""
    groups = [points[clusters == label] for label in clusters.unique()]
    return sum(((group - group.mean(dim=0)) ** 2).sum().item() for group in groups)


def soft(seed: int, *shape: int) -> Tensor:
    return (2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).softmax(dim=-1)


def partition(clusters: Tensor) -> set[frozenset[int]]:
    labels = clusters.tolist()
    return {frozenset(i for i, c in enumerate(labels) if c == label) for label in labels}


@st.composite
def planted(draw: st.DrawFn) -> tuple[Tensor, list[int]]:
    """Clients [K, N, C] in groups that predict alike, far from other groups, and each client's
    group."""
    groups = draw(st.integers(2, 4))
    members = [*range(groups), *draw(st.lists(st.integers(0, groups - 1), max_size=6))]
    order = draw(st.permutations(members))
    stream = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    centres = 6 * torch.eye(groups)[:, None, :].expand(-1, draw(st.integers(1, 5)), -1)
    noise = 0.3 * torch.randn(len(order), *centres.shape[1:], generator=stream)
    return (centres[list(order)] + noise).softmax(dim=-1), list(order)


@pytest.mark.parametrize("per", ["upload", "sample"])
def test_three_clients_by_hand(per: Any):
    """The first two are near: their centroid is (0.85, 0.15) and (0.75, 0.25); the third is
    alone."""
    probs = torch.tensor(
        [[[0.9, 0.1], [0.7, 0.3]], [[0.8, 0.2], [0.8, 0.2]], [[0.1, 0.9], [0.1, 0.9]]]
    )
    fusion = fused(probs, clusters=2, per=per)
    torch.testing.assert_close(
        fusion.weights, torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    )
    pair = torch.tensor([[0.85, 0.15], [0.75, 0.25]])
    torch.testing.assert_close(fusion.teachers, torch.stack([pair, pair, probs[2]]))


def test_by_sample_clients_may_have_other_company_on_each():
    """On the first sample client 1 agrees with client 0, on the second with client 2: half a weight
    of each pairing."""
    near, far = [0.9, 0.1], [0.1, 0.9]
    probs = torch.tensor([[near, near], [near, far], [far, far]])
    fusion = fused(probs, clusters=2, per="sample")
    torch.testing.assert_close(
        fusion.teachers, probs
    )  # each pair agrees: its centroid is what it says
    expected = torch.tensor([[0.75, 0.25, 0.0], [0.25, 0.5, 0.25], [0.0, 0.25, 0.75]])
    torch.testing.assert_close(fusion.weights, expected)


@pytest.mark.parametrize("per", ["upload", "sample"])
@given(problem=planted())
def test_planted_groups_are_found(per: Any, problem: tuple[Tensor, list[int]]):
    probs, groups = problem
    fusion = fused(probs, clusters=max(groups) + 1, per=per)
    for i, group in enumerate(groups):
        mine = [j for j, other in enumerate(groups) if other == group]
        expected = torch.zeros(len(groups))
        expected[mine] = 1 / len(mine)
        torch.testing.assert_close(fusion.weights[i], expected)
        torch.testing.assert_close(fusion.teachers[i], probs[mine].mean(dim=0))


@pytest.mark.parametrize("per", ["upload", "sample"])
@given(seed=st.integers(0, 2**20), clients=st.integers(1, 7), data=st.data())
def test_clients_in_another_order_are_in_the_same_clusters(
    per: Any, seed: int, clients: int, data: st.DataObject
):
    probs, order = soft(seed, clients, 3, 4), list(data.draw(st.permutations(range(clients))))
    before, after = fused(probs, per=per), fused(probs[order], per=per)
    torch.testing.assert_close(after.weights, before.weights[order][:, order])
    torch.testing.assert_close(after.teachers, before.teachers[order])


@pytest.mark.parametrize("per", ["upload", "sample"])
@given(seed=st.integers(0, 2**20), clients=st.integers(2, 6), more=st.integers(0, 2))
def test_as_many_clusters_as_clients_is_self_distillation(
    per: Any, seed: int, clients: int, more: int
):
    probs = soft(seed, clients, 3, 4)
    fusion = fused(probs, clusters=clients + more, per=per)
    torch.testing.assert_close(fusion.weights, torch.eye(clients))
    torch.testing.assert_close(fusion.teachers, probs)


@given(seed=st.integers(0, 2**20), count=st.integers(2, 5))
def test_clients_that_are_alike_stay_together(seed: int, count: int):
    points = soft(seed, 4, 3).repeat(2, 1)
    found = clusters_of(points, count)
    assert torch.equal(found[:4], found[4:])


@given(seed=st.integers(0, 2**20), count=st.integers(2, 4))
def test_nobody_is_nearer_to_another_clusters_centre(seed: int, count: int):
    points = soft(seed, 9, 4)
    found = clusters_of(points, count)
    labels = found.unique().tolist()
    assert len(labels) == count
    centres = torch.stack([points[found == label].mean(dim=0) for label in labels])
    assert [labels[i] for i in torch.cdist(points, centres).argmin(dim=1)] == found.tolist()


def test_several_starts_find_tighter_clusters_than_one():
    """Of 20 sets of points without a structure; the first start is one of the twenty."""
    tighter = 0
    for seed in range(20):
        points = soft(seed, 20, 10)
        one, many = (squares(points, clusters_of(points, 4, starts)) for starts in (1, 20))
        assert many <= one * (1 + 1e-6)
        tighter += many < 0.99 * one
    assert tighter >= 10


@given(seed=st.integers(0, 2**20), starts=st.integers(1, 4))
def test_sets_are_clustered_one_by_one(seed: int, starts: int):
    points = soft(seed, 3, 8, 4)
    for own, together in zip(points, clusters_of_sets(points, 3, starts), strict=True):
        assert partition(clusters_of(own, 3, starts)) == partition(together)


def test_the_number_of_clusters_matters():
    points = torch.tensor([[0.0], [0.1], [1.0], [5.0]])
    assert partition(clusters_of(points, 2)) == {frozenset({0, 1, 2}), frozenset({3})}
    assert partition(clusters_of(points, 3)) == {frozenset({0, 1}), frozenset({2}), frozenset({3})}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clusters": 1}, "clusters must be >= 2, got 1: one cluster is the unweighted mean"),
        ({"starts": 0}, "starts must be >= 1"),
        ({"per": "class"}, "per must be one of upload, sample"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(SettingError, match=message):
        COMET(**settings)
