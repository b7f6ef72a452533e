"""The files of docs/extending.md, as printed there, in the runs that the page gives."""

import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedkd.cli.command import main

PAGE = (Path(__file__).parents[3] / "docs" / "extending.md").read_text()
FILES: dict[str, str] = dict(re.findall(r"`(my_\w+\.py)`:\n\n```python\n(.*?)```", PAGE, re.DOTALL))
COMMANDS = re.findall(r"^python -m fedkd\.simulate (.*)$", PAGE, re.MULTILINE)
SMALL = (
    *("clients=3", "rounds=2", "samples_per_client=20", "public.size=20", "baseline=none"),
    *("test.global_size=30", "test.private_size=10", "train.epochs=1", "distill.epochs=1"),
    *("report.plots=false", "report.console=false", "run_dir=run"),
)


@pytest.fixture(autouse=True)
def in_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, code in FILES.items():
        (tmp_path / name).write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in FILES:
        sys.modules.pop(name.removesuffix(".py"), None)


def summary_of(command: str, *more: str) -> dict:
    assert main([*shlex.split(command), *SMALL, *more]) == 0
    return json.loads(Path("run/summary.json").read_text())


def test_the_page_has_a_file_for_each_part_and_runs_each_of_them() -> None:
    parts = ["strategy", "data", "partition", "model", "task", "votes", "head", "attack", "mean"]
    parts += ["codec", "audit", "noise", "engine", "canaries", "companion", "score"]
    assert set(FILES) == {f"my_{part}.py" for part in parts}
    named = {f"{name}.py" for name in re.findall(r"(my_\w+):", " ".join(COMMANDS))}
    assert named == set(FILES)


@pytest.mark.fast(2)
@pytest.mark.parametrize(
    "command",
    [
        pytest.param(text, marks=pytest.mark.slow) if "canaries" in text else text
        for text in COMMANDS
    ],
    ids=lambda text: text.split()[0],
)
def test_the_files_of_the_page_run_as_printed(command: str) -> None:
    summary = summary_of(command)
    assert summary["status"] == "completed"
    if "my_audit" in command:
        assert summary["audit"]["mean_move"] > 0
        assert len(Path("answers.txt").read_text().splitlines()) > 3 * 2
    if "my_canaries" in command:
        assert summary["exposure"]
    if "my_noise" in command:
        assert "as MyNoise declares; not reviewed by fedkd" in json.dumps(summary["privacy"])


def test_a_mechanism_that_declares_nothing_itself_claims_nothing() -> None:
    with Path("my_noise.py").open("a") as file:
        file.write("\n\nclass Less(MyNoise):\n    pass\n")
    command = "strategy=fedmd data=my_task:Sensors models=[mlp] privacy=my_noise:Less"
    privacy = json.dumps(summary_of(command)["privacy"])
    assert "declares no sensitivity and no events" in privacy


@pytest.mark.fast(1)
@pytest.mark.parametrize("strategy", ["my_votes:MostVoted", "my_votes:Told"])
def test_a_kind_of_ones_own_is_covered_by_dp_sgd_only_on_its_own_word(
    strategy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Path("my_votes.py").open("a") as file:
        file.write(
            "\n\nclass Says(FirstChoice):\n    reveals_model_only = True\n"
            "\n\nclass Told(MostVoted):\n    knowledge: ClassVar = Says('probs')\n"
        )
    settings = ("privacy=dp_sgd", "privacy.noise_multiplier=1", "privacy.delta=1e-3")
    command = f"strategy={strategy} models=[mlp]"
    if strategy.endswith("MostVoted"):
        assert main([*shlex.split(command), *SMALL, *settings]) == 2
        assert "upload more than their model knows" in capsys.readouterr().err
    else:
        assumed = json.dumps(summary_of(command, *settings)["privacy"])
        assert "as Says declares; not reviewed by fedkd" in assumed
