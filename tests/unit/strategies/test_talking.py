"""Talking: messages made of features, rotated to their receiver, and the terms they teach by."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from views import View

from fedkd.errors import RunError, SettingError, UploadRejected
from fedkd.knowledge import ModularKnowledge, Request
from fedkd.knowledge.hidden_messages import (
    HiddenMessage,
    HiddenMessages,
    MessageCoder,
    MessageCohort,
)
from fedkd.messages import Fusion, Upload
from fedkd.settings.conditions import RunConditions
from fedkd.strategies.talking import Talking, rotated

STREAM = torch.Generator().manual_seed(0)
KIND = HiddenMessages(width=2, label_weight=0.5, feature_weight=2.0, message_weight=3.0, batch=4)


def messages(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=STREAM), dim=-1)


def request(samples: int = 5) -> Request:
    ids = torch.arange(samples) + 10
    return Request(
        round=2, classes=3, public_ids=ids, temperature=1.0, train_sizes={0: 4, 1: 4, 2: 4}
    )


def cohort(rows: Tensor) -> MessageCohort:
    ids = tuple(range(len(rows)))
    return MessageCohort(round=2, client_ids=ids, public_ids=request().public_ids, rows=rows)


class Client(View):
    """A client whose features are the first layer's outputs."""

    def features_with_gradient(self, ids: Tensor) -> Tensor:
        found: Tensor = self.model.get_submodule("0")(self.public[ids])
        return found


