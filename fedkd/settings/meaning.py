"""What a setting means for a run, declared in its field.

Nothing else lists settings by what they mean: the local-only baseline's scenario and cache key,
what may change when a run is resumed, and what distinguishes runs in a comparison follow from here.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

T = TypeVar("T")

Affects = Literal["figures", "exchange", "nothing"]
"""What a setting changes: ``figures`` those of every run; ``exchange`` those of runs in which
clients teach one another, and so not the local-only baseline; ``nothing`` no figure, save perhaps
the last digits."""


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """What a setting, a section or a group of components means for a run."""

    affects: Affects = "figures"
    resumable: bool = False
    """Whether it may be given anew when a run is resumed; only where it affects nothing."""
    left_open: tuple[object, ...] = ()
    """Values for which the run chooses one when it begins, and writes it to its config.yaml."""

    def __post_init__(self) -> None:
        if self.resumable and self.affects != "nothing":
            raise TypeError(f"what affects {self.affects} cannot change when a run is resumed")


UNDECLARED = Meaning()
"""Of a setting that declares nothing: it may change every figure."""


def setting(
    default: T,
    *,
    affects: Affects = "figures",
    resumable: bool = False,
    left_open: tuple[object, ...] = (),
) -> T:
    """Return the field of a setting that declares what it means.

    Args:
        default: Its default.
        affects: Which figures it changes.
        resumable: Whether it may be given anew when a run is resumed.
        left_open: Values for which the run chooses one when it begins.
    """
    meaning = Meaning(affects=affects, resumable=resumable, left_open=left_open)
    return dataclasses.field(default=default, metadata={"meaning": meaning})


def meanings(cls: type) -> Mapping[str, Meaning]:
    """Return what the settings of a class declare, by name; those that declare nothing are absent.

    >>> @dataclass
    ... class Example:
    ...     seed: int = 0
    ...     folder: str = setting("", affects="nothing")
    >>> {name: meaning.affects for name, meaning in meanings(Example).items()}
    {'folder': 'nothing'}
    """
    return {
        field.name: field.metadata["meaning"]
        for field in dataclasses.fields(cls)
        if "meaning" in field.metadata
    }
