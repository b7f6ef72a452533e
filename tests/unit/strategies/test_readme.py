"""The twenty lines of strategies/README.md are run as they stand there."""

import json
import re
from pathlib import Path

import pytest
from paths import ROOT

from fedkd.cli.command import main

README = ROOT / "strategies" / "README.md"


def test_the_strategy_of_the_readme_runs_as_it_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = README.read_text()
    code, command = re.search(
        r"```python\n(.*?)```\n\n```\npython -m fedkd.simulate (.*?)\n```", text, re.S
    ).groups()
    body = [line for line in code.splitlines() if line.strip()]
    assert len(body) <= 20
    (tmp_path / "my_rule.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    small = [
        "rounds=2",
        "clients=3",
        "samples_per_client=20",
        "models=[mlp]",
        "public.size=40",
        "report.plots=false",
    ]
    assert main([*command.split(), *small, "baseline=none", "run_dir=out"]) == 0
    summary = json.loads(Path("out/summary.json").read_text())
    assert summary["strategy"] == {"name": "my_rule:Confident", "sharpness": 20.0}
    assert summary["knowledge_sha256"]


def test_every_strategy_has_a_card() -> None:
    from fedkd.scenario.registry import names

    cards = re.findall(r"^### (\w+)$", README.read_text(), re.M)
    assert sorted(cards) == names("strategy")
