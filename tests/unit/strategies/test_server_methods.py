"""Methods with models of the server's own: by hand through a naive server, and in small runs."""

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import scenario
from torch import Tensor, nn

from fedkd.codecs import Delta, Quantized
from fedkd.errors import RunError, SettingError
from fedkd.experiment.build import build
from fedkd.federation.server_models import PublicSetModels
from fedkd.fusion import soften
from fedkd.knowledge import WeightsCohort
from fedkd.messages import Cohort, Predictions, ServerModels
from fedkd.strategies.cfd import CFD
from fedkd.strategies.fedavg import FedAvg
from fedkd.strategies.feddf import FedDF
from fedkd.strategies.fedgems import FedGEMS, select


@dataclass
class NaiveServer:
    """A server whose model *is* its logits [P, C], and which learns a teacher by heart in a single
    call.

    What it is asked for is kept in ``calls``.
    """

    classes: int = 2
    samples: int = 4
    calls: list[dict[str, Any]] = field(default_factory=list)
    architectures: tuple[str, ...] = ("mlp", "cnn")

    def initial(self, architecture: str) -> Mapping[str, Tensor]:
        self.calls.append({"what": "initial", "architecture": architecture})
        return {"logits": torch.zeros(self.samples, self.classes)}

    def predict(
        self, architecture: str, state: Mapping[str, Tensor], ids: Tensor | None = None
    ) -> Tensor:
        return state["logits"] if ids is None else state["logits"][ids]

    def distill(
        self,
        architecture: str,
        state: Mapping[str, Tensor],
        teacher: Predictions,
        *,
        loss: str,
        purpose: str,
        round: int,
        epochs: int,
    ) -> Mapping[str, Tensor]:
        asked = {"loss": loss, "purpose": purpose, "round": round, "epochs": epochs}
        self.calls.append(
            {
                "what": "distill",
                "architecture": architecture,
                "state": state,
                "teacher": teacher,
                **asked,
            }
        )
        learned = state["logits"].clone()
        learned[teacher.ids] = (
            teacher.values if teacher.scale == "logits" else teacher.values.clamp(min=1e-12).log()
        )
        return {"logits": learned}

    def fit(
        self,
        architecture: str,
        state: Mapping[str, Tensor],
        ids: Tensor,
        labels: Tensor,
        *,
        purpose: str,
        round: int,
        epochs: int,
    ) -> Mapping[str, Tensor]:
        asked = {"purpose": purpose, "round": round, "epochs": epochs, "ids": ids, "labels": labels}
        self.calls.append({"what": "fit", "architecture": architecture, "state": state, **asked})
        return state

    def accuracy(self, architecture: str, state: Mapping[str, Tensor]) -> float:
        return 0.5

    def measured(self, model: nn.Module) -> float:
        raise AssertionError("nobody here asks for a module")

    def module(self, architecture: str, state: Mapping[str, Tensor]) -> nn.Module:
        raise AssertionError("nobody here asks for a module")

    def example(self, architecture: str) -> Tensor:
        raise AssertionError("nobody here asks for an input")

    def asked(self, what: str) -> list[dict[str, Any]]:
        return [call for call in self.calls if call["what"] == what]


def cohort_of(probs: Tensor, server: ServerModels | None, **more: Any) -> Cohort:
    return Cohort(
        **{
            "round": 3,
            "client_ids": tuple(range(len(probs))),
            "public_ids": torch.arange(probs.shape[1]),
            "values": probs,
            "scale": "probs",
            "server": server,
            **more,
        }
    )


def soft(*shape: int, seed: int = 0) -> Tensor:
    return soften(2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed)))


# feddf


def weights_of(
    *clients: tuple[str, int, list[list[float]]], server: Any = None, **more: Any
) -> WeightsCohort:
    """A cohort of clients by architecture, training size and what they predict."""
    return WeightsCohort(
        round=3,
        client_ids=tuple(range(len(clients))),
        states=tuple({"logits": torch.tensor(rows)} for _, _, rows in clients),
        architectures=tuple(name for name, _, _ in clients),
        train_sizes=tuple(size for _, size, _ in clients),
        public_ids=torch.arange(len(clients[0][2])),
        server=server,
        **more,
    )


