"""COSMOS: clusters against a loop, how many there are, late clients, a model for each."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import silhouette_score

from fedkd.errors import RunError, SettingError
from fedkd.messages import Cohort, Predictions
from fedkd.strategies.cosmos import (
    COSMOS,
    assigned,
    clusters_within,
    distances_of,
    greedy_clusters,
    mean_silhouette,
)


class LearnsByHeart:
    """A server whose model is its logits [6, 4], which a single call makes the teacher's."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def initial(self, architecture: str) -> dict[str, torch.Tensor]:
        return {"logits": torch.zeros(6, 4)}

    def predict(self, architecture: str, state: Any, ids: Any = None) -> torch.Tensor:
        found: torch.Tensor = state["logits"][ids]
        return found

    def distill(self, architecture: str, state: Any, teacher: Predictions, **how: Any) -> Any:
        self.calls.append((how["purpose"], state))
        return {"logits": teacher.values.log()}

    def fit(self, *how: Any, **more: Any) -> Any:
        raise AssertionError("cosmos sees no public labels")

    def accuracy(self, *how: Any) -> float:
        return 0.0

    def module(self, *how: Any) -> Any:
        raise AssertionError("cosmos asks for no module")

    measured = example = module

    @property
    def architectures(self) -> tuple[str, ...]:
        return ("mlp",) * 4


def groups_of(clusters: torch.Tensor) -> set[frozenset[int]]:
    return {frozenset((clusters == c).nonzero()[:, 0].tolist()) for c in clusters.unique().tolist()}


def planted(groups: list[int], seed: int = 0) -> torch.Tensor:
    """Soft labels [K, 6, 4] of clients that are sure of the class of their group."""
    stream = torch.Generator().manual_seed(seed)
    logits = 3 * torch.nn.functional.one_hot(torch.tensor(groups), 4)[:, None].float()
    return (logits + 0.3 * torch.randn(len(groups), 6, 4, generator=stream)).softmax(dim=-1)


@pytest.mark.parametrize("groups", [[0, 1, 0, 1, 2, 2], [0, 0, 0, 0, 1, 1], [3, 2, 1, 3, 2, 1, 3]])
def test_planted_groups_are_found_without_being_told_how_many(groups: list[int]):
    found = clusters_within(distances_of(planted(groups)), None)
    assert groups_of(found) == groups_of(torch.tensor(groups))


def test_clients_that_are_alike_are_one_cluster_and_a_radius_decides_where_it_is_given():
    same = planted([0]).expand(4, -1, -1)
    assert clusters_within(distances_of(same), None).tolist() == [0] * 4
    stream = torch.Generator().manual_seed(0)
    unlike = torch.randn(8, 50, 10, generator=stream).softmax(dim=-1)  # each in a way of its own
    assert clusters_within(distances_of(unlike), None).tolist() == [0] * 8
    distances = distances_of(planted([0, 1, 2]))
    assert len(clusters_within(distances, 2.0).unique()) == 1
    assert len(clusters_within(distances, 1e-6).unique()) == 3


@given(seed=st.integers(0, 1000), clients=st.integers(3, 7))
def test_silhouettes_are_scikit_learns_and_clusters_do_not_depend_on_the_order(
    seed: int, clients: int
):
    stream = torch.Generator().manual_seed(seed)
    distances = distances_of(torch.randn(clients, 3, 4, generator=stream).softmax(dim=-1))
    labels = torch.randint(3, (clients,), generator=stream)
    labels = torch.unique(labels, return_inverse=True)[1]
    found = mean_silhouette(distances, labels)
    if found is not None:
        expected = silhouette_score(distances.numpy(), labels.numpy(), metric="precomputed")
        assert found == pytest.approx(float(expected), abs=1e-9)
    order = torch.randperm(clients, generator=stream)
    one = clusters_within(distances, None)
    other = clusters_within(distances[order][:, order], None)
    assert groups_of(one[order]) == groups_of(other)
    # Greedy: the first cluster is of a client with most others within the radius.
    radius = distances.median().item()
    near = (distances <= radius).sum(dim=1).max()
    assert (greedy_clusters(distances, radius) == 0).sum() == near


def test_of_centers_with_as_many_clients_the_nearest_to_them_is_taken():
    """In a line a, b, c, d both b and c have two others within 0.3; those of c are nearer."""
    places = torch.tensor([0.0, 0.2, 0.5, 0.6])
    labels = greedy_clusters((places[:, None] - places).abs(), 0.3 + 1e-6)
    assert labels.tolist() == [1, 0, 0, 0]


def test_a_client_that_comes_late_joins_the_nearest_cluster_and_others_stay():
    known = {"0": 0, "1": 1}
    probs = planted([1, 0, 1], seed=3)  # clients 0, 1 and 5; the first two have changed places
    found = assigned(probs, (0, 1, 5), known, None)
    assert found == {0: 0, 1: 1, 5: 0}
    alone = assigned(probs[2:], (7,), known, None)
    assert alone == {0: 0, 1: 1, 7: 0}


def cohort_of(probs: torch.Tensor, **more: Any) -> Cohort:
    return Cohort(
        round=more.pop("round", 1),
        client_ids=tuple(range(len(probs))),
        public_ids=torch.arange(probs.shape[1]),
        values=probs,
        scale="probs",
        **more,
    )


def test_each_cluster_has_a_model_that_learns_its_mean_and_teaches_it():
    server: Any = LearnsByHeart()
    probs = planted([0, 1, 0, 1])
    strategy = COSMOS(server="mlp")
    fusion = strategy.fuse(cohort_of(probs, server=server), None)
    assert fusion.metrics == {"clusters": 2.0}
    for i, pair in ((0, [0, 2]), (1, [1, 3])):
        torch.testing.assert_close(fusion.teachers[i], probs[pair].mean(dim=0))
        assert fusion.weights[i].nonzero()[:, 0].tolist() == pair
    state: Any = fusion.state
    again = strategy.fuse(cohort_of(probs, server=server, round=2), state)
    assert again.metrics == {"clusters": 2.0}
    purposes = [purpose for purpose, _ in server.calls]
    assert purposes == ["cosmos cluster 0", "cosmos cluster 1"] * 2
    assert torch.equal(server.calls[2][1]["logits"], state["models"]["0"]["logits"])


def test_what_cannot_be_is_refused():
    with pytest.raises(SettingError, match="radius must be > 0"):
        COSMOS(radius=0.0)
    with pytest.raises(RunError, match="models of the server's own"):
        COSMOS().fuse(cohort_of(planted([0, 1])), None)
