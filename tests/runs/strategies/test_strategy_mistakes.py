"""Common mistakes in a user's strategy end the run with one line that says what was wrong and
where."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from tiny import records
from toys import Mean

from fedkd.cli.command import main
from fedkd.errors import RunError
from fedkd.messages import Cohort, Fusion


@pytest.fixture(autouse=True)
def as_users_run_it() -> Iterator[None]:
    """Annotations, which tests enforce, would complain before fedkd does."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


FASTEST: dict[str, Any] = {
    "clients": 2,
    "models": ["toys:linear"],
    "rounds": 1,
    "public": {"size": 10},
}


class ReturnsNothing:
    def fuse(self, cohort: Cohort, state: Any) -> Any:
        return None


class ReturnsTensor:
    def fuse(self, cohort: Cohort, state: Any) -> Any:
        return cohort.probs


@dataclass(frozen=True, kw_only=True)
class ReturnsNumpy(Mean):
    field: str = "weights"

    def fuse(self, cohort: Cohort, state: Any) -> Fusion:
        right = replace(super().fuse(cohort, state), public_ids=cohort.public_ids)
        return replace(right, **{self.field: getattr(right, self.field).numpy()})


class ReturnsMetricOfText(Mean):
    def fuse(self, cohort: Cohort, state: Any) -> Fusion:
        return replace(super().fuse(cohort, state), metrics={"kind": "much"})


class Raises:
    def fuse(self, cohort: Cohort, state: Any) -> Fusion:
        return self._inner(cohort)

    def _inner(self, cohort: Cohort) -> Fusion:
        torch.zeros(2) @ torch.zeros(3)  # here
        raise AssertionError


class TakesOneArgument:
    def fuse(self, cohort: Cohort) -> Any:
        return None


class RaisesInStream(Mean):
    def accumulator(self, state: Any) -> Any:
        raise KeyError("first")  # there


def line_of(mark: str) -> int:
    return 1 + Path(__file__).read_text().splitlines().index(next(
        line for line in Path(__file__).read_text().splitlines() if line.endswith(f"# {mark}")
    ))  # fmt: skip


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (
            "ReturnsNothing",
            r"^fuse returned None, expected a fedkd.messages.Fusion\(weights=..., teachers=...\)$",
        ),
        ("ReturnsTensor", r"^fuse returned a Tensor, expected a fedkd.messages.Fusion\("),
        ({"field": "weights"}, r"^fuse returned weights of type ndarray, expected a tensor"),
        ({"field": "teachers"}, r"^fuse returned teachers of type ndarray, expected a tensor"),
        (
            {"field": "public_ids"},
            r"^fuse returned public_ids of type ndarray, expected a tensor of whole numbers",
        ),
        (
            "ReturnsMetricOfText",
            r"^fuse returned metrics with kind='much', expected numbers by name",
        ),
        (
            "Raises",
            rf"^strategy Raises failed: RuntimeError:"
            rf" .*\(test_strategy_mistakes.py:{line_of('here')}\)$",
        ),
        (
            "TakesOneArgument",
            r"^strategy TakesOneArgument failed: TypeError: .*takes 2 positional arguments[^(]*$",
        ),
        (
            "RaisesInStream",
            rf"failed: KeyError: 'first' \(test_strategy_mistakes.py:{line_of('there')}\)$",
        ),
    ],
)
def test_a_mistake_is_one_line_that_names_it(strategy: Any, message: str) -> None:
    settings = strategy if isinstance(strategy, dict) else {}
    name = "ReturnsNumpy" if settings else strategy
    with pytest.raises(RunError) as caught:
        records(strategy={"name": f"{__name__}:{name}", **settings}, **FASTEST)
    assert re.search(message, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_whole_traceback_is_printed_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = [
        f"strategy={__name__}:Raises",
        "clients=2",
        "models=[toys:linear]",
        "rounds=1",
        "public.size=10",
        "baseline=none",
        "report.plots=false",
        "report.console=false",
    ]
    assert main([*command, "run_dir=one"]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    monkeypatch.setenv("FEDKD_TRACEBACK", "1")
    assert main([*command, "run_dir=two"]) == 1
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert "in _inner" in error
    assert error.splitlines()[-1].startswith("fedkd: strategy Raises failed")
