"""FedMKT: who teaches whom, by hand and against a loop over sequences."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from fedkd.errors import RunError
from fedkd.knowledge import PublicPredictions
from fedkd.messages import Cohort, Predictions, ServerModels
from fedkd.strategies.fedmkt import FedMKT, sequence_losses

LABELS = torch.tensor([0, 1, 2, 0, 1])
SEQUENCES = torch.tensor([3, 3, 4, 4, 4])


def cohort(seed: int = 0, clients: int = 3, **changes: Any) -> Cohort:
    stream = torch.Generator().manual_seed(seed)
    given: dict[str, Any] = {
        "round": 1,
        "client_ids": tuple(range(clients)),
        "public_ids": torch.arange(5),
        "values": 2 * torch.randn(clients, 5, 3, generator=stream),
        "public_labels": LABELS,
        "sequences": SEQUENCES,
    }
    return Cohort(**{**given, **changes})


def naive(found: Cohort) -> tuple[dict[tuple[int, int], float], Tensor, Tensor]:
    """The losses by client and sequence, and who is taught what, in loops."""
    losses: dict[tuple[int, int], float] = {}
    for client, rows in enumerate(found.logits.tolist()):
        for sequence in (3, 4):
            terms = []
            for position in range(5):
                if SEQUENCES[position] == sequence:
                    row = rows[position]
                    total = sum(math.exp(z) for z in row)
                    terms.append(-math.log(math.exp(row[int(LABELS[position])]) / total))
            losses[client, sequence] = sum(terms) / len(terms)
    teachers, taught = torch.zeros(5, 3), torch.zeros(found.size, 5, dtype=torch.bool)
    for position, sequence in enumerate(SEQUENCES.tolist()):
        best = min(range(found.size), key=lambda j: losses[j, sequence])
        teachers[position] = found.logits[best, position].softmax(0)
        for client in range(found.size):
            taught[client, position] = losses[best, sequence] < losses[client, sequence]
    return losses, teachers, taught


@pytest.mark.parametrize("seed", range(4))
def test_each_sequence_is_taught_by_its_best_client_to_all_others(seed: int):
    found = cohort(seed)
    losses, teachers, taught = naive(found)
    fusion = FedMKT().fuse(found, None)
    ours = sequence_losses(found.logits, LABELS, SEQUENCES)
    for (client, sequence), loss in losses.items():
        assert ours[client, sequence == SEQUENCES].tolist() == pytest.approx(
            [loss] * int((sequence == SEQUENCES).sum())
        )
    assert isinstance(fusion.teachers, Tensor)
    assert fusion.taught_rows is not None
    torch.testing.assert_close(fusion.teachers, teachers)
    assert torch.equal(fusion.taught_rows, taught)
    assert fusion.metrics["taught"] == pytest.approx(2 / 3)
    assert int(taught.sum(0).min()) == 2


def test_weights_are_shares_of_samples_and_the_untaught_keep_to_themselves():
    values = torch.zeros(2, 5, 3)
    values[0, :2] = 3 * torch.nn.functional.one_hot(LABELS[:2], 3)  # knows the first sequence
    values[1, 2:] = 3 * torch.nn.functional.one_hot(LABELS[2:], 3)  # knows the second
    weights = FedMKT().fuse(cohort(clients=2, values=values), None).weights
    torch.testing.assert_close(weights, torch.tensor([[0.4, 0.6], [0.4, 0.6]]))


def test_samples_of_no_text_are_sequences_by_themselves():
    found = cohort(sequences=None)
    each = -found.logits.log_softmax(-1).gather(2, LABELS.expand(3, -1)[..., None])[..., 0]
    torch.testing.assert_close(sequence_losses(found.logits, LABELS, None), each)


def test_weighted_choice_is_the_mean_by_inverse_perplexity():
    found = cohort(1)
    losses, _, _ = naive(found)
    fusion = FedMKT(choice="weighted").fuse(found, None)
    assert isinstance(fusion.teachers, Tensor)
    assert fusion.taught_rows is None
    for position, sequence in enumerate(SEQUENCES.tolist()):
        rewards = [math.exp(-losses[j, sequence]) for j in range(3)]
        expected = sum(
            r / sum(rewards) * found.logits[j, position].softmax(0) for j, r in enumerate(rewards)
        )
        torch.testing.assert_close(fusion.teachers[position], expected)


def test_a_client_alone_is_taught_nothing():
    fusion = FedMKT().fuse(cohort(clients=1), None)
    assert fusion.taught_rows is not None
    assert not fusion.taught_rows.any()
    assert fusion.weights.tolist() == [[1.0]]


class ByHeart(ServerModels):
    """A server whose model is its logits, and which takes over what it is taught."""

    taught: Predictions | None = None

    def initial(self, architecture: str) -> Mapping[str, Tensor]:
        logits = torch.zeros(5, 3)
        logits[2:] = 9.0 * torch.nn.functional.one_hot(LABELS[2:], 3)  # knows the second sequence
        return {"logits": logits}

    def predict(self, architecture: str, state: Mapping[str, Tensor], ids: Tensor) -> Tensor:
        return state["logits"][ids]

    def distill(
        self, architecture: str, state: Mapping[str, Tensor], teacher: Predictions, **_: Any
    ) -> Mapping[str, Tensor]:
        self.taught = teacher
        logits = state["logits"].clone()
        logits[teacher.ids] = teacher.values.log()
        return {"logits": logits}


def test_a_server_learns_where_a_client_is_better_and_teaches_where_it_is():
    values = torch.zeros(2, 5, 3)
    values[0, :2] = 3.0 * torch.nn.functional.one_hot(LABELS[:2], 3)
    server: Any = ByHeart()
    found = cohort(clients=2, values=values, server=server)
    fusion = FedMKT(server="mlp").fuse(found, None)
    assert server.taught is not None
    assert server.taught.ids.tolist() == [0, 1]
    torch.testing.assert_close(server.taught.values, found.probs[0, :2])
    assert fusion.taught_rows is not None
    # The first client taught the first sequence itself; the second learns both.
    assert fusion.taught_rows[:, 2:].all()
    assert fusion.taught_rows[1].all()
    assert isinstance(fusion.teachers, Tensor)
    torch.testing.assert_close(fusion.teachers[2:], server.initial("")["logits"][2:].softmax(-1))
    assert fusion.metrics["server_taught"] == pytest.approx(0.4)
    again: Any = fusion.state
    server.taught = None
    FedMKT(server="mlp").fuse(found, again)
    assert server.taught is None or server.taught.ids.tolist() != [0, 1, 2, 3, 4]


def test_clients_that_learn_apart_are_declared_so():
    with pytest.raises(RunError, match="labels of the public set"):
        FedMKT().fuse(cohort(public_labels=None), None)
    assert not FedMKT.knowledge.learn_alike
    assert PublicPredictions("logits").learn_alike
