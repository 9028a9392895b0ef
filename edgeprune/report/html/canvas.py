"""Canvas of the pictures: matplotlib draws them as SVG, in two sizes, and a page colours them.

A drawing is made in stand-in colours, one for each part that it plays (`Ink`). They become names of CSS
variables, so that one SVG is right on light and on dark paper. Text stays text; what it says is data, never
mathematics. matplotlib is imported here alone, without pyplot, and its settings are put back.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from edgeprune.report.html.parts import NumberTable, Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SVG = "http://www.w3.org/2000/svg"
LINK = "{http://www.w3.org/1999/xlink}href"
DOTS = 72  # per inch: with it, matplotlib's points, its SVG's units and a page's pixels are one
TEXT = 13.0  # pixels of a label
_COLOUR = re.compile(r"#[0-9a-f]{6}")
_FONT = re.compile(r"font: ([\d.]+)px [^;]*")
_POINTER = re.compile(r"url\(#([^)]+)\)")


class Ink(str, Enum):
    """Parts that a colour plays; the values are stand-ins, and `page.html.jinja` has the colours."""

    TEXT = "#010101"
    MUTED = "#020202"
    GRID = "#030303"
    PAPER = "#040404"
    DENSE = "#050505"
    INT8 = "#060606"
    CHOSEN = "#070707"
    TRIAL = "#080808"
    LIMIT = "#090909"

    @property
    def variable(self) -> str:
        """Name of its CSS variable."""
        return f"--{self.name.lower()}"


STYLE: Any = {  # matplotlib types its keys one by one, other ones in each version
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": TEXT,
    "text.color": Ink.TEXT,
    "axes.labelcolor": Ink.TEXT,
    "axes.axisbelow": True,
    "axes.edgecolor": Ink.GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": Ink.GRID,
    "xtick.color": Ink.MUTED,
    "ytick.color": Ink.MUTED,
    "legend.frameon": False,
    "legend.labelcolor": Ink.TEXT,
}


@dataclass(frozen=True)
class DrawingSize:
    """Size of a drawing, for a screen or a phone; its width in pixels."""

    name: str
    width: int

    @property
    def narrow(self) -> bool:
        return self is NARROW

    def fitted(self, name: str, most: int) -> str:
        """Name shortened in front to `most` characters: the end of a layer's name tells more."""
        return name if len(name) <= most else f"…{name[1 - most :]}"


WIDE, NARROW = DrawingSize("wide", 860), DrawingSize("narrow", 344)
Draw = Callable[["Axes", DrawingSize], None]


def picture(
    key: str,
    title: str,
    told: str,
    numbers: NumberTable,
    draw: Draw,
    height: Callable[[DrawingSize], float],
) -> Picture:
    """Picture in both sizes. height: of the drawing in pixels.

    Raises `ModuleNotFoundError` without matplotlib.
    """
    wide, narrow = (_svg(f"{key}-{size.name}", told, draw, size, height(size)) for size in (WIDE, NARROW))
    return Picture(key, title, told, wide, narrow, numbers)


def _svg(key: str, told: str, draw: Draw, size: DrawingSize, height: float) -> str:
    from matplotlib import rc_context, rcdefaults, rcParams
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context():
        rcdefaults()
        rcParams.update(STYLE)
        rcParams["svg.hashsalt"] = key  # ids of one drawing are its own
        figure = Figure(figsize=(size.width / DOTS, height / DOTS), dpi=DOTS, layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        draw(axes, size)
        stream = io.BytesIO()
        # Figure.savefig would draw twice.
        canvas = FigureCanvasSVG(figure)
        canvas.print_svg(stream, metadata={"Date": None})  # type: ignore[no-untyped-call]
    return inlined(stream.getvalue(), key, told)


def inlined(document: bytes, key: str, told: str) -> str:
    """SVG element for a page, of an SVG file that matplotlib wrote.

    Its ids begin with `key`, its colours are CSS variables, its text is set as the page's, and it has the
    text alternative `told`.
    """
    ElementTree.register_namespace("", SVG)
    root = ElementTree.fromstring(document)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    pointed = set(_POINTER.findall(document.decode("utf-8")))
    pointed |= {node.attrib[LINK][1:] for node in root.iter() if LINK in node.attrib}
    for node in root.iter():
        _settle(node, key, pointed)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-label", told)
    title = ElementTree.Element(f"{{{SVG}}}title")
    title.text = told
    root.insert(0, title)
    return ElementTree.tostring(root, encoding="unicode")


def _settle(node: ElementTree.Element, key: str, pointed: set[str]) -> None:
    """Make one element independent of where it stands: ids, references, colours, fonts."""
    name = node.attrib.pop("id", None)
    if name in pointed:
        node.set("id", f"{key}-{name}")
    if LINK in node.attrib:
        node.set("href", f"#{key}-{node.attrib.pop(LINK)[1:]}")
    for attribute, text in node.attrib.items():
        if "url(#" in text:
            node.set(attribute, _POINTER.sub(lambda found: f"url(#{key}-{found[1]})", text))
    style = node.attrib.get("style")
    if style is not None:
        style = _FONT.sub(lambda found: f"font-size: {found[1]}px", style)
        node.set("style", _COLOUR.sub(lambda found: f"var({Ink(found[0]).variable})", style))
