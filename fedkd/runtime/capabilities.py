"""Whether an object has the methods of a protocol, asked often."""

from collections.abc import Callable
from typing import Any, TypeGuard, TypeVar, cast

T = TypeVar("T")

_FOUND: dict[tuple[type, Any], bool] = {}


def offers(thing: object, hooks: Callable[..., T]) -> TypeGuard[T]:
    """Return ``isinstance(thing, hooks)`` for a protocol, found once for each class.

    The built-in looks for each of the protocol's methods whenever it is asked, and takes as long
    as a layer's forward pass.
    """
    key = type(thing), hooks
    if key not in _FOUND:
        _FOUND[key] = isinstance(thing, cast(Any, hooks))
    return _FOUND[key]
