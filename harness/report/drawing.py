"""Charts: Vega-Lite specifications, drawn as static SVG by vl-convert; the page shows them without a script.

Colours are CSS variables, so that one drawing serves light and dark. Charts are half a page wide, and still readable
when a phone shows them smaller.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

WIDTH = 440  # pixels of a whole chart
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
OUTLINES = (  # the same shapes for texts, as SVG paths within 5 of the centre
    "M4,0A4,4,0,1,1,-4,0A4,4,0,1,1,4,0",
    "M-3.5,-3.5h7v7h-7Z",
    "M0,-4L4.5,3.8H-4.5Z",
    "M0,-5L4.2,0L0,5L-4.2,0Z",
    "M-1.6,-4.6h3.2v3h3v3.2h-3v3h-3.2v-3h-3v-3.2h3Z",
    "M0,4L4.5,-3.8H-4.5Z",
    "M4,0L-3.8,4.5V-4.5Z",
    "M-4,0L3.8,4.5V-4.5Z",
)
FONT = "sans-serif"  # for measuring; the page uses its own
LONGEST = 16  # characters shown of a name beside a chart
SIZE = 12.5
VIEW_BOX = re.compile(r'viewBox="0 0 ([0-9.]+) ([0-9.]+)"')
TEXT, MUTED, LINE = "var(--text)", "var(--muted)", "var(--line)"
CONFIG = {
    "background": None,
    "padding": 2,
    "font": FONT,
    "view": {"stroke": None},
    "axis": {
        "labelColor": MUTED,
        "titleColor": MUTED,
        "gridColor": LINE,
        "labelFontSize": SIZE,
        "titleFontSize": SIZE,
        "titleFontWeight": "normal",
        "labelLimit": 0,
        "domain": False,
        "ticks": False,
        "aria": False,
        "labelPadding": 6,
        "titlePadding": 6,
    },
    "axisX": {"labelSeparation": 8},
    "axisY": {"grid": False},
    "text": {"fill": TEXT, "fontSize": SIZE, "aria": False},
    "point": {"opacity": 1, "filled": True, "size": 64},
    "rule": {"opacity": 1},
    "line": {"opacity": 1, "aria": False},
}


@dataclass(frozen=True)
class Series:
    """A method as all charts and tables of the page show it; its place in the table decides its colour and shape."""

    name: str
    index: int

    @property
    def color(self) -> str:
        return f"var(--series-{self.index % len(SHAPES)})"

    @property
    def css(self) -> str:
        return f"series-{self.index % len(SHAPES)}"

    @property
    def outline(self) -> str:
        return OUTLINES[self.index % len(OUTLINES)]


@dataclass(frozen=True)
class Figure:
    """A chart with its text alternative: a sentence that describes it, and its numbers."""

    title: str
    svg: str
    description: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def draw(spec: dict[str, Any]) -> str:
    """Draw a specification as an SVG element, hidden from screen readers, which read the description instead."""
    import vl_convert

    svg = vl_convert.vegalite_to_svg({**spec, "config": CONFIG}, allowed_base_urls=[])
    width, height = size_of(svg)
    opening = f'<svg class="chart" aria-hidden="true" viewBox="0 0 {max(width, WIDTH):g} {height:g}">'
    return re.sub(r"^.*?<svg [^>]*>", opening, svg, count=1, flags=re.DOTALL).replace(f' font-family="{FONT}"', "")


def size_of(svg: str) -> tuple[float, float]:
    """Width and height of an SVG element, from its viewBox."""
    size = VIEW_BOX.search(svg)
    assert size, "vl-convert and `draw` write a viewBox"
    return float(size[1]), float(size[2])


def scales(series: Sequence[Series]) -> dict[str, dict[str, Any]]:
    """Encodings of colour and shape by the field "method"."""
    names = [each.name for each in series]
    scale = {"domain": names, "range": [each.color for each in series]}
    shape = {"domain": names, "range": [SHAPES[each.index % len(SHAPES)] for each in series]}
    return {
        "color": {"field": "method", "type": "nominal", "scale": scale, "legend": None},
        "shape": {"field": "method", "type": "nominal", "scale": shape, "legend": None},
    }


def short(name: str) -> str:
    """The name, shortened to LONGEST characters."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


SHORT_LABELS = f"length(datum.label) <= {LONGEST} ? datum.label : slice(datum.label, 0, {LONGEST - 1}) + '…'"


def values(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The data of a specification."""
    return {"values": list(rows)}


def apart(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move places as little as possible so that they are `gap` apart, in order, and within [low, high] if they fit."""
    order = sorted(range(len(places)), key=places.__getitem__)
    blocks: list[list[float]] = []  # [mean of the wanted first places, members]
    for index, place in enumerate(places[i] for i in order):
        blocks.append([place - gap * index, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (left, many), (right, few) = blocks[-2:]
            blocks[-2:] = [[(left * many + right * few) / (many + few), many + few]]
    most = max(low, high - gap * (len(places) - 1))
    starts = [min(max(start, low), most) for start, members in blocks for _ in range(int(members))]
    moved = [0.0] * len(places)
    for index, (place, start) in enumerate(zip(order, starts, strict=True)):
        moved[place] = start + gap * index
    return moved
