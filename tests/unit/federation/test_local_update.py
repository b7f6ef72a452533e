"""A client's local update, step by step, without a server."""

import threading
from dataclasses import replace
from typing import Any

import pytest
import torch
from own_mechanisms import Trainer
from tiny import scenario
from torch import Tensor

from fedkd.errors import DeadlinePassed, Interrupted, SettingError
from fedkd.experiment.build import build
from fedkd.federation.client import take_part
from fedkd.federation.context import PRIVACY, ClientContext
from fedkd.federation.knowledge_view import KnowledgeView
from fedkd.federation.local_steps import STEPS, batches_of, label_leakage
from fedkd.federation.local_update import (
    ClientMemory,
    LocalUpdate,
    Released,
    begin_update,
    store,
)
from fedkd.knowledge import ClassPrototypes
from fedkd.messages import Download, Predictions
from fedkd.privacy.enforcement import SPENT


def context(**changes: Any) -> ClientContext:
    return build(scenario(models=["mlp"], **changes), threading.Event()).context


def begun(shared: ClientContext, *steps: Any, **changes: Any) -> LocalUpdate:
    ids = torch.arange(shared.task.public_size)
    return begin_update(shared, 0, Download(round=1, steps=steps, public_ids=ids, **changes))


def weights(update: LocalUpdate) -> Tensor:
    return torch.cat([tensor.flatten().clone() for tensor in update.model.state_dict().values()])


def test_sections_of_a_clients_memory_are_replaced_one_by_one() -> None:
    memory = ClientMemory({"codec up/a": torch.ones(1), "privacy steps": torch.ones(2)})
    memory.replace("privacy ", {"rounds": torch.ones(3)})
    assert memory.tensors.keys() == {"codec up/a", "privacy rounds"}
    assert memory.section("privacy ")["rounds"].shape == (3,)
    memory.replace_codec("up", None)
    assert (memory.codec("up"), memory.codec("down")) == (None, None)


def test_training_changes_the_model_and_records_its_loss() -> None:
    update = begun(context(), "train")
    before = weights(update)
    STEPS["train"](update)
    assert not torch.equal(weights(update), before)
    assert update.metrics.keys() == {"train_loss"}


def test_training_sees_augmented_images_and_other_draws_in_each_round() -> None:
    learned = {}
    for how in ("none", "flip_crop"):
        update = begun(context(train={"augment": how}), "train")
        STEPS["train"](update)
        learned[how] = weights(update)
    assert not torch.equal(learned["none"], learned["flip_crop"])
    x, batch = update.context.training_set(0)[0], torch.arange(8)
    one, again, later = (
        batches_of(replace(update, download=replace(update.download, round=number)), "train", x)
        for number in (1, 1, 2)
    )
    assert torch.equal(one(batch), again(batch))
    assert not torch.equal(again(batch), later(batch))


def test_warming_up_trains_for_its_own_epochs() -> None:
    shared = context(train={"epochs": 1, "warm_up_epochs": 3})
    moved = {}
    for step in ("warm_up", "train"):
        update = begun(shared, step)
        before = weights(update)
        STEPS[step](update)
        moved[step] = (weights(update) - before).norm().item()
        assert update.metrics.keys() == ({"train_loss"} if step == "train" else set())
    assert moved["warm_up"] > 1.5 * moved["train"] > 0


def test_no_warming_up_where_training_is_private() -> None:
    with pytest.raises(SettingError, match=r"train.warm_up_epochs=3 .* privacy=dp_sgd"):
        context(train={"warm_up_epochs": 3}, privacy={"name": "dp_sgd", "noise_multiplier": 1.0})


