"""Methods whose common teacher is a mean: by hand, against naive loops, in their limiting cases."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedkd.errors import SettingError
from fedkd.fusion import soften
from fedkd.messages import Cohort, Fusion
from fedkd.strategies.cronus import Cronus
from fedkd.strategies.dsfl import DSFL
from fedkd.strategies.feddf_logits import FedDFLogits
from fedkd.strategies.fedmd import FedMD
from fedkd.strategy import MeanBased, Streaming, chosen_loss, declaration
from fedkd.training.losses import distillation_target, kl

STREAMED: tuple[tuple[str, Any], ...] = (
    ("fedmd", FedMD()),
    ("feddf_logits", FedDFLogits()),
    ("dsfl", DSFL()),
    ("dsfl", DSFL(aggregation="mean")),
)


def cohort_of(values: Tensor, scale: Any = "logits", temperature: float = 1.0) -> Cohort:
    return Cohort(
        round=1,
        client_ids=tuple(range(len(values))),
        public_ids=torch.arange(values.shape[1]),
        values=values,
        scale=scale,
        temperature=temperature,
    )


@st.composite
def logits(draw: st.DrawFn, fewest: int = 1, most: int = 7) -> Tensor:
    clients, samples, classes = (
        draw(st.integers(fewest, most)),
        draw(st.integers(1, 6)),
        draw(st.integers(2, 5)),
    )
    stream = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    return 3 * torch.randn(clients, samples, classes, generator=stream)


def naive_softmax(row: list[float]) -> list[float]:
    exponentials = [math.exp(x - max(row)) for x in row]
    return [e / sum(exponentials) for e in exponentials]


# feddf_logits


def test_the_teacher_of_feddf_by_hand():
    """Logits (ln 9, 0) and (ln 4, 0): mean (ln 6, 0), softmax (6/7, 1/7); at T = 2 the mean is ln
    sqrt 6.

    The mean of soft labels would be (0.9 + 0.8) / 2 = 0.85 and not 6/7 = 0.857.
    """
    values = torch.tensor([[[math.log(9), 0.0]], [[math.log(4), 0.0]]])
    teacher = FedDFLogits().fuse(cohort_of(values), None).teachers
    for temperature, first in ((1.0, 6 / 7), (2.0, math.sqrt(6) / (1 + math.sqrt(6)))):
        target = distillation_target("kl", teacher, "logits", temperature)
        torch.testing.assert_close(target, torch.tensor([[first, 1 - first]]), rtol=0, atol=1e-6)


@given(values=logits(), temperature=st.sampled_from([0.5, 1.0, 4.0]))
def test_what_clients_distil_is_the_softened_mean_of_logits(values: Tensor, temperature: float):
    fusion = FedDFLogits().fuse(cohort_of(values, temperature=temperature), None)
    found = distillation_target("kl", fusion.teachers, "logits", temperature)
    clients, samples, classes = values.shape
    rows = values.tolist()
    for x in range(samples):
        mean = [sum(rows[j][x][c] for j in range(clients)) / clients for c in range(classes)]
        expected = naive_softmax([z / temperature for z in mean])
        torch.testing.assert_close(found[x], torch.tensor(expected), rtol=0, atol=1e-5)


def test_feddf_sends_logits_and_distills_by_kl():
    declared = declaration(FedDFLogits(), "feddf_logits")
    assert (declared.knowledge, declared.teaches, declared.loss) == ("logits", "logits", "kl")
    assert chosen_loss(declared, "feddf_logits", "mse") == "mse"


def test_feddf_differs_from_fedmd_by_softening_and_loss_alone():
    values = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    one, other = FedDFLogits().fuse(cohort_of(values), None), FedMD().fuse(cohort_of(values), None)
    assert torch.equal(one.teachers, other.teachers)
    assert torch.equal(one.weights, other.weights)
    assert declaration(FedMD(), "fedmd").loss == "mae"


@given(values=logits(most=1))
def test_one_client_alone_has_nothing_to_learn_from_feddf(values: Tensor):
    target = distillation_target(
        "kl", FedDFLogits().fuse(cohort_of(values), None).teachers, "logits", 2.0
    )
    assert kl(values[0], target, 2.0).abs() < 1e-5


# streaming


@pytest.mark.parametrize(("name", "strategy"), STREAMED, ids=str)
@given(values=logits())
def test_a_stream_gives_the_bits_of_the_stacked_cohort(name: str, strategy: Any, values: Tensor):
    assert isinstance(strategy, Streaming)
    assert isinstance(strategy, MeanBased)
    scale = declaration(strategy, name).kind.scale
    uploads = values if scale == "logits" else soften(values)
    stream = strategy.accumulator(None)
    for client, upload in enumerate(uploads):
        stream.add(client, upload)
    whole, streamed = strategy.fuse(cohort_of(uploads, scale), None), stream.fuse()
    assert torch.equal(whole.teachers, streamed.teachers)
    assert torch.equal(whole.weights, streamed.weights)


@pytest.mark.parametrize(("name", "strategy"), STREAMED, ids=str)
def test_a_stream_does_not_write_into_uploads(name: str, strategy: Any):
    uploads = torch.full((2, 1, 2), 0.5)
    stream = strategy.accumulator(None)
    for client, upload in enumerate(uploads):
        stream.add(client, upload)
    stream.fuse()
    assert (uploads == 0.5).all()


# cronus


def cronus(probs: Tensor, **settings: Any) -> Fusion:
    return Cronus(**settings).fuse(cohort_of(probs, "probs"), None)


CROWD = soften(
    torch.tensor([3.0, 0.0, 0.0])
    + 0.1 * torch.randn(8, 4, 3, generator=torch.Generator().manual_seed(0))
)
"""Eight clients that are sure of the first class on four samples."""


def test_cronus_by_hand():
    """Of (0.6, 0.4) four times and (0, 1) once: median distance 0, so that any variance is too
    much.

    The mean is 0.48 and the widest direction (1, -1): the outlier projects (0.48)^2 * 2, the others
    (0.12)^2 * 2, a sixteenth of it. Weights become 1 - 1/16 = 15/16 and 0: 1.25 of the 2 * 0.2 * 5
    = 2 that may be taken. What is left agrees: the mean is (0.6, 0.4), a quarter from each of the
    four.
    """
    probs = torch.tensor([[0.6, 0.4]] * 4 + [[0.0, 1.0]])[:, None]
    fusion = cronus(probs)
    torch.testing.assert_close(fusion.teachers, torch.tensor([[0.6, 0.4]]))
    torch.testing.assert_close(
        fusion.weights, torch.tensor([[0.25, 0.25, 0.25, 0.25, 0.0]]).expand(5, -1)
    )


@given(values=logits(most=1), clients=st.integers(1, 8))
def test_clients_that_are_alike_give_the_mean_and_nobody_is_filtered_out(
    values: Tensor, clients: int
):
    probs = soften(values).expand(clients, -1, -1).contiguous()
    fusion = cronus(probs)
    torch.testing.assert_close(fusion.teachers, probs[0])
    torch.testing.assert_close(fusion.weights, torch.full((clients, clients), 1 / clients))


def test_clients_that_spread_evenly_give_the_mean():
    """On the corners of a simplex the variance along any direction is 1/K; the median distance
    squared is 1 - 1/K."""
    probs = torch.eye(4)[:, None]
    fusion = cronus(probs)
    torch.testing.assert_close(fusion.teachers, torch.full((1, 4), 0.25))
    torch.testing.assert_close(fusion.weights, torch.full((4, 4), 0.25))


@pytest.mark.parametrize("attackers", [1, 2])
def test_attackers_with_wild_rows_are_filtered_out(attackers: int):
    """Of eight or nine others; with the plain mean the same attack moves the teacher by a tenth and
    more."""
    wild = torch.tensor([0.0, 0.0, 1.0]).expand(attackers, 4, 3)
    probs = torch.cat([CROWD, wild])
    fusion = cronus(probs)
    honest = CROWD.mean(dim=0)
    assert (fusion.teachers - honest).abs().max() < 0.02
    assert (probs.mean(dim=0) - honest).abs().max() > 0.08
    assert (fusion.weights[:, -attackers:] < 1e-6).all()


def test_the_attack_of_one_sample_costs_a_client_its_weight_there_alone():
    """A client's weight in the record is its mean over samples: three of four samples are as good
    as anybody's."""
    probs = CROWD.clone()
    probs[0, 0] = torch.tensor([0.0, 0.0, 1.0])
    weights = cronus(probs, threshold=10.0).weights[0]
    assert weights[0].item() == pytest.approx(3 / 4 / 8, abs=0.01)


