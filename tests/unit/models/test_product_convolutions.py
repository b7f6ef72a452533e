"""Convolutions as products of matrices against PyTorch's own."""

from typing import Any

import pytest
import torch
from torch import nn

from fedkd.models.factory import ImageModelSpec, borrowed_global_generator
from fedkd.models.product_convolutions import as_products, convolutions_of


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"stride": 2, "padding": 1},
        {"kernel_size": (3, 1), "padding": (1, 0), "bias": False},
        {"dilation": 2, "stride": (1, 3)},
        {"kernel_size": 1},
    ],
    ids=str,
)
def test_products_are_the_convolution_and_its_gradients(how: dict[str, Any]) -> None:
    with borrowed_global_generator(0):
        module = nn.Conv2d(3, 5, **{"kernel_size": 3, **how}).double()
        images = torch.randn(4, 3, 9, 8, dtype=torch.float64, requires_grad=True)
        weights = torch.randn_like(module(images))

    def found() -> list[torch.Tensor]:
        out = module(images)
        return [out, *torch.autograd.grad((out * weights).sum(), [images, *module.parameters()])]

    expected = found()
    with as_products(module):
        products = found()
    torch.testing.assert_close(products, expected)
    assert all(map(torch.equal, found(), expected))  # PyTorch's own again


def test_other_convolutions_stay_pytorchs() -> None:
    left = [
        nn.Conv2d(4, 4, 3, groups=4),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.ConvTranspose2d(4, 4, 3),
        nn.Conv1d(4, 4, 3),
    ]
    assert convolutions_of(nn.ModuleList(left)) == []
    assert len(convolutions_of(ImageModelSpec("resnet", (1, 8, 8), 3).build(0))) > 3


def test_an_error_within_gives_pytorchs_convolution_back() -> None:
    module = nn.Conv2d(1, 1, 1)
    with pytest.raises(RuntimeError, match="multiplied"), as_products(module):
        module(torch.zeros(1, 3, 1, 1))
    assert "forward" not in vars(module)
