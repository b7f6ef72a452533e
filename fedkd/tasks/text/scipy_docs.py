"""A small labeled corpus that every installation has: paragraphs of SciPy's documentation.

They are read from the docstrings of the installed SciPy (BSD-3-Clause), so that nothing is
downloaded and nothing copied. Not for: other sources of labeled texts.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import numpy as np

from fedkd.data.texts import TextRows
from fedkd.errors import SettingError

TOPICS = ("integrate", "interpolate", "linalg", "ndimage", "signal", "spatial")
"""The parts of SciPy that are read; each is a class."""
FEWEST_WORDS = 8
_PROSE = ("", "Notes")
"""The sections of a docstring that hold prose; the first is what stands before any heading."""


@dataclass(frozen=True, kw_only=True)
class ScipyDocs:
    """Paragraphs of SciPy's documentation, with the part that they are of as class; no download."""

    task: ClassVar[str] = "labeled_texts"

    def content_key(self) -> str:
        """Return a key with the version of SciPy, whose texts they are."""
        return f"scipy-docs-1-{version('scipy')}"

    def load(self) -> TextRows:
        """Return the paragraphs with their topic, and in column ``module`` the file that has each.

        Equal paragraphs are kept once, so that none is trained on and tested on.
        """
        found: dict[str, tuple[int, str]] = {}
        for label, topic in enumerate(TOPICS):
            for module, text in _paragraphs(_root() / topic):
                found.setdefault(text, (label, f"{topic}.{module}"))
        labels = np.array([label for label, _ in found.values()], dtype=np.int64)
        columns = {"module": np.array([module for _, module in found.values()])}
        return TextRows(tuple(found), labels, len(found), TOPICS, columns)


def _root() -> Path:
    """Return the folder of the installed SciPy."""
    found = find_spec("scipy")
    if found is None or found.origin is None:
        raise SettingError("data=scipy_docs needs SciPy's files, which are not installed as files")
    return Path(found.origin).parent


def _paragraphs(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the paragraphs of prose in a package's docstrings, each with the module's name."""
    for file in sorted(folder.glob("*.py")):
        for docstring in _docstrings(ast.parse(file.read_text(encoding="utf-8"))):
            for text in prose(docstring):
                yield file.stem.lstrip("_"), text


def _docstrings(tree: ast.Module) -> Iterator[str]:
    """Yield the docstrings of public functions, classes and methods."""
    for node in tree.body:
        inside = node.body if isinstance(node, ast.ClassDef) else []
        for one in (node, *inside):
            if isinstance(one, ast.FunctionDef | ast.ClassDef) and not one.name.startswith("_"):
                yield ast.get_docstring(one) or ""


def prose(docstring: str) -> list[str]:
    r"""Return the paragraphs of a docstring that are sentences, each on one line.

    Lists of parameters, examples, formulas and short lines are left out.

    >>> prose("Solve.\n\nThe system is solved by a method that is as old as the hills.\n\n"
    ...       "Parameters\n----------\na : array\n    A matrix that is never used in this example.")
    ['The system is solved by a method that is as old as the hills.']
    """
    headings = re.split(r"^(\w[\w ]*)\n[-=]{3,}$", docstring, flags=re.MULTILINE)
    sections = zip(["", *headings[1::2]], headings[0::2], strict=True)
    paragraphs = [
        " ".join(paragraph.split())
        for heading, body in sections
        if heading in _PROSE
        for paragraph in re.split(r"\n\s*\n", body)
    ]
    return [
        text
        for text in paragraphs
        if len(text.split()) >= FEWEST_WORDS and text[0].isalpha() and not _IS_MARKUP.search(text)
    ]


_IS_MARKUP = re.compile(r"::|>>>|\.\. |:math:|%\(")
