"""Measure the plan of a checkout: rooms, sizes, names, docstrings, types.

    python scripts/house_table.py                       # this checkout
    python scripts/house_table.py --before OTHER_FOLDER  # both, as a Markdown table

Walks the syntax trees of ``fedkd/`` and ``strategies/``. Lines of code leave docstrings out.
"""

import argparse
import ast
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """One source file: its path below the root, its text and its syntax tree."""

    path: Path
    text: str
    tree: ast.Module

    @property
    def nodes(self) -> Iterator[ast.AST]:
        """All nodes of the tree."""
        return ast.walk(self.tree)


def modules_of(root: Path) -> list[Module]:
    """Return the modules of ``fedkd`` and ``strategies`` in a checkout."""
    paths = [p for name in ("fedkd", "strategies") for p in sorted((root / name).rglob("*.py"))]
    return [
        Module(path.relative_to(root), text, ast.parse(text))
        for path in paths
        for text in [path.read_text()]
    ]


def documented(node: ast.AST) -> ast.stmt | None:
    """Return the statement that is a node's docstring, if it has one."""
    body = getattr(node, "body", None)
    if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
        value = body[0].value
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            return body[0]
    return None


def code_lines(node: Function | ast.ClassDef) -> int:
    """Return a definition's lines without docstrings, its own and those inside."""
    total = (node.end_lineno or node.lineno) - node.lineno + 1
    for inner in ast.walk(node):
        found = documented(inner)
        if found is not None:
            total -= (found.end_lineno or found.lineno) - found.lineno + 1
    return total


def functions(modules: Sequence[Module]) -> list[Function]:
    """Return every function and method."""
    return [n for m in modules for n in m.nodes if isinstance(n, Function)]


def classes(modules: Sequence[Module]) -> list[ast.ClassDef]:
    """Return every class."""
    return [n for m in modules for n in m.nodes if isinstance(n, ast.ClassDef)]


def attributes(node: ast.ClassDef) -> set[str]:
    """Return the attributes that a class declares as fields or sets on ``self``."""
    found = {
        s.target.id
        for s in node.body
        if isinstance(s, ast.AnnAssign)
        and isinstance(s.target, ast.Name)
        and "ClassVar" not in ast.unparse(s.annotation)
    }
    for inner in ast.walk(node):
        if (
            isinstance(inner, ast.Attribute)
            and isinstance(inner.ctx, ast.Store)
            and isinstance(inner.value, ast.Name)
            and inner.value.id == "self"
        ):
            found.add(inner.attr)
    return found


def constructor_arguments(node: ast.ClassDef) -> int:
    """Return how many arguments a hand-written constructor takes; 0 where there is none."""
    for s in node.body:
        if isinstance(s, ast.FunctionDef) and s.name == "__init__":
            return len(s.args.args) + len(s.args.kwonlyargs) - 1
    return 0


def repeated(names: Sequence[str]) -> int:
    """Return how many names occur more than once."""
    return sum(times > 1 for times in Counter(names).values())


def share(part: int, whole: int) -> str:
    """Return a share in percent."""
    return f"{100 * part / max(whole, 1):.1f} %"


def rooms(root: Path, modules: Sequence[Module]) -> Mapping[str, str]:
    """Return figures of the plan: what stands at the root, repeated names, imports."""
    top = [p for p in (root / "fedkd").iterdir() if not p.name.startswith(("__pycache__", "."))]
    files = [p for p in top if p.suffix == ".py"]
    folders = [p for p in top if p.is_dir()]
    own = [m for m in modules if m.path.parts[0] == "fedkd"]
    stems = [m.path.stem for m in own if not m.path.stem.startswith("__")]
    imported = {
        m.path: {
            n.module
            for n in m.nodes
            if isinstance(n, ast.ImportFrom) and (n.module or "").startswith("fedkd")
        }
        for m in own
    }
    most = max(imported, key=lambda path: len(imported[path]))
    contract = (root / "pyproject.toml").read_text()
    layers = re.search(r"^layers = \[(.*?)^\]", contract, re.S | re.M)
    return {
        "root of fedkd/: files + folders": f"{len(files)} + {len(folders)}",
        "layers of the import contract": str(
            len(re.findall(r'"', layers[1])) // 2 if layers else 0
        ),
        "base names that occur twice": str(repeated(stems)),
        "class names that occur twice": str(repeated([c.name for c in classes(own)])),
        "most imports of one module": f"{len(imported[most])} ({most})",
    }


