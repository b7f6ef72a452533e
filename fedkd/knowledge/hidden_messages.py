"""Hidden messages: what a client's encoder makes of its features of public samples.

[N, m] numbers, for which the width of features and the classes do not matter. Not for predictions,
nor for products of features (``fedkd.knowledge.gram_matrices``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from fedkd.errors import NotFinite, RunError, UploadRejected
from fedkd.knowledge.knowledge_type import (
    ClientView,
    KnowledgeType,
    Penalty,
    Request,
    Teachers,
    conflict_without_classes,
    narrowed,
)
from fedkd.knowledge.predictions import check_tensor, check_weights
from fedkd.knowledge.received import check_names, check_numbers
from fedkd.messages import AcceptedUploads, Fusion, Knowledge, Upload
from fedkd.runtime.devices import sent
from fedkd.settings.conditions import LearnedBy, RunConditions

LARGEST = 1.001
"""The largest magnitude of an uploaded number: a message has unit length, up to rounding."""


@dataclass(frozen=True, kw_only=True)
class HiddenMessage:
    """Messages ``rows`` [N, m] about the public samples ``ids`` [N]."""

    ids: Tensor
    rows: Tensor


@dataclass(frozen=True, kw_only=True)
class MessageCohort(AcceptedUploads):
    """The accepted messages of one round, stacked by client id."""

    public_ids: Int[Tensor, "N"]
    rows: Float[Tensor, "K N m"]


class MessageCoder(nn.Module):
    """A client's encoder of features to messages of unit length, and its decoder of messages."""

    def __init__(self, features: int, width: int) -> None:
        """Make both for features and messages of such widths, >= 1."""
        super().__init__()
        self.encoder = nn.Linear(features, width)
        self.decoder = nn.Linear(width, features)

    def messages_of(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n m"]:
        """Return the messages of features."""
        return F.normalize(self.encoder(features), dim=-1)

    def features_of(self, messages: Float[Tensor, "n m"]) -> Float[Tensor, "n d"]:
        """Return the features that messages tell of."""
        heard: Tensor = self.decoder(messages)
        return heard


@dataclass(frozen=True, kw_only=True)
class HiddenMessages(KnowledgeType):
    """The knowledge of ``strategy=talking``: messages made of features, of which features learn.

    A fusion's ``teachers`` [K, N, m] are a message for each client and sample. With A and B a
    client's encoder and decoder, W its last layer, h its features of a private batch, h' those of
    ``batch`` of the round's public samples, drawn anew for each step, and M its teacher on these,
    the term of the training loss is

        label_weight CE(W B A h, y) + feature_weight |B M - h'|^2 / |h'|^2
            + message_weight |A h' - M|^2

    each a mean over its batch, the denominator as well, which has no gradient. Without a teacher,
    as in the first round, the first is alone.
    """

    width: int
    label_weight: float
    feature_weight: float
    message_weight: float
    batch: int
    learned_by: ClassVar[LearnedBy] = "train"
    in_words: ClassVar[str] = "messages that their encoder makes of features of public samples"
    uses_features: ClassVar[bool] = True
    asks_about_public: ClassVar[bool] = True

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return the conflict with tokens, or with models without gradients."""
        return conflict_without_classes(
            conditions, "sends messages about whole samples"
        ) or super().conflict(conditions)

    def beside(self, own_width: int | None, companion_width: int | None) -> nn.Module:
        """Return a new encoder and decoder for features of a width."""
        assert own_width is not None, "declared in needs"
        return MessageCoder(own_width, self.width)

    def most_values(self, request: Request, client_id: int) -> int:
        """Return the values of messages about all samples, and of their ids."""
        return len(request.public_ids) * (self.width + 1)

    def extract(self, view: ClientView) -> HiddenMessage:
        """Return the messages of the model's features of public samples, in evaluation mode."""
        coder, features = _coder(view), view.public_features()
        with torch.no_grad():
            rows = coder.messages_of(features.to(coder.encoder.weight.device))
        return HiddenMessage(ids=view.public_ids(), rows=rows.cpu().float())

    def encode(self, knowledge: Knowledge) -> dict[str, np.ndarray]:
        """Return ``ids`` as int32 and ``rows``."""
        message = narrowed(knowledge, HiddenMessage)
        return {"ids": message.ids.numpy().astype(np.int32), "rows": message.rows.numpy()}

    def decode(self, arrays: Mapping[str, np.ndarray]) -> HiddenMessage:
        """Return the messages that the arrays encode; UploadRejected where they encode none."""
        check_names(arrays, "ids", "rows")
        ids, rows = arrays["ids"], arrays["rows"]
        if ids.ndim != 1 or ids.dtype.kind not in "iu" or rows.ndim != 2 or rows.dtype.kind != "f":
            raise UploadRejected("expected ids to be whole numbers [N] and rows numbers [N, m]")
        return HiddenMessage(
            ids=torch.tensor(ids).to(torch.int64), rows=torch.tensor(rows, dtype=torch.float32)
        )

    def check(self, knowledge: Knowledge, request: Request, client_id: int) -> None:
        """Raise UploadRejected on other samples than those asked about, and on bad values."""
        message = narrowed(knowledge, HiddenMessage)
        if not torch.equal(message.ids, request.public_ids):
            raise UploadRejected("messages of other public samples than those that were asked for")
        check_numbers("rows", message.rows, (len(request.public_ids), self.width), LARGEST)

    def stack(self, uploads: Sequence[Upload], request: Request) -> MessageCohort:
        """Return the cohort of messages that passed ``check``, sorted by client id."""
        ordered = sorted(uploads, key=lambda upload: upload.client_id)
        ids = tuple(upload.client_id for upload in ordered)
        rows = [narrowed(upload.knowledge, HiddenMessage).rows for upload in ordered]
        none = torch.zeros(0, len(request.public_ids), self.width)
        return MessageCohort(
            round=request.round,
            client_ids=ids,
            train_sizes=tuple(request.train_sizes[i] for i in ids),
            public_ids=request.public_ids,
            rows=torch.stack(rows) if rows else none,
        )

    def check_fusion(
        self, fusion: Fusion, client_ids: Sequence[int], request: Request, scale: str
    ) -> None:
        """Raise RunError unless weights and messages have the right shape and range."""
        check_weights(fusion.weights, len(client_ids))
        shape = [len(client_ids), len(request.public_ids), self.width]
        rows = check_tensor("teachers", fusion.teachers, f"{shape}")
        if list(rows.shape) != shape:
            raise RunError(f"fuse returned messages {list(rows.shape)}, expected {shape}")
        if not torch.isfinite(rows).all():
            raise NotFinite("fuse returned messages that are not finite")

    def teachers(
        self, fusion: Fusion, client_ids: Sequence[int], request: Request, scale: str
    ) -> Teachers:
        """Return each client's messages; clients that sent none get the mean of the others'."""
        rows = narrowed(fusion.teachers, Tensor)
        personal = {
            i: HiddenMessage(ids=request.public_ids, rows=rows[k]) for k, i in enumerate(client_ids)
        }
        return Teachers(
            common=HiddenMessage(ids=request.public_ids, rows=rows.mean(dim=0)), personal=personal
        )

    def penalty(self, view: ClientView, teacher: Knowledge | None) -> Penalty:
        """Return the weighted terms of the client's own messages and of those it was sent."""
        coder, labels, stream = _coder(view), view.private_labels(), view.stream("messages")
        assert view.head is not None, "declared in needs"
        head = view.model.get_submodule(view.head)
        told = None if teacher is None else narrowed(teacher, HiddenMessage)
        rows = None if told is None else told.rows.to(labels.device)

        def term(
            batch: Int[Tensor, "batch"],
            logits: Float[Tensor, "batch C"],
            features: Float[Tensor, "batch wide"] | None,
        ) -> Float[Tensor, ""]:
            assert features is not None, "asked for"
            own_labels = head(coder.features_of(coder.messages_of(features)))
            loss = self.label_weight * F.cross_entropy(own_labels, labels[batch])
            if told is None or rows is None or not len(rows):
                return loss
            drawn = torch.from_numpy(stream.permutation(len(rows))[: self.batch])
            own = view.features_with_gradient(told.ids[drawn])
            message = rows[sent(drawn, rows.device)]
            apart = (coder.features_of(message) - own).square().sum(dim=1).mean()
            size = own.detach().square().sum(dim=1).mean().clamp(min=1e-12)
            differs = (coder.messages_of(own) - message).square().sum(dim=1).mean()
            return loss + self.feature_weight * apart / size + self.message_weight * differs

        return term


def _coder(view: ClientView) -> MessageCoder:
    """Return the client's encoder and decoder."""
    coder = view.beside
    assert isinstance(coder, MessageCoder), "made by ``beside``"
    return coder