def test_feddf_distils_the_mean_of_all_clients_into_each_architectures_mean():
    """Logits (3, 0), (0, 1) of mlps of 3 and 1 samples and (6, 2) of a cnn: the plain mean of all
    is (3, 1).

    It starts from the mlps' weights 3/4 (3, 0) + 1/4 (0, 1) = (2.25, 0.25), and from the cnn's own.
    """
    server = NaiveServer(samples=1)
    cohort = weights_of(
        ("mlp", 3, [[3.0, 0.0]]), ("mlp", 1, [[0.0, 1.0]]), ("cnn", 9, [[6.0, 2.0]]), server=server
    )
    fusion = FedDF(server_epochs=7).fuse(cohort, None)
    mlp, cnn = server.asked("distill")
    assert (mlp["architecture"], cnn["architecture"]) == ("mlp", "cnn")
    assert mlp["state"]["logits"].tolist() == [[2.25, 0.25]]
    assert cnn["state"]["logits"].tolist() == [[6.0, 2.0]]
    for call in (mlp, cnn):
        assert call["teacher"].scale == "logits"
        assert call["teacher"].values.tolist() == [[3.0, 1.0]]
        assert call["teacher"].ids.tolist() == [0]
        assert (call["loss"], call["round"], call["epochs"]) == ("kl", 3, 7)
    assert set(fusion.teachers) == {"mlp", "cnn"}
    assert all(state["logits"].tolist() == [[3.0, 1.0]] for state in fusion.teachers.values())
    torch.testing.assert_close(fusion.weights, torch.full((3, 3), 1 / 3))
    assert fusion.metrics == {"server_accuracy_mlp": 0.5, "server_accuracy_cnn": 0.5}


def test_of_one_client_feddf_distils_a_model_into_itself():
    server = NaiveServer(samples=1)
    fusion = FedDF().fuse(weights_of(("mlp", 3, [[3.0, 0.0]]), server=server), None)
    (call,) = server.asked("distill")
    assert call["state"]["logits"].tolist() == call["teacher"].values.tolist() == [[3.0, 0.0]]
    assert fusion.weights.tolist() == [[1.0]]


def test_distilling_a_model_into_itself_leaves_it_where_it_is():
    """The gradient of KL is 0 where student and teacher agree: in real models, but for rounding."""
    context = build(
        scenario(models=["mlp"], distill={"optimizer": "sgd", "learning_rate": 0.1}),
        threading.Event(),
    ).context
    server = PublicSetModels(context)
    state = {name: tensor.clone() for name, tensor in server.initial("mlp").items()}
    cohort = WeightsCohort(
        round=1,
        client_ids=(0,),
        states=(state,),
        architectures=("mlp",),
        train_sizes=(5,),
        public_ids=torch.arange(40),
        server=server,
    )
    found = FedDF().fuse(cohort, None).teachers["mlp"]
    assert max((found[name] - tensor).abs().max().item() for name, tensor in state.items()) < 1e-6


def test_students_of_clients_are_trained_in_the_parts_that_distill_says() -> None:
    """A model of the server's own begins at random, so that no part of it may stay as it is."""
    parts = {"freeze": ["backbone"], "optimizer": "sgd", "learning_rate": 0.1}
    context = build(scenario(models=["mlp"], distill=parts), threading.Event()).context
    teacher = Predictions(ids=torch.arange(40), values=soft(1, 40, 10)[0], scale="probs")

    def moved(server: PublicSetModels) -> set[str]:
        before = {name: tensor.clone() for name, tensor in server.initial("mlp").items()}
        after = server.distill(
            "mlp", before, teacher, loss="kl", purpose="feddf", round=1, epochs=1
        )
        return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}

    head = context.traits["mlp"].head
    assert moved(PublicSetModels(context)) == {f"{head}.weight", f"{head}.bias"}
    assert len(moved(PublicSetModels(context, own=("mlp",)))) > 2


# cfd


def test_cfd_teaches_the_softened_predictions_of_its_servers_model():
    """Mean (0.6, 0.4) and (0.3, 0.7); the naive server learns ln of it by heart, and at T = 2 says
    sqrt of it."""
    server = NaiveServer(samples=2)
    probs = torch.tensor([[[0.9, 0.1], [0.5, 0.5]], [[0.3, 0.7], [0.1, 0.9]]])
    fusion = CFD(server="cnn", server_epochs=4).fuse(
        cohort_of(probs, server, temperature=2.0), None
    )
    (call,) = server.asked("distill")
    torch.testing.assert_close(call["teacher"].values, torch.tensor([[0.6, 0.4], [0.3, 0.7]]))
    assert (call["teacher"].scale, call["architecture"], call["loss"], call["epochs"]) == (
        "probs",
        "cnn",
        "kl",
        4,
    )
    roots = [[math.sqrt(0.6), math.sqrt(0.4)], [math.sqrt(0.3), math.sqrt(0.7)]]
    expected = torch.tensor([[root / sum(row) for root in row] for row in roots])
    torch.testing.assert_close(fusion.teachers, expected)
    assert fusion.weights.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert fusion.metrics == {"server_accuracy": 0.5}


