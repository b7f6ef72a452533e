"""What a client does to its soft labels by token before they leave it: swing, and the controls to
hold it against.

Each is a settings class with ``protect(logits [N, V], scores [N], positions [N], client_id, round,
seed)``. None of them gives a differential-privacy guarantee. The server is the adversary. Not for:
the mathematics (``fedkd.privacy.adaptive_temperature``), scores (``fedkd.tasks.text.detectors``).
"""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fedkd.errors import SettingError
from fedkd.fusion import soften
from fedkd.privacy.adaptive_temperature import (
    NOISE_LAWS,
    NoiseLaw,
    draw_noise,
    keep_largest,
    release,
    swing_temperatures,
)
from fedkd.settings.validators import at_least, one_of, positive, share

NoiseTiming = Literal["fixed", "each_round"]


@dataclass(frozen=True)
class Released:
    """Soft labels [N, V] as they leave a client, and which positions leave at all; rows that do not
    are zeros.
    """

    probs: Float[Tensor, "N V"]
    kept: Bool[Tensor, "N"]


@runtime_checkable
class TokenProtection(Protocol):
    """What happens to soft labels before they leave a client."""

    def protect(
        self,
        logits: Float[Tensor, "N V"],
        scores: Float[Tensor, "N"],
        positions: Int[Tensor, "N"],
        *,
        client_id: int,
        round: int,
        seed: int,
    ) -> Released:
        """Return what leaves. ``positions`` name the rows from round to round; scores are in [0,
        1].
        """


def _all_kept(probs: Float[Tensor, "N V"]) -> Released:
    return Released(probs, torch.ones(len(probs), dtype=torch.bool))


def _noise(
    rows: Bool[Tensor, "N"],
    positions: Tensor,
    columns: int,
    law: NoiseLaw,
    timing: NoiseTiming,
    *names: int,
) -> Tensor:
    """Return noise [N, columns] where ``rows`` says so, zeros elsewhere."""
    client_id, round, seed = names
    path: tuple[str | int, ...] = ("client", client_id, "swing noise")
    noise = torch.zeros(len(rows), columns)
    noise[rows] = draw_noise(
        positions[rows],
        columns,
        law,
        seed,
        *path,
        *(("round", round) if timing == "each_round" else ()),
    )
    return noise


