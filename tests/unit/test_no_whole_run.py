"""A whole run in the unit tier fails, however it is begun."""

from pathlib import Path

import pytest
from tiny import records, scenario

from fedkd.cli.command import main
from fedkd.experiment.run import run

SMALL = {"clients": 2, "rounds": 1, "models": ["mlp"]}


def test_a_run_in_this_process_fails() -> None:
    with pytest.raises(pytest.fail.Exception, match="holds no whole run"):
        records(**SMALL)


def test_a_run_into_a_folder_and_one_of_the_command_fail(tmp_path: Path) -> None:
    with pytest.raises(pytest.fail.Exception, match="holds no whole run"):
        run(scenario(**SMALL), tmp_path / "run")
    small = ["clients=2", "models=[mlp]", "samples_per_client=20", "public.size=40"]
    with pytest.raises(pytest.fail.Exception, match="holds no whole run"):
        main([*small, "baseline=none", f"run_dir={tmp_path / 'command'}"])