def test_cfds_model_is_kept_from_round_to_round():
    """Of a round that asks about other samples it still knows the first ones."""
    server = NaiveServer(samples=4)
    first = CFD().fuse(cohort_of(soft(2, 2, 2), server), None)
    second = CFD().fuse(
        cohort_of(soft(2, 2, 2, seed=1), server, public_ids=torch.tensor([2, 3])), first.state
    )
    assert len(server.asked("initial")) == 1
    assert server.asked("distill")[1]["state"] is first.state
    assert torch.equal(second.state["logits"][:2], first.state["logits"][:2])
    assert torch.equal(second.teachers, soften(second.state["logits"][2:]))


def test_cfd_sends_labels_up_and_a_byte_a_class_down():
    assert CFD().codec == (Delta(bits=1), Quantized(bits=8))
    assert CFD(bits_up=4, bits_down=2).codec == (Delta(bits=4), Quantized(bits=2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits_up": 0}, "bits_up must be >= 1"),
        ({"bits_down": 9}, "bits_down must be <= 8"),
        ({"server_epochs": 0}, "server_epochs must be >= 1"),
    ],
)
def test_cfds_settings_are_checked(settings: dict[str, Any], message: str):
    with pytest.raises(SettingError, match=message):
        CFD(**settings)


# fedgems

LABELS = torch.tensor([0, 0, 0, 1])
SERVER = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.2, 0.8], [0.7, 0.3]])
"""Right on the first sample, wrong on the others."""
CLIENTS = torch.tensor(
    [
        [[0.4, 0.6], [0.9, 0.1], [0.8, 0.2], [0.6, 0.4]],
        [[0.4, 0.6], [0.3, 0.7], [0.6, 0.4], [0.9, 0.1]],
    ]
)
"""Wrong on the first sample; on the second one is right, on the third both are, on the last nobody
is."""


