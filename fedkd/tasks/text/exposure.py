"""Exposure of a canary: how far above chance a model ranks a secret (Carlini et al. 2019, arXiv
1802.08232).

    log-perplexity  Px(s) = sum_t -log2 p(s_t | s_<t)          in bits; a sum, never a mean, over tokens
    rank            number of candidates r with Px(r) <= Px(s)  from 1, ties count against the secret
    exposure        log2 |R| - log2 rank                        0 .. log2 |R|

Three estimators: ``by_enumeration`` ranks the secret among all candidates, ``by_sampling`` among
some, and ``by_extrapolation`` fits a skew-normal law to the log-perplexities of some. Exposure is a
measurement: a low one shows that this model, asked in this way, does not prefer the secret. It is
no guarantee. Not for: making candidates (``fedkd.tasks.text.text_canaries``).
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fedkd.errors import SettingError
from fedkd.tasks.text.tokens import PAD, CausalModel, next_token_logits

CHANCE_BITS = 1 / math.log(2)
"""Mean exposure of a canary that no model has seen, among very many candidates: 1.443 bits."""
MOST_CANDIDATES = 1_000_000
TIE = 1e-4
"""Log-perplexities no farther apart than this, in bits, tie: float32 logits are no more exact."""


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """One canary's exposure to one model.

    ``rank`` is among ``candidates`` rows (sampling: references and the secret), None where it was
    extrapolated. ``fit_pvalue`` is the Kolmogorov-Smirnov p-value of the extrapolated law, None
    elsewhere.
    """

    bits: float
    estimator: Literal["enumeration", "sampling", "extrapolation"]
    candidates: int
    rank: int | None = None
    fit_pvalue: float | None = None

    @property
    def excess(self) -> float:
        """Bits above ``CHANCE_BITS``, what a canary that was never inserted averages."""
        return self.bits - CHANCE_BITS


def chance_exposure(candidates: int) -> float:
    """Return the mean exposure where every rank is as likely, ``log2 n - log2(n!) / n``; 1/ln 2 for
    very many.

    >>> chance_exposure(1), round(chance_exposure(2), 3), round(chance_exposure(10**6), 3)
    (0.0, 0.5, 1.443)
    """
    return math.log2(candidates) - math.lgamma(candidates + 1) / math.log(2) / candidates


def log_perplexity(
    model: CausalModel, sequences: Int[Tensor, "n L"], batch: int = 1024
) -> Float[np.ndarray, "n"]:
    """Return each row's log-perplexity in bits, ``sum_t -log2 p(s_t | s_<t)`` from its second token
    on.

    Rows end at their first ``PAD``. All must begin with the same token, which nothing predicts: the
    text's separator. A common prefix adds the same to every row and changes no rank. Candidates
    that differ in their last token share one pass over the rest (the last level of their prefix
    tree): 100,000 numbers of five digits are 10,000 passes. Runs in batches of rows, in evaluation
    mode, without gradients. Raises SettingError on rows that cannot be scored.
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
    order = torch.argsort(parent, stable=True)
    ends = torch.bincount(parent, minlength=len(stems)).cumsum(0).tolist()
    bits = torch.empty(len(sequences), dtype=torch.float64)
    if isinstance(model, nn.Module):
        model.eval()
    with torch.no_grad():
        for first in range(0, len(stems), batch):
            rows = stems[first : first + batch]
            real = rows != PAD
            logits = next_token_logits(model, rows.masked_fill(~real, 0)).to(torch.float64)
            surprisal = -torch.log_softmax(logits, dim=-1) / math.log(2)
            inner = (
                surprisal[:, :-1]
                .gather(2, rows[:, 1:].masked_fill(~real[:, 1:], 0)[..., None])
                .squeeze(2)
            )
            known = (inner * real[:, 1:]).sum(dim=1)
            final = surprisal[torch.arange(len(rows)), real.sum(dim=1) - 1]
            members = order[(ends[first - 1] if first else 0) : ends[first + len(rows) - 1]]
            at = parent[members] - first
            bits[members] = known[at] + final[at, last[members]]
    if bits.isnan().any():
        raise SettingError(
            "the model's logits are NaN on some candidates: no exposure can be measured"
        )
    return bits.numpy()


def _first_pad(sequences: Int[Tensor, "n L"]) -> Int[Tensor, "n"]:
    """Return where each row's first PAD stands, its length in rows without one."""
    pads = sequences == PAD
    return torch.where(pads.any(dim=1), pads.to(torch.int64).argmax(dim=1), sequences.shape[1])


