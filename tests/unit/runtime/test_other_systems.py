"""What a system may lack: folders that open, letters of the output's encoding."""

import io
import os
import sys
from pathlib import Path

import pytest

from fedkd.runtime.standard_streams import FullableOutput, replace_unwritable
from fedkd.storage.atomic_files import write_whole


def test_a_file_is_written_where_no_folder_can_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def open_no_folder(path: Path, *others: int) -> int:
        if Path(path).is_dir():
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *others)

    monkeypatch.setattr(os, "open", open_no_folder)
    write_whole(tmp_path / "file", [b"content"], sync=True)
    assert (tmp_path / "file").read_bytes() == b"content"


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_what_an_output_has_no_letter_of_is_a_question_mark(
    errors: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii", errors=errors))
    FullableOutput().write("90 ± 2")
    replace_unwritable()
    sys.stdout.write(" ─")
    sys.stdout.flush()
    assert written.getvalue() == b"90 ? 2 ?"
