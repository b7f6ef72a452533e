"""The color, marker and dashes of a method: the same in a run's pictures, comparisons and reports.

Colors are Okabe and Ito's, which color-blind readers can tell apart; marker and dashes suffice
without them. Local-only training is gray everywhere.
"""

import zlib
from collections.abc import Sequence
from typing import Any

LineStyle = tuple[str, str, Any]
"""Color, marker and dashes."""
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#555555"
STYLES: Sequence[LineStyle] = (
    (BLUE, "o", "-"),
    (ORANGE, "s", "--"),
    (GREEN, "^", "-."),
    ("#CC79A7", "D", (0, (1, 1))),
    ("#56B4E9", "v", (0, (5, 1, 1, 1, 1, 1))),
    ("#E69F00", "P", (0, (6, 2))),
    ("#000000", "X", (0, (3, 1))),
)
MARKERS = "os^DvPX<>*hpd"
"""For methods whose color another one has."""
LOCAL_ONLY_STYLE: LineStyle = (GREY, "", (0, (2, 2)))
PLACES = {
    **{"knfu": 0, "fedmd": 1, "dsfl": 2, "feddf": 3, "feddf_logits": 3, "fd": 4, "scarlet": 5},
    **{"fedavg": 6, "centralized": 6, "fedproto": 5, "selective_fd": 4, "comet": 2, "learned": 0},
}
"""Places in ``STYLES`` of methods that are often compared; others have one by their name."""


def style_of(method: str) -> LineStyle:
    """Return the style of a method by its name, where nothing stands beside it but local training.

    >>> style_of("knfu strategy.beta=30") == style_of("knfu") == STYLES[0]
    True
    >>> style_of("local_only") == LOCAL_ONLY_STYLE
    True
    """
    name = method.partition(" ")[0].rpartition(":")[2]
    if name in ("local_only", "local-only"):
        return LOCAL_ONLY_STYLE
    return STYLES[PLACES.get(name, zlib.crc32(name.encode()) % len(STYLES))]


def styles_of(methods: Sequence[str]) -> dict[str, LineStyle]:
    """Return the styles of methods that are compared, no two of them alike.

    The first method of a color keeps it. The others take the colors that are left, and after these
    their own with another marker.

    >>> found = styles_of(["knfu", "knfu strategy.beta=30", "fedmd", "local_only"])
    >>> [found[name][0] for name in found]
    ['#0072B2', '#009E73', '#D55E00', '#555555']
    """
    found, later = dict[str, LineStyle](), list[str]()
    for method in methods:
        style = style_of(method)
        if style in found.values() and style != LOCAL_ONLY_STYLE:
            later.append(method)
        else:
            found[method] = style
    free = [style for style in STYLES if style not in found.values()]
    for index, method in enumerate(later):
        color, _, dashes = free[index] if index < len(free) else style_of(method)
        marker = free[index][1] if index < len(free) else _unused(color, list(found.values()))
        found[method] = (color, marker, dashes)
    return {method: found[method] for method in methods}


def _unused(color: str, others: Sequence[LineStyle]) -> str:
    """Return the marker that the fewest methods of a color have, and then the fewest of all."""
    same = [style[1] for style in others if style[0] == color]
    every = [style[1] for style in others]
    return min(MARKERS, key=lambda marker: (same.count(marker), every.count(marker)))
