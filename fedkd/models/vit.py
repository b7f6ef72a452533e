"""A small vision transformer (Dosovitskiy et al. 2021), pre-norm, without dropout, mean-pooled.

Built from linear layers, layer norms and an embedding for the positions, which per-sample gradient
tools know.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, DEPTH, HEADS, EXPANSION = 64, 3, 4, 2
PATCHES_PER_SIDE = 7


class _Layer(nn.Module):
    """Self-attention and a two-layer perceptron, each with a layer norm and a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query_key_value = nn.Linear(WIDTH, 3 * WIDTH)
        self.project = nn.Linear(WIDTH, WIDTH)
        self.perceptron = nn.Sequential(
            nn.Linear(WIDTH, EXPANSION * WIDTH), nn.GELU(), nn.Linear(EXPANSION * WIDTH, WIDTH)
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        packed = self.query_key_value(self.norm1(x)).reshape(
            batch, tokens, 3, HEADS, WIDTH // HEADS
        )
        query, key, value = packed.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value)
        x = x + self.project(attended.transpose(1, 2).reshape(batch, tokens, WIDTH))
        transformed: Tensor = x + self.perceptron(self.norm2(x))
        return transformed


class _VisionTransformer(nn.Module):
    def __init__(self, input_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, height, width = input_shape
        self.patch = max(1, -(-max(height, width) // PATCHES_PER_SIDE))
        rows, columns = -(-height // self.patch), -(-width // self.patch)
        # Images whose side is no multiple of the patch are padded with zeros below and on the
        # right.
        self.padding = (0, columns * self.patch - width, 0, rows * self.patch - height)
        self.embed = nn.Linear(channels * self.patch**2, WIDTH)
        self.position = nn.Embedding(rows * columns, WIDTH)
        nn.init.normal_(self.position.weight, std=0.02)
        self.layers = nn.Sequential(*(_Layer() for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, classes)

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