@given(
    values=logits(most=8),
    tolerate=st.sampled_from([0.05, 0.2, 0.45]),
    threshold=st.sampled_from([0.01, 0.5, 5.0]),
)
def test_weights_and_teachers_are_distributions(values: Tensor, tolerate: float, threshold: float):
    fusion = cronus(soften(values), tolerate=tolerate, threshold=threshold)
    for rows in (fusion.weights, fusion.teachers):
        assert (rows >= 0).all()
        torch.testing.assert_close(rows.sum(dim=-1), torch.ones(len(rows)), rtol=0, atol=1e-5)
    assert (fusion.weights == fusion.weights[0]).all()


@given(values=logits(most=2))
def test_of_two_clients_nobody_is_filtered_out(values: Tensor):
    """Both are as far from their mean: whatever is taken is taken from both, and the mean stays."""
    probs = soften(values)
    torch.testing.assert_close(
        cronus(probs, threshold=0.01).teachers, probs.mean(dim=0), rtol=0, atol=1e-5
    )


@given(values=logits())
def test_a_large_threshold_is_the_plain_mean(values: Tensor):
    """For three clients and more that all differ the median distance is above 0, and 1e9 times its
    square is much."""
    probs = soften(values)
    if len(probs) > 2:
        torch.testing.assert_close(
            cronus(probs, threshold=1e9).teachers, probs.mean(dim=0), rtol=0, atol=1e-5
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tolerate": 0.0}, "tolerate must be above 0 and below 0.5"),
        ({"tolerate": 0.5}, "tolerate must be above 0 and below 0.5"),
        ({"threshold": 0.0}, "threshold must be > 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(SettingError, match=message):
        Cronus(**settings)
