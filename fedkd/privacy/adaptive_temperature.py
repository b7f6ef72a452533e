"""Swing distillation on rows of logits: temperature and noise for each row.

After Li et al. 2022, arXiv 2212.08349.

    temperature  T_t = T_base (T_max / T_base)^(s_t)
    release      q_t = softmax(z_t / T_t + sigma_max s_t g_t)

``s_t`` in [0, 1] says how likely row t holds a secret; the noise ``g_t`` of mean 0 and variance 1
is added after the division.

A row is a public sample or a token position. The paper's abstract says that temperature is set per
token and that noise enters the soft targets; both formulas are a reconstruction. The student
distils ``q_t`` at temperature 1: the same temperature on both sides would leave its optimum at
``z_t``. No differential-privacy guarantee follows. Not for: finding the scores
(``fedkd.privacy.mechanisms.swing``), nor for fixing noise from round to round, which the caller
does by its names for ``draw_noise``.
"""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedkd.runtime.seeding import numpy_stream

NoiseLaw = Literal["gaussian", "laplace"]


def swing_temperatures(
    scores: Float[Tensor, "N"], base: float = 1.0, highest: float = 10.0
) -> Float[Tensor, "N"]:
    """Return each row's temperature ``base * (highest / base) ** score``.

    ``base`` at score 0, ``highest`` at score 1.

    >>> swing_temperatures(torch.tensor([0.0, 0.5, 1.0]), 1.0, 100.0).tolist()
    [1.0, 10.0, 100.0]
    """
    return base * (highest / base) ** scores


def swing_logits(
    logits: Float[Tensor, "N C"],
    temperatures: Float[Tensor, "N"],
    scales: Float[Tensor, "N"] | None = None,
    noise: Float[Tensor, "N C"] | None = None,
) -> Float[Tensor, "N C"]:
    """Return ``z_t / T_t + scale_t * noise_t``, whose softmax is released.

    A row of scale 0 gets no noise, even if ``noise`` holds some.

    >>> one = torch.ones(1)
    >>> swing_logits(torch.tensor([[2.0, 0.0]]), 2 * one, one, torch.tensor([[-1.0, 0.0]])).tolist()
    [[0.0, 0.0]]

    Args:
        logits: The rows z_t.
        temperatures: Each row's temperature T_t.
        scales: Each row's deviation of the noise; None adds none.
        noise: Noise of variance 1; None adds none.
    """
    calm = logits / temperatures[:, None]
    if noise is None or scales is None:
        return calm
    return calm + torch.where(scales[:, None] > 0, scales[:, None] * noise, 0.0)


def draw_noise(
    rows: Int[Tensor, "N"], columns: int, law: NoiseLaw, seed: int, *path: str | int
) -> Float[Tensor, "N columns"]:
    """Return noise of mean 0 and variance 1, each row from the stream named ``(*path, row)``.

    The same row gets the same noise also if other rows are drawn: name the client alone to fix it
    for a whole run, or the round too to draw it afresh, which averages out over R rounds to 1 /
    sqrt(R). Laplace noise has scale 1 / sqrt(2), so that one scale means one size under both laws.
    float32; 30 microseconds a row.

    Args:
        rows: The rows' ids, which name their streams.
        columns: Numbers a row.
        law: The noise's law.
        seed: The run's seed.
        *path: The name of the stream, without the row.
    """
    drawn = np.zeros((len(rows), columns), dtype=np.float32)
    for values, row in zip(drawn, rows.tolist(), strict=True):
        stream = numpy_stream(seed, *path, row)
        values[:] = (
            stream.standard_normal(columns)
            if law == "gaussian"
            else stream.laplace(scale=0.5**0.5, size=columns)
        )
    return torch.from_numpy(drawn)
