"""Convolutions of images as products of matrices: the patches unfolded, times the weights.

Several models in one call (``torch.func.vmap``) are then one batched product, where PyTorch's own
convolution becomes one of as many groups. Each model's sums do not depend on how many models there
are; those of grouped convolutions do on a CPU. Equal to PyTorch's convolution up to rounding.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def convolutions_of(model: nn.Module) -> list[nn.Conv2d]:
    """Return a model's convolutions that can be products: of one group, padded with zeros.

    >>> [len(convolutions_of(nn.Conv2d(4, 4, 3, groups=groups))) for groups in (1, 2)]
    [1, 0]
    """
    return [
        module
        for module in model.modules()
        if type(module) is nn.Conv2d
        and module.groups == 1
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    ]


@contextmanager
def as_products(model: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Have a model compute its convolutions as products within the context, where wanted."""
    found = convolutions_of(model) if wanted else []
    for module in found:
        vars(module)["forward"] = partial(product_convolution, module)
    try:
        yield
    finally:
        for module in found:
            del vars(module)["forward"]


def product_convolution(
    module: nn.Conv2d, images: Float[Tensor, "n channels height width"]
) -> Float[Tensor, "n outputs rows columns"]:
    """Return a module's convolution of images.

    >>> import torch
    >>> module, images = nn.Conv2d(3, 5, 3, stride=2, padding=1), torch.randn(2, 3, 9, 8)
    >>> torch.allclose(product_convolution(module, images), module(images), atol=1e-5)
    True
    """
    assert not isinstance(module.padding, str), "left out above"
    patches = F.unfold(images, module.kernel_size, module.dilation, module.padding, module.stride)
    count, sides = (
        len(images),
        zip(
            images.shape[2:],
            module.kernel_size,
            module.dilation,
            module.padding,
            module.stride,
            strict=True,
        ),
    )
    rows, columns = (
        (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for size, kernel, dilation, padding, stride in sides
    )
    # The images of a batch are columns of one matrix: one large product, not one an image.
    found = module.weight.flatten(1) @ patches.transpose(0, 1).flatten(1)
    if module.bias is not None:
        found = found + module.bias[:, None]
    images_last: Tensor = found.unflatten(1, (count, rows, columns))
    return images_last.transpose(0, 1)
