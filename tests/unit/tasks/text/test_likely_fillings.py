"""The search finds the fillings that enumeration finds, and passes few rows to the model."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_language import Toy

from fedkd.audit.secret_exposure import sampling_bounds
from fedkd.errors import SettingError
from fedkd.settings.schema import parse
from fedkd.tasks.text.exposure import log_perplexity
from fedkd.tasks.text.likely_fillings import TokenSlots, likely_fillings
from fedkd.tasks.text.secrets import Secrets, TextCanaries, plant
from fedkd.tasks.text.text_canaries import alphabet_of
from fedkd.tasks.text.vocabulary import Bytes, Characters

SLOTS = ((0, 2, 3), (1, 4), (0, 1, 2, 3, 4))


@given(st.integers(0, 9), st.floats(0, 25), st.sampled_from([(), (3,), (4, 0)]))
def test_the_search_finds_what_enumeration_finds(seed: int, most: float, end: tuple[int, ...]):
    model, form = Toy(seed), TokenSlots((4, 0), SLOTS, end)
    rows = torch.tensor([[4, 0, *filling, *end] for filling in itertools.product(*SLOTS)])
    bits = log_perplexity(model, rows)
    expected = (bits <= most).nonzero()[0]
    found = likely_fillings(model, form, most, batch=3)
    assert found is not None
    assert found[0].tolist() == expected.tolist()
    np.testing.assert_allclose(found[1], bits[expected], atol=1e-6)


def test_a_search_that_grows_too_large_gives_up():
    assert likely_fillings(Toy(0), TokenSlots((4, 0), SLOTS), 99.0, most_rows=29) is None
    assert likely_fillings(Toy(0), TokenSlots((4, 0), SLOTS), 99.0, most_rows=30) is not None


class Learned(torch.nn.Module):
    """A model that finds the digits of some secrets likelier than others, and all ``d`` alike."""

    def __init__(self, secrets: Secrets, sureness: float) -> None:
        super().__init__()
        form = secrets.by_form[0]
        self.rows = form.candidates[[form.row_of[c.index] for c in secrets.inserted]]
        self.weight = torch.nn.Parameter(torch.tensor(sureness))
        self.table = torch.randn(11, 30, generator=torch.Generator().manual_seed(0))
        self.asked = 0

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        self.asked += len(ids)
        logits = self.table[ids.cumsum(dim=1) % 11].clone()
        for row in self.rows:
            begun = (ids == row[: ids.shape[1]]).cumprod(dim=1).bool()
            after = row[1 : ids.shape[1] + 1]
            places = begun[:, : len(after)].nonzero(as_tuple=True)
            logits[places[0], places[1], after[places[1]]] += self.weight
        return logits


def planted(slots: str, **changes: object) -> Secrets:
    fields = {"prefix": "pin ", "slots": slots, "per_client": 4, "held_out": 4, **changes}
    pin = parse(TextCanaries, fields, "text_canaries")
    return plant(pin, Characters(alphabet_of(pin.forms[0])), 16, clients=1, seed=0)


@pytest.mark.parametrize("sureness", [0.0, 1.0, 12.0])
def test_sampling_agrees_with_enumeration_on_a_small_space(sureness: float):
    """Of 1,000 fillings 400 are drawn. Where few are preferred the search makes it exact, and
    elsewhere the bounds hold what enumeration says, but not 2 bits more or less."""
    whole, sampled = planted("ddd"), planted("ddd", references=400, exact_below=10)
    assert [c.index for c in whole.inserted] == [c.index for c in sampled.inserted]
    assert sampled.ceiling == whole.ceiling
    assert sampled.chance == whole.chance
    model = Learned(whole, sureness)
    groups = [whole.inserted, whole.controls]
    for truth, found in zip(
        whole.exposures(model, groups), sampled.exposures(model, groups), strict=True
    ):
        low, high = sampling_bounds(found, 400, sampled.ceiling)
        assert low <= np.mean(truth) <= high
        assert high - low < 2
        # Ten of 400 are 5.3 bits: what is above that by far was not drawn, but counted.
        sure = [i for i, bits in enumerate(truth) if bits > 7]
        assert [found[i] for i in sure] == pytest.approx([truth[i] for i in sure])


def test_a_secret_among_a_million_is_at_the_ceiling_and_takes_few_passes():
    secrets = planted("dddddd", references=500, exact_below=5)
    model = Learned(secrets, 15.0)
    own, controls = secrets.exposures(model, [secrets.inserted, secrets.controls])
    assert own == pytest.approx([math.log2(1_000_000 - 3)] * 4)
    assert max(controls) < secrets.ceiling
    assert model.asked < 1500
    capped = planted("dddddd", references=500)
    assert capped.exposures(model, [capped.inserted])[0] == pytest.approx([math.log2(500)] * 4)


def test_bounds_are_those_of_clopper_and_pearson():
    """Of 20 fillings 3 were preferred: the share is 0.0321 to 0.3789 (Clopper and Pearson 1934)."""
    low, high = sampling_bounds([math.log2(20 / 4)], 20, 19.9)
    assert (2**-high, 2**-low) == pytest.approx((0.0321, 0.3789), abs=1e-4)
    assert sampling_bounds([math.log2(20)], 20, 19.9)[1] == 19.9  # none was preferred
    assert sampling_bounds([7.77], 20, 19.9) == (7.77, 7.77)  # counted


def test_a_search_needs_one_token_a_character():
    fields = {"prefix": "pin ", "slots": "ddé", "references": 100, "exact_below": 5}
    pin = parse(TextCanaries, {**fields, "slots": "ddddé"}, "text_canaries")
    with pytest.raises(SettingError, match="one token for each character"):
        plant(pin, Bytes(), 16, clients=1, seed=0)
    with pytest.raises(SettingError, match="exact_below"):
        parse(TextCanaries, {"prefix": "pin ", "slots": "ddd", "exact_below": 5}, "text_canaries")
