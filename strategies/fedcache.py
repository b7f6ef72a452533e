"""FedCache (Wu et al. 2024, arXiv 2308.07816): cached logits of similar private samples teach.

There is no public set.
A hash and a label of every private sample leave the client: see ``fedkd.knowledge.private_logits``.
"""

from dataclasses import dataclass
from typing import ClassVar, TypedDict

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from fedkd.errors import SettingError
from fedkd.knowledge import KnowledgeType, PrivateLogits, PrivateLogitsCohort
from fedkd.messages import Fusion
from fedkd.settings.validators import at_least, at_most, positive
from fedkd.strategy import Needs

ROWS_AT_ONCE = 1024


class Cache(TypedDict):
    """What the server remembers: by client the hashes, labels and latest logits of its samples.

    ``near`` are the rows of each sample's neighbors, of the samples of all clients in turn.
    """

    hashes: dict[int, Tensor]
    labels: dict[int, Tensor]
    logits: dict[int, Tensor]
    near: Tensor


@dataclass(frozen=True, kw_only=True)
class FedCache:
    """Teach each private sample the mean logits of the most similar samples of its class.

    With N(x) the ``neighbors`` samples of x's class, of all clients and without x itself, whose
    hashes differ from x's in the fewest bits (of equally near ones those of the lowest client id
    and row), and z the latest logits in the cache:

        q(x) = softmax(mean over x' in N(x) of z(x') / T)
        loss = CE + cache_weight * T^2 * KL(q(x) || softmax(f(x) / T)),  T = distill.temperature

    Samples that are alone in their class are not taught. Hashes and labels travel once, with a
    client's first upload; what absent clients said last stays in the cache. Departures: the paper
    hashes by an encoder trained on other data and compares by cosine, here it is the signs of fixed
    random projections of the input, whose Hamming distance estimates the same angle on pixels; the
    mean over neighbors is made by the server; a round's logits come after its training, where the
    paper's cache changes batch by batch, and there are no zeros in it at the beginning.
    """

    evaluated_after: ClassVar[str] = "training"
    needs: ClassVar[Needs] = Needs(public_set=False)

    neighbors: int = 16
    """Samples that teach one sample, >= 1; fewer where its class has fewer."""
    cache_weight: float = 1.5
    """Weight of the divergence from the teacher, > 0."""
    hash_bits: int = 256
    """Bits of a sample's hash, a multiple of 8 from 8 to 65536: more find nearer samples, and tell
    more of each."""

    def __post_init__(self) -> None:
        at_least(1, neighbors=self.neighbors)
        positive(cache_weight=self.cache_weight)
        at_least(8, hash_bits=self.hash_bits)
        at_most(65536, hash_bits=self.hash_bits)
        if self.hash_bits % 8:
            raise SettingError(f"hash_bits must be a multiple of 8, got {self.hash_bits}")

    @property
    def knowledge(self) -> KnowledgeType:
        """Logits of private samples, with a hash of each."""
        return PrivateLogits(weight=self.cache_weight, bits=self.hash_bits)

    def fuse(self, cohort: PrivateLogitsCohort, state: Cache | None) -> Fusion:
        """Return the mean logits of each sample's neighbors, for every client in the cache.

        ``weights[i, j]`` is the share of client j's samples among the neighbors of client i's
        samples that belong to the cohort; a client without any teaches itself. ``state`` is the
        cache, and the neighbors of each sample.
        """
        cache = self._updated(cohort, state)
        ids = sorted(cache["logits"])
        owners = torch.cat([torch.full((len(cache["logits"][i]),), i) for i in ids])
        logits = torch.cat([cache["logits"][i] for i in ids])
        near = cache["near"]
        exists, rows = near >= 0, near.clamp(min=0)
        counts = exists.sum(dim=1)
        means = (logits[rows] * exists[..., None]).sum(dim=1) / counts.clamp(min=1)[:, None]
        teachers = {
            i: {"logits": means[owners == i], "taught": counts[owners == i] > 0} for i in ids
        }
        weights = neighbor_shares(owners, near, cohort.client_ids)
        return Fusion(weights=weights, teachers=teachers, state=cache)

    def _updated(self, cohort: PrivateLogitsCohort, state: Cache | None) -> Cache:
        """Return the cache once the cohort's uploads are in it."""
        known = state or {
            "hashes": {},
            "labels": {},
            "logits": {},
            "near": torch.zeros(0, 0),
        }
        arrived = list(zip(cohort.client_ids, cohort.uploads, strict=True))
        hashes, labels, near = dict(known["hashes"]), dict(known["labels"]), known["near"]
        logits = {**known["logits"], **{i: upload.logits for i, upload in arrived}}
        for i, upload in arrived:
            if upload.hashes is not None and upload.labels is not None:
                hashes[i], labels[i] = upload.hashes, upload.labels
        if any(upload.hashes is not None for upload in cohort.uploads):
            ids = sorted(hashes)
            near = nearest(
                torch.cat([hashes[i] for i in ids]),
                torch.cat([labels[i] for i in ids]),
                self.neighbors,
            )
        return {"hashes": hashes, "labels": labels, "logits": logits, "near": near}


def nearest(
    hashes: UInt8[Tensor, "M bytes"], labels: Int[Tensor, "M"], count: int
) -> Int[Tensor, "M count"]:
    """Return the rows of each sample's nearest samples of its class, by Hamming distance of hashes.

    Nearest first, of equally near ones the lower row; never the sample itself. -1 where there are
    fewer than ``count``.

    >>> hashes = torch.tensor([[0], [1], [7], [0]], dtype=torch.uint8)
    >>> nearest(hashes, torch.tensor([0, 0, 0, 1]), 2)
    tensor([[ 1,  2],
            [ 0,  2],
            [ 1,  0],
            [-1, -1]])
    """
    found = torch.full((len(labels), count), -1, dtype=torch.int64)
    signs = torch.from_numpy(np.unpackbits(hashes.numpy(), axis=1)).to(torch.float32) * 2 - 1
    for label in labels.unique().tolist():
        members = (labels == label).nonzero()[:, 0]
        size, neighbors = len(members), min(count, len(members) - 1)
        lower_first = torch.arange(size - 1, -1, -1)
        for rows in torch.arange(size).split(ROWS_AT_ONCE):
            # Whole numbers, exact in float32: bits that agree less bits that differ. No two keys of
            # a row are equal.
            alike = (signs[members[rows]] @ signs[members].T).to(torch.int64)
            keys = alike * size + lower_first
            keys[torch.arange(len(rows)), rows] = torch.iinfo(torch.int64).min
            found[members[rows], :neighbors] = members[keys.topk(neighbors, dim=1).indices]
    return found


def neighbor_shares(
    owners: Int[Tensor, "M"], near: Int[Tensor, "M count"], client_ids: tuple[int, ...]
) -> Float[Tensor, "K K"]:
    """Return the share of each client's neighbors that belongs to each client of the cohort."""
    exists = near >= 0
    clients = int(owners.max()) + 1
    pairs = owners[:, None].expand_as(near)[exists] * clients + owners[near[exists]]
    counts = torch.bincount(pairs, minlength=clients**2).reshape(clients, clients).to(torch.float32)
    rows = torch.tensor(client_ids)
    counts = counts[rows][:, rows]
    totals = counts.sum(dim=1, keepdim=True)
    return torch.where(totals > 0, counts / totals.clamp(min=1), torch.eye(len(rows)))