def test_prediction_by_prototypes_is_measured_beside_the_last_layer() -> None:
    """Prototypes that are the client's own class means, but for two that are swapped."""
    shared = context(strategy="fedproto", public={"size": 0})
    update = begun(shared, "train", "share")
    view = KnowledgeView(update)
    STEPS["train"](update)
    STEPS["inspect"](update)
    assert "knowledge_accuracy" not in update.metrics  # in the first round there is no teacher
    assert shared.kind is not None
    update.teacher = shared.kind.extract(view)
    STEPS["inspect"](update)
    inputs, labels = shared.samples(shared.division.test[0])
    found = torch.cdist(view.features_of(inputs), update.teacher.features)
    found[:, update.teacher.counts == 0] = torch.inf
    expected = (found.argmin(dim=1) == labels).float().mean().item()
    assert update.metrics["knowledge_accuracy"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("strategy", "taught"),
    [
        ("fedproto", "nearest_own"),
        ("fedtgp", "nearest"),
        ("fedgh", "nearest"),
        ("lg_fedavg", "nearest"),
    ],
)
def test_accuracies_are_those_of_the_nearest_prototype_where_that_is_asked_for(
    strategy: str, taught: str
) -> None:
    """The client's own class means are its teacher; the last layer is made to be wrong."""
    chosen = {"name": strategy, "prediction": taught}
    shared = context(strategy=chosen, public={"size": 0})
    update = begun(shared, "train", "share")
    STEPS["train"](update)
    own = ClassPrototypes(weight=1.0).extract(KnowledgeView(update))
    with torch.no_grad():
        update.model.get_submodule(update.info.head or "").weight.neg_()
    if strategy in ("fedproto", "fedtgp"):
        STEPS["evaluate_trained"](update)
        by_head = update.metrics["personal_accuracy_after_training"]
        update.teacher = own
    STEPS["evaluate_trained"](update)
    found = update.metrics["personal_accuracy_after_training"]
    inputs, labels = shared.samples(shared.division.test[0])
    apart = torch.cdist(KnowledgeView(update).features_of(inputs), own.features)
    apart[:, own.counts == 0] = torch.inf
    assert found == pytest.approx((apart.argmin(dim=1) == labels).float().mean().item())
    if strategy in ("fedproto", "fedtgp"):
        assert by_head != found  # in the first round there is no teacher, and the layer predicts


def test_a_companion_is_trained_stored_sent_as_its_change_and_replaced() -> None:
    """FedKD: W and the own model stay with the client; the shared model goes and comes."""
    shared = context(strategy={"name": "fedkd", "companion": "mlp"}, public={"size": 0})
    kind, update = shared.kind, begun(shared, "train", "share")
    assert kind is not None
    assert update.companion is not None
    start = {name: t.clone() for name, t in update.companion.state_dict().items()}
    STEPS["train"](update)
    trained = {name: t.clone() for name, t in update.companion.state_dict().items()}
    assert all(not torch.equal(trained[name], t) for name, t in start.items())
    change = kind.extract(KnowledgeView(update))
    for name, tensor in change.items():
        assert torch.equal(tensor, trained[f"shared.{name}"] - start[f"shared.{name}"])
    store(update)
    other = begin_update(shared, 1, Download(round=1, steps=("adopt",)))
    assert other.companion is not None
    found = other.companion.state_dict()
    assert torch.equal(found["shared.1.weight"], start["shared.1.weight"])  # all begin alike
    assert not torch.equal(found["beside.weight"], start["beside.weight"])
    again = begun(shared, "adopt")
    assert again.companion is not None
    assert all(torch.equal(t, trained[name]) for name, t in again.companion.state_dict().items())
    own = weights(again)
    again.teacher = {name: torch.full_like(t, 2.0) for name, t in change.items()}
    STEPS["adopt"](again)
    assert (again.companion.shared.state_dict()["1.weight"] == 2).all()
    assert torch.equal(again.companion.beside.weight, trained["beside.weight"])
    assert torch.equal(weights(again), own)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"privacy": {"name": "dp_sgd", "noise_multiplier": 1.0}}, "a second model"),
        ({"strategy": {"name": "fml", "companion": "mlpp"}}, "mlpp"),
        ({"strategy": {"name": "fedmrl", "companion": "mlp"}, "models": ["cnn"]}, "are more than"),
        ({"models": ["sklearn:GaussianNB"]}, "take over weights"),
    ],
)
def test_a_companion_that_cannot_be_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingError, match=reason):
        build(scenario(**{"strategy": "fml", **changes}), threading.Event())


def test_distilling_brings_predictions_nearer_to_the_teacher() -> None:
    shared = context(distill={"epochs": 5})
    target = torch.zeros(40, 10)
    target[:, 3] = 1.0
    teacher = Predictions(ids=torch.arange(40), values=target, scale="probs")
    update = begun(shared, "distill", teacher=teacher)
    view = KnowledgeView(update)
    before = view.public_logits().softmax(-1)[:, 3].mean()
    STEPS["distill"](update)
    assert view.public_logits().softmax(-1)[:, 3].mean() > before
    assert update.metrics.keys() == {"distill_loss"}


