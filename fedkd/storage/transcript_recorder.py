"""The recorder that stores the server's messages, as sent, for the audit of a run.

It stores what an adversary has: uploads after protection and codec, teachers as sent, the public
set. Where a privacy claim trusts the server with raw predictions, uploads are not stored at all.
Not for: the ground truth (``transcript.write_ground_truth``) and raw models (``lab/``), which are
written before and after the rounds.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from fedkd.storage.transcript import About, TranscriptWriter


class TranscriptRecorder:
    """Writes the transcript in ``<run_dir>/view``; call ``save`` after each round."""

    def __init__(
        self,
        run_dir: Path,
        about: About,
        public_inputs: np.ndarray,
        *,
        uploads: bool,
        resume_after: int | None = None,
    ) -> None:
        """Open the transcript; a new one starts with the public set.

        Args:
            run_dir: The run's folder.
            about: Facts as JSON values that every adversary knows (``TranscriptWriter``).
            public_inputs: The public set, with the public samples along the first axis.
            uploads: Whether uploads are stored.
            resume_after: The round of the checkpoint to resume from, None in a new run.
        """
        self._writer = TranscriptWriter(run_dir, "view", about, resume_after)
        self._uploads = uploads
        self._messages: Counter[tuple[str, int, int]] = Counter()
        if resume_after is None:
            self._writer.add("public", {"inputs": public_inputs}, round=0)
            self._writer.save()

    def uploaded(self, round_number: int, client_id: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Store a client's upload, accepted or not. Raises StorageError."""
        if self._uploads:
            self._add("upload", round_number, client_id, arrays)

    def taught(self, round_number: int, client_id: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Store a teacher sent to a client, perhaps one of two in a round. Raises StorageError."""
        self._add("teacher", round_number, client_id, arrays)

    def save(self) -> None:
        """Write the index of all stored messages. Raises StorageError."""
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
