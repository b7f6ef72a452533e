"""Generic code asks a component what it is through its hooks, never for its class."""

import ast
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fedkd import knowledge
from fedkd.audit.audit_settings import AUDITS, Audit
from fedkd.codecs import CODECS, Codec, StrategyDefault
from fedkd.data.sources import Named
from fedkd.knowledge import KnowledgeType
from fedkd.models.dual_head import DualHead
from fedkd.models.heads import HEADS, Heads
from fedkd.models.stage_heads import StageHeads
from fedkd.privacy import PRIVACY
from fedkd.privacy.mechanisms import Mechanism
from fedkd.robustness.aggregators import ROBUST, Robust
from fedkd.robustness.attacks import ATTACKS, Attack
from fedkd.tasks.find_task import TASKS
from fedkd.tasks.task import Task
from fedkd.tasks.text.secrets import CANARIES

ROOT = next(p for p in Path(__file__).resolve().parents if (p / "pyproject.toml").is_file())
KINDS = {
    name: value
    for name, value in vars(knowledge).items()
    if inspect.isclass(value) and KnowledgeType in value.__mro__ and not value._is_protocol
}
TABLES: Mapping[str, Mapping[str, Any]] = {
    "fedkd/audit/": AUDITS,
    "fedkd/codecs/": {**CODECS, "own": StrategyDefault},
    "fedkd/knowledge/": KINDS,
    "fedkd/models/": {**HEADS, "one": DualHead, "two": StageHeads},
    "fedkd/privacy/": PRIVACY,
    "fedkd/robustness/": {**ROBUST, **{f"attack {name}": cls for name, cls in ATTACKS.items()}},
    "fedkd/tasks/": {**TASKS, **CANARIES},
}
SEAMS = {Audit, Codec, Heads, Mechanism, Robust, Attack, Task, KnowledgeType}


def concrete() -> dict[str, str]:
    """Return the package of every concrete component class, and of what it derives from."""
    found = {}
    for package, table in TABLES.items():
        for entry in table.values():
            cls = entry.cls if isinstance(entry, Named) else entry
            for base in cls.__mro__:
                is_seam = base in SEAMS or getattr(base, "_is_protocol", False)
                if base.__module__.startswith("fedkd.") and not is_seam:
                    found[base.__name__] = package
    return found


def classes_asked_for(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the line and name of every class in the second argument of isinstance."""
    for node in ast.walk(tree):
        is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        if not is_call or node.func.id not in ("isinstance", "issubclass"):  # type: ignore[attr-defined]
            continue
        for part in ast.walk(node.args[1]):  # type: ignore[attr-defined]
            if isinstance(part, ast.Name | ast.Attribute):
                yield node.lineno, part.id if isinstance(part, ast.Name) else part.attr  # type: ignore[attr-defined]


def offenders(source: str, path: str) -> list[str]:
    """Return the tests of a concrete component's class outside its own package, by line."""
    owners = concrete()
    return [
        f"{path}:{line}: {name} is asked for outside {owners[name]}"
        for line, name in classes_asked_for(ast.parse(source))
        if name in owners and not path.startswith(owners[name])
    ]


def test_every_table_has_concrete_classes_and_no_seam_is_one() -> None:
    assert {"DpSgd", "TextTask", "DualHeadSettings", "Lie", "Krum", "TopK", "ModelWeights"} <= set(
        concrete()
    )
    assert not {seam.__name__ for seam in SEAMS} & set(concrete())


def test_no_generic_code_asks_for_the_class_of_a_component() -> None:
    files = sorted([*(ROOT / "fedkd").rglob("*.py"), *(ROOT / "strategies").rglob("*.py")])
    found = [
        line for file in files for line in offenders(file.read_text(), str(file.relative_to(ROOT)))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line", ["isinstance(task, TextTask)", "isinstance(x, (int, DpSgd))", "issubclass(x, m.Lie)"]
)
def test_an_offender_is_found_and_its_own_package_may_ask(line: str) -> None:
    assert len(offenders(line, "fedkd/federation/server.py")) == 1
    own = {"TextTask": "tasks", "DpSgd": "privacy", "Lie": "robustness"}
    (package,) = [package for name, package in own.items() if name in line]
    assert offenders(line, f"fedkd/{package}/x.py") == []