@dataclass(frozen=True, kw_only=True)
class Swing:
    """A temperature and noise of each position's own, by its score (Li et al. 2022, arXiv
    2212.08349; reconstructed).

        q_t = softmax(z_t / T_t + noise s_t g_t),   T_t = base (highest / base)^(s_t)

    Positions of score 0 leave as plain soft labels at ``base_temperature``.
    """

    base_temperature: float = 1.0
    """Temperature at score 0, > 0."""
    highest_temperature: float = 10.0
    """Temperature at score 1, at least the base. Alone it keeps every ranking, and exposure is a
    rank: add noise."""
    noise: float = 2.0
    """Standard deviation of the noise on divided logits at score 1, >= 0."""
    noise_law: NoiseLaw = "gaussian"
    """Gaussian or Laplace noise of that standard deviation."""
    noise_timing: NoiseTiming = "fixed"
    """The same noise for a client and position in every round, or drawn afresh, which averages out
    over rounds."""

    def __post_init__(self) -> None:
        positive(base_temperature=self.base_temperature)
        at_least(self.base_temperature, highest_temperature=self.highest_temperature)
        at_least(0, noise=self.noise)
        one_of(NOISE_LAWS, noise_law=self.noise_law)
        one_of(("fixed", "each_round"), noise_timing=self.noise_timing)
        if self.noise == 0 and self.highest_temperature == self.base_temperature:
            raise SettingError(
                "noise=0 with highest_temperature equal to base_temperature would do nothing;"
                " raise one of them"
            )
        if self.noise == 0 and (self.noise_law, self.noise_timing) != ("gaussian", "fixed"):
            raise SettingError("noise_law and noise_timing would do nothing: noise=0")

    def protect(
        self,
        logits: Tensor,
        scores: Tensor,
        positions: Tensor,
        *,
        client_id: int,
        round: int,
        seed: int,
    ) -> Released:
        """Return soft labels after the temperature and the noise of each position."""
        temperatures = swing_temperatures(scores, self.base_temperature, self.highest_temperature)
        if self.noise == 0:
            return _all_kept(release(logits, temperatures))
        noise = _noise(
            scores > 0,
            positions,
            logits.shape[1],
            self.noise_law,
            self.noise_timing,
            client_id,
            round,
            seed,
        )
        return _all_kept(release(logits, temperatures, self.noise * scores, noise))


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """A control without a detector: one temperature and one size of noise at every position."""

    temperature: float = 1.0
    """Temperature of every position, > 0."""
    noise: float = 0.0
    """Standard deviation of the noise on every position's divided logits, >= 0."""
    noise_law: NoiseLaw = "gaussian"
    """Gaussian or Laplace noise of that standard deviation."""
    noise_timing: NoiseTiming = "fixed"
    """The same noise for a client and position in every round, or drawn afresh."""

    def __post_init__(self) -> None:
        positive(temperature=self.temperature)
        at_least(0, noise=self.noise)
        one_of(NOISE_LAWS, noise_law=self.noise_law)
        one_of(("fixed", "each_round"), noise_timing=self.noise_timing)
        if self.noise == 0 and (self.noise_law, self.noise_timing) != ("gaussian", "fixed"):
            raise SettingError("noise_law and noise_timing would do nothing: noise=0")

    def protect(
        self,
        logits: Tensor,
        scores: Tensor,
        positions: Tensor,
        *,
        client_id: int,
        round: int,
        seed: int,
    ) -> Released:
        """Return soft labels after the temperature and the noise; temperature 1 without noise is no
        protection.
        """
        if self.noise == 0:
            return _all_kept(soften(logits, self.temperature))
        every = torch.ones(len(logits))
        noise = _noise(
            every > 0,
            positions,
            logits.shape[1],
            self.noise_law,
            self.noise_timing,
            client_id,
            round,
            seed,
        )
        return _all_kept(release(logits, self.temperature * every, self.noise * every, noise))


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """A control: positions of high score do not leave. Not free of leaks: the tails of the others
    carry the secret.
    """

    threshold: float = 0.5
    """Scores from here on are dropped, above 0 and at most 1."""

    def __post_init__(self) -> None:
        share(threshold=self.threshold)

    def protect(
        self,
        logits: Tensor,
        scores: Tensor,
        positions: Tensor,
        *,
        client_id: int,
        round: int,
        seed: int,
    ) -> Released:
        """Return plain soft labels of the positions below the threshold."""
        kept = scores < self.threshold
        return Released(soften(logits).masked_fill(~kept[:, None], 0.0), kept)


@dataclass(frozen=True, kw_only=True)
class KeepTopK:
    """A control: the k largest probabilities of every position, divided by their sum."""

    k: int = 1
    """Probabilities kept at each position, >= 1; 1 is the favorite token alone."""

    def __post_init__(self) -> None:
        at_least(1, k=self.k)

    def protect(
        self,
        logits: Tensor,
        scores: Tensor,
        positions: Tensor,
        *,
        client_id: int,
        round: int,
        seed: int,
    ) -> Released:
        """Return the largest probabilities; SettingError where k would keep them all."""
        if self.k >= logits.shape[1]:
            raise SettingError(
                f"k={self.k} would do nothing: the vocabulary has {logits.shape[1]} tokens"
            )
        return _all_kept(keep_largest(soften(logits), self.k))


TOKEN_PROTECTIONS: dict[str, type] = {
    "swing": Swing,
    "uniform": Uniform,
    "dropped": Dropped,
    "top_k": KeepTopK,
}
