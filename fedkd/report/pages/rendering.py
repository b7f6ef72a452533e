"""Fill the templates of reports. Every value is escaped, as folders may come from anybody."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from fedkd.report.pages.templates import TEMPLATES

LONGEST = 2000
"""The most characters of a text from a folder that are shown."""
MOST_IN_LABEL = 32
"""The most characters of a name in a picture."""
MOST_ROWS = 500
"""The most rows of a table that are shown."""
UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that no text needs: of control, of another direction, halves of one."""


@dataclass(frozen=True)
class Grid:
    """A table of a report: the first ``names`` cells of a row name it."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int = 1
    note: str = ""
    title: str = ""
    """Where a heading stands above it."""

    def shortened(self) -> "Grid":
        """Return the table with its first rows, and a note on the others, where it is long."""
        if len(self.rows) <= MOST_ROWS:
            return self
        note = f"The first {MOST_ROWS} of {len(self.rows)} rows; the run's files have all."
        return replace(self, rows=self.rows[:MOST_ROWS], note=f"{self.note} {note}")


def render(template: str, **values: Any) -> str:
    """Return a page: the template of a name, filled with values."""
    return _environment().get_template(template).render(**values)


def visible(value: Any) -> Any:
    r"""Return a value as a template shows it: texts without hidden characters, and not endless.

    >>> visible("a\u202eb")
    'ab'
    """
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    text = UNSEEN.sub("", value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


def label(text: str, most: int = MOST_IN_LABEL) -> str:
    """Return a name as a picture shows it: in one line, of so many characters at most."""
    line = " ".join(str(visible(text)).split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


@cache
def _environment() -> Environment:
    return Environment(
        loader=DictLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
