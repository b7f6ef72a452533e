"""The two codecs of a run, one for uploads and one for teachers."""

from dataclasses import dataclass

from fedkd.codecs.codec import Codec
from fedkd.codecs.full_precision import Full
from fedkd.settings.conditions import Compatible


@dataclass(frozen=True, kw_only=True)
class StrategyDefault(Compatible):
    """Encode as the strategy's paper does: in full, unless the strategy declares a codec."""


@dataclass(frozen=True)
class Codecs:
    """The codecs of uploads (``up``) and of teachers (``down``)."""

    up: Codec
    down: Codec

    @property
    def stateful(self) -> bool:
        """Whether either codec remembers earlier messages."""
        return self.up.stateful or self.down.stateful


def codecs_of(
    chosen: Codec | StrategyDefault, declared: Codec | tuple[Codec, Codec] | None
) -> Codecs | None:
    """Return the codecs of a run, or None if all messages travel in full.

    ``chosen`` is the scenario's, for both directions; ``declared`` is the strategy's own, or its
    pair of up and down.
    """
    if not isinstance(chosen, StrategyDefault):
        both = chosen, chosen
    elif isinstance(declared, tuple):
        both = declared
    elif declared is not None:
        both = declared, declared
    else:
        return None
    return None if all(isinstance(codec, Full) for codec in both) else Codecs(*both)
