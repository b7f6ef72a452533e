"""Pictures inside a page: SVG whose colors follow the page's scheme, or PNG where SVG is large.

Text in them stays text. A picture is one image to a screen reader, described in words; its figures
stand in a table beside it.
"""

import base64
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

from fedkd.report.plots import NAMING_STYLE

MOST_SVG = 250_000
"""Characters from which on PNG is tried."""
MOST_PNG = 2_000_000
"""Bytes of a stored picture that a page takes in."""
PNG = b"\x89PNG\r\n\x1a\n"
"""How such a file begins."""
INK, FAINT = "#010203", "#010204"
"""Stand for the page's own colors of text and of lines in the background."""
COLORS = {
    INK: "--ink",
    FAINT: "--rule",
    "#000000": "--ink",
    "#0072b2": "--blue",
    "#d55e00": "--orange",
    "#009e73": "--green",
    "#cc79a7": "--pink",
    "#56b4e9": "--sky",
    "#e69f00": "--amber",
    "#555555": "--gray",
}
"""Variables of the page's style sheet by what was drawn."""
PAGE_STYLE: Any = {
    **NAMING_STYLE,
    "svg.fonttype": "none",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.edgecolor": INK,
    "legend.labelcolor": INK,
    "grid.color": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}
WHITE_STYLE: Any = {**NAMING_STYLE, "figure.facecolor": "white", "savefig.facecolor": "white"}


@dataclass(frozen=True)
class Picture:
    """A picture in a page."""

    caption: str
    described: str
    """In words, for who does not see it."""
    markup: Markup
    width: int
    """In points: wider than that it is not shown."""


def picture(name: str, caption: str, described: str, draw: Callable[[], Figure]) -> Picture:
    """Return a picture for a page.

    Args:
        name: An identifier that no other picture of the page has.
        caption: What stands below it.
        described: What it shows, in words.
        draw: Draws it, under the style that is set when it is called.
    """
    with matplotlib.rc_context({**PAGE_STYLE, "svg.hashsalt": name}):
        figure = draw()
        content = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(content, format="svg", metadata=nothing)
    markup = _as_part(content.getvalue(), name, described)
    if len(markup) > MOST_SVG:
        as_png = _png(draw, described)
        markup = min(markup, as_png, key=len)
    return Picture(caption, described, markup, round(72 * figure.get_figwidth()))


def _as_part(document: str, name: str, described: str) -> Markup:
    """Return an SVG document as a part of a page."""
    body = document[document.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    head, _, rest = body.partition(">")
    found = re.search(r'viewBox="([-\d. ]+)"', head)
    box = "0 0 1 1" if found is None else found[1]
    rest = re.sub(r' id="', f' id="{name}-', rest)
    rest = re.sub(r"url\(#", f"url(#{name}-", rest)
    rest = re.sub(r'href="#', f'href="#{name}-', rest)
    # Of text between tags nothing is taken for a color.
    rest = re.sub(r"<[^>]*>", lambda tag: re.sub(r"#[0-9a-f]{6}\b", _variable, tag[0]), rest)
    rest = re.sub(r">\s+<", "><", rest)
    label = Markup.escape(described)
    return Markup(f'<svg viewBox="{box}" role="img" aria-label="{label}">{rest}')


def _variable(color: re.Match[str]) -> str:
    name = COLORS.get(color[0])
    return color[0] if name is None else f"var({name})"


def _png(draw: Callable[[], Figure], described: str) -> Markup:
    """Return a picture as PNG, on white."""
    content = io.BytesIO()
    with matplotlib.rc_context(WHITE_STYLE):
        draw().savefig(content, format="png", dpi=150)
    return _embedded(content.getvalue(), described)


def stored_picture(path: Path, caption: str, described: str) -> list[Picture]:
    """Return a PNG file as a picture for a page, in a list; none where there is no such file.

    Args:
        path: The file.
        caption: What stands below it.
        described: What it shows, in words.
    """
    try:
        content = path.read_bytes()
    except OSError:
        return []
    if content[:8] != PNG or len(content) > MOST_PNG:
        return []
    width = int.from_bytes(content[16:20], "big")
    return [Picture(caption, described, _embedded(content, described), max(1, width // 2))]


def _embedded(content: bytes, described: str) -> Markup:
    """Return the bytes of a PNG file as an image of a page."""
    encoded = base64.b64encode(content).decode()
    label = Markup.escape(described)
    return Markup(f'<img src="data:image/png;base64,{encoded}" alt="{label}">')
