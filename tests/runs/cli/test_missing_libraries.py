"""A run that needs a library of an extra, where that is not installed."""

import sys
from pathlib import Path

import pytest

from fedkd.cli.command import main


@pytest.mark.fast(1)
@pytest.mark.parametrize(
    ("library", "settings"),
    [
        ("ray", ["engine=ray"]),
        ("opacus", ["strategy=fedmd", "privacy=dp_sgd", "privacy.noise_multiplier=1"]),
    ],
)
def test_a_run_that_needs_it_ends_with_one_line_before_anything_is_written(
    library: str,
    settings: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, library, None)
    small = ["clients=2", "rounds=1", "samples_per_client=20", "public.size=40", "models=[mlp]"]
    assert main([*small, "test.global_size=50", "baseline=none", *settings]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f" needs {library}, which is not installed: pip install 'fedkd[" in error
    assert not list(tmp_path.iterdir())
