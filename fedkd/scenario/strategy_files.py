"""Strategies by their file's name: fedkd's own, and those in ``strategies/`` of the working folder.

A file of the working folder is imported once it is asked for, and none else: a folder of this name
may belong to something that has nothing to do with fedkd. Its modules are those of a package
``strategies_here``, whatever else Python's path has under the name of ``strategies``.
"""

import ast
import importlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from types import ModuleType

from fedkd.errors import SettingError
from fedkd.settings.import_paths import imported

FOLDER = "strategies"
_PACKAGE = "strategies_here"
"""Under which Python knows the modules of the working folder."""


class Strategies(Mapping[str, type]):
    """The strategies by name, each imported once it is looked up."""

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*_shipped(), *_written_here()}))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return name in _shipped() or (isinstance(name, str) and strategy_here(name) is not None)

    def __getitem__(self, name: str) -> type:
        if name in _shipped():
            where, module = f"{name}.py", importlib.import_module(f"fedkd.strategies.{name}")
        elif path := strategy_here(name):
            where, module = path.name, _imported_here(name, path)
        else:
            raise KeyError(name)
        own = [c for c in vars(module).values() if inspect.isclass(c)]
        found = [c for c in own if c.__module__ == module.__name__ and hasattr(c, "fuse")]
        if len(found) != 1:
            raise SettingError(
                f"{FOLDER}/{where} must define one class with a method fuse, it has {len(found)}"
            )
        return found[0]


def strategy_here(name: str) -> Path | None:
    """Return the file in the working folder that is the strategy of a name.

    None where there is no such file, and where the name is that of one of fedkd's own.
    """
    path = Path(FOLDER, f"{name}.py")
    is_found = name.isidentifier() and name not in _shipped() and path.is_file()
    return path.resolve() if is_found else None


def check_one_meaning(name: str) -> None:
    """Raise SettingError where a file of the working folder has the name of fedkd's own strategy.

    One that says the same is no second meaning, and neither is one that is no strategy.
    """
    if name not in _shipped():
        return
    shipped, here = _folder() / f"{name}.py", Path(FOLDER, f"{name}.py")
    if not here.is_file() or here.samefile(shipped) or not _is_strategy(here):
        return
    if here.read_bytes() != shipped.read_bytes():
        cls = Strategies()[name]
        raise SettingError(
            f"strategy={name} is one of fedkd's own, and {here} of this folder is another; rename"
            f" that file, or write strategy={cls.__module__}:{cls.__name__} for fedkd's own"
        )


@lru_cache
def _folder() -> Path:
    return Path(str(files("fedkd.strategies")))


@lru_cache
def _shipped() -> frozenset[str]:
    stems = (path.stem for path in _folder().glob("*.py"))
    return frozenset(stem for stem in stems if not stem.startswith("_"))


def _written_here() -> Iterator[str]:
    """Yield the names of the working folder's strategies, of which none is imported."""
    for path in Path(FOLDER).glob("[!_]*.py"):
        if strategy_here(path.stem) and _is_strategy(path):
            yield path.stem


def _is_strategy(path: Path) -> bool:
    """Return whether a file reads like a strategy: it imports fedkd, or defines ``fuse``."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return False
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        else:
            modules = []
            if isinstance(node, ast.FunctionDef) and node.name == "fuse":
                return True
        if any(module.partition(".")[0] == "fedkd" for module in modules):
            return True
    return False


def _imported_here(name: str, path: Path) -> ModuleType:
    """Return the module of a file in the working folder. Raises SettingError where it fails."""
    package = sys.modules.get(_PACKAGE)
    if package is None or list(package.__path__) != [str(path.parent)]:
        for module in [m for m in sys.modules if m.partition(".")[0] == _PACKAGE]:
            del sys.modules[module]
        package = ModuleType(_PACKAGE)
        package.__path__ = [str(path.parent)]
        sys.modules[_PACKAGE] = package
    return imported(f"{_PACKAGE}.{name}", f"strategy={name}", str(Path(FOLDER, path.name)))
