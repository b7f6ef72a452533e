"""Settings classes from mappings and back."""

import enum
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import torch
from pydantic import Field

from fedkd.errors import SettingError, SettingErrors
from fedkd.settings.schema import (
    REQUIRED,
    check_type,
    defaults,
    documentation,
    flat,
    in_section,
    parse,
    to_values,
)
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


class Side(enum.Enum):
    LEFT = "left"
    RIGHT = "right"


@pytest.mark.parametrize(
    ("hint", "value", "made"),
    [
        (list[int], [1, 2], [1, 2]),
        (list[int] | None, [1, 2], [1, 2]),
        (list[list[float]], [[1.0], [2.5]], [[1.0], [2.5]]),
        (list, [1, "a"], [1, "a"]),
        (set[str], ["a", "b"], {"a", "b"}),
        (tuple[int, ...], [1, 2], (1, 2)),
        (Sequence[int], [1, 2], (1, 2)),
        (dict[str, int], {"a": 1}, {"a": 1}),
        (dict[int, float], {"3": 0.5}, {3: 0.5}),
        (dict[str, tuple[int, int]], {"a": [1, 2]}, {"a": (1, 2)}),
        (tuple[str, ...], "mlp", ("mlp",)),
        (list[int] | None, 3, [3]),
        (Side, "left", Side.LEFT),
        (Path, "~/data", Path.home() / "data"),
        (float, np.float32(0.5), 0.5),
        (int, np.int64(3), 3),
    ],
)
def test_a_setting_may_be_of_any_type_that_yaml_can_write(
    hint: Any, value: object, made: object
) -> None:
    found = check_type(hint, value, "strategy.b")
    assert found == made
    assert type(found) is type(made)


@pytest.mark.parametrize(
    ("hint", "value", "message"),
    [
        (list[int], ["a"], r"must be a list, as in \[a,b\], of which each is a whole number, got"),
        (list[int], [True], r"must be a list.*got \[True\]"),
        (list[int] | None, "a", "must be null or a list, .*, of which each is a whole number, got"),
        (tuple[int, int], 3, "must be a list.*got 3"),
        (
            dict[str, int],
            {"a": "x"},
            "must be a dictionary, as in {a:1,b:2}, of which each is a who",
        ),
        (dict[str, int], [1], "must be a dictionary"),
        (Side, "middle", "must be one of left, right, got 'middle'"),
        (
            Annotated[int, Field(ge=3)],
            2,
            r"must be a whole number, got 2 \(.*greater than or equal",
        ),
        (torch.Tensor, None, "is declared as Tensor, which no setting can be"),
        (int, 1.0, "must be a whole number, got 1.0"),
        (str, 3, "must be text, got 3"),
    ],
)
def test_a_value_of_another_type_is_named_with_what_was_expected(
    hint: Any, value: object, message: str
) -> None:
    with pytest.raises(SettingError, match=f"^strategy.b {message}"):
        check_type(hint, value, "strategy.b")


def test_what_yaml_cannot_write_is_written_as_it_can() -> None:
    assert to_values({"a": Side.LEFT, "b": Path("x"), "c": {"z", "y"}, "d": ("p",)}) == {
        "a": "left",
        "b": "x",
        "c": ["y", "z"],
        "d": ["p"],
    }


def test_all_wrong_settings_of_a_section_are_named_at_once() -> None:
    with pytest.raises(SettingErrors) as raised:
        parse(Outer, {"rate": True, "reit": 1.0, "inner": {"size": 1.5, "sise": 2}}, "outer")
    said = " ".join(raised.value.args)
    for each in (
        "'outer.reit'",
        "outer.rate must",
        "outer.name has no default",
        "'outer.inner.sise",
    ):
        assert each in said
    assert len(raised.value.args) == 5
    assert str(raised.value).startswith(
        "5 settings are wrong: (1) there is no setting 'outer.reit'"
    )
    assert pickle.loads(pickle.dumps(raised.value)).args == raised.value.args


@pytest.mark.parametrize(
    ("message", "placed"),
    [
        ("alpha must be > 0", "partition.alpha must be > 0"),
        ("z must be given", "partition: z must be given"),
        ("partition.alpha must be > 0", "partition.alpha must be > 0"),
        ("partition: Dealt failed", "partition: Dealt failed"),
        ("partition=mine:X cannot", "partition=mine:X cannot"),
    ],
)
def test_a_complaint_names_its_section_once(message: str, placed: str) -> None:
    with pytest.raises(SettingError) as raised, in_section("partition", ["alpha"]):
        raise SettingError(message)
    assert str(raised.value) == placed


class Unreadable:
    def __init__(self, *, width: "Nowhere" = 3) -> None:  # type: ignore[name-defined]
        pass


def test_a_type_that_is_not_there_is_named() -> None:
    with pytest.raises(SettingError, match="strategy: the types of the settings of Unreadable"):
        parse(Unreadable, {}, "strategy")
