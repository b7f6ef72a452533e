"""Clients' private texts as windows: packed behind one another, or each with windows of its own.

Texts are packed where nothing speaks against it. A mechanism that hides each record by its own
training examples (DP-SGD) needs windows that hold one text each, and how many a text may have.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fedkd.data.texts import PreparedTexts
from fedkd.tasks.text.secrets import Secrets
from fedkd.tasks.text.vocabulary import Vocabulary
from fedkd.tasks.text.windows import Windows, windows, windows_of_each


@dataclass(frozen=True, kw_only=True)
class PrivateTexts:
    """A run's private texts with their canaries, and how they become windows."""

    prepared: PreparedTexts
    vocabulary: Vocabulary
    context: int
    secrets: Secrets | None
    separate: bool = False
    """Whether a text has windows of its own."""
    most: int | None = None
    """The most windows of a text that has its own; None keeps all."""

    def texts(self, rows: np.ndarray, owners: Sequence[int]) -> list[str]:
        """Return the rows' texts with the canaries of ``owners`` among them."""
        texts = self.prepared.texts(rows)
        if self.secrets is not None:
            for client_id in owners:
                texts = list(self.secrets.insert_into(texts, client_id))
        return texts

    def cut(
        self, rows: np.ndarray, owners: Sequence[int], device: torch.device
    ) -> tuple[Windows, int]:
        """Return windows of the rows' texts on a device, and how many a text may have of its own.

        That is the setting's number, or the longest text's; 1 where texts are packed.
        """
        whose, texts = f"the text of client {owners[0]}", self.texts(rows, owners)
        if not self.separate:
            return windows(self.vocabulary, texts, self.context, whose=whose).to(device), 1
        found, longest = windows_of_each(
            self.vocabulary, texts, self.context, most=self.most, whose=whose
        )
        return found.to(device), self.most or longest
