"""A chart drawn by matplotlib, as SVG text that takes its colours and its font from the page around it."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 520, 260
"""Default size of a chart, in units of its viewBox."""

_VARIABLES = ("page", "card", "ink", "muted", "line", "well", "ok", "error", "skipped")
_SERIES = ("series-0", "series-1", "series-2", "series-3", "series-4", "series-5")
COLOURS: Mapping[str, str] = MappingProxyType(
    {name: f"#0000{number:02x}" for number, name in enumerate((*_VARIABLES, *_SERIES), 1)}
)
"""Placeholders for the CSS variables of base.html, which sets them for light and for dark screens.

Where an artist is COLOURS["ink"], the SVG has `var(--ink)`.
"""

_STYLE = {
    "axes.edgecolor": COLOURS["line"],
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": COLOURS["muted"],
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "font.size": 12.5,
    "grid.color": COLOURS["line"],
    "grid.linewidth": 1.0,
    "lines.solid_capstyle": "round",
    "path.simplify": False,
    "svg.fonttype": "none",
    "text.color": COLOURS["ink"],
    "text.parse_math": False,  # class names may hold dollar signs
    "xtick.color": COLOURS["muted"],
    "xtick.major.size": 0,
    "ytick.color": COLOURS["muted"],
    "ytick.major.size": 0,
}
_PLACEHOLDER = re.compile("|".join(COLOURS.values()))
_NAMES = {placeholder: name for name, placeholder in COLOURS.items()}
_FONT = re.compile(r"font[a-z-]*:[^;]*;?\s*")


class Chart:
    """One pair of axes and its SVG.

    Every artist is drawn inside `style`, or matplotlib's own colours and the user's matplotlibrc apply:

        chart = Chart("Mean IoU")
        with chart.style():
            dots = chart.axes.scatter(x, y, color=COLOURS["series-0"], clip_on=False)
        chart.tag(dots, "best", ["trial 1: 50 %", "trial 2: 60 %"])
        text = chart.svg()

    Args:
        title: the accessible name; different charts of a page have different titles.
        width: of the viewBox.
        height: of the viewBox.
    """

    def __init__(self, title: str, width: int = WIDTH, height: int = HEIGHT) -> None:
        from matplotlib.figure import Figure

        # matplotlib's SVG has 72 units per inch.
        with self.style():
            self._figure = Figure((width / 72, height / 72), layout="constrained")
            self.axes: Axes = self._figure.subplots()
        self.title = title
        self._tags: dict[str, tuple[str, Sequence[str]]] = {}

    @contextmanager
    def style(self) -> Iterator[None]:
        """matplotlib's default style with the page's colours, whatever the user's own style is."""
        from matplotlib import style

        with style.context(["default", _STYLE], after_reset=True):
            yield

    def tag(self, artist: Artist, css_class: str, tips: Sequence[str] = ()) -> None:
        """Give an artist a CSS class, and its marks texts that show when they are pointed at.

        Args:
            artist: a line, a collection, a patch, ...
            css_class: of its group in the SVG.
            tips: one per mark, in the order of the marks; empty: none.
        """
        name = f"tag-{len(self._tags)}"
        artist.set_gid(name)
        self._tags[name] = (css_class, tips)

    def svg(self) -> Markup:
        """The chart as an `<svg>` element for a page; equal charts give equal text.

        Raises:
            ValueError: an artist has another number of marks than of tips.
        """
        root = ET.fromstring(self._draw())  # noqa: S314  matplotlib's output, not a user's file
        _drop_document_parts(root)
        for group in root.iter("g"):
            css_class, tips = self._tags.get(group.attrib.pop("id", ""), ("", ()))
            if css_class:
                group.set("class", css_class)
            _add_tips(group, tips)
        root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": self.title}
        # ElementTree has escaped every text.
        return Markup(ET.tostring(root, encoding="unicode"))  # noqa: S704

    def _draw(self) -> str:
        from matplotlib import rc_context

        buffer = io.StringIO()
        # The salt makes the ids of markers the same in each run, and different from those of other charts.
        with self.style(), rc_context({"svg.hashsalt": self.title}), warnings.catch_warnings():
            # Texts keep their characters in the SVG: the page's fonts have those that matplotlib's lacks.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            self._figure.savefig(buffer, format="svg", metadata={"Date": None})
        return buffer.getvalue()


def _drop_document_parts(root: ET.Element) -> None:
    """Drop namespaces, metadata and the style sheet, which would apply to the whole page."""
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = {_local(name): value for name, value in element.attrib.items()}
        if "style" in element.attrib:
            element.set("style", _page_style(element.attrib["style"]))
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in {"metadata", "style"}:
                parent.remove(child)


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _page_style(style: str) -> str:
    """A style attribute with the page's font and the page's colours."""
    return _PLACEHOLDER.sub(lambda match: f"var(--{_NAMES[match[0]]})", _FONT.sub("", style))


def _add_tips(group: ET.Element, tips: Sequence[str]) -> None:
    if not tips:
        return
    definitions = {id(path) for defs in group.iter("defs") for path in defs}
    marks = [mark for mark in group.iter() if mark.tag in {"path", "use"} and id(mark) not in definitions]
    for mark, tip in zip(marks, tips, strict=True):
        ET.SubElement(mark, "title").text = tip
