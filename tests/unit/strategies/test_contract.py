"""Laws of every rule over public predictions, and what every strategy declares.

Strategies whose knowledge is of another kind, or whose teachers come from a model of the server's
own, have laws of their own with their tests; what they promise as parts of a run is in
``tests/runs/strategies/test_contract.py``.

Strategies are found by their file's name, and each is tried with its defaults, with every single
option that can stand alone, and with the variants of VARIANTS. A new strategy needs a line there
only if one of its options cannot stand alone, and a line in AFTERWARDS only if its teachers are no
weighted means.
"""

import copy
import dataclasses
import pickle
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, Union, get_args, get_origin

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedkd.errors import SettingError, UploadRejected
from fedkd.fusion import hard_labels, mix, most_voted, soften
from fedkd.knowledge import PublicPredictions, Request
from fedkd.messages import Cohort, Fusion, Predictions, Upload
from fedkd.scenario import registry
from fedkd.strategies.scarlet import sharpen
from fedkd.strategy import Streaming, declaration

CLOSE = {"rtol": 1e-4, "atol": 1e-5}

VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "dsfl": ({"aggregation": "era", "era_temperature": 0.5},),
    "scarlet": ({"beta": 1.0},),
    "selective_fd": ({"width": 2.0, "auxiliary": 20},),
    "fedproto": ({"width": 16},),
    "fedtgp": ({"width": 16},),
    "fedct": ({"majority": 0.8},),
    "dense": ({"batch_norm": 2.0},),
    "fedkt": ({"server": "mlp"},),
    "fedmkt": ({"server": "mlp"},),
    "cosmos": ({"radius": 0.5},),
    "fedaux": ({"noise_multiplier": 2.0},),
    "knfu": (
        {"beta": 0.0},
        {"neighbors": "top_k", "top_k": 2},
        {"neighbors": "top_k", "top_k": 1, "include_self": False, "divergence": "js"},
        {"neighbors": "top_k", "top_k": 2, "epd": "argmax_histogram"},
        {"neighbors": "top_k", "top_k": 2, "epd": "label_histogram", "divergence": "tv"},
        {"neighbors": "threshold", "threshold": 0.1, "divergence": "cosine"},
        {"neighbors": "threshold", "threshold": 0.2, "include_self": False},
        {"epd_timing": "first_round", "epd": "argmax_histogram", "divergence": "l2"},
    ),
}
"""Settings that only make sense together, and combinations worth a try."""

AFTERWARDS: dict[str, Callable[[Any], Callable[[Tensor], Tensor] | None]] = {
    # Entropy reduction sharpens the mean: neither a single upload nor equal uploads come back as
    # they were.
    "dsfl": lambda strategy: (
        (lambda mean: torch.softmax(mean / (strategy.era_temperature or 0.1), dim=-1))
        if strategy.aggregation == "era"
        else None
    ),
    "scarlet": lambda strategy: (
        None if strategy.beta == 1 else (lambda mean: sharpen(mean, strategy.beta))
    ),
    "fedct": lambda strategy: most_voted,
    "fedkt": lambda strategy: most_voted,
    "ssfl": lambda strategy: most_voted,
}
"""What a strategy does to the weighted mean; None where the mean is the teacher. All others teach
the mean."""
BY_SAMPLE: dict[str, Callable[[Any], bool]] = {
    "comet": lambda strategy: strategy.per == "sample",
    "cronus": lambda strategy: True,
    "routed": lambda strategy: True,
    "learned": lambda strategy: True,
    "fedmkt": lambda strategy: True,
    "top_k_mean": lambda strategy: True,
}
"""Strategies whose weights differ from sample to sample; those of the fusion are means over
samples."""


def options(cls: type) -> list[tuple[str, Any]]:
    """Every option of every setting that has a closed list of them: a Literal, or true and
    false."""

    def choices(hint: Any) -> tuple[Any, ...]:
        if get_origin(hint) is Literal:
            return get_args(hint)
        if get_origin(hint) in (Union, types.UnionType):
            return tuple(choice for part in get_args(hint) for choice in choices(part))
        return (True, False) if hint is bool else ()

    hints = typing.get_type_hints(cls)
    return [(f.name, option) for f in dataclasses.fields(cls) for option in choices(hints[f.name])]


def is_by_sample(name: str, strategy: Any) -> bool:
    return name in BY_SAMPLE and BY_SAMPLE[name](strategy)


