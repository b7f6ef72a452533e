"""Show the doctests of docstrings as code, in the site's reference.

mkdocstrings loads the extension (``extensions`` in mkdocs.yml). Without it Markdown takes ``>>>``
for three quotations within one another.
"""

import re
from typing import Any

from griffe import Extension

DOCTEST = re.compile(r"(?:^[ \t]*>>> .*\n?(?:^(?![ \t]*$).*\n?)*)", re.MULTILINE)


class DocstringExamples(Extension):  # type: ignore[misc,unused-ignore]
    """Put a fence around each doctest."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Change the docstring of what griffe has read."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """Return a docstring whose doctests are blocks of code."""
    return DOCTEST.sub(lambda found: f"```pycon\n{found[0].rstrip()}\n```\n", text)
