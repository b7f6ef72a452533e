"""Exposure of a secret to a model: how far above chance the model ranks it.

After Carlini et al. 2019 (arXiv 1802.08232):

    log-perplexity  Px(s) = sum_t -log2 p(s_t | s_<t)           bits; a sum over tokens, no mean
    rank            number of candidates r with Px(r) <= Px(s)  from 1; ties count against s
    exposure        log2 |R| - log2 rank                        0 .. log2 |R|

Two estimators: ``among_all`` ranks the secret among all candidates, ``by_sampling`` among some that
were drawn. Other secrets that were put into the texts are no candidates: a model that learned ten
secrets perfectly prefers all ten, and each of them has rank 1. Exposure is a measurement: a low one
shows that this model, asked in this way, does not prefer the secret. It is no guarantee. Not for:
making candidates (``fedkd.tasks.text.text_canaries``).
"""

import math
from collections.abc import Collection

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fedkd.errors import SettingError
from fedkd.runtime.devices import sent
from fedkd.tasks.text.tokens import PAD, CausalModel, next_token_logits

MOST_CANDIDATES = 1_000_000
TIE = 1e-4
"""Log-perplexities no farther apart than this, in bits, tie: float32 logits are no more exact."""


def chance_exposure(candidates: int) -> float:
    """Return the mean exposure in bits where every rank is as likely: ``log2 n - log2(n!) / n``.

    It is 1/ln 2, 1.443 bits, for very many candidates.

    >>> chance_exposure(1), round(chance_exposure(2), 3), round(chance_exposure(10**6), 3)
    (0.0, 0.5, 1.443)
    """
    return math.log2(candidates) - math.lgamma(candidates + 1) / math.log(2) / candidates


def log_perplexity(
    model: CausalModel, sequences: Int[Tensor, "n L"], batch: int = 1024
) -> Float[np.ndarray, "n"]:
    """Return the log-perplexity in bits of each row, from its second token on.

    It is ``sum_t -log2 p(s_t | s_<t)``. Rows end at their first ``PAD``. All must begin with the
    same token, which nothing predicts: the text's separator. A common prefix adds the same to every
    row and changes no rank. Candidates that differ in their last token share one pass over the rest
    (the last level of their prefix tree): 100,000 numbers of five digits are 10,000 passes. Runs in
    batches of rows, in evaluation mode, without gradients. Raises SettingError on rows that cannot
    be scored.
    """
    lengths = (sequences != PAD).sum(dim=1)
    if sequences.shape[1] < 2 or lengths.min() < 2:
        raise SettingError(
            "a candidate must have a token before the first one that is scored, such as the"
            " separator"
        )
    if (sequences[:, 0] != sequences[0, 0]).any():
        raise SettingError(
            "candidates must begin with one common token, such as the separator: nothing predicts"
            " it"
        )
    if not ((sequences != PAD).cumsum(dim=1)[:, -1] == _first_pad(sequences)).all():
        raise SettingError(f"a row may hold {PAD} only behind its last token")
    last = sequences.gather(1, (lengths - 1)[:, None]).squeeze(1)
    stems = sequences.scatter(1, (lengths - 1)[:, None], PAD)[:, :-1]
    stems, parent = (
        torch.from_numpy(x) for x in np.unique(stems.numpy(), axis=0, return_inverse=True)
    )
    parent = parent.reshape(-1)
    by_parent = torch.argsort(parent, stable=True)
    ends = torch.bincount(parent, minlength=len(stems)).cumsum(0).tolist()
    found: list[Tensor] = []
    if isinstance(model, nn.Module):
        model.eval()
    with torch.no_grad():
        for first in range(0, len(stems), batch):
            rows = stems[first : first + batch]
            members = by_parent[(ends[first - 1] if first else 0) : ends[first + len(rows) - 1]]
            logits = next_token_logits(model, rows.clamp(min=0))
            found.append(_bits_of(logits, rows, parent[members] - first, last[members]))
    bits = torch.empty(len(sequences), dtype=torch.float64)
    bits[by_parent] = torch.cat(found).cpu()
    if bits.isnan().any():
        raise SettingError(
            "the model's logits are NaN on some candidates: no exposure can be measured"
        )
    return bits.numpy()


def _bits_of(
    logits: Float[Tensor, "n L V"],
    stems: Int[Tensor, "n L"],
    stem_of: Int[Tensor, "m"],
    last: Int[Tensor, "m"],
) -> Float[Tensor, "m"]:
    """Return the log-perplexity of each candidate, in float64 where the logits are.

    Args:
        logits: Of each token that follows in a stem.
        stems: Candidates without their last token, on the host as the rest.
        stem_of: Each candidate's stem.
        last: Each candidate's last token.
    """
    surprisal = -torch.log_softmax(logits.to(torch.float64), dim=-1) / math.log(2)
    stems, stem_of, last = (sent(x, logits.device) for x in (stems, stem_of, last))
    real = stems != PAD
    inner = surprisal[:, :-1].gather(2, stems[:, 1:].clamp(min=0)[..., None]).squeeze(2)
    known = (inner * real[:, 1:]).sum(dim=1)
    rows = torch.arange(len(stems), device=logits.device)
    final = surprisal[rows, real.sum(dim=1) - 1]
    return known[stem_of] + final[stem_of, last]


def _first_pad(sequences: Int[Tensor, "n L"]) -> Int[Tensor, "n"]:
    """Return the position of each row's first PAD, its length in rows without one."""
    pads = sequences == PAD
    return torch.where(pads.any(dim=1), pads.to(torch.int64).argmax(dim=1), sequences.shape[1])


def rank_of(bits: Float[np.ndarray, "n"], secret: int) -> int:
    """Return the rank of row ``secret``, from 1 to n: how many rows are no more perplexing.

    The row itself counts.

    >>> rank_of(np.array([3.0, 1.0, 2.0, 2.0]), secret=2)
    3
    """
    return int((bits <= bits[secret] + TIE).sum())


def among_all(bits: Float[np.ndarray, "n"], secret: int, without: Collection[int] = ()) -> float:
    """Return the exposure in bits of row ``secret`` among all candidates: ``log2 n - log2 rank``.

    ``bits`` are the log-perplexities of all fillings; those in ``without``, which may name the
    secret too, are no candidates. Several secrets of one format share one call of
    ``log_perplexity``.

    >>> perplexities = np.array([3.0, 1.0, 2.0, 2.0])
    >>> among_all(perplexities, secret=1), among_all(perplexities, secret=0, without=[1, 2])
    (2.0, 0.0)
    """
    candidates = np.ones(len(bits), dtype=bool)
    candidates[list(without)] = False
    candidates[secret] = True
    rank = rank_of(bits[candidates], int(candidates[:secret].sum()))
    return math.log2(candidates.sum()) - math.log2(rank)


def by_sampling(secret_bits: float, reference_bits: Float[np.ndarray, "m"]) -> float:
    """Return the exposure in bits from m references drawn at random, between 0 and log2 m.

    The rank is 1 + the references that are no more perplexing. They are drawn from all candidates
    but the secret.

    >>> by_sampling(1.0, np.array([2.0, 3.0, 4.0, 5.0]))
    2.0
    """
    count = len(reference_bits)
    if count == 0:
        raise SettingError("exposure by sampling needs at least one reference")
    rank = 1 + int((reference_bits <= secret_bits + TIE).sum())
    return max(0.0, math.log2(count) - math.log2(rank))