def test_selection_by_hand():
    """Where both are right: H(0.8, 0.2) = 0.50040242, H(0.6, 0.4) = 0.67301167.

    1/H = 1.99839160 and 1.48585834: s_0 = 1 / (1 + exp(-0.51253326)) = 0.62540014, and
    q = 0.8 s_0 + 0.6 (1 - s_0) = 0.6 + 0.2 s_0 = 0.72508003.
    """
    selected, shares = select(SERVER, CLIENTS, LABELS)
    expected = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.72508003, 0.27491997], [0.0, 1.0]])
    torch.testing.assert_close(selected, expected, rtol=0, atol=1e-6)
    parts = torch.tensor([[0.0, 1.0, 0.62540014, 0.0], [0.0, 0.0, 0.37459986, 0.0]])
    torch.testing.assert_close(shares, parts, rtol=0, atol=1e-6)
    assert shares[:, 1].tolist() == [1.0, 0.0]  # exactly
    assert selected[3].tolist() == [0.0, 1.0]


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Soft labels of the server [N, C] and of clients [K, N, C], some of them certain, and labels
    [N]."""
    clients, samples, classes = (
        draw(st.integers(1, 5)),
        draw(st.integers(1, 8)),
        draw(st.integers(2, 4)),
    )
    stream = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    sharpness = draw(st.sampled_from([1.0, 5.0, 1000.0]))
    probs = soften(sharpness * torch.randn(1 + clients, samples, classes, generator=stream))
    return probs[0], probs[1:], torch.randint(classes, (samples,), generator=stream)


@given(problem=problems())
def test_selection_equals_a_loop_over_samples(problem: tuple[Tensor, Tensor, Tensor]):
    server, probs, labels = problem
    selected, shares = select(server, probs, labels)
    for x, label in enumerate(labels.tolist()):
        own, rows = server[x].tolist(), [client[x].tolist() for client in probs]
        weights = [0.0] * len(rows)
        if own.index(max(own)) == label:
            expected = own
        else:
            right = [j for j, row in enumerate(rows) if row.index(max(row)) == label]
            entropies = {
                j: max(1e-3, -sum(p * math.log(p) for p in rows[j] if p > 0)) for j in right
            }
            most = max((1 / h for h in entropies.values()), default=0.0)
            effects = {j: math.exp(1 / h - most) for j, h in entropies.items()}
            for j in right:
                weights[j] = effects[j] / sum(effects.values())
            expected = [
                sum(w * row[c] for w, row in zip(weights, rows, strict=True))
                for c in range(len(own))
            ]
            if not right:
                expected = [float(c == label) for c in range(len(own))]
            assert all(shares[j, x] == 0 for j in range(len(rows)) if j not in right)
            if len(right) == 1:
                assert shares[right[0], x] == 1
        # Entropies are sums in float32, and 1/H is as large as 1000.
        torch.testing.assert_close(shares[:, x], torch.tensor(weights), rtol=0, atol=5e-3)
        torch.testing.assert_close(selected[x], torch.tensor(expected), rtol=0, atol=5e-3)


@given(problem=problems())
def test_a_server_that_is_right_everywhere_teaches_itself(problem: tuple[Tensor, Tensor, Tensor]):
    server, probs, _ = problem
    selected, shares = select(server, probs, server.argmax(dim=-1))
    assert torch.equal(selected, server)
    assert (shares == 0).all()


def test_the_server_trains_on_labels_then_distils_what_was_selected():
    """The naive server's labels leave it as it is: at zero logits, of which the first class counts
    as the largest."""
    server = NaiveServer(samples=4)
    cohort = cohort_of(CLIENTS, server, public_labels=LABELS)
    fusion = FedGEMS(server="cnn", server_epochs=6).fuse(cohort, None)
    assert [call["what"] for call in server.calls] == ["initial", "fit", "distill"]
    fit, distill = server.calls[1:]
    assert torch.equal(fit["labels"], LABELS)
    assert torch.equal(fit["ids"], cohort.public_ids)
    assert fit["epochs"] == distill["epochs"] == 6
    assert fit["purpose"] != distill["purpose"]
    expected, shares = select(torch.full((4, 2), 0.5), CLIENTS, LABELS)
    assert torch.equal(distill["teacher"].values, expected)
    assert (distill["teacher"].scale, distill["loss"]) == ("probs", "kl")
    torch.testing.assert_close(fusion.teachers, expected, rtol=0, atol=1e-6)
    assert shares.sum() == 0  # right on the first three, and on the last nobody is
    assert fusion.weights.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert fusion.metrics == {"server_accuracy": 0.5, "taught_by_clients": 0.0}


def test_weights_are_shares_of_the_samples_that_clients_taught():
    """The server prefers the second class: it is wrong on samples 1 and 2, taught by (1, 0) and by
    both as above."""
    server = NaiveServer(samples=4)
    state = {"logits": SERVER.log()}
    fusion = FedGEMS(server="cnn").fuse(cohort_of(CLIENTS, server, public_labels=LABELS), state)
    first = (1 + 0.62540014) / 2
    torch.testing.assert_close(
        fusion.weights, torch.tensor([[first, 1 - first]] * 2), rtol=0, atol=1e-6
    )
    assert fusion.metrics["taught_by_clients"] == 0.5
    assert not server.asked("initial")
    assert server.asked("fit")[0]["state"] is state


def test_fedgems_softens_the_server_at_the_distillation_temperature():
    server = NaiveServer(samples=4)
    state = {"logits": SERVER.log()}
    labels = SERVER.argmax(dim=-1)  # right everywhere: it distils what it says, at T = 2
    fusion = FedGEMS(server="cnn").fuse(
        cohort_of(CLIENTS, server, public_labels=labels, temperature=2.0), state
    )
    torch.testing.assert_close(
        server.asked("distill")[0]["teacher"].values, soften(SERVER.log(), 2.0)
    )
    torch.testing.assert_close(fusion.teachers, soften(fusion.state["logits"], 2.0))


# All of them


@pytest.mark.parametrize("strategy", [CFD(), FedGEMS()], ids=lambda s: type(s).__name__)
def test_without_a_server_model_there_is_a_word_on_it(strategy: Any):
    with pytest.raises(RunError, match="needs a model of the server's own"):
        strategy.fuse(cohort_of(soft(2, 3, 2), None), None)


def test_feddf_without_a_server_has_a_word_on_it():
    with pytest.raises(RunError, match="feddf needs models of the server's own"):
        FedDF().fuse(weights_of(("mlp", 1, [[0.0, 1.0]])), None)


def test_means_of_weights_are_those_of_fedavg():
    """FedDF's start and FedAvg's model are one thing, for one architecture."""
    clients = (("mlp", 3, [[3.0, 0.0]]), ("mlp", 1, [[0.0, 1.0]]))
    server = NaiveServer(samples=1)
    FedDF().fuse(weights_of(*clients, server=server), None)
    start = server.asked("distill")[0]["state"]
    assert torch.equal(
        start["logits"], FedAvg().fuse(weights_of(*clients), None).teachers["mlp"]["logits"]
    )
