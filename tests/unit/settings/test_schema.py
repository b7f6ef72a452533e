"""Settings classes from mappings and back."""

from dataclasses import dataclass, field

import pytest

from fedkd.errors import SettingError
from fedkd.settings.schema import REQUIRED, defaults, documentation, flat, parse, to_values
from fedkd.settings.validators import at_least, at_most, only_with, positive, share


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: int = 3
    """How large it is,
    in a few words."""


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    rate: float = 0.5
    parts: tuple[str, ...] = ("a",)
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        positive(rate=self.rate)


def test_defaults_are_plain_values_and_say_what_is_required() -> None:
    expected = {"name": REQUIRED, "rate": 0.5, "parts": ["a"], "inner": {"size": 3}}
    assert defaults(Outer) == expected


def test_a_mapping_becomes_an_object_and_comes_back() -> None:
    mapping = {"name": "x", "rate": 2.0, "parts": ["b", "c"], "inner": {"size": 9}}
    made = parse(Outer, mapping, "outer")
    assert made == Outer(name="x", rate=2.0, parts=("b", "c"), inner=Inner(size=9))
    assert to_values(made) == mapping
    assert flat(mapping) == {"name": "x", "rate": 2.0, "parts": ["b", "c"], "inner.size": 9}


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({}, "outer.name has no default; give it as outer.name=VALUE"),
        ({"name": 3}, "outer.name must be text, got 3"),
        ({"name": "x", "rate": True}, "outer.rate must be a number, got True"),
        ({"name": "x", "rate": -1.0}, "outer.rate must be > 0, got -1.0"),
        ({"name": "x", "inner": {"size": 1.5}}, "outer.inner.size must be a whole number"),
        ({"name": "x", "inner": 3}, "outer.inner must be a section of settings, got 3"),
        ({"name": "x", "reit": 1.0}, "no setting 'outer.reit'; did you mean outer.rate"),
        ({"name": "x", "parts": [1]}, r"outer.parts must be a list, as in \[a,b\]"),
    ],
)
def test_a_mistake_is_named_as_on_the_command_line(
    mapping: dict[str, object], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        parse(Outer, mapping, "outer")


def test_what_is_said_below_a_field_is_its_documentation() -> None:
    assert documentation(Inner) == {"size": "How large it is, in a few words."}


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (positive, 0.1, 0.0),
        (positive, 1, float("nan")),
        (lambda **s: at_least(2, **s), 2, 1),
        (lambda **s: at_most(2, **s), 2, 3),
        (lambda **s: at_most(2, **s), 2, float("inf")),
        (share, 1.0, 0.0),
        (share, 0.5, 1.5),
    ],
)
def test_a_check_names_the_setting_and_the_value(check: object, good: float, bad: float) -> None:
    check(beta=good)  # type: ignore[operator]
    with pytest.raises(SettingError, match=f"^beta must be .*{bad}"):
        check(beta=bad)  # type: ignore[operator]


def test_a_setting_that_would_do_nothing_is_refused() -> None:
    only_with(False, "law=uniform", scale=None)
    only_with(True, "law=uniform", scale=3)
    with pytest.raises(SettingError, match="scale=3 would do nothing: law=uniform"):
        only_with(False, "law=uniform", scale=3)
