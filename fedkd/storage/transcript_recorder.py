"""Stands beside the server and stores what travels, as it travels: what a run's audit reads.

Only what an adversary has: uploads after protection and codec, teachers as sent, the public set.
Where the server is trusted with raw predictions and a claim rests on that trust, uploads are not
stored at all. Not for: what the researcher knows (``views.write_truth``) and raw models (``lab/``),
which are written before and after the rounds.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fedkd.storage.transcript import ViewWriter


class TranscriptRecorder:
    """Writes ``<run_dir>/view``. ``save`` after each round makes what was seen in it part of the
    view.
    """

    def __init__(
        self,
        run_dir: Path,
        about: Mapping[str, Any],
        public_inputs: np.ndarray,
        *,
        uploads: bool,
        resume_after: int | None = None,
    ) -> None:
        self._writer = ViewWriter(run_dir, "view", about, resume_after)
        self._uploads = uploads
        self._messages: Counter[tuple[str, int, int]] = Counter()
        if resume_after is None:
            self._writer.add("public", {"inputs": public_inputs}, round=0)
            self._writer.save()

    def uploaded(self, round_number: int, client_id: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Store what a client sent in a round, whether the server accepts it or not. Raises
        StorageError.
        """
        if self._uploads:
            self._add("upload", round_number, client_id, arrays)

    def taught(self, round_number: int, client_id: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Store what a client was sent in a round, perhaps twice in one. Raises StorageError."""
        self._add("teacher", round_number, client_id, arrays)

    def save(self) -> None:
        """Write the index. Raises StorageError."""
        self._writer.save()

    def _add(
        self,
        what: Literal["upload", "teacher"],
        round_number: int,
        client_id: int,
        arrays: Mapping[str, np.ndarray],
    ) -> None:
        self._messages[what, round_number, client_id] += 1
        self._writer.add(
            what,
            arrays,
            round=round_number,
            client=client_id,
            message=self._messages[what, round_number, client_id],
        )
