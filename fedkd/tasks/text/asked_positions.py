"""Public token positions of a request: a batch holds windows, and some of their positions teach.

Which positions those are is known on the host, so that no device is asked for their number. Not
for: which positions are public (``fedkd.tasks.text.text_task``).
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from fedkd.errors import SettingError
from fedkd.runtime.devices import sent
from fedkd.tasks.task import Compare
from fedkd.tasks.text.tokens import next_token_logits
from fedkd.tasks.text.windows import IGNORED, Windows

PREDICTION_ROWS = 64
"""Windows that a model predicts on at a time."""


@dataclass(frozen=True)
class AskedPositions:
    """Public token positions in the order of their ids; a batch holds windows of them."""

    inputs: Int[Tensor, "n L"]
    rows: Int[Tensor, "n L"]
    """Which of the N positions asked about a cell is, -1 for the others, on the host."""
    count: int
    targets: Int[Tensor, "n L"]
    """The next tokens of the public text itself."""
    label_share: float = 0.0
    """Their weight in distillation."""

    batches_on: ClassVar[torch.device] = torch.device("cpu")

    @classmethod
    def of(
        cls, text: Windows, cells: Int[Tensor, "N"], label_share: float = 0.0
    ) -> "AskedPositions":
        """Return some positions of a text, of the windows that hold one.

        Args:
            text: The text's windows.
            cells: The positions, counted through the windows, on the host.
            label_share: Weight of the text's own next tokens in distillation.
        """
        rows = torch.full(text.inputs.shape, -1)
        rows.view(-1)[cells] = torch.arange(len(cells))
        some = (rows >= 0).any(dim=1).nonzero().squeeze(1)
        there = sent(some, text.inputs.device)
        inputs, targets = text.inputs[there], text.targets[there]
        return cls(inputs, rows[some], len(cells), targets, label_share)

    @property
    def size(self) -> int:
        """How many windows hold a position."""
        return len(self.inputs)

    def answers(
        self, model: nn.Module, batch: Int[Tensor, "b"]
    ) -> tuple[Float[Tensor, "m V"], Int[Tensor, "m"]]:
        """Return the logits at the requested positions of a batch of windows, and their indices."""
        windows, cells, rows = self._positions_of(batch)
        return rows_at(cells, next_token_logits(model, self.inputs[windows])), rows

    def taught_loss(
        self, model: nn.Module, batch: Int[Tensor, "b"], compare: Compare
    ) -> Float[Tensor, ""]:
        """Return what distilling a batch of windows minimizes.

        With a ``label_share`` w it is ``w * CE(next token) + (1 - w) * compare(...)``, after the
        loss of Li et al. 2022 (arXiv 2212.08349): the first over all positions of the windows, the
        second over those asked about.
        """
        if self.label_share == 0:
            return compare(*self.answers(model, batch))
        windows, cells, rows = self._positions_of(batch)
        logits = next_token_logits(model, self.inputs[windows])
        own = F.cross_entropy(
            logits.flatten(0, 1), self.targets[windows].flatten(), ignore_index=IGNORED
        )
        taught = compare(rows_at(cells, logits), rows)
        return self.label_share * own + (1 - self.label_share) * taught

    def predict(self, model: nn.Module) -> Float[Tensor, "N V"]:
        """Return the logits at all positions."""
        model.eval()
        found: Tensor | None = None
        with torch.no_grad():
            for batch in torch.split(torch.arange(len(self.inputs)), PREDICTION_ROWS):
                logits, rows = self.answers(model, batch)
                if found is None:
                    found = logits.new_empty(self.count, logits.shape[1])
                found[rows] = logits
        if found is None:
            raise SettingError("public positions were asked about, and none was named")
        return found

    def moved(self, stream: np.random.Generator) -> "AskedPositions":
        """Raise: text cannot be moved; checked before the run."""
        raise SettingError("distill.student_augmentation=shift is for images")

    def _positions_of(
        self, batch: Int[Tensor, "b"]
    ) -> tuple[Int[Tensor, "b"], Int[Tensor, "m"], Int[Tensor, "m"]]:
        """Return the windows of a batch, the requested ones of its cells, and their indices."""
        batch = batch.cpu()
        rows = self.rows[batch].flatten()
        cells = (rows >= 0).nonzero().squeeze(1)
        parts = (batch, cells, rows[cells])
        there = sent(torch.cat(parts), self.inputs.device)
        windows, cells, rows = torch.split(there, [len(part) for part in parts])
        return windows, cells, rows


def rows_at(
    cells: Int[Tensor, "m"], values: Shaped[Tensor, "n L *rest"]
) -> Shaped[Tensor, "m *rest"]:
    """Return what windows hold at some of their cells, counted through; those may be on the host.

    >>> rows_at(torch.tensor([1, 2]), torch.tensor([[5, 6], [7, 8]])).tolist()
    [6, 7]
    """
    return values.flatten(0, 1)[sent(cells, values.device)]
