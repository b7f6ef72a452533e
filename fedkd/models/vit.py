"""Small vision transformers (Dosovitskiy et al. 2021), pre-norm, without dropout, mean-pooled.

Built from linear layers, layer norms and an embedding for the positions, which per-sample gradient
tools know.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class _Sizes:
    width: int
    depth: int
    heads: int
    expansion: int
    patches_per_side: int


SMALL = _Sizes(width=64, depth=3, heads=4, expansion=2, patches_per_side=7)
TINY = _Sizes(width=192, depth=12, heads=3, expansion=4, patches_per_side=8)


class _Layer(nn.Module):
    """Self-attention and a two-layer perceptron, each with a layer norm and a shortcut."""

    def __init__(self, sizes: _Sizes) -> None:
        super().__init__()
        width, self.heads = sizes.width, sizes.heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        inner = sizes.expansion * width
        self.perceptron = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        packed = self.query_key_value(self.norm1(x)).reshape(
            batch, tokens, 3, self.heads, width // self.heads
        )
        query, key, value = packed.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value)
        x = x + self.project(attended.transpose(1, 2).reshape(batch, tokens, width))
        transformed: Tensor = x + self.perceptron(self.norm2(x))
        return transformed


class _VisionTransformer(nn.Module):
    def __init__(
        self, input_shape: tuple[int, int, int], classes: int, sizes: _Sizes = SMALL
    ) -> None:
        super().__init__()
        channels, height, width = input_shape
        self.patch = max(1, -(-max(height, width) // sizes.patches_per_side))
        rows, columns = -(-height // self.patch), -(-width // self.patch)
        # Images whose side is no multiple of the patch are padded with zeros below and on the
        # right.
        self.padding = (0, columns * self.patch - width, 0, rows * self.patch - height)
        self.embed = nn.Linear(channels * self.patch**2, sizes.width)
        self.position = nn.Embedding(rows * columns, sizes.width)
        nn.init.normal_(self.position.weight, std=0.02)
        self.layers = nn.Sequential(*(_Layer(sizes) for _ in range(sizes.depth)))
        self.norm = nn.LayerNorm(sizes.width)
        self.head = nn.Linear(sizes.width, classes)

    def forward(self, x: Tensor) -> Tensor:
        patches = F.unfold(F.pad(x, self.padding), self.patch, stride=self.patch).transpose(1, 2)
        # One row of positions a sample, as per-sample gradients need it.
        positions = torch.arange(patches.shape[1], device=x.device).expand(len(x), -1)
        tokens = self.embed(patches) + self.position(positions)
        logits: Tensor = self.head(self.norm(self.layers(tokens)).mean(dim=1))
        return logits


def vit(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Return a transformer of width 64 and depth 3 over at most 7 x 7 patches; any image size."""
    return _VisionTransformer(input_shape, classes)


def vit_tiny(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Return ViT-Ti (Touvron et al. 2021): width 192, depth 12, over at most 8 x 8 patches."""
    return _VisionTransformer(input_shape, classes, TINY)
