"""Shapes are enforced in all that tests run, and functions that are made anew at each call are
checked at each."""

from collections.abc import Callable

import pytest
import torch
from jaxtyping import Float, TypeCheckError, jaxtyped
from shapes import check
from torch import Tensor

from fedkd.fusion import mix


@pytest.mark.usefixtures("enforced_shapes")
def test_what_the_suite_imports_checks_its_arguments() -> None:
    with pytest.raises(TypeCheckError, match=r"parameters of fedkd\.fusion\.mixing\.mix"):
        mix(torch.ones(1, 2), torch.ones(3, 4, 5))


def made(factor: float) -> Callable[[Tensor, Tensor], Tensor]:
    @jaxtyped(typechecker=check)
    def scaled(values: Float[Tensor, "N C"], other: Float[Tensor, "N"]) -> Float[Tensor, "N C"]:
        return factor * values if factor else other

    return scaled


def test_a_function_made_again_is_checked_again_and_is_its_own() -> None:
    values, other = torch.ones(2, 3), torch.ones(2)
    for factor in (2.0, 3.0):
        assert made(factor)(values, other)[0, 0] == factor
        with pytest.raises(TypeCheckError, match=r"parameters of .*made.<locals>.scaled"):
            made(factor)(values, torch.ones(3))
    with pytest.raises(TypeCheckError, match=r"return value of .*made.<locals>.scaled"):
        made(0.0)(values, other)


def test_functions_of_one_name_and_other_shapes_are_not_taken_for_each_other() -> None:
    @jaxtyped(typechecker=check)
    def narrow(values: Float[Tensor, "N 2"]) -> None: ...

    first = narrow

    @jaxtyped(typechecker=check)
    def narrow(values: Float[Tensor, "N 3"]) -> None: ...

    first(torch.ones(1, 2))
    narrow(torch.ones(1, 3))
    for function, columns in ((first, 3), (narrow, 2)):
        with pytest.raises(TypeCheckError):
            function(torch.ones(1, columns))