def client(**changes: Any) -> Any:
    """A client whose features are a linear layer of three inputs, with three classes."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 3))
    view = Client(
        model=model,
        head="1",
        beside=MessageCoder(4, 2),
        own_labels=torch.tensor([0, 2, 1, 1]),
        **changes,
    )
    view.public = torch.randn(20, 3, generator=STREAM)
    return view


def test_each_client_is_taught_the_mean_of_the_others_as_they_are_or_rotated():
    rows = messages(3, 5, 2)
    plain = Talking(width=2, rotate=False).fuse(cohort(rows), None)
    torch.testing.assert_close(plain.teachers[0], (rows[1] + rows[2]) / 2)
    torch.testing.assert_close(plain.weights[1], torch.tensor([0.5, 0.0, 0.5]))
    fused = Talking(width=2).fuse(cohort(rows), None)
    turned = rotated(rows, rows[2])
    torch.testing.assert_close(fused.teachers[2], (turned[0] + turned[1]) / 2)
    alone = Talking(width=2).fuse(cohort(rows[:1]), None)
    torch.testing.assert_close(alone.teachers, rows[:1])


def test_no_rotation_comes_closer_than_that_of_procrustes_and_lengths_stay():
    rows = messages(2, 6, 2)
    found = rotated(rows, rows[0])
    torch.testing.assert_close(found[0], rows[0])
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(2, 6))
    least = (found[1] - rows[0]).norm()
    for angle in torch.linspace(0, 6.28, 500):
        c, s = angle.cos(), angle.sin()
        for turn in (torch.stack([c, s, -s, c]), torch.stack([c, s, s, -c])):
            assert (rows[1] @ turn.view(2, 2) - rows[0]).norm() >= least - 1e-5


def test_a_client_whose_messages_are_anothers_turned_is_understood_without_loss():
    rows = messages(1, 8, 3)[0]
    turn = torch.linalg.qr(torch.randn(3, 3, generator=STREAM))[0]
    found = Talking(width=3).fuse(
        MessageCohort(
            round=1,
            client_ids=(0, 1),
            public_ids=torch.arange(8),
            rows=torch.stack([rows, rows @ turn]),
        ),
        None,
    )
    torch.testing.assert_close(found.teachers, torch.stack([rows, rows @ turn]), atol=1e-5, rtol=0)


def test_the_term_equals_its_formula_sample_by_sample():
    view, asked = client(), request()
    teacher = HiddenMessage(ids=asked.public_ids, rows=messages(5, 2))
    batch, features = torch.tensor([1, 3]), torch.randn(2, 4, generator=STREAM)
    found = KIND.penalty(view, teacher)(batch, torch.zeros(2, 3), features)
    coder, head = view.beside, view.model[1]
    expected = torch.zeros(())
    for place, h in zip(batch, features, strict=True):
        m = coder.encoder(h) / coder.encoder(h).norm()
        loss = -head(coder.decoder(m)).log_softmax(dim=0)[view.own_labels[place]]
        expected = expected + 0.5 * loss / 2
    drawn = view.stream("messages").permutation(5)[:4]
    own = [view.model[0](view.public[teacher.ids[i]]) for i in drawn]
    size = sum(h.square().sum() for h in own) / 4
    for i, h in zip(drawn, own, strict=True):
        m = coder.encoder(h) / coder.encoder(h).norm()
        expected = expected + 2 * (coder.decoder(teacher.rows[i]) - h).square().sum() / 4 / size
        expected = expected + 3 * (m - teacher.rows[i]).square().sum() / 4
    torch.testing.assert_close(found, expected)


def test_without_a_teacher_only_the_clients_own_messages_count_and_gradients_reach_all():
    view = client()
    features = torch.randn(2, 4, generator=STREAM)
    batch = torch.tensor([0, 1])
    alone = KIND.penalty(view, None)(batch, torch.zeros(2, 3), features)
    said = view.model[1](view.beside.features_of(view.beside.messages_of(features)))
    torch.testing.assert_close(alone, 0.5 * F.cross_entropy(said, view.own_labels[batch]))
    teacher = HiddenMessage(ids=request().public_ids, rows=messages(5, 2))
    KIND.penalty(view, teacher)(batch, torch.zeros(2, 3), features).backward()
    moved = [*view.model.parameters(), *view.beside.parameters()]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in moved)


def test_messages_are_of_unit_length_and_come_back_from_their_arrays():
    view = client(features=torch.randn(5, 4, generator=STREAM), ids=request().public_ids)
    message = KIND.extract(view)
    torch.testing.assert_close(message.rows.norm(dim=1), torch.ones(5))
    again = KIND.decode(KIND.encode(message))
    assert torch.equal(again.rows, message.rows)
    assert torch.equal(again.ids, message.ids)
    KIND.check(again, request(), 0)
    upload = Upload(client_id=0, round=2, metrics={}, knowledge=message)
    assert torch.equal(KIND.stack([upload], request()).rows[0], message.rows)
    assert KIND.stack([], request()).rows.shape == (0, 5, 2)
    assert KIND.most_values(request(), 0) == 15


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"ids": torch.arange(5)}, "other public samples"),
        ({"rows": torch.zeros(5, 3)}, r"expected rows \[5, 2\], got \[5, 3\]"),
        ({"rows": torch.full((5, 2), torch.nan)}, "NaN or infinity"),
        ({"rows": torch.full((5, 2), 2.0)}, "as large as 2; at most 1"),
    ],
)
def test_what_no_client_sends_is_rejected(message: dict[str, Tensor], said: str):
    honest = {"ids": request().public_ids, "rows": messages(5, 2)}
    with pytest.raises(UploadRejected, match=said):
        KIND.check(HiddenMessage(**{**honest, **message}), request(), 0)


def test_arrays_of_another_kind_and_fusions_of_another_shape_are_refused():
    with pytest.raises(UploadRejected, match="arrays ids and rows, got rows"):
        KIND.decode({"rows": messages(5, 2).numpy()})
    with pytest.raises(UploadRejected, match="whole numbers"):
        KIND.decode({"ids": messages(5).numpy(), "rows": messages(5, 2).numpy()})
    wrong = Fusion(weights=torch.eye(3), teachers=torch.zeros(3, 5, 4))
    with pytest.raises(RunError, match=r"messages \[3, 5, 4\], expected \[3, 5, 2\]"):
        KIND.check_fusion(wrong, (0, 1, 2), request(), "probs")


def test_clients_that_sent_nothing_are_taught_the_mean():
    rows = messages(2, 5, 2)
    fusion = Fusion(weights=torch.eye(2), teachers=rows)
    taught = KIND.teachers(fusion, (0, 2), request(), "probs")
    told: Any = [taught.of(i) for i in range(3)]
    assert torch.equal(told[2].rows, rows[1])
    torch.testing.assert_close(told[1].rows, rows.mean(dim=0))


def test_settings_out_of_range_are_refused_and_models_without_gradients():
    for wrong in ({"width": 1}, {"batch": 0}, {"feature_weight": -1}):
        with pytest.raises(SettingError, match=next(iter(wrong))):
            Talking(**wrong)
    estimators = RunConditions(strategy="talking", fitted_models=("sklearn:GaussianNB",))
    assert "adds a term" in (Talking().knowledge.conflict(estimators) or "")
    assert isinstance(Talking().knowledge, ModularKnowledge)
