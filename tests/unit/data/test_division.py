"""Who has which rows: disjoint, complete, skewed as asked for, and the same for the same seed."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr_datasets.partitioner import SizePartitioner
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkd.data.division import Division, EvaluationSets, Public, _global_test, divide
from fedkd.data.embedded import BreastCancer, DigitSeries
from fedkd.data.partitions import (
    PARTITIONS,
    DirichletSizes,
    FeatureQuantiles,
    NaturalId,
    Partition,
    WholeIds,
)
from fedkd.data.prepare import Prepared, prepare
from fedkd.data.samples import inputs, statistics
from fedkd.data.sources import Digits
from fedkd.errors import SettingError

CLIENTS, PUBLIC, GLOBAL = 6, 300, 200


@pytest.fixture(scope="module")
def digits() -> Prepared:
    return prepare(Digits())


def division(digits: Prepared, partition: Partition, **changes: Any) -> Division:
    settings: dict[str, Any] = {
        "clients": CLIENTS, "samples_per_client": None, "public": Public(size=PUBLIC),
        "testing": EvaluationSets(global_size=GLOBAL), "seed": 0, **changes,
    }  # fmt: skip
    return divide(digits, partition=partition, **settings)


def made(name: str) -> Partition:
    columns = {"natural_id": "label", "feature_quantiles": "brightness"}
    given = {"column": columns[name]} if name in columns else {}
    return PARTITIONS[name](**given)


@pytest.mark.fast(4)
@pytest.mark.parametrize("name", PARTITIONS)
def test_all_roles_are_disjoint_and_every_client_can_train_and_be_tested(
    digits: Prepared, name: str
) -> None:
    found = division(digits, made(name), seed=3)
    roles = [found.global_test, found.held_back, *found.train, *found.test]
    rows = np.concatenate(roles)
    assert len(np.unique(rows)) == len(rows)
    assert len(found.held_back) == PUBLIC
    assert len(found.train) == len(found.test) == CLIENTS
    assert min(map(len, found.train)) >= 1
    assert min(map(len, found.test)) >= 1


@pytest.mark.parametrize("name", ["iid", "dirichlet", "shard", "size_skewed"])
def test_every_row_has_a_role(digits: Prepared, name: str) -> None:
    """All 1,797 digits are given out, up to the few that equal shards and growing sizes cannot
    place."""
    found = division(digits, made(name))
    count = sum(map(len, [found.global_test, found.held_back, *found.train, *found.test]))
    assert len(digits.labels) - 2 * CLIENTS <= count <= len(digits.labels)


def test_the_global_test_set_is_balanced(digits: Prepared) -> None:
    found = division(digits, made("iid"))
    assert (np.bincount(digits.labels[found.global_test], minlength=10) == GLOBAL // 10).all()


@pytest.mark.fast(3)
@pytest.mark.parametrize("name", PARTITIONS)
def test_the_same_seed_divides_alike_and_another_does_not(digits: Prepared, name: str) -> None:
    first, again, other = (division(digits, made(name), seed=s) for s in (0, 0, 1))
    assert all((a == b).all() for a, b in zip(first.train, again.train, strict=True))
    assert not np.array_equal(first.train[0], other.train[0])
    assert not np.array_equal(first.held_back, other.held_back)


@pytest.mark.slow
@pytest.mark.fast(1)
@pytest.mark.parametrize("name", ["dirichlet", "inner_dirichlet"])
def test_a_smaller_alpha_is_more_skewed(digits: Prepared, name: str) -> None:
    """Mean share of a client's most frequent class: near 1/10 for a large alpha, near 1 for a small
    one."""

    def skew(alpha: float) -> float:
        partition = PARTITIONS[name](alpha=alpha)  # type: ignore[call-arg]
        shares = []
        for seed in range(3):
            for rows in division(digits, partition, seed=seed).train:
                counts = np.bincount(digits.labels[rows], minlength=10)
                shares.append(counts.max() / counts.sum())
        return float(np.mean(shares))

    strong, mild, none = skew(0.1), skew(1.0), skew(100.0)
    assert strong > mild + 0.15 > none + 0.25
    assert none < 0.25


def test_a_pathological_client_has_the_classes_asked_for(digits: Prepared) -> None:
    found = division(digits, PARTITIONS["pathological"](classes_per_client=3))  # type: ignore[call-arg]
    for train, test in zip(found.train, found.test, strict=True):
        assert len(np.unique(digits.labels[np.concatenate([train, test])])) == 3


@pytest.mark.parametrize(("ways", "classes"), [(3, {2, 3, 4, 5}), (9, {7, 8, 9, 10})])
def test_an_n_way_client_has_a_drawn_number_of_classes_and_equally_many_rows_of_each(
    digits: Prepared, ways: int, classes: set[int]
) -> None:
    """Ways 3, spread 2: 2 to 5 classes (never 1); ways 9: 7 to 10 of 10. Rows of each: 5 or 6."""
    partition = PARTITIONS["n_way"](ways=ways, samples_per_class=6, samples_spread=1)  # type: ignore[call-arg]
    seen, sizes = set(), set()
    for seed in range(3):
        found = division(digits, partition, clients=12, seed=seed)
        for train, test in zip(found.train, found.test, strict=True):
            counts = np.bincount(digits.labels[np.concatenate([train, test])], minlength=10)
            seen.add(int((counts > 0).sum()))
            (size,) = set(counts[counts > 0].tolist())
            sizes.add(size)
    assert seen == classes
    assert sizes == {5, 6}


def test_an_n_way_partition_of_too_few_rows_is_refused(digits: Prepared) -> None:
    with pytest.raises(SettingError, match=r"NWay cannot deal .* class \d has too few rows left"):
        division(digits, PARTITIONS["n_way"](samples_per_class=100))  # type: ignore[call-arg]
    with pytest.raises(SettingError, match="ways=11 is more than the 10 classes"):
        division(digits, PARTITIONS["n_way"](ways=11))  # type: ignore[call-arg]
    with pytest.raises(SettingError, match="samples_spread=6 must be below"):
        PARTITIONS["n_way"](samples_per_class=6, samples_spread=6)  # type: ignore[call-arg]


def test_a_natural_id_gives_each_client_the_rows_of_one_value(digits: Prepared) -> None:
    found = division(digits, made("natural_id"))
    labels = [set(digits.labels[rows].tolist()) for rows in found.train]
    assert all(len(values) == 1 for values in labels)
    assert len(set.union(*labels)) == CLIENTS


def test_quantiles_of_a_feature_are_clients_of_equal_size_one_above_the_other(
    digits: Prepared,
) -> None:
    """With strictness below 1 they overlap; the labels follow only as far as the feature does."""
    found = division(digits, FeatureQuantiles(column="contrast"))
    own = [np.concatenate(both) for both in zip(found.train, found.test, strict=True)]
    pixels = digits.images.reshape(len(digits.images), -1)
    values = [pixels[rows].std(axis=1) for rows in own]
    assert all(a.max() <= b.min() for a, b in itertools.pairwise(values))
    assert np.ptp([len(rows) for rows in own]) <= 1
    loose = division(digits, FeatureQuantiles(column="contrast", strictness=0.3))
    means = [pixels[rows].std(axis=1).mean() for rows in loose.train]
    assert np.ptp(means) < np.ptp([of.mean() for of in values])
    assert np.corrcoef(means, range(CLIENTS))[0, 1] > 0.8


def test_a_column_without_quantiles_is_refused(digits: Prepared) -> None:
    columns = {"writer": np.array(["a"] * len(digits.labels)), "age": np.ones(len(digits.labels))}
    columns["gaps"] = np.where(np.arange(len(digits.labels)) == 9, np.nan, 1.0)
    data = replace(digits, key="with columns", columns=columns)
    for column, said in {
        "writer": "holds text, and quantiles are of numbers; partition=whole_ids",
        "gaps": "has no value in 1 of .* row 10 of the training split",
        "age": "near-zero std",
        "sharpness": "columns are label, writer, age, gaps, brightness, contrast",
    }.items():
        with pytest.raises(SettingError, match=said):
            division(data, FeatureQuantiles(column=column), public=Public(size=0))


@pytest.mark.parametrize("partition", [NaturalId, WholeIds])
@pytest.mark.parametrize("values", [["a", ""], [1.0, np.nan]])
def test_rows_without_an_owner_are_refused_by_their_place(
    digits: Prepared, partition: Any, values: list[Any]
) -> None:
    owners = np.array(values)[np.isin(np.arange(len(digits.labels)), [20, 30]).astype(int)]
    data = replace(digits, key="with owners", columns={"owner": owners})
    with pytest.raises(SettingError, match=r"=owner has no value in 2 of .* row 21 of the train"):
        division(data, partition(column="owner"), public=Public(size=0))


def test_dirichlet_sizes_are_skewed_and_every_client_has_the_least(digits: Prepared) -> None:
    found = division(digits, DirichletSizes(alpha=0.2, min_samples=20), seed=2)
    sizes = [len(a) + len(b) for a, b in zip(found.train, found.test, strict=True)]
    assert sum(sizes) == len(digits.labels) - PUBLIC - GLOBAL
    assert min(sizes) >= 20
    assert max(sizes) > 3 * np.median(sizes)
    with pytest.raises(SettingError, match=r"min_samples=400 for each of clients=6 is more"):
        division(digits, DirichletSizes(min_samples=400))


def test_size_skew_grows_from_client_to_client(digits: Prepared) -> None:
    sizes = [len(rows) for rows in division(digits, made("size_skewed")).train]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 4 * sizes[0]


def test_samples_per_client_caps_the_training_split_and_keeps_the_rest(digits: Prepared) -> None:
    free, capped = (division(digits, made("iid"), samples_per_client=n) for n in (None, 50))
    assert {len(rows) for rows in capped.train} == {50}
    assert all(set(c) <= set(f) for c, f in zip(capped.train, free.train, strict=True))
    assert all((a == b).all() for a, b in zip(capped.test, free.test, strict=True))


def test_the_private_test_split_is_of_the_share_and_size_asked_for(digits: Prepared) -> None:
    testing = EvaluationSets(private_fraction=0.5, private_size=30, global_size=GLOBAL)
    assert {len(rows) for rows in division(digits, made("iid"), testing=testing).test} == {30}


def test_a_stratified_test_split_takes_its_share_of_every_class(digits: Prepared) -> None:
    """Of 10 rows of each class 3 are set aside; a plain split takes more of some than of others."""
    partition = PARTITIONS["n_way"](ways=5, samples_per_class=10)  # type: ignore[call-arg]
    counts = {}
    for stratified in (True, False):
        testing = EvaluationSets(
            global_size=GLOBAL, private_fraction=0.3, private_stratified=stratified
        )
        found = division(digits, partition, testing=testing)
        counts[stratified] = {
            int(n) for test in found.test for n in np.bincount(digits.labels[test]) if n
        }
        for train, test in zip(found.train, found.test, strict=True):
            assert not np.intersect1d(train, test).size
            assert len(test) == round(0.3 * (len(test) + len(train)))
    assert counts[True] == {3}
    assert counts[False] > {3}


@pytest.mark.parametrize("samples", [None, 40])
def test_a_validation_split_is_taken_out_of_the_training_samples(
    digits: Prepared, samples: int | None
) -> None:
    whole = division(digits, made("dirichlet"), samples_per_client=samples)
    testing = EvaluationSets(global_size=GLOBAL, validation_fraction=0.25)
    found = division(digits, made("dirichlet"), samples_per_client=samples, testing=testing)
    assert all((a == b).all() for a, b in zip(whole.test, found.test, strict=True))
    assert (whole.held_back == found.held_back).all()
    for before, train, validation in zip(whole.train, found.train, found.validation, strict=True):
        assert len(validation) == max(1, round(0.25 * len(before)))
        assert (np.sort(np.concatenate([train, validation])) == before).all()


def test_a_client_with_one_training_sample_keeps_it(digits: Prepared) -> None:
    testing = EvaluationSets(global_size=GLOBAL, validation_fraction=0.9)
    one, two = (
        division(digits, made("iid"), samples_per_client=n, testing=testing) for n in (1, 2)
    )
    assert {(len(t), len(v)) for t, v in zip(one.train, one.validation, strict=True)} == {(1, 0)}
    assert {(len(t), len(v)) for t, v in zip(two.train, two.validation, strict=True)} == {(1, 1)}


def test_nothing_is_held_out_by_default_and_divisions_cached_before_are_read(
    digits: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDKD_CACHE", str(tmp_path))
    made_now = division(digits, made("iid"))
    assert [len(rows) for rows in made_now.validation] == [0] * CLIENTS
    (path,) = tmp_path.glob("divisions/*/division.npz")
    with np.load(path) as stored:
        arrays = dict(stored)
    np.savez(
        path, **{**arrays, "bounds": arrays["bounds"][: 2 * CLIENTS - 1]}
    )  # as it was without that role
    read = division(digits, made("iid"))
    assert [len(rows) for rows in read.validation] == [0] * CLIENTS
    assert all(
        (a == b).all()
        for a, b in zip(made_now.train + made_now.test, read.train + read.test, strict=True)
    )


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_a_validation_split_leaves_something_to_train_on(fraction: float) -> None:
    with pytest.raises(SettingError, match="validation_fraction"):
        EvaluationSets(validation_fraction=fraction)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clients": 2000}, "clients=2000 is more than the 1297 samples"),
        ({"public": Public(size=1597)}, "public.size=1597 leaves nothing"),
        ({"testing": EvaluationSets(global_size=5)}, "less than one sample for each of 10 classes"),
        ({"testing": EvaluationSets(global_size=1790)}, "needs 179 samples of every class"),
        ({"clients": 120}, "cannot deal 1297 rows to 120 clients"),
        (
            {"clients": 400},
            "^partition.min_samples=10 for each of clients=400 is more than the 1297 samples .* at"
            " most 129 clients",
        ),
        (
            {"public": Public(size=5000)},
            r"^public.size=5000 .* there are 1597 training samples; use at most 1585",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_the_numbers(
    digits: Prepared, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        division(digits, made("dirichlet"), **changes)


def test_a_partition_that_leaves_a_client_without_data_is_refused(digits: Prepared) -> None:
    class OneRowForTheFirst:
        def partitioner(self, clients: int, rows: int, seed: int) -> Any:
            return SizePartitioner(partition_sizes=[1] + [10] * (clients - 1))

    with pytest.raises(SettingError, match="leaves 1 of 6 clients without training data"):
        division(digits, OneRowForTheFirst())


class Nameless:
    pass


class ReturnsNone:
    def partitioner(self, clients: int, rows: int, seed: int) -> Any:
        return None


class Raises:
    def partitioner(self, clients: int, rows: int, seed: int) -> Any:
        raise RuntimeError("boom")


class DealsAllToAll:
    num_partitions = CLIENTS

    def partitioner(self, clients: int, rows: int, seed: int) -> Any:
        return self

    def load_partition(self, partition_id: int) -> Any:
        return self.dataset


class DealsNothing(DealsAllToAll):
    def load_partition(self, partition_id: int) -> Any:
        return None


@pytest.mark.parametrize(
    ("partition", "message"),
    [
        (
            Nameless(),
            r"^partition: Nameless has no method partitioner; a partition has"
            r" partitioner\(clients, rows, seed\)",
        ),
        (
            ReturnsNone(),
            r"^partition: ReturnsNone.partitioner returned a NoneType, expected a partitioner of"
            r" flwr_datasets",
        ),
        (Raises(), r"^partition Raises failed: RuntimeError: boom \(test_division.py:\d+\)$"),
        (DealsAllToAll(), r"^partition: DealsAllToAll dealt a row twice"),
        (DealsNothing(), r"^partition: DealsNothing failed: TypeError: .*not subscriptable"),
    ],
)
def test_a_mistake_in_a_users_partition_is_one_line(
    digits: Prepared, partition: Any, message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        division(digits, partition)


def test_a_missing_column_is_refused_with_those_that_exist(digits: Prepared) -> None:
    with pytest.raises(
        SettingError, match=r"partition.column=writer: the data set's columns are label"
    ):
        division(digits, PARTITIONS["natural_id"](column="writer"))  # type: ignore[call-arg]


def test_inputs_are_normalized_with_the_statistics_of_the_public_set(digits: Prepared) -> None:
    found = division(digits, made("iid"))
    normalization = statistics(digits.images[found.held_back])
    public = inputs(digits, found.held_back, normalization, torch.device("cpu"))
    assert public.shape == (PUBLIC, 1, 8, 8)
    assert public.mean().item() == pytest.approx(0, abs=1e-5)
    assert public.std().item() == pytest.approx(1, abs=1e-3)
    one = inputs(digits, found.train[0][:1], normalization, torch.device("cpu"))
    pixels = digits.images[found.train[0][0], :, :, 0] / 255
    assert np.allclose(
        one[0, 0].numpy(), (pixels - normalization.mean[0]) / normalization.std[0], atol=1e-5
    )


@dataclass(frozen=True)
class OfSizes:
    """Labels alone, of classes of given sizes; the last ``test`` rows are the test split."""

    labels: np.ndarray
    train_size: int
    class_names: tuple[str, ...]
    has_even_classes: bool
    key: str = "sizes"
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)


@pytest.mark.parametrize("even", [True, False])
@given(data=st.data())
@settings(max_examples=60)
def test_the_largest_test_set_that_a_message_names_is_one(even: bool, data: st.DataObject) -> None:
    """At once: with the number in the message nothing is refused, and with one more class of it
    something is."""
    sizes = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=8))
    split, clients = data.draw(st.booleans()), data.draw(st.integers(1, 5))
    labels = np.repeat(np.arange(len(sizes)), sizes)
    labels = labels[np.random.default_rng(0).permutation(len(labels))]
    train = np.zeros(30, dtype=np.int64) if split else labels[:0]
    prepared = OfSizes(
        np.concatenate([train, labels]),
        len(train) or len(labels),
        tuple(map(str, range(len(sizes)))),
        even,
    )
    reserved = data.draw(st.integers(0, 10))

    def drawn(size: int) -> tuple[int, int]:
        left = prepared.train_size if not split else 0
        pool = np.arange(len(train), len(prepared.labels))
        found = _global_test(prepared, pool, size, 0 if split else reserved + 2 * clients, 0)
        return len(found), left - len(found)

    asked = data.draw(st.integers(len(sizes), 400))
    try:
        drawn(asked)
    except SettingError as error:
        most = int(str(error).rpartition("use at most ")[2])
        size, left = drawn(most)
        assert size == most
        could_fit = not split and len(labels) - reserved - 2 * clients >= len(sizes)
        assert left >= reserved + 2 * clients or not (could_fit and even)


def test_the_smallest_class_is_named_whichever_comes_first(digits: Prepared) -> None:
    labels = np.repeat(np.arange(3), [29, 26, 40])
    prepared = OfSizes(labels, len(labels), ("a", "b", "c"), has_even_classes=True)
    with pytest.raises(SettingError, match=r"there are 26 of class 'b'; use at most 75"):
        _global_test(prepared, np.arange(95), 300, 20, 0)
    with pytest.raises(SettingError, match="at least 3"):
        _global_test(prepared, np.arange(95), 2, 20, 0)
    with pytest.raises(SettingError, match="there are 0 of class 'c'; leave the class out"):
        _global_test(prepared, np.arange(50), 30, 0, 0)


def test_too_few_samples_for_any_public_set_name_what_to_lower(digits: Prepared) -> None:
    few = {"testing": EvaluationSets(global_size=1740), "clients": 30}
    with pytest.raises(SettingError, match=r"public.size=300 .*are 57 .*lower clients or test.glo"):
        division(digits, made("iid"), **few)


@pytest.mark.parametrize("name", ["private_fraction", "validation_fraction"])
def test_a_share_that_leaves_nothing_to_train_on_is_out_of_range(name: str) -> None:
    for value in (1.0, 1.5):
        with pytest.raises(SettingError, match=rf"^{name} must be .* below 1, got {value}"):
            EvaluationSets(**{name: value})


@pytest.mark.parametrize(
    ("source", "column", "of"),
    [
        (DigitSeries(), "spread", lambda data: data.values.std(axis=(1, 2))),
        (BreastCancer(), "mean_area", lambda data: data.columns["mean_area"]),
    ],
)
def test_series_and_tables_are_dealt_by_a_feature_too(source: Any, column: str, of: Any) -> None:
    prepared: Any = prepare(source)
    found = division(
        prepared, FeatureQuantiles(column=column), public=Public(size=20),
        testing=EvaluationSets(global_size=20),
    )  # fmt: skip
    values = of(prepared)
    assert all(values[a].max() <= values[b].min() for a, b in itertools.pairwise(found.train))
