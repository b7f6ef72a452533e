"""The choices of a setting are said by its ``Literal`` alone, and hold in Python too."""

import dataclasses
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from fedkd.errors import SettingError
from fedkd.scenario.registry import GROUPS, find, names
from fedkd.scenario.scenario import SECTIONS, TOP
from fedkd.settings.schema import REQUIRED, defaults
from fedkd.settings.validators import check_choices


def literals(hint: Any) -> bool:
    """Return whether a type is a ``Literal``, or one or None."""
    parts = get_args(hint) if get_origin(hint) is not Literal else (hint,)
    return any(get_origin(p) is Literal for p in parts) and all(
        get_origin(p) is Literal or p is type(None) for p in parts
    )


def classes() -> list[type]:
    found = [*TOP.values(), *SECTIONS.values()]
    found += [find(group, name)[0] for group in GROUPS for name in names(group)]
    return [cls for cls in dict.fromkeys(found) if dataclasses.is_dataclass(cls)]


CASES = [
    (cls, name)
    for cls in classes()
    for name, hint in get_type_hints(cls).items()
    if literals(hint) and name in defaults(cls)
]


@pytest.mark.parametrize(("cls", "name"), CASES, ids=lambda v: getattr(v, "__name__", v))
def test_another_word_is_refused_in_python_as_on_the_command_line(cls: type, name: str) -> None:
    # Not by its constructor, which the shape checks of the tests would refuse before.
    made = object.__new__(cls)
    for key, value in {**defaults(cls), name: "nonsense"}.items():
        object.__setattr__(made, key, 1 if value == REQUIRED else value)
    with pytest.raises(SettingError, match=rf"^{name} must be one of .*, got 'nonsense'$"):
        made.__post_init__()


def test_there_are_many_such_settings() -> None:
    assert len(CASES) > 20
    assert {"loss", "corruption", "optimizer", "wandb"} <= {name for _, name in CASES}


def test_none_and_the_allowed_words_pass() -> None:
    @dataclasses.dataclass
    class Example:
        law: Literal["gaussian", "laplace"] | None = None
        free: Literal["auto"] | tuple[str, ...] = "auto"

    check_choices(Example())
    check_choices(Example(law="laplace", free=("mlp",)))
    with pytest.raises(SettingError, match="law must be one of gaussian, laplace or null"):
        check_choices(Example(law="normal"))  # type: ignore[arg-type]
