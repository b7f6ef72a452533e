"""What a run that goes on says of an attempt that could not say it itself."""

from pathlib import Path

import pytest

from fedkd.experiment.resume import how_it_ended


@pytest.mark.parametrize("summary", [None, '{"status": "interrupted"}', "[]", "{", '{"status"'])
def test_an_attempt_that_ended_well_or_is_unreadable_is_not_spoken_of(
    tmp_path: Path, summary: str | None
) -> None:
    if summary is not None:
        (tmp_path / "summary.json").write_text(summary)
    assert how_it_ended(tmp_path, here=True) == []


def test_an_attempt_that_still_says_running_names_the_engine_that_survives_its_clients(
    tmp_path: Path,
) -> None:
    (tmp_path / "summary.json").write_text('{"status": "running"}')
    (here,), (there,) = how_it_ended(tmp_path, here=True), how_it_ended(tmp_path, here=False)
    assert here == f"{there}; add engine=ray, where such a client fails alone"
    assert there.startswith("the attempt before ended without a word: its process was killed")
