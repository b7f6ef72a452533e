"""Which worker runs which clients: arithmetic that must not promise what a scheduler cannot do."""

from fractions import Fraction
from pathlib import Path

import pytest

from fedkd.errors import RunError, SettingError
from fedkd.experiment.client_worker import create_clients
from fedkd.flower.engine_run import WorkerSpec
from fedkd.flower.placement import Slot, assign_workers, deal, fits, tiles
from fedkd.flower.ray_grid import Actor, ActorSpec, Ray

HALF, TENTH = Fraction(1, 2), Fraction(1, 10)


@pytest.mark.parametrize("share", [0.6, 0.4, 0.7, 0.35, 1.5, -0.5])
def test_a_share_that_leaves_a_rest_is_refused(share: float) -> None:
    with pytest.raises(SettingError):
        tiles(share)


def test_the_error_for_a_share_names_the_nearest_ones_that_tile() -> None:
    with pytest.raises(
        SettingError,
        match=r"a share of 0\.4 does not tile a GPU.*give 1/n, such as 0\.5 or 0\.3333",
    ):
        tiles(0.4)


def test_a_scenario_with_a_share_that_does_not_tile_names_the_model() -> None:
    with pytest.raises(SettingError, match=r"gpus_per_client\.mlp: a share of 0\.6"):
        Ray(gpus_per_client={"mlp": 0.6})
    with pytest.raises(SettingError, match="must name every model"):
        Ray(gpus_per_client={})


def test_a_worker_that_does_not_see_the_run_folder_says_what_to_do(tmp_path: Path) -> None:
    spec = WorkerSpec(scenario="", states=tmp_path / "elsewhere", history=False)
    with pytest.raises(
        RunError, match=r"elsewhere is not to be seen on .*; give a run_dir on a file system"
    ):
        Actor(ActorSpec(create_clients, spec, 1, ()), None)


def test_no_fraction_is_split_over_two_gpus() -> None:
    assert fits([HALF, HALF, HALF, HALF], 2)
    assert not fits([Fraction(1, 3), HALF, HALF], 1)
    assert not fits([Fraction(2), HALF], 2)
    assert fits([Fraction(2), HALF], 3)


def test_the_costliest_clients_are_dealt_first_and_loads_end_alike() -> None:
    costs = {i: float(c) for i, c in enumerate([1, 1, 1, 1, 8, 4, 4, 1])}
    hands = deal({(i,): cost for i, cost in costs.items()}, 3)
    loads = [sum(costs[i] for i in hand) for hand in hands]
    assert sorted(i for hand in hands for i in hand) == list(range(8))
    assert [hand[0] for hand in hands] == [4, 5, 6]
    assert max(loads) - min(loads) <= 2


def test_clients_that_are_trained_together_have_one_worker() -> None:
    names, together = ["mlp", "cnn"] * 4, [(0, 2, 4, 6), (1, 3)]
    for shares in (None, {"mlp": 0.5, "cnn": 0.5}):
        slots = assign_workers(
            names,
            [1.0] * 8,
            workers=2,
            cores=4,
            gpus=1,
            gpus_per_client=shares,
            together=together,
        )
        assert [slot.clients for slot in slots] == [(0, 2, 4, 6), (1, 3, 5, 7)]


def test_workers_without_gpus_are_one_a_core_and_never_more_than_clients() -> None:
    assert (
        len(
            assign_workers(
                ["a"] * 8, [1.0] * 8, workers=None, cores=3, gpus=0, gpus_per_client=None
            )
        )
        == 3
    )
    assert (
        len(
            assign_workers(
                ["a"] * 2, [1.0] * 2, workers=None, cores=3, gpus=0, gpus_per_client=None
            )
        )
        == 2
    )


@pytest.mark.parametrize(
    ("workers", "gpus", "share"), [(None, 2, 1), (2, 2, 1), (4, 2, HALF), (3, 2, HALF), (5, 1, 1)]
)
def test_workers_share_the_gpus_in_equal_parts(
    workers: int | None, gpus: int, share: Fraction
) -> None:
    slots = assign_workers(
        ["a"] * 8, [1.0] * 8, workers=workers, cores=8, gpus=gpus, gpus_per_client=None
    )
    expected = Fraction(1, 5) if workers == 5 else Fraction(share)
    assert {slot.gpus for slot in slots} == {expected}
    assert fits([slot.gpus for slot in slots], gpus)


def test_each_share_has_workers_of_its_own_and_they_fit() -> None:
    names = ["resnet"] * 4 + ["mlp"] * 10
    slots = assign_workers(
        names,
        [10.0] * 4 + [1.0] * 10,
        workers=6,
        cores=8,
        gpus=2,
        gpus_per_client={"resnet": 0.5, "mlp": 0.1},
    )
    assert fits([slot.gpus for slot in slots], 2)
    for slot in slots:
        assert {names[i] for i in slot.clients} == ({"resnet"} if slot.gpus == HALF else {"mlp"})
    assert sorted(i for slot in slots for i in slot.clients) == list(range(14))
    assert (
        sum(slot.gpus == HALF for slot in slots) == 3
    )  # most of the work is there, and a fourth would not fit
    assert len(slots) == 6


def test_a_model_on_no_gpu_may_stand_beside_one_that_has_one() -> None:
    slots = assign_workers(
        ["a", "b"], [1.0, 1.0], workers=None, cores=2, gpus=1, gpus_per_client={"a": 1, "b": 0}
    )
    assert slots == [Slot(Fraction(1), (0,)), Slot(Fraction(0), (1,))]


@pytest.mark.parametrize(
    ("shares", "gpus", "workers", "said"),
    [
        ({"a": 1.0}, 1, None, "b is missing"),
        ({"a": 1.0, "b": 0.5, "c": 0.5}, 2, None, "names c"),
        ({"a": 1.0, "b": 0.5}, 1, None, "does not fit on 1 GPUs"),
        ({"a": 0.5, "b": 0.25}, 1, 1, "each needs one"),
        ({"a": 0.5, "b": 1.0}, 2, 4, "at most 3 do"),
    ],
)
def test_what_cannot_be_placed_is_said_before_anything_starts(
    shares: dict[str, float], gpus: int, workers: int | None, said: str
) -> None:
    with pytest.raises(SettingError, match=said):
        assign_workers(
            ["a", "b"] * 4, [1.0] * 8, workers=workers, cores=8, gpus=gpus, gpus_per_client=shares
        )
