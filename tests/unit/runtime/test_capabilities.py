"""What an object offers, asked of its class once."""

from typing import Protocol, runtime_checkable

from fedkd.runtime.capabilities import offers


@runtime_checkable
class Sings(Protocol):
    def sing(self) -> str: ...


@runtime_checkable
class Dances(Protocol):
    def dance(self) -> str: ...


class Bird:
    def sing(self) -> str:
        return "la"


def test_what_a_class_offers_is_what_isinstance_says_of_each_protocol() -> None:
    for thing in (Bird(), 3, None, Bird()):
        for hooks in (Sings, Dances):
            assert offers(thing, hooks) is isinstance(thing, hooks)
