"""Which points of a round there are, which are measured, and which comes first."""

import pytest
from small_server import lost, play, reply, small_server

from fedkd.errors import SettingError
from fedkd.federation.measured_points import measured_points, points_of_round, reported_point
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
