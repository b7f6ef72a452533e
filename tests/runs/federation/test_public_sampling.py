"""Which public samples a round asks about, and which of their views are taught."""

import threading
from typing import Any

import pytest
import torch
from tiny import records, scenario

from fedkd.data.shifts import shifted
from fedkd.errors import SettingError
from fedkd.experiment.build import build
from fedkd.federation.public_sampling import PublicSampler
from fedkd.messages import Cohort, Fusion
from fedkd.runtime.seeding import numpy_stream

STREAM = numpy_stream(0, "test")


def soft(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).softmax(dim=-1)


def settled(
    choice: PublicSampler, ids: torch.Tensor, students: torch.Tensor, teachers: torch.Tensor
) -> Fusion:
    clients = len(students)
    cohort = Cohort(
        round=1, client_ids=tuple(range(clients)), public_ids=ids, values=students, scale="probs"
    )
    return choice.record_fusion(
        Fusion(weights=torch.eye(clients), teachers=teachers), cohort, "probs"
    )


def test_a_rule_that_looks_asks_about_everything_first_and_then_about_a_few() -> None:
    choice = PublicSampler(10, per_round=3, rule="disagreement")
    assert choice.ids(STREAM).tolist() == list(range(10))
    students, teacher = soft(2, 10, 4), soft(10, 4, seed=1)
    settled(choice, torch.arange(10), students, teacher)
    divergence = (
        (teacher * (teacher.log() - students.log())).sum(-1).mean(0)
    )  # KL(fused || client), by hand
    assert choice.ids(STREAM).tolist() == sorted(divergence.topk(3).indices.tolist())


def test_a_sample_that_is_learned_leaves_its_place_to_the_next() -> None:
    choice = PublicSampler(6, per_round=2, rule="disagreement")
    students, teacher = soft(2, 6, 4), soft(6, 4, seed=1)
    settled(choice, torch.arange(6), students, teacher)
    first = choice.ids(STREAM)
    settled(
        choice, first, teacher[first].expand(2, 2, 4), teacher[first]
    )  # the clients now agree with the teacher
    assert not set(choice.ids(STREAM).tolist()) & set(first.tolist())


def test_the_core_set_covers_the_fused_predictions() -> None:
    choice = PublicSampler(5, per_round=3, rule="core_set")
    teacher = torch.eye(3).repeat_interleave(2, dim=0)[:5]  # two and two and one of three kinds
    settled(choice, torch.arange(5), teacher.expand(2, 5, 3), teacher)
    assert sorted(teacher[choice.ids(STREAM)].argmax(-1).tolist()) == [0, 1, 2]


def test_what_was_learned_of_the_public_set_is_restored() -> None:
    choice, again = (PublicSampler(10, per_round=3, rule="disagreement") for _ in range(2))
    settled(choice, torch.arange(10), soft(2, 10, 4), soft(10, 4, seed=1))
    again.restore(choice.state())
    assert torch.equal(choice.ids(STREAM), again.ids(STREAM))


def test_each_client_is_taught_the_view_on_which_it_disagrees_most() -> None:
    choice = PublicSampler(4, views=3)
    assert choice.ids(STREAM).tolist() == list(range(12))
    students, teachers = soft(2, 12, 5), soft(12, 5, seed=1)
    kept = settled(choice, torch.arange(12), students, teachers).taught_rows
    assert kept is not None
    for client in range(2):
        far = (teachers * (teachers.log() - students[client].log())).sum(-1)
        expected = {int(max(range(n, 12, 4), key=lambda row: far[row])) for n in range(4)}
        assert set(kept[client].nonzero().flatten().tolist()) == expected


@pytest.mark.fast(0)
@pytest.mark.parametrize(
    "changes",
    [
        {"public": {"per_round": 10, "sampling": "disagreement"}},
        {"public": {"per_round": 10, "sampling": "core_set"}},
        {"public": {"augmented_views": 3}},
        {"public": {"augmented_views": 2, "per_round": 15}},
        {"distill": {"confidence_gate": True}},
        {"distill": {"margin_weights": True}},
        {"distill": {"relational_weight": 2.0}},
        {"distill": {"student_augmentation": "shift"}},
    ],
    ids=str,
)
def test_every_plug_in_changes_the_run_and_repeats_at_any_number_of_workers(
    changes: dict[str, Any],
) -> None:
    base = {"strategy": "dsfl", "rounds": 3}
    plain, one = records(**base), records(**base, **changes)
    two = records(**base, **changes, engine={"name": "local", "workers": 2}, batch_clients="auto")
    assert one[-1].knowledge_sha256 == two[-1].knowledge_sha256 != plain[-1].knowledge_sha256
    assert {c.status for r in one for c in r.clients} == {"ok"}
    if "views" in changes.get("public", {}) and "per_round" not in changes["public"]:
        assert (
            one[0].clients[0].bytes_up == changes["public"]["views"] * plain[0].clients[0].bytes_up
        )


def test_views_are_the_samples_moved_and_the_first_is_the_sample_itself() -> None:
    context = build(scenario(public={"augmented_views": 3}), threading.Event()).context
    inputs, alone = (
        context.public_inputs,
        build(scenario(), threading.Event()).context.public_inputs,
    )
    assert torch.equal(inputs[:40], alone)
    assert len(inputs) == 120
    assert not torch.equal(inputs[40:80], alone)
    assert not torch.equal(inputs[40:80], inputs[80:])
    assert context.public_labels[40:80].tolist() == context.public_labels[:40].tolist()


def test_an_image_is_moved_by_whole_pixels_and_repeats_its_edge() -> None:
    image = torch.arange(64.0).reshape(1, 1, 8, 8).expand(50, 1, 8, 8)
    moved = shifted(image, numpy_stream(1, "test"))
    seen = set()
    for one in moved:
        down, right = divmod(int(one[0, 4, 4]), 8)
        seen.add((down - 4, right - 4))
        rows, columns = (
            (torch.arange(8) + down - 4).clamp(0, 7),
            (torch.arange(8) + right - 4).clamp(0, 7),
        )
        assert torch.equal(one[0], image[0, 0][rows][:, columns])
    assert seen == {(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"public": {"sampling": "core_set"}}, "sampling=core_set would do nothing"),
        ({"public": {"augmented_views": 0}}, "views must be >= 1"),
        (
            {"strategy": "fedavg", "models": ["mlp"], "public": {"augmented_views": 2}},
            "public.augmented_views=2 needs every client's",
        ),
        (
            {"strategy": "fedmd", "distill": {"confidence_gate": True}},
            "distill.confidence_gate=true compares soft labels, and loss=mae",
        ),
        (
            {"strategy": "fd", "models": ["mlp"], "distill": {"relational_weight": 1.0}},
            "distill.relational_weight=1.0 would do nothing",
        ),
        (
            {"strategy": "dsfl", "distill": {"relational_weight": 0.0}},
            "relational_weight must be > 0",
        ),
    ],
)
def test_what_would_do_nothing_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        records(**changes)
