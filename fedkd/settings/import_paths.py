"""Find objects by import path: ``package.module:attribute``, without registration.

Importing a module runs its code. What stands in a folder or a message from elsewhere is therefore
compared with what may be imported first (``foreign_imports``), and what was imported is shown to be
what is asked for before it is called (``import_class``).
"""

import ast
import contextlib
import functools
import hashlib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import cast

from fedkd.errors import FedkdError, SettingError, one_line, unexpected, unknown_name
from fedkd.settings.model_prefixes import split_prefix
from fedkd.settings.session_objects import held, is_given, is_session_name, session_text

OWN_PACKAGES = ("fedkd",)
"""What every scenario may name: the code that runs anyway."""
_PATTERN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_import_path(name: str) -> bool:
    """Return whether a name is of the form ``package.module:attribute``.

    The prefix of a library of models is no package (``fedkd.settings.model_prefixes``).

    >>> is_import_path("my_package.my_module:MyFusion"), is_import_path("knfu")
    (True, False)
    >>> is_import_path("timm:resnet18")
    False
    """
    return _PATTERN.fullmatch(name) is not None and split_prefix(name) is None


def path_of(model: str) -> str:
    """Return the import path in a model's name, without arguments and share.

    >>> path_of("my:net*3"), path_of("my:Net(width=32)*2"), path_of("mlp")
    ('my:net', 'my:Net', 'mlp')
    """
    return re.split(r"[*(]", model, maxsplit=1)[0].strip()


def unknown_component(kind: str, name: str, known: Iterable[str]) -> SettingError:
    """Return the error for an unknown name, or for something of one's own that is named wrongly.

    That is a file's path in place of a module's, or a file beside the user without what is meant in
    it.

    Args:
        kind: What the name stands for, such as ``strategy``.
        name: The name.
        known: The names that there are.
    """
    file, colon, attribute = name.partition(":")
    module = file.removesuffix(".py").replace("\\", "/").strip("./").replace("/", ".")
    if not module or not all(part.isidentifier() for part in module.split(".")):
        return unknown_name(kind, name, known)
    path = Path(*module.split(".")).with_suffix(".py")
    inside = [attribute] if attribute.isidentifier() else _names_in(path)
    if not (colon or path.is_file()) or (colon and module == file):
        return unknown_name(kind, name, known)
    written = " or ".join(f"{module}:{one}" for one in inside) or f"{module}:NAME"
    return SettingError(f"unknown {kind} {name!r}: what {path} holds is called {written}")


