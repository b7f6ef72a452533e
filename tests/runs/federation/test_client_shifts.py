"""Shifts among clients in a run that is built: what each client trains and is tested on."""

import threading

import numpy as np
import pytest
import torch
from tiny import records, scenario

from fedkd.experiment.build import build
from fedkd.federation.batched_clients import reason_unbatched


def test_noise_and_traded_labels_reach_private_sets_and_nothing_else() -> None:
    stop, shift = threading.Event(), {"noise": 1.0, "swapped_share": 0.5, "swapped_classes": 10}
    plain = build(scenario(), stop).context
    experiment = build(scenario(shift=shift), stop)
    shifted, plan = experiment.context, experiment.plan
    swapped = scenario(shift=shift).shift.swapped_clients(4, 0)
    for rows in (plain.division.train, plain.division.test):
        for client in range(4):
            (x, y), (noisy, traded) = (c.samples(rows[client]) for c in (plain, shifted))
            assert torch.equal(x, noisy) == (client == 0)
            assert torch.equal(y, traded) == (client not in swapped)
    assert torch.equal(shifted.training_set(3)[0], shifted.samples(shifted.division.train[3])[0])
    for one, other in zip(plain.global_test, shifted.global_test, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(plain.public_inputs, shifted.public_inputs)
    for client in range(4):  # what the plan draws, and what is told to strategies that ask for it
        counts = np.bincount(shifted.training_set(client)[1].numpy(), minlength=10)
        assert (plan.label_counts[client] == counts).all()
        assert shifted.label_counts(client) == tuple(counts.tolist())
    assert "10 classes trade labels for clients" in plan.shift


def test_a_shift_repeats_to_the_bit_and_changes_what_is_learned() -> None:
    def figures(**changes: object) -> list[object]:
        last = records(rounds=1, models=["mlp"], **changes)[-1]
        return [(c.train_loss, c.after_distillation) for c in last.clients]

    shift = {"noise": 0.5, "swapped_share": 0.25}
    found = figures(shift=shift)
    assert found == figures(shift=shift, engine={"name": "local", "workers": 2})
    assert found != figures()


@pytest.mark.slow
def test_augmented_training_repeats_to_the_bit_with_and_without_dp_sgd() -> None:
    def losses(**changes: object) -> list[float | None]:
        train = {"epochs": 1, "batch_size": 8, **changes.pop("train", {})}  # type: ignore[dict-item]
        last = records(rounds=1, models=["mlp"], train=train, **changes)[-1]
        return [c.train_loss for c in last.clients]

    augmented = {"train": {"augment": "flip_crop"}}
    private = {"privacy": {"name": "dp_sgd", "noise_multiplier": 1.0}, "strategy": "dsfl"}
    found, noisy = losses(**augmented), losses(**augmented, **private)
    assert found == losses(**augmented, engine={"name": "local", "workers": 2})
    assert noisy == losses(**augmented, **private)
    assert found != losses()
    assert noisy != losses(**private)
    context = build(scenario(**augmented, models=["mlp"]), threading.Event()).context
    assert reason_unbatched(context, "mlp") == "each augments its images by draws of its own"
