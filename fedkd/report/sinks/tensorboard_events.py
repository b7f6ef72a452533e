"""The sink of TensorBoard: event files in the run's folder, for `tensorboard --logdir runs`.

Written by ``tensorboardX``, which needs neither TensorFlow nor TensorBoard.
"""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fedkd.errors import RunError
from fedkd.report.report_settings import Report
from fedkd.report.sinks.sink import (
    Ending,
    SinkRound,
    SinkRun,
    infinity_as_text,
    reason,
)
from fedkd.settings.optional_libraries import not_installed

FOLDER = "tensorboard"
ALONE = "local_only"
"""The folder of the local-only baseline: another curve in the same charts."""


def check(options: Report) -> None:
    """Raise SettingError where the package is missing."""
    try:
        import tensorboardX  # noqa: F401
    except ImportError as error:
        raise not_installed("report.tensorboard=true", "tensorboardX") from error


def begin(options: Report, run: SinkRun) -> "TensorboardEvents":
    """Return the events of a run that begins or goes on. Raises RunError."""
    return TensorboardEvents(run)


class TensorboardEvents:
    """One run's event files: its figures, those of its local-only baseline, pictures, settings."""

    title = "TensorBoard"

    def __init__(self, run: SinkRun) -> None:
        """Open the event files; rounds that a resumed run repeats replace those of before."""
        from tensorboardX import SummaryWriter

        self._folder, self._make = run.folder / FOLDER, SummaryWriter
        self._purge = run.rounds_before + 1 if run.rounds_before else None
        self._suffix = f".{run.rounds_before}"  # names are by the second, and files overwritten
        try:
            self._fused = self._writer(self._folder)
            if not run.rounds_before:
                text = yaml.safe_dump(infinity_as_text(run.settings), sort_keys=False)
                self._fused.add_text("settings", re.sub("^", "    ", text, flags=re.MULTILINE), 0)
        except Exception as error:
            raise RunError(
                f"report.tensorboard=true: {self._folder} cannot be written: {reason(error)};"
                " report.tensorboard=false leaves it out"
            ) from error
        self._alone: Any = None

    def _writer(self, folder: Path) -> Any:
        return self._make(str(folder), purge_step=self._purge, filename_suffix=self._suffix)

    def round(self, row: SinkRound) -> None:
        """Write the figures of a round, and beside them those of the local-only baseline."""
        for name, value in row.figures().items():
            self._fused.add_scalar(name, value, row.round_number)
        self._fused.flush()
        alone = row.figures_alone()
        if alone and self._alone is None:
            self._alone = self._writer(self._folder / ALONE)
        for name, value in alone.items():
            self._alone.add_scalar(name, value, row.round_number)
        if self._alone is not None:
            self._alone.flush()

    def tell(self, ending: Ending) -> None:
        """Write the pictures."""
        from PIL import Image

        for path in ending.pictures:
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
            self._fused.add_image(path.stem, pixels, len(ending.rounds), dataformats="HWC")

    def close(self, status: int) -> None:
        """Close the files."""
        for writer in (self._fused, self._alone):
            if writer is not None:
                writer.close()

    def lines(self) -> list[str]:
        """Return the command that shows the run beside others."""
        logdir = str(self._folder.parent.parent)
        return [f"TensorBoard: {shlex.join(['tensorboard', '--logdir', logdir])}"]
