"""Find objects by import path: ``package.module:attribute``, without registration."""

import contextlib
import hashlib
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedkd.errors import FedkdError, SettingError, one_line, unknown_name

_PATTERN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_import_path(name: str) -> bool:
    """Return whether a name is of the form ``package.module:attribute``.

    >>> is_import_path("my_package.my_module:MyFusion"), is_import_path("knfu")
    (True, False)
    """
    return _PATTERN.fullmatch(name) is not None


def import_path(path: str, *, what: str) -> Any:
    """Return the object at ``package.module:attribute``.

    ``what`` is the setting that named it, for the error.
    """
    module_name, _, attribute = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise SettingError(
                f"{what}={path}: there is no module {error.name!r} on Python's path;"
                " run from the folder that holds it, or install it"
            ) from error
        raise SettingError(
            f"{what}={path}: {module_name} needs {error.name!r}, which is not installed"
        ) from error
    except Exception as error:
        raise SettingError(
            f"{what}={path}: importing {module_name} failed: {type(error).__name__}: {error}"
        ) from error
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


@contextlib.contextmanager
def attribute_errors_to(owner: object, what: str, kind: type[FedkdError]) -> Iterator[None]:
    """Turn an exception in a user's object into one line that names its place.

    The traceback stays the cause.

    ``what`` says what the object is, ``kind`` which error it becomes. fedkd's own errors pass as
    they are.
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
        raise kind(f"{what} {type(owner).__name__} failed: {one_line(error, files)}") from error


def code_hash(thing: Any) -> str:
    """Return a hash of the source file that defines a class or function.

    It is that of its name where there is no such file.

    For the keys of caches: what a user's factory or partition made is made again once its file has
    changed.
    """
    try:
        source = Path(inspect.getfile(thing)).read_bytes()
    except (TypeError, OSError):
        source = repr(thing).encode()
    return hashlib.sha256(source).hexdigest()
