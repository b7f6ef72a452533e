"""The plan of the code: rooms, names, sizes and words, as limits that later changes must keep."""

import ast
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ROOT = next(p for p in Path(__file__).resolve().parents if (p / "pyproject.toml").is_file())
sys.path.insert(0, str(ROOT / "scripts"))
from house_table import (  # noqa: E402
    Function,
    attributes,
    classes,
    code_lines,
    constructor_arguments,
    documented,
    functions,
    modules_of,
)

MODULES = modules_of(ROOT)
OWN = [m for m in MODULES if m.path.parts[0] == "fedkd"]

GLOSSARY = {
    "settle": "a verb for what happens: set_deterministic, resolve_round_order, record_fusion",
    "settled": "deterministic, resolved, final",
    "kept": "what it is: taught_rows, optimizer_states, client_memory, a mask",
    "plain": "to_dict, to_values, is_standard, without_heads",
    "place": "context, position, slot",
    "places": "positions, rows",
    "order": "round_order, permutation, spec",
    "lesson": "teacher, learned_by",
    "lessons": "teachers",
    "number": "round_number, message_number, count",
    "visit": "update, message",
    "company": "batch of clients",
    "crew": "client_pool",
    "hire": "create_clients",
    "shelf": "registry",
    "guard": "enforcer",
    "workplace": "context",
    "witness": "recorder",
    "rehearse": "train_batch",
}
"""Words that meant many things here or nothing in the field, and what to say in their stead."""


@cache
def identifiers(tree: ast.AST) -> set[str]:
    """Return every name that a module binds: functions, classes, arguments, fields, variables."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
    return found


def test_the_root_holds_few_files_and_folders() -> None:
    root = ROOT / "fedkd"
    files = [p.name for p in root.glob("*.py")]
    own = [p for p in root.iterdir() if not p.is_symlink() and p.name != "__pycache__"]
    folders = [p.name for p in own if p.is_dir()]
    assert len(files) <= 6, sorted(files)
    assert len(folders) <= 19, sorted(folders)


def test_no_two_modules_and_no_two_classes_share_a_name() -> None:
    stems = Counter(m.path.stem for m in OWN if not m.path.stem.startswith("__"))
    assert [name for name, times in stems.items() if times > 1] == []
    names = Counter(c.name for c in classes(OWN) if not c.name.startswith("_"))
    assert [name for name, times in names.items() if times > 1] == []


def test_functions_and_classes_are_of_a_size_that_one_can_read() -> None:
    long = {f.name: code_lines(f) for f in functions(MODULES) if code_lines(f) > 60}
    large = {c.name: code_lines(c) for c in classes(MODULES) if code_lines(c) > 250}
    wide = {c.name: constructor_arguments(c) for c in classes(MODULES)}
    assert (long, large) == ({}, {})
    assert {name: count for name, count in wide.items() if count > 8} == {}


def test_objects_that_change_have_few_attributes() -> None:
    """Settings and records, which are frozen, may have a field for each thing that they say."""

    def frozen(node: ast.ClassDef) -> bool:
        return any("frozen=True" in ast.unparse(d) for d in node.decorator_list)

    counted = {c.name: len(attributes(c)) for c in classes(MODULES) if not frozen(c)}
    assert {name: count for name, count in counted.items() if count > 12} == {}


@pytest.mark.parametrize("word", GLOSSARY)
def test_a_word_that_means_many_things_names_nothing(word: str) -> None:
    offenders = [str(m.path) for m in MODULES if word in identifiers(m.tree)]
    assert offenders == [], f"{word}: say {GLOSSARY[word]}"


def test_summaries_are_one_line_without_idioms() -> None:
    idioms = ("by hand", "on the sly", "whatever", "so to speak", "what it lives on", "in vain")
    found = []
    for module in MODULES:
        for node in (module.tree, *functions([module]), *classes([module])):
            if documented(node) is None or getattr(node, "name", "").startswith("_"):
                continue
            summary = (ast.get_docstring(node) or "").split("\n\n")[0]
            name = f"{module.path}:{getattr(node, 'name', 'module')}"
            if "\n" in summary or any(idiom in summary for idiom in idioms):
                found.append(name)
    assert found == []


def test_functions_of_many_arguments_explain_them() -> None:
    """Four or more, in what is public; a method of a protocol explains them for all classes."""

    def signature(node: Function) -> tuple[str, ...]:
        arguments = (*node.args.args, *node.args.kwonlyargs)
        return (node.name, *(a.arg for a in arguments if a.arg not in ("self", "cls")))

    protocols = [c for c in classes(OWN) if any("Protocol" in ast.unparse(b) for b in c.bases)]
    methods = [n for c in protocols for n in c.body if isinstance(n, Function)]
    explained = {signature(n) for n in methods if "Args:" in (ast.get_docstring(n) or "")}
    found = []
    for module in OWN:
        for node in functions([module]):
            many = len(signature(node)) > 4 and signature(node) not in explained
            text = ast.get_docstring(node)
            if many and not node.name.startswith("_") and text and "Args:" not in text:
                found.append(f"{module.path}:{node.name}")
    assert found == []