def _names_in(file: Path) -> list[str]:
    """Return the public classes and functions of a Python file, which is read and not imported."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):
        return []
    definitions = (ast.ClassDef, ast.FunctionDef)
    return [
        node.name
        for node in tree.body
        if isinstance(node, definitions) and not node.name.startswith("_")
    ]


def import_path(path: str, *, what: str) -> object:
    """Return the object at ``package.module:attribute``.

    ``what`` is the setting that named it, for the error.
    """
    if is_session_name(path):
        return held(path, what=what)
    module_name, _, attribute = path.partition(":")
    try:
        module = imported(module_name, f"{what}={path}")
    except SettingError as error:
        if module_name.endswith(".py"):
            raise unknown_component(what, path, ()) from error
        raise
    if not hasattr(module, attribute):
        inside = module_name + "."  # what it imports from elsewhere is not meant
        known = [
            name
            for name, value in vars(module).items()
            if callable(value)
            and not name.startswith("_")
            and f"{getattr(value, '__module__', '')}.".startswith(inside)
        ]
        raise unknown_name(f"{what} in module {module_name}", attribute, known)
    return getattr(module, attribute)


def imported(module_name: str, asked: str, shown: str = "") -> ModuleType:
    """Return a module. Raises SettingError where there is none, or its import fails.

    ``asked`` is what names it, as in ``strategy=my_rule:Rule``; ``shown`` is what errors call it,
    where that is not its name.
    """
    shown = shown or module_name
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise SettingError(
                f"{asked}: there is no module {error.name!r} on Python's path;"
                " run from the folder that holds it, or install it"
            ) from error
        raise SettingError(
            f"{asked}: {shown} needs {error.name!r}, which is not installed"
        ) from error
    except Exception as error:
        raise unexpected(
            SettingError(f"{asked}: importing {shown} failed: {type(error).__name__}: {error}")
        ) from error


def import_class(
    path: str, *, what: str, seam: type | None = None, methods: Iterable[str] = ()
) -> type:
    """Return the class at an import path, which is nothing but what is asked for.

    Nothing is called: of a class it is known here what it is derived from and which methods it has.

    Args:
        path: The import path.
        what: The setting that named it, for errors.
        seam: A class that it must be derived from; None for none.
        methods: The methods that it must have, as they are written: ``fuse(cohort, state)``.

    Raises:
        SettingError: The object is no such class.
    """
    found = import_path(path, what=what)
    if not inspect.isclass(found):
        raise SettingError(
            f"{what}={path} must name a class, as in package.module:Class; it is a"
            f" {type(found).__name__}"
        )
    check_class(found, path, what=what, seam=seam, methods=methods)
    return found


def check_class(
    found: type, path: str, *, what: str, seam: type | None = None, methods: Iterable[str] = ()
) -> None:
    """Raise SettingError where a class is not derived from its seam, or lacks a method.

    Args:
        found: The class.
        path: Its name, for the error.
        what: The setting that named it.
        seam: A class that it must be derived from; None for none.
        methods: The methods that it must have, as they are written.
    """
    if seam is not None and seam not in found.__mro__:
        raise SettingError(
            f"{what}={path} must be derived from {seam.__module__}.{seam.__qualname__}"
            " (docs/extending.md)"
        )
    missing = [m for m in methods if not callable(getattr(found, m.partition("(")[0], None))]
    missing += sorted(getattr(found, "__abstractmethods__", ()))
    if missing:
        raise SettingError(
            f"{what}={path}: {found.__name__} has no method {' and no method '.join(missing)}"
            " (docs/extending.md)"
        )


def imports_in(values: object, where: str) -> Iterator[tuple[str, str]]:
    """Yield the import paths in plain values, each after the setting that names it.

    What follows a model's name is left out.

    >>> list(imports_in({"name": "my:Rule", "beta": 2}, "strategy"))
    [('strategy', 'my:Rule')]
    >>> list(imports_in(["mlp*2", "my:net*3", "my:Net(width=32)"], "models"))
    [('models', 'my:net'), ('models', 'my:Net')]
    """
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from imports_in(value, where if key == "name" else f"{where}.{key}")
    elif isinstance(values, list | tuple):
        for value in values:
            yield from imports_in(value, where)
    elif isinstance(values, str) and is_import_path(path := path_of(values)):
        yield where, path


def import_paths_within(text: str) -> list[str]:
    """Return everything in a text that could be an import path.

    >>> import_paths_within("strategy=choice(my:Rule,knfu)")
    ['my:Rule']
    """
    return _PATTERN.findall(text)


def is_allowed(path: str, allowed: Collection[str] = OWN_PACKAGES) -> bool:
    """Return whether an import path is, or lies in, one of the modules or packages allowed.

    >>> is_allowed("fedkd.strategies.knfu:KnFu"), is_allowed("fedkd_of_mine:Rule")
    (True, False)
    >>> is_allowed("mine.rules:Rule", ["mine"]), is_allowed("mine:Other", ["mine:Rule"])
    (True, False)
    """
    module = path.partition(":")[0] + "."
    return any(path == one or module.startswith(f"{one}.") for one in allowed)


@contextlib.contextmanager
def attribute_errors_to(
    owner: object, what: str, kind: type[FedkdError], hint: Callable[[], str] = str
) -> Iterator[None]:
    """Turn an exception in a user's object into one line that names its place.

    The traceback stays the cause. fedkd's own errors pass as they are.

    Args:
        owner: The object.
        what: What it is, in words.
        kind: Which error the exception becomes.
        hint: Says what else may be the cause; ends the line.
    """
    try:
        yield
    except FedkdError:
        raise
    except Exception as error:
        modules = [sys.modules.get(cls.__module__) for cls in type(owner).__mro__]
        files = {
            file for module in modules if (file := getattr(module, "__file__", None)) is not None
        }
        raise unexpected(
            kind(f"{what} {type(owner).__name__} failed: {one_line(error, files)}{hint()}")
        ) from error


def code_hash(thing: object) -> str:
    """Return a hash of the source file that defines a class or function.

    It is that of its name where there is no such file. What no module holds is like nothing else.

    For the keys of caches: what a user's factory or partition made is made again once its file has
    changed.
    """
    given = thing
    while isinstance(thing, functools.partial):
        thing = thing.func
    own = session_text(given if is_given(given) else thing)
    try:
        source = Path(inspect.getfile(cast(type, thing))).read_bytes()
    except (TypeError, OSError):
        source = repr(thing).encode()
    return hashlib.sha256(source + own.encode()).hexdigest()