def rank_of(bits: Float[np.ndarray, "n"], secret: int) -> int:
    """Return how many rows are no more perplexing than row ``secret``, itself included: from 1 to
    n.

    >>> rank_of(np.array([3.0, 1.0, 2.0, 2.0]), secret=2)
    3
    """
    return int((bits <= bits[secret] + TIE).sum())


def by_enumeration(
    model: CausalModel, sequences: Int[Tensor, "n L"], secret: int, batch: int = 1024
) -> Exposure:
    """Return the exposure of row ``secret`` among all candidates: ``log2 n - log2 rank``, the
    definition itself.

    Raises SettingError for more than a million candidates.
    """
    if len(sequences) > MOST_CANDIDATES:
        raise SettingError(
            f"{len(sequences):,} candidates are more than {MOST_CANDIDATES:,}; estimate exposure"
            " by sampling"
        )
    return from_bits(log_perplexity(model, sequences, batch), secret)


def from_bits(bits: Float[np.ndarray, "n"], secret: int) -> Exposure:
    """Return the exposure of row ``secret`` from the log-perplexities of all candidates.

    Several canaries of one format share one call of ``log_perplexity``.

    >>> from_bits(np.array([3.0, 1.0, 2.0, 2.0]), secret=1).bits
    2.0
    """
    rank = rank_of(bits, secret)
    return Exposure(
        bits=math.log2(len(bits)) - math.log2(rank),
        estimator="enumeration",
        candidates=len(bits),
        rank=rank,
    )


def by_sampling(secret_bits: float, reference_bits: Float[np.ndarray, "m"]) -> Exposure:
    """Return the exposure from m references drawn at random: rank 1 + those no more perplexing,
    between 0 and log2 m.

    It cannot show more than log2 m bits. References are drawn from all candidates but the secret.

    >>> by_sampling(1.0, np.array([2.0, 3.0, 4.0, 5.0])).bits
    2.0
    """
    count = len(reference_bits)
    if count == 0:
        raise SettingError("exposure by sampling needs at least one reference")
    rank = 1 + int((reference_bits <= secret_bits + TIE).sum())
    return Exposure(
        bits=max(0.0, math.log2(count) - math.log2(rank)),
        estimator="sampling",
        candidates=count + 1,
        rank=rank,
    )


def by_extrapolation(secret_bits: float, reference_bits: Float[np.ndarray, "m"]) -> Exposure:
    """Return ``-log2 Pr[X <= Px(s)]`` under a skew-normal law fitted to m references, by maximum
    likelihood.

    It may exceed log2 of the number of candidates. ``fit_pvalue`` says how well the law fits:
    distrust the exposure where it is small (below 0.1 in the paper). As the law is fitted to the
    same references, it is on the high side. Raises SettingError for fewer than 100 references or
    references that all tie.
    """
    from scipy.stats import kstest, skewnorm

    if len(reference_bits) < 100 or not np.isfinite(reference_bits).all():
        raise SettingError(
            f"extrapolation needs 100 or more finite references, got {len(reference_bits)}"
        )
    if np.ptp(reference_bits) <= TIE:
        raise SettingError(
            "extrapolation needs references that differ: to this model all are as perplexing"
        )
    shape, location, scale = (float(x) for x in skewnorm.fit(reference_bits))
    test = kstest(reference_bits, skewnorm(shape, location, scale).cdf)
    log_share = _log_skew_normal_cdf((secret_bits - location) / scale, shape)
    return Exposure(
        bits=max(0.0, -log_share / math.log(2)),
        estimator="extrapolation",
        candidates=len(reference_bits),
        fit_pvalue=float(test.pvalue),
    )


def _log_skew_normal_cdf(at: float, shape: float) -> float:
    """Return ln of the standard skew-normal distribution function.

    Where scipy's underflows, the density below ``at`` is integrated as a multiple of the density at
    it.
    """
    from scipy.integrate import quad
    from scipy.stats import norm, skewnorm

    value = float(skewnorm.logcdf(at, shape))
    if math.isfinite(value):
        return value

    def log_density(x: float) -> float:
        return float(math.log(2) + norm.logpdf(x) + norm.logcdf(shape * x))

    highest = log_density(at)
    # Far out the density falls by e within 1/|x|, so that 60 of those hold all of it.
    width = 60 / abs(at)
    return highest + math.log(quad(lambda x: math.exp(log_density(x) - highest), at - width, at)[0])
