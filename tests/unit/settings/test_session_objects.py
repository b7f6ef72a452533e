"""Objects that no file names: their names here, and what another process says of them."""

from typing import Any

import pytest
import torch
from torch import nn

from fedkd.errors import SettingError
from fedkd.models.factory import find_factory
from fedkd.scenario.trust import foreign_imports
from fedkd.settings.import_paths import code_hash, import_path
from fedkd.settings.session_objects import hold, module_path


def linear(features: int) -> Any:
    return lambda shape, classes: nn.Sequential(nn.Flatten(), nn.Linear(features, classes))


def test_an_object_has_one_name_and_is_found_by_it() -> None:
    make = linear(4)
    name = hold(make)
    assert (hold(make), import_path(name, what="models")) == (name, make)
    assert hold(linear(4)) != name


def test_a_function_that_does_not_say_what_it_returns_makes_models_as_it_was_given_here() -> None:
    model = find_factory(hold(linear(4)))((1, 2, 2), 3)
    assert model(torch.zeros(2, 1, 2, 2)).shape == (2, 3)


def test_a_name_of_another_session_says_what_is_missing_and_imports_nothing() -> None:
    with pytest.raises(SettingError, match=r"models=\[THE_SAME\]"):
        import_path("fedkd.session:gone", what="models")
    assert foreign_imports({"strategy": "fedkd.session:gone"}) == ()


def test_closures_of_one_line_are_told_apart_in_the_keys_of_caches() -> None:
    four, five = linear(4), linear(5)
    assert code_hash(four) == code_hash(four)
    assert code_hash(four) != code_hash(five)


def test_what_lies_in_a_module_has_its_path_and_what_is_made_in_a_function_has_none() -> None:
    assert module_path(SettingError) == "fedkd.errors:SettingError"
    assert module_path(linear(1)) is None
