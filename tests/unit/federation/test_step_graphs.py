"""Steps that are recorded once and replayed, as a GPU would, against the usual ones."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from replayed import record_on_cpu
from torch import Tensor

from fedkd.federation import step_graphs
from fedkd.federation.batch_trials import Tried, first_trial
from fedkd.federation.batched_training import (
    Pool,
    StepsToTake,
    optimize_together,
    take_in_turn,
)
from fedkd.federation.step_graphs import StepGraphs, reason_against_graphs
from fedkd.models.factory import ImageModelSpec
from fedkd.models.product_convolutions import as_products
from fedkd.training import optimizers
from fedkd.training.hyperparameters import Phase

SIZES, SHAPE, CLASSES = [11, 6, 18, 0], (1, 8, 8), 3
"""At batch size 4: 3, 2, 5 and no steps an epoch, and short last batches."""


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The results of all recordings; Adam is fused, as on a GPU: it reads nothing on the host."""
    found: list[Tensor] = []

    def record(call: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        replay, result = record_on_cpu(call)
        found.append(result)
        return replay, result

    monkeypatch.setattr(step_graphs, "record", record)
    monkeypatch.setattr(optimizers, "is_fused", lambda _: True)
    return found


class Federation:
    """Clients with samples, to be trained from new weights each time they are asked."""

    def __init__(self, name: str = "mlp", sizes: Sequence[int] = SIZES) -> None:
        self.sizes = list(sizes)
        self.model = ImageModelSpec(name, SHAPE, CLASSES).build(0)
        stream = torch.Generator().manual_seed(0)
        self.x = [torch.randn(size, *SHAPE, generator=stream) for size in sizes]
        self.y = [torch.randint(CLASSES, (size,), generator=stream) for size in sizes]

    def trained(
        self,
        take: Callable[[StepsToTake], None],
        phase: Phase,
        *,
        seed: int = 0,
        products: bool = False,
    ) -> tuple[dict[str, Tensor], list[float | None]]:
        stream = torch.Generator().manual_seed(seed)
        states = {
            name: torch.stack([value + 0.1 * torch.rand(value.shape, generator=stream)] * 4)
            for name, value in self.model.state_dict().items()
        }
        pools = Pool.of_each(self.x), Pool.of_each([F.one_hot(y, CLASSES).float() for y in self.y])
        streams = [np.random.default_rng(i) for i in range(4)]
        with as_products(self.model, products):
            losses = optimize_together(
                self.model,
                states,
                self.sizes,
                *pools,
                F.cross_entropy,
                phase,
                streams,
                take_steps=take,
            )
        return states, losses


@pytest.mark.parametrize(
    ("name", "phase", "products"),
    [
        ("mlp", Phase(batch_size=4, epochs=2), False),
        ("mlp", Phase(batch_size=4, optimizer="adamw", weight_decay=0.1), False),
        ("mlp", Phase(batch_size=4, optimizer="sgd", learning_rate=0.1, momentum=0.9), False),
        ("mlp", Phase(batch_size=4, optimizer="sgd", learning_rate=0.1), False),
        ("cnn", Phase(batch_size=4), False),
        ("cnn", Phase(batch_size=4), True),
    ],
    ids=str,
)
def test_replayed_steps_have_the_bits_of_usual_ones(
    name: str, phase: Phase, products: bool, recorder: list[Tensor]
) -> None:
    federation = Federation(name)
    replaying, usual = StepGraphs(), StepGraphs(records=False)
    for seed in range(3):  # the first call warms up and records, later ones only replay
        found, expected = (
            federation.trained(partial(one.take, key="a"), phase, seed=seed, products=products)
            for one in (replaying, usual)
        )
        assert found[1] == expected[1]
        assert all(torch.equal(found[0][name], value) for name, value in expected[0].items())
        loop = federation.trained(take_in_turn, phase, seed=seed, products=products)
        torch.testing.assert_close(found[0], loop[0], rtol=1e-4, atol=1e-5)
        assert found[1][:3] == pytest.approx(loop[1][:3], rel=1e-5)
    assert len(recorder) == 1


def test_each_number_of_clients_and_each_purpose_has_a_graph(recorder: list[Tensor]) -> None:
    federation, graphs, phase = Federation(), StepGraphs(), Phase(batch_size=4)
    for key in ("train", "distill", "train"):
        federation.trained(partial(graphs.take, key=key), phase)
    assert len(recorder) == 2
    Federation(sizes=[3, 3, 3, 0]).trained(partial(graphs.take, key="train"), phase)
    assert len(recorder) == 2  # one step each: too few to be recorded
    Federation(sizes=[20, 0, 0, 0]).trained(partial(graphs.take, key="train"), phase)
    assert len(recorder) == 3


def test_few_graphs_are_kept(recorder: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_graphs, "MOST_GRAPHS", 1)
    federation, graphs, phase = Federation(), StepGraphs(), Phase(batch_size=4)
    for key in ("train", "distill", "train"):
        federation.trained(partial(graphs.take, key=key), phase)
    assert len(recorder) == 3


def test_what_reads_a_value_cannot_be_recorded(recorder: list[Tensor]) -> None:
    with pytest.raises(RuntimeError, match="makes the host wait"):
        record_on_cpu(lambda: torch.zeros(3) * torch.ones(()).item())


def test_a_trial_takes_what_has_the_same_bits_and_is_faster(
    recorder: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, phase = ImageModelSpec("mlp", SHAPE, CLASSES), Phase(batch_size=2)
    cpu = torch.device("cpu")
    monkeypatch.setattr(
        step_graphs, "first_trial", lambda tried, **k: first_trial(replace(tried, device=cpu), **k)
    )

    def reason(*, pays: bool) -> str | None:
        tried = Tried(spec, [9, 9], phase, torch.device("cuda"))
        return reason_against_graphs(tried, products=False, pays=pays)

    for seconds, said in ((iter([1.0, 1.0, 1.0, 0.5, 0.5, 0.5]), None), (iter([1.0] * 6), "not f")):
        monkeypatch.setattr(step_graphs, "seconds_of", lambda *_, s=seconds: next(s))
        found = reason(pays=True)
        assert found is None if said is None else said in str(found)
    monkeypatch.setattr(step_graphs, "seconds_of", lambda *_: 1.0)
    assert reason(pays=False) is None

    def forgetful(call: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        return lambda: None, record_on_cpu(call)[1]

    monkeypatch.setattr(step_graphs, "record", forgetful)
    assert reason(pays=False) == "replayed steps have other bits than the usual ones"

    def failing(call: object) -> tuple[Callable[[], None], Tensor]:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(step_graphs, "record", failing)
    assert "cannot be recorded: RuntimeError: operation not permitted" in str(reason(pays=False))


def test_a_cpu_replays_nothing() -> None:
    spec = ImageModelSpec("mlp", SHAPE, CLASSES)
    tried = Tried(spec, [9, 9], Phase(), torch.device("cpu"))
    found = reason_against_graphs(tried, products=False, pays=False)
    assert found is not None
    assert "device=cuda" in found
