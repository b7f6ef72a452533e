import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd.audit.label_inference import infer_labels
from fedkd.errors import SettingError


def test_distances_are_those_computed_by_hand() -> None:
    found = infer_labels(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([3, 1]))
    assert found.kl == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert found.total_variation == pytest.approx(0.25)
    assert (found.kl, found.total_variation) == (
        pytest.approx(found.blind_kl),
        found.blind_total_variation,
    )


@given(st.lists(st.integers(0, 50), min_size=2, max_size=6).filter(any), st.integers(0, 99))
def test_pinsker_holds_and_order_of_classes_does_not_matter(counts: list[int], seed: int) -> None:
    probs = np.random.default_rng(seed).dirichlet(np.ones(len(counts)), size=7)
    found = infer_labels(probs, np.array(counts))
    assert 0 <= found.total_variation <= math.sqrt(found.kl / 2) + 1e-9
    turned = infer_labels(probs[:, ::-1], np.array(counts[::-1]))
    assert turned.kl == pytest.approx(found.kl)


def test_a_class_never_predicted_costs_much_and_not_infinity() -> None:
    assert infer_labels(np.array([[1.0, 0.0]]), np.array([0, 5])).kl == pytest.approx(
        12 * math.log(10)
    )


def test_a_client_without_records_is_refused() -> None:
    with pytest.raises(SettingError, match="records"):
        infer_labels(np.array([[1.0, 0.0]]), np.array([0, 0]))