def variants(name: str) -> list[Any]:
    """The strategies to try: defaults, each option that can stand alone, and what VARIANTS says."""
    cls, _ = registry.find("strategy", name)
    found = []
    listed = VARIANTS.get(name, ())
    for given_settings in ({}, *({field: option} for field, option in options(cls)), *listed):
        try:
            strategy = cls(**given_settings)
        except (SettingError, TypeError):
            if given_settings in listed:
                raise
            continue
        if strategy not in found:
            found.append(strategy)
    return found


def describe(strategy: Any) -> str:
    changed = [f for f in dataclasses.fields(strategy) if getattr(strategy, f.name) != f.default]
    return ",".join(f"{f.name}={getattr(strategy, f.name)}" for f in changed) or "defaults"


few = settings(max_examples=settings.default.max_examples // 2)  # for each of many cases
NAMES = registry.names("strategy")
CASES = [
    pytest.param(name, s, id=f"{name}-{describe(s)}", marks=[pytest.mark.slow] if i else [])
    for name in NAMES
    for i, s in enumerate(variants(name))
]
"""Every strategy with its defaults in the fast tests, every other variant in the slow ones."""
every_strategy = pytest.mark.parametrize(("name", "strategy"), CASES)


def is_rule(name: str, strategy: Any) -> bool:
    """Whether teachers are made of public predictions alone: no other kind of knowledge, no
    server's model."""
    declared = declaration(strategy, name)
    return (declared.kind is None or isinstance(declared.kind, PublicPredictions)) and (
        declared.needs.server_models is None
    )


RULES = [case for case in CASES if is_rule(*case.values)]
every_rule = pytest.mark.parametrize(("name", "strategy"), RULES)


# Cohorts.


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Random numbers from which a cohort is made for any strategy, with a permutation of each
    axis."""

    logits: Tensor
    client_ids: tuple[int, ...]
    label_counts: Tensor
    public_labels: Tensor
    temperature: float
    clients: Tensor
    samples: Tensor
    classes: Tensor


def numbers_from(
    seed: int, clients: int, samples: int, classes: int, temperature: float = 1.0
) -> Numbers:
    """Clients with label skew, so that they disagree; no two logits tie."""
    stream = torch.Generator().manual_seed(seed)
    skew = 2 * torch.randn(clients, 1, classes, generator=stream)
    return Numbers(
        logits=2 * torch.randn(clients, samples, classes, generator=stream) + skew,
        client_ids=tuple(sorted(torch.randperm(2 * clients, generator=stream)[:clients].tolist())),
        label_counts=torch.randint(1, 30, (clients, classes), generator=stream).float(),
        public_labels=torch.randint(classes, (samples,), generator=stream),
        temperature=temperature,
        clients=torch.randperm(clients, generator=stream),
        samples=torch.randperm(samples, generator=stream),
        classes=torch.randperm(classes, generator=stream),
    )


@st.composite
def numbers(draw: st.DrawFn, most_clients: int = 6) -> Numbers:
    return numbers_from(
        draw(st.integers(0, 2**20)),
        draw(st.integers(1, most_clients)),
        draw(st.integers(1, 8)),
        draw(st.integers(2, 6)),
        draw(st.sampled_from([1.0, 2.0])),
    )


def cohort_for(name: str, strategy: Any, made_of: Numbers) -> Cohort:
    """A cohort as the server would hand it to this strategy: its scale, and what it declares that
    it needs."""
    declared = declaration(strategy, name)
    scale = declared.kind.scale if isinstance(declared.kind, PublicPredictions) else "logits"
    values = (
        made_of.logits
        if scale == "logits"
        else torch.softmax(made_of.logits / made_of.temperature, dim=-1)
    )
    if isinstance(declared.kind, PublicPredictions) and declared.kind.hard:
        values = hard_labels(values)
    return Cohort(
        round=1,
        client_ids=made_of.client_ids,
        public_ids=torch.arange(made_of.logits.shape[1]),
        values=values,
        scale=scale,
        temperature=made_of.temperature,
        train_sizes=tuple(range(10, 10 + len(made_of.client_ids))),
        label_counts=made_of.label_counts if declared.needs.label_counts else None,
        public_labels=made_of.public_labels if declared.needs.public_labels else None,
    )


def request_for(cohort: Cohort) -> Request:
    """What the server asked for where it got this cohort."""
    return Request(
        round=cohort.round,
        classes=cohort.values.shape[-1],
        public_ids=cohort.public_ids,
        temperature=cohort.temperature,
        train_sizes=dict(zip(cohort.client_ids, cohort.train_sizes, strict=True)),
        round_ids=cohort.round_ids,
    )


def check(name: str, strategy: Any, cohort: Cohort, fusion: Fusion) -> None:
    """The server's check, and that clients' lessons can be made of what passed it."""
    declared = declaration(strategy, name)
    kind = declared.kind or PublicPredictions("logits")
    kind.check_fusion(fusion, cohort.client_ids, request_for(cohort), declared.teaches)
    kind.teachers(fusion, cohort.client_ids, request_for(cohort), declared.teaches)


def chosen(rows: Any, order: Tensor) -> Any:
    """A tuple or a tensor in another order; None stays None."""
    if rows is None or isinstance(rows, Tensor):
        return None if rows is None else rows[order]
    return tuple(rows[i] for i in order.tolist())


def own_predictions(name: str, strategy: Any, cohort: Cohort) -> Tensor:
    """What each client said, on the scale of the strategy's teachers: [K, N, C]."""
    return cohort.logits if declaration(strategy, name).teaches == "logits" else cohort.probs


def afterwards(name: str, strategy: Any) -> Callable[[Tensor], Tensor] | None:
    return AFTERWARDS[name](strategy) if name in AFTERWARDS else None


def expected_from(name: str, strategy: Any, mean: Tensor) -> Tensor:
    transform = afterwards(name, strategy)
    return transform(mean) if transform else mean


def personal(fusion: Fusion) -> Tensor:
    """Every client's teacher [K, N, C], a common one repeated."""
    return fusion.teachers.expand(len(fusion.weights), *fusion.teachers.shape[-2:])


def assert_same(found: Any, expected: Any) -> None:
    """Equal to the bit, whatever a state is made of."""
    assert type(found) is type(expected)
    if isinstance(found, Tensor):
        assert torch.equal(found, expected)
    elif dataclasses.is_dataclass(found):
        assert_same(vars(found), vars(expected))
    elif isinstance(found, Mapping):
        assert list(found) == list(expected)
        assert_same(list(found.values()), list(expected.values()))
    elif isinstance(found, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected


# The shelf and this suite.


@pytest.mark.parametrize("name", NAMES)
def test_every_option_of_every_strategy_is_tried_here(name: str):
    """An option that is missing cannot stand alone: give it a line in VARIANTS."""
    cls, _ = registry.find("strategy", name)
    tried = variants(name)
    assert tried
    assert [(f, o) for f, o in options(cls) if not any(getattr(s, f) == o for s in tried)] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_that_may_be_null_is_tried_with_a_value(name: str):
    cls, _ = registry.find("strategy", name)
    may_be_null = [f.name for f in dataclasses.fields(cls) if f.default is None]
    assert [f for f in may_be_null if all(getattr(s, f) is None for s in variants(name))] == []


def test_the_tables_name_strategies_on_the_shelf_only():
    assert set(VARIANTS) | set(AFTERWARDS) <= set(NAMES)


@every_strategy
def test_a_strategy_is_a_frozen_dataclass_of_keywords(name: str, strategy: Any):
    assert dataclasses.is_dataclass(strategy)
    assert type(strategy).__dataclass_params__.frozen
    assert all(f.kw_only for f in dataclasses.fields(strategy))
    assert strategy == dataclasses.replace(strategy)
    with pytest.raises(dataclasses.FrozenInstanceError):
        strategy.anything = 1


@every_strategy
def test_a_declaration_makes_sense(name: str, strategy: Any):
    declared = declaration(strategy, name)
    assert declared.needs.public_set or not isinstance(declared.kind, PublicPredictions)


# The laws of fuse.


@every_rule
@few
@given(made_of=numbers())
def test_a_fusion_passes_the_servers_checks(name: str, strategy: Any, made_of: Numbers):
    cohort = cohort_for(name, strategy, made_of)
    fusion = strategy.fuse(cohort, None)
    check(name, strategy, cohort, fusion)
    assert fusion.weights.dtype == fusion.teachers.dtype == torch.float32


@every_rule
@few
@given(made_of=numbers())
def test_a_stream_of_uploads_gives_the_bits_of_the_stack(
    name: str, strategy: Any, made_of: Numbers
):
    if not isinstance(strategy, Streaming):
        return
    cohort = cohort_for(name, strategy, made_of)
    stream = strategy.accumulator(None)
    for client_id, values in zip(cohort.client_ids, cohort.values.clone(), strict=True):
        stream.add(client_id, values)
    streamed, stacked = stream.fuse(), strategy.fuse(cohort, None)
    assert torch.equal(streamed.weights, stacked.weights)
    assert torch.equal(streamed.teachers, stacked.teachers)


def test_the_means_on_the_shelf_are_streams():
    streams = {
        name for name in NAMES for strategy in variants(name) if isinstance(strategy, Streaming)
    }
    assert {"fedmd", "dsfl"} <= streams


@every_rule
@few
@given(made_of=numbers())
def test_rows_of_weights_sum_to_1(name: str, strategy: Any, made_of: Numbers):
    weights = strategy.fuse(cohort_for(name, strategy, made_of), None).weights
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(len(weights)), rtol=0, atol=1e-5)


@every_rule
@few
@given(made_of=numbers())
def test_permuting_clients_permutes_weights_and_teachers(
    name: str, strategy: Any, made_of: Numbers
):
    cohort, order = cohort_for(name, strategy, made_of), made_of.clients
    relabeled = dataclasses.replace(
        cohort,
        client_ids=chosen(cohort.client_ids, order),
        train_sizes=chosen(cohort.train_sizes, order),
        values=cohort.values[order],
        label_counts=chosen(cohort.label_counts, order),
    )
    before, after = strategy.fuse(cohort, None), strategy.fuse(relabeled, None)
    torch.testing.assert_close(after.weights, before.weights[order][:, order], **CLOSE)
    assert after.teachers.ndim == before.teachers.ndim
    torch.testing.assert_close(personal(after), personal(before)[order], **CLOSE)


@every_rule
@few
@given(made_of=numbers())
def test_permuting_samples_permutes_teachers_and_leaves_weights(
    name: str, strategy: Any, made_of: Numbers
):
    cohort, order = cohort_for(name, strategy, made_of), made_of.samples
    relabeled = dataclasses.replace(
        cohort,
        public_ids=cohort.public_ids[order],
        values=cohort.values[:, order],
        public_labels=chosen(cohort.public_labels, order),
    )
    before, after = strategy.fuse(cohort, None), strategy.fuse(relabeled, None)
    torch.testing.assert_close(after.weights, before.weights, **CLOSE)
    torch.testing.assert_close(after.teachers, before.teachers[..., order, :], **CLOSE)


@every_rule
@few
@given(made_of=numbers())
def test_permuting_classes_permutes_teachers_and_leaves_weights(
    name: str, strategy: Any, made_of: Numbers
):
    cohort, order = cohort_for(name, strategy, made_of), made_of.classes
    relabeled = dataclasses.replace(
        cohort,
        values=cohort.values[..., order],
        label_counts=None if cohort.label_counts is None else cohort.label_counts[:, order],
        public_labels=None
        if cohort.public_labels is None
        else order.argsort()[cohort.public_labels],
    )
    before, after = strategy.fuse(cohort, None), strategy.fuse(relabeled, None)
    torch.testing.assert_close(after.weights, before.weights, **CLOSE)
    torch.testing.assert_close(after.teachers, before.teachers[..., order], **CLOSE)


@every_rule
@few
@given(made_of=numbers(most_clients=1))
def test_a_single_client_learns_its_own_prediction(name: str, strategy: Any, made_of: Numbers):
    cohort = cohort_for(name, strategy, made_of)
    fusion = strategy.fuse(cohort, None)
    assert fusion.weights.tolist() == [[1.0]]
    own = own_predictions(name, strategy, cohort)
    torch.testing.assert_close(personal(fusion), expected_from(name, strategy, own), **CLOSE)


@every_rule
@few
@given(made_of=numbers())
def test_equal_uploads_give_that_upload(name: str, strategy: Any, made_of: Numbers):
    equal = dataclasses.replace(
        made_of, logits=made_of.logits[:1].expand_as(made_of.logits).contiguous()
    )
    cohort = cohort_for(name, strategy, equal)
    own = own_predictions(name, strategy, cohort)
    found = personal(strategy.fuse(cohort, None))
    torch.testing.assert_close(found, expected_from(name, strategy, own), **CLOSE)


@pytest.mark.parametrize(("name", "strategy"), [c for c in RULES if not is_by_sample(*c.values)])
@few
@given(made_of=numbers())
def test_weights_say_what_the_teachers_are_made_of(name: str, strategy: Any, made_of: Numbers):
    cohort = cohort_for(name, strategy, made_of)
    fusion = strategy.fuse(cohort, None)
    means = mix(fusion.weights, own_predictions(name, strategy, cohort))
    torch.testing.assert_close(personal(fusion), expected_from(name, strategy, means), **CLOSE)


@pytest.mark.parametrize(("name", "strategy"), [c for c in RULES if afterwards(*c.values) is None])
@few
@given(made_of=numbers())
def test_teachers_stay_in_the_convex_hull(name: str, strategy: Any, made_of: Numbers):
    cohort = cohort_for(name, strategy, made_of)
    own = own_predictions(name, strategy, cohort)
    teachers = personal(strategy.fuse(cohort, None))
    assert (teachers >= own.min(dim=0).values - 1e-5).all()
    assert (teachers <= own.max(dim=0).values + 1e-5).all()


@every_rule
@few
@given(made_of=numbers())
def test_two_calls_agree_and_leave_their_inputs_untouched(
    name: str, strategy: Any, made_of: Numbers
):
    cohort = cohort_for(name, strategy, made_of)
    state = strategy.fuse(cohort, None).state
    kept = copy.deepcopy((cohort, state, strategy))
    first, second = strategy.fuse(cohort, state), strategy.fuse(cohort, state)
    assert_same(first, second)
    fields = [f.name for f in dataclasses.fields(Cohort)]
    assert_same([getattr(cohort, f) for f in fields], [getattr(kept[0], f) for f in fields])
    assert_same((state, strategy), kept[1:])


@pytest.mark.fast(6)
@every_rule
@few
@given(made_of=numbers(), seed=st.integers(0, 1000), clients=st.integers(1, 6))
def test_a_round_takes_the_state_of_the_round_before(
    name: str, strategy: Any, made_of: Numbers, seed: int, clients: int
):
    """Other clients take part, other samples are asked for; the state is the same after a trip
    through a file."""
    state = None
    classes = made_of.logits.shape[-1]
    for following in (
        made_of,
        numbers_from(seed, clients, 5, classes),
        numbers_from(seed + 1, clients, 3, classes),
    ):
        cohort = cohort_for(name, strategy, following)
        kept = copy.deepcopy(state)
        fusion = strategy.fuse(cohort, state)
        assert_same(state, kept)
        check(name, strategy, cohort, fusion)
        assert_same(fusion, strategy.fuse(cohort, pickle.loads(pickle.dumps(state))))
        state = fusion.state


@pytest.mark.parametrize(
    ("name", "strategy"),
    [c for c in RULES if declaration(c.values[1], c.values[0]).kind is not None],
)
@few
@given(seed=st.integers(0, 2**20), temperature=st.sampled_from([0.5, 1.0, 2.0]))
def test_no_upload_that_the_server_accepts_can_end_the_run(
    name: str, strategy: Any, seed: int, temperature: float
):
    """A diverged or hostile client is rejected, or its logits are fused into teachers that are fit
    to be sent."""
    declared = declaration(strategy, name)
    kind, needs = declared.kind, declared.needs
    assert isinstance(kind, PublicPredictions)
    stream = torch.Generator().manual_seed(seed)
    size = torch.tensor([1.0, 100.0, 1e4, 1e30, 3e38])[
        torch.randint(5, (4, 1, 1), generator=stream)
    ]
    logits = size * torch.randint(-1, 2, (4, 5, 3), generator=stream)
    request = Request(
        round=1,
        classes=3,
        public_ids=torch.arange(5),
        temperature=temperature,
        train_sizes=dict.fromkeys(range(4), 10),
        label_counts=dict.fromkeys(range(4), (5, 3, 2)) if needs.label_counts else None,
        public_labels=torch.tensor([0, 1, 2, 0, 1]) if needs.public_labels else None,
    )
    accepted = []
    for client_id, rows in enumerate(logits):
        values = rows if kind.scale == "logits" else soften(rows, temperature)
        knowledge = Predictions(ids=request.public_ids, values=values, scale=kind.scale)
        try:
            kind.check(knowledge, request, client_id)
        except UploadRejected:
            continue
        accepted.append(Upload(client_id=client_id, round=1, metrics={}, knowledge=knowledge))
    if accepted:
        cohort = kind.stack(accepted, request)
        kind.check_fusion(strategy.fuse(cohort, None), cohort.client_ids, request, declared.teaches)
