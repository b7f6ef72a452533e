"""``fedkd export`` on a run that is there."""

import sys
from pathlib import Path

import pytest
from finished import finished_run

from fedkd.cli.commands import main


def test_a_clients_model_is_written_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    run, out = str(finished_run(strategy={"name": "knfu"})), tmp_path / "model"
    capsys.readouterr()  # what the run said, if it was not finished before
    assert main(["export", run, "--client", "1", "--out", str(out)]) == 0
    assert capsys.readouterr().out.startswith(f"{out}: ")
    assert {"model.pt", "load_model.py", "README.md"} <= {path.name for path in out.iterdir()}
    for wrong, said in (("9", "client must be from 0 to 3, got 9"), ("1", "is not empty")):
        assert main(["export", run, "--client", wrong, "--out", str(out)]) == 2
        assert said in capsys.readouterr().err
