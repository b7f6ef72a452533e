"""Which points of a round there are, which are measured, and which comes first."""

import pytest
from small_server import lost, play, reply, small_server

from fedkd.errors import SettingError
from fedkd.federation.measured_points import measured_points, points_of_round, reported_point
from fedkd.federation.measurement import Measurement
from fedkd.federation.round import federated_round
from fedkd.knowledge import find_kind
from fedkd.messages import Step
from fedkd.strategies.centralized import Centralized
from fedkd.strategies.fd import FD
from fedkd.strategies.knfu import KnFu
from fedkd.strategies.local_only import LocalOnly

BOTH = ("training", "distillation")


def test_a_round_has_a_point_after_each_phase_in_the_sequence_of_time() -> None:
    kind = find_kind("logits")
    assert points_of_round(kind, "train_first") == BOTH
    assert points_of_round(kind, "distill_first") == BOTH[::-1]


def test_without_a_phase_of_learning_from_teachers_there_is_one_point() -> None:
    """Nothing is exchanged, all data are pooled, or teachers are part of private training."""
    assert points_of_round(None, "train_first") == ("training",)
    assert points_of_round(find_kind("logits"), "train_first", pooled=True) == ("training",)
    assert points_of_round(FD().knowledge, "distill_first") == ("training",)


def test_one_point_alone_is_measured_where_it_is_asked_for_and_refused_where_it_is_not() -> None:
    assert measured_points(BOTH, "both") == BOTH
    assert measured_points(BOTH, "training") == ("training",)
    with pytest.raises(SettingError, match=r"test\.after=distillation: a round of this strategy"):
        measured_points(("training",), "distillation")


def test_the_point_of_the_paper_comes_first_or_the_last_of_the_round_where_it_is_not_known() -> (
    None
):
    assert reported_point(BOTH, "auto", "training") == "training"
    assert reported_point(BOTH, "auto", "unknown") == "distillation"
    assert reported_point(("training",), "auto", "distillation") == "training"
    assert reported_point(BOTH, "training", "distillation") == "training"
    with pytest.raises(SettingError, match=r"say report\.after=training, or leave it out"):
        reported_point(("training",), "distillation", "unknown")


def test_one_point_alone_saves_the_other_evaluation_and_nothing_else() -> None:
    def steps(after: str) -> tuple[tuple[Step, ...], ...]:
        server = small_server(measure_after=after)
        round_one = federated_round(server, 1)
        first = next(round_one)[0].steps
        return first, round_one.send([reply(i) for i in range(3)])[0].steps

    assert steps("both") == (
        ("train", "evaluate_trained", "share"),
        ("distill", "evaluate_distilled", "inspect"),
    )
    assert steps("training") == (("train", "evaluate_trained", "share"), ("distill", "inspect"))
    assert steps("distillation") == (("train", "share"), steps("both")[1])


def test_a_model_of_all_data_is_measured_once_everybody_has_it() -> None:
    server = small_server(Centralized())
    steps = federated_round(server, 1)
    assert next(steps)[0].steps == ("train", "share")
    assert server.measured == ("training",)


def test_clients_who_train_alone_are_measured_after_training() -> None:
    server = small_server(LocalOnly())
    assert next(federated_round(server, 1))[0].steps == ("train", "evaluate_trained")


def test_a_client_without_a_teacher_is_measured_where_others_have_distilled() -> None:
    """It has the model that it had: a mean over fewer clients would be of others."""
    server = small_server(KnFu(), protocol={"round_order": "distill_first"})
    play(server, [reply(0), reply(1), lost(2)])
    downloads = next(federated_round(server, 2))
    trained = ("train", "evaluate_trained", "inspect", "share")
    assert downloads[0].steps == ("distill", "evaluate_distilled", *trained)
    assert downloads[2].steps == ("evaluate_distilled", *trained)


def test_a_client_is_measured_in_its_last_part_before_figures_are_recorded() -> None:
    """Every 3 rounds: of clients that come now and again, none is forgotten or measured twice."""
    protocol = {"participation": 0.4, "rounds": 5}
    server = small_server(protocol=protocol, clients=5, measurement=Measurement(evaluate_every=3))
    taking_part, measuring, recorded = dict[int, set[int]](), dict[int, set[int]](), list[int]()
    for number in range(1, 6):
        selection = server.select(number)
        taking_part[number] = set(selection.participants)
        downloads = server.first_downloads(selection)
        measuring[number] = {i for i, d in downloads.items() if "evaluate_trained" in d.steps}
        recorded += [number] if selection.is_measured else []
    assert recorded == [3, 5]
    for window in ((1, 2, 3), (4, 5)):
        for client in range(5):
            came = [number for number in window if client in taking_part[number]]
            assert [n for n in window if client in measuring[n]] == came[-1:]
    assert any(measuring[n] not in (set(), taking_part[n]) for n in measuring)  # it is no formality


def test_rounds_between_have_no_figures_and_a_model_that_changed_keeps_none() -> None:
    accurate = {"global_accuracy_after_training": 0.5}
    server = small_server(measurement=Measurement(evaluate_every=2), protocol={"rounds": 4})
    first = play(server, [reply(i, metrics=accurate) for i in range(3)])
    assert not first.is_measured
    assert all(c.after_training.global_accuracy is None for c in first.clients)
    second = play(server, [reply(0, 2, metrics=accurate), reply(1, 2), lost(2)], 2)
    assert [c.after_training.global_accuracy for c in second.clients] == [0.5, 0.5, 0.5]
    play(server, [reply(i, 3) for i in range(3)], 3)
    fourth = play(server, [reply(0, 4, metrics=accurate), reply(1, 4), lost(2)], 4)
    assert [c.after_training.global_accuracy for c in fourth.clients] == [0.5, None, None]


def test_settings_of_measurement_say_what_is_wrong() -> None:
    with pytest.raises(SettingError, match="evaluate_every must be >= 1, got 0"):
        Measurement(evaluate_every=0)
    with pytest.raises(SettingError, match="evaluate_on must name a test set"):
        Measurement(evaluate_on=())
    with pytest.raises(SettingError, match="must be of private, global, got 'public'"):
        Measurement(evaluate_on=("public",))  # type: ignore[arg-type]