def sizes(root: Path, modules: Sequence[Module]) -> Mapping[str, str]:
    """Return figures of size: lines of files, functions and classes."""
    lines = [len(m.text.splitlines()) for m in modules]
    code = sorted(code_lines(f) for f in functions(modules))
    own = classes(modules)
    return {
        "file: median / largest": f"{statistics.median(lines):.0f} / {max(lines)}",
        "function: median / p90 / largest (code)": (
            f"{statistics.median(code):.0f} / {code[int(0.9 * len(code))]} / {code[-1]}"
        ),
        "functions over 60 lines": str(sum(n > 60 for n in code)),
        "classes over 250 lines": str(sum(code_lines(c) > 250 for c in own)),
        "classes with over 12 attributes": str(sum(len(attributes(c)) > 12 for c in own)),
        "constructors with over 8 arguments": str(sum(constructor_arguments(c) > 8 for c in own)),
        "source lines / test lines": (
            f"{sum(lines)} / "
            f"{sum(len(p.read_text().splitlines()) for p in (root / 'tests').rglob('*.py'))}"
        ),
    }


def language(root: Path, modules: Sequence[Module]) -> Mapping[str, str]:
    """Return figures of prose and types: docstrings, lines, annotations, ``isinstance``."""
    public = [f for f in functions(modules) if not f.name.startswith("_")]
    with_text = [f for f in public if documented(f) is not None]
    first = [(ast.get_docstring(f) or "").split("\n\n")[0] for f in with_text]
    rows = [line for m in modules for line in m.text.splitlines() if line.strip()]
    every = functions(modules)
    return {
        "public functions with a docstring": share(len(with_text), len(public)),
        "of these: summary in one line": share(sum("\n" not in text for text in first), len(first)),
        "of these: begin with Return": share(
            sum(t.startswith("Return") for t in first), len(first)
        ),
        "lines over 100 characters; mean": (
            f"{share(sum(len(r) > 100 for r in rows), len(rows))};"
            f" {statistics.mean(map(len, rows)):.0f}"
        ),
        "functions with a return type": share(
            sum(f.returns is not None for f in every), len(every)
        ),
        "lines with Any": str(sum(bool(re.search(r"\bAny\b", r)) for r in rows)),
        "isinstance of a class of fedkd's": str(probes(modules)),
        "assert statements": str(sum(isinstance(n, ast.Assert) for m in modules for n in m.nodes)),
    }


def probes(modules: Sequence[Module]) -> int:
    """Return how often ``isinstance`` asks for a class that another module of fedkd defines."""
    found = 0
    for module in modules:
        foreign = {
            alias.asname or alias.name
            for n in module.nodes
            if isinstance(n, ast.ImportFrom) and (n.module or "").startswith("fedkd")
            for alias in n.names
            if alias.name[:1].isupper()
        }
        for n in module.nodes:
            is_probe = isinstance(n, ast.Call) and ast.unparse(n.func) == "isinstance"
            if is_probe and isinstance(n, ast.Call) and len(n.args) == 2:
                names = set(re.findall(r"\w+", ast.unparse(n.args[1])))
                found += bool(names & foreign)
    return found


PARTS: tuple[Callable[[Path, Sequence[Module]], Mapping[str, str]], ...] = (rooms, sizes, language)


def measured(root: Path) -> dict[str, str]:
    """Return every figure of a checkout by its name."""
    modules = modules_of(root)
    found: dict[str, str] = {}
    for part in PARTS:
        found |= part(root, modules)
    return found


def main() -> None:
    """Print the table."""
    here = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, help="another checkout, shown in a column before")
    given = parser.parse_args()
    columns = [("now", measured(here))]
    if given.before is not None:
        columns.insert(0, ("before", measured(given.before)))
    print("| | " + " | ".join(name for name, _ in columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name in columns[-1][1]:
        print(f"| {name} | " + " | ".join(found.get(name, "") for _, found in columns) + " |")


if __name__ == "__main__":
    main()
