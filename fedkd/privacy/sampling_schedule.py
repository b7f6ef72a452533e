"""How a round of DP-SGD is sampled: rate, steps and expected batch size, fixed before it."""

from dataclasses import dataclass

from fedkd.settings.validators import at_least
from fedkd.training.hyperparameters import steps_in


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """One round of private training, fixed before it begins.

    ``sample_rate`` is each sample's chance to be in a step, ``steps`` how many there are; gradients
    are divided by ``expected_batch_size``, since the size that a sample has is private.
    """

    sample_rate: float
    steps: int
    expected_batch_size: float

    @classmethod
    def of(
        cls, size: int, batch_size: int, epochs: float, *, steps: int | None = None
    ) -> "Schedule":
        """Return the schedule for ``size`` samples instead of ``epochs`` passes in batches.

        Args:
            size: The number of samples, at least 1.
            batch_size: Samples a batch, at least 1.
            epochs: Passes, of which a fraction takes some batches.
            steps: Batches in place of passes.

        >>> Schedule.of(100, 32, 2)
        Schedule(sample_rate=0.32, steps=8, expected_batch_size=32)
        >>> Schedule.of(10, 32, 1)
        Schedule(sample_rate=1.0, steps=1, expected_batch_size=10)
        >>> Schedule.of(100, 32, 0.5).steps, Schedule.of(100, 32, 1, steps=7).steps
        (2, 7)
        """
        at_least(1, size=size, batch_size=batch_size)
        batch = min(batch_size, size)
        return cls(
            sample_rate=batch / size,
            steps=steps or steps_in(size, batch, epochs),
            expected_batch_size=batch,
        )
