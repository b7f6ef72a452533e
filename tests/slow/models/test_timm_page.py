"""The timm network of docs/extending.md, in the run that the page gives."""

import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from stand_ins import timm_stand_in

from fedkd.cli.commands import main

PAGE = (Path(__file__).parents[3] / "docs" / "extending.md").read_text()
FILE = re.findall(r"`make_cifar\.py` .*?```python\n(.*?)```", PAGE, re.DOTALL)[0]
COMMAND = re.findall(r"^fedkd (run .* data=cifar100 .*)$", PAGE, re.MULTILINE)[0]
SHORT = (
    *("rounds=1", "train.epochs=1", "distill.epochs=1", "baseline=none", "report.plots=false"),
    *("report.console=false", "run_dir=run"),
)


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have timm where it can be imported, and what stands in for it elsewhere."""
    try:
        import timm  # noqa: F401
    except ImportError:  # as without a torchvision for this PyTorch
        monkeypatch.setitem(sys.modules, "timm", timm_stand_in([]))


def test_a_network_of_timm_learns_images_in_the_layout_of_cifar_100(
    timm: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("make_cifar.py").write_text(FILE)
    runpy.run_path("make_cifar.py")
    assert main([*shlex.split(COMMAND), *SHORT]) == 0
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["status"] == "completed"
    assert "timm:resnet18" in Path("run/config.yaml").read_text()
