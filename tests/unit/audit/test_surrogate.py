import numpy as np
import pytest
import torch

from fedkd.audit.membership_inference import co_op_lira
from fedkd.audit.surrogate import Surrogates, distil, surrogate_margins
from fedkd.errors import SettingError


def test_a_surrogate_learns_what_the_client_says_and_repeats_to_the_bit() -> None:
    stream = np.random.default_rng(0)
    inputs = torch.from_numpy(stream.normal(size=(60, 1, 2, 2)).astype(np.float32))
    probs = torch.softmax(4 * inputs.flatten(1)[:, :3], dim=1)
    before = torch.get_rng_state()
    model = distil(inputs, probs, Surrogates(epochs=40))
    again = distil(inputs, probs, Surrogates(epochs=40))
    assert torch.equal(torch.get_rng_state(), before)
    with torch.no_grad():
        assert torch.equal(model(inputs), again(inputs))
        assert (model(inputs).argmax(1) == probs.argmax(1)).float().mean() > 0.9


def test_only_the_client_whose_uploads_carry_a_record_stands_out() -> None:
    """Client 0 gives public rows near the record its wrong label, as a model that memorized it
    would."""
    stream = np.random.default_rng(1)
    inputs = torch.from_numpy(stream.normal(size=(80, 1, 2, 2)).astype(np.float32))
    clean = torch.softmax(3 * inputs.flatten(1)[:, :2], dim=1)
    probs = torch.stack([clean] * 4) * (1 + 1e-3 * torch.arange(4)).view(4, 1, 1)
    probs = probs / probs.sum(-1, keepdim=True) + 0.01 * torch.from_numpy(
        stream.random((4, 80, 2)).astype(np.float32)
    )
    probs = probs / probs.sum(-1, keepdim=True)
    record = torch.tensor([[[[2.0, -2.0], [0.0, 0.0]]]])
    near = ((inputs - record).flatten(1).norm(dim=1) < 2.5).nonzero()[:, 0]
    probs[0, near] = torch.tensor([0.0, 1.0])
    scores = co_op_lira(
        surrogate_margins(inputs, probs, record, np.array([1]), Surrogates(epochs=15))
    )
    assert scores[:, 0].argmax() == 0
    assert scores[0, 0] > 3


def test_settings_are_checked() -> None:
    with pytest.raises(SettingError, match="epochs"):
        Surrogates(epochs=0)