def test_a_view_of_a_client_writes_nothing() -> None:
    update = begun(context(), "share")
    logits = KnowledgeView(update).public_logits()
    assert (update.metrics, update.released) == ({}, Released())
    assert KnowledgeView(update, logits).public_logits() is logits


def test_sharing_makes_knowledge_with_an_event_and_measures_label_leakage() -> None:
    update = begun(context(), "share")
    STEPS["share"](update)
    assert update.released.knowledge is not None
    assert update.released.event is not None
    logits = KnowledgeView(update).public_logits()
    expected = label_leakage(logits, update.context.label_counts(0))
    assert update.metrics == {"label_leakage": expected}


def test_label_leakage_is_zero_for_the_true_distribution_and_large_for_another() -> None:
    logits = torch.tensor([[20.0, 0.0], [0.0, 20.0]])
    assert label_leakage(logits, (5, 5)) == pytest.approx(0.0, abs=1e-6)
    assert label_leakage(logits[:1], (0, 5)) > 5


def test_an_update_is_stored_only_where_the_message_may_have_changed_it() -> None:
    shared = context()
    store(begun(shared, "evaluate_trained"))
    assert shared.store.get(0) is None
    store(begun(shared, "train"))
    assert shared.store.get(0) is not None


def test_a_step_that_raises_leaves_the_client_as_it_was_but_for_what_must_not_be_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared = context()
    shared = replace(shared, enforcer=replace(shared.enforcer, mechanism=Trainer()))
    before = {name: tensor.clone() for name, tensor in shared.initial_state(0).items()}

    def failing(update: LocalUpdate) -> None:
        raise RuntimeError("as the test wants")

    monkeypatch.setitem(STEPS, "evaluate_trained", failing)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="as the test wants"):
        take_part(shared, 0, Download(round=1, steps=("train", "evaluate_trained")))
    after = shared.store.get(0)
    assert after is not None
    assert int(after[f"{PRIVACY}rounds"]) == 1
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_client_whose_budget_is_spent_declines_and_is_evaluated() -> None:
    shared = context()
    shared = replace(shared, enforcer=replace(shared.enforcer, mechanism=Trainer(most=0)))
    upload = take_part(shared, 0, Download(round=1, steps=("train", "evaluate_trained", "share")))
    assert (upload.declined, upload.knowledge, upload.privacy) == (SPENT, None, None)
    assert upload.metrics["global_accuracy_after_training"] >= 0


def test_an_update_ends_where_the_run_is_stopped_or_the_deadline_has_passed() -> None:
    shared = context()
    with pytest.raises(Interrupted):
        begun(replace(shared, stopped=lambda: True), "train").check_interrupt()
    with pytest.raises(DeadlinePassed):
        begun(replace(shared, deadline=-1.0), "train").check_interrupt()


def test_the_next_client_borrows_the_same_module() -> None:
    shared = context()
    first, _ = shared.borrow_model(0)
    second, _ = shared.borrow_model(1)
    assert first is second
    assert shared.own_model(0) is not shared.own_model(0)


def test_modules_of_a_clients_own_are_trained_and_stored_and_no_two_clients_begin_alike() -> None:
    shared = context(strategy="talking")
    update = begun(shared, "train", "share")
    assert update.companion is not None
    start = {name: t.clone() for name, t in update.companion.state_dict().items()}
    assert {name.split(".")[0] for name in start} == {"beside"}
    STEPS["train"](update)
    trained = {name: t.clone() for name, t in update.companion.state_dict().items()}
    assert all(not torch.equal(trained[name], t) for name, t in start.items())
    store(update)
    other = begin_update(shared, 1, Download(round=1, steps=()))
    assert other.companion is not None
    encoder = "beside.encoder.weight"
    assert not torch.equal(other.companion.state_dict()[encoder], start[encoder])
    again = begun(shared, "train")
    assert again.companion is not None
    assert all(torch.equal(t, trained[name]) for name, t in again.companion.state_dict().items())
    assert KnowledgeView(again).pair is None
    assert shared.companion is not None
    assert shared.companion.as_shared() is None


def test_without_weights_of_its_terms_talking_is_local_training() -> None:
    none = {"label_weight": 0, "feature_weight": 0, "message_weight": 0}
    alone, talking = (
        begun(context(strategy=chosen), "train", "share")
        for chosen in ("local_only", {"name": "talking", **none})
    )
    for update in (alone, talking):
        STEPS["train"](update)
    assert torch.equal(weights(alone), weights(talking))
