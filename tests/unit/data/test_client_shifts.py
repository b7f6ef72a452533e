"""Noise by client and traded labels: of private rows alone, and the same whenever they are made."""

import numpy as np
import pytest
import torch

from fedkd.data.client_shifts import ClientShifts, InputNoise
from fedkd.data.division import Division
from fedkd.data.prepare import Prepared
from fedkd.errors import SettingError
from fedkd.settings.conditions import RunConditions

CLIENTS, EACH = 5, 40
ROWS = np.arange(CLIENTS * EACH).reshape(CLIENTS, EACH)
OTHERS = np.arange(CLIENTS * EACH, CLIENTS * EACH + 20)
DIVISION = Division(
    OTHERS[:10],
    OTHERS[10:],
    tuple(rows[:30] for rows in ROWS),
    tuple(rows[30:36] for rows in ROWS),
    tuple(rows[36:] for rows in ROWS),
)
COUNT = CLIENTS * EACH + 20


def noise(level: float = 2.0, seed: int = 0) -> InputNoise:
    return InputNoise(level, DIVISION, COUNT, seed)


def test_noise_grows_with_the_client_and_spares_public_and_balanced_rows() -> None:
    inputs = torch.zeros(COUNT, 3, 50)
    found = noise().added(inputs, np.arange(COUNT))
    assert not found[OTHERS].any()
    spreads = [found[rows].std().item() for rows in ROWS]
    assert spreads == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0], rel=0.03)
    assert not inputs.any()


def test_a_row_has_the_same_noise_alone_pooled_and_in_another_order() -> None:
    inputs = torch.ones(COUNT, 4)
    whole = noise().added(inputs, np.arange(COUNT))
    test = DIVISION.test[3]
    assert torch.equal(noise().added(inputs[test], test), whole[test])
    mixed = np.array([199, 3, 150, 41, 205])
    assert torch.equal(noise().added(inputs[mixed], mixed), whole[mixed])
    assert not torch.equal(noise(seed=1).added(inputs[test], test), whole[test])


def data() -> Prepared:
    labels = np.arange(COUNT) % 4
    return Prepared(
        "key", np.zeros((COUNT, 2, 2, 1), np.uint8), labels, COUNT, ("a", "b", "c", "d"), {}
    )


def test_some_clients_trade_labels_in_all_their_rows_and_nobody_else() -> None:
    shifts, before = ClientShifts(swapped_share=0.4, swapped_classes=3), data()
    after = shifts.relabeled(before, DIVISION, seed=1)
    label_of, swapped = shifts.trade(4, 1), shifts.swapped_clients(CLIENTS, 1)
    assert len(swapped) == 2
    assert sorted(label_of.tolist()) == [0, 1, 2, 3]
    assert (label_of != np.arange(4)).sum() == 3
    for client, rows in enumerate(ROWS):
        expected = label_of[before.labels[rows]] if client in swapped else before.labels[rows]
        assert (after.labels[rows] == expected).all()
    assert (after.labels[OTHERS] == before.labels[OTHERS]).all()
    assert ClientShifts().relabeled(before, DIVISION, 1) is before


def test_a_share_of_each_clients_training_labels_is_wrong_and_no_other() -> None:
    before = data()
    after = ClientShifts(wrong_labels=0.5).relabeled(before, DIVISION, seed=1)
    wrong = after.labels != before.labels
    for rows in DIVISION.train:
        assert wrong[rows].sum() == round(0.5 * len(rows))
    wrong[np.concatenate(DIVISION.train)] = False
    assert not wrong.any()
    again = ClientShifts(wrong_labels=0.5).relabeled(before, DIVISION, seed=1)
    assert (again.labels == after.labels).all()
    assert ClientShifts(wrong_labels=0.5).conflict(RunConditions(clients=1)) is None
    with pytest.raises(SettingError, match="would do nothing"):
        ClientShifts(wrong_labels=0.001).relabeled(before, DIVISION, seed=1)


@pytest.mark.parametrize(
    ("given", "conditions", "said"),
    [
        ({"noise": 0.5}, {"clients": 1}, "difference among clients, and clients=1"),
        ({"noise": 0.5}, {"has_classes": False}, "texts without classes"),
        ({"swapped_share": 0.5}, {"components": {"audit": "canaries"}}, "leave out the audit"),
        ({"swapped_share": 0.01}, {}, "is 0 clients"),
        ({"swapped_share": 0.99}, {}, "is 10 clients"),
    ],
)
def test_a_shift_that_does_nothing_or_cannot_be_is_refused(
    given: dict[str, float], conditions: dict[str, object], said: str
) -> None:
    found = ClientShifts(**given).conflict(RunConditions(**conditions))  # type: ignore[arg-type]
    assert found is not None
    assert said in found
    assert ClientShifts().conflict(RunConditions(**conditions)) is None  # type: ignore[arg-type]


def test_settings_of_a_shift_say_what_is_wrong() -> None:
    with pytest.raises(SettingError, match="swapped_classes=3 would do nothing: swapped_share=0"):
        ClientShifts(swapped_classes=3)
    with pytest.raises(SettingError, match="noise must be >= 0"):
        ClientShifts(noise=-1)
    with pytest.raises(SettingError, match="swapped_classes=5 is more than the 4 classes"):
        ClientShifts(swapped_share=0.5, swapped_classes=5).trade(4, 0)
