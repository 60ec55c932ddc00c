"""Charts as SVG for a page: they take its font and text colour, and stay legible on light and on dark paper."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from segdistill.errors import printable

#: Inches; with a font of 10 points, text is some 10 pixels high on a phone and 16 on a desk.
WIDTH = 4.8
HEIGHT = 3.2
LONGEST_NAME = 26
FEW_PLACES = 6  #: so many whole numbers on an x axis are each marked
DIGIT = 0.024  #: share of an x axis that a digit below it takes
GREY = "#888888"
INK = "#010203"  #: stands for the page's text colour

_SETTINGS: Any = {  # keys are spelt out in newer versions' types only
    "svg.fonttype": "none",  # texts stay texts: the page's font, and something to search and to read aloud
    "svg.hashsalt": "segdistill",  # equal charts are equal files
    "text.parse_math": False,  # a $ in a class's name is a $
    "font.size": 10,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}

# Hues that differ for colour-blind eyes too, of middling brightness; markers and dashes tell them apart as well.
_COLOURS = ("#2f7fc1", "#e08214", "#2a9d6f", "#a05cc0", "#d6483f", "#8c6d31", "#d667a8", "#2aa7b8")
_GREYS = ("#7b8794", "#aaaaaa", "#b59f78", "#7d8f7a")
_MARKERS = "osD^vPXp"
_GREY_MARKERS = "*hd<"
_DASHES = ("-", "--", "-.", ":")

_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"


@dataclass(frozen=True)
class Style:
    """How one series is drawn in all charts.

    Attributes:
        colour: ``#rrggbb``.
        marker: of its points, matplotlib's name.
        dash: of its lines, matplotlib's name.
        label: what the chart calls it.
    """

    colour: str
    marker: str
    dash: str
    label: str


@dataclass(frozen=True)
class Point:
    """One value with its range, of the series ``name``; ``at`` is where on the x axis, where there is one."""

    name: str
    value: float
    low: float
    high: float
    at: float = 0.0


@dataclass(frozen=True)
class Curve:
    """One line of the series ``name``, through x and y of equal length; a series may have several."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def styles(
    names: Sequence[str], plain: Sequence[str] = (), called: Mapping[str, str] | None = None
) -> dict[str, Style]:
    """A style for each series.

    Args:
        names: of the series.
        plain: those of them that are there to be compared with, drawn in grey.
        called: what the chart calls them, where that is not their name.
    """
    chosen = {}
    for colours, markers, members in (
        (_GREYS, _GREY_MARKERS, [name for name in names if name in plain]),
        (_COLOURS, _MARKERS, [name for name in names if name not in plain]),
    ):
        for number, name in enumerate(members):
            dash = _DASHES[number // len(colours) % len(_DASHES)]
            label = shorten((called or {}).get(name, name))
            chosen[name] = Style(colours[number % len(colours)], markers[number % len(markers)], dash, label)
    return {name: chosen[name] for name in names}


def intervals(title: str, points: Sequence[Point], looks: Mapping[str, Style], unit: str) -> str:
    """Each point with its interval on a line of its own, against a line at 0."""
    with _chart(title, 0.9 + 0.36 * len(points)) as (axes, result):
        axes.axvline(0, color=GREY, linewidth=1.2)
        for row, point in enumerate(points):
            look = looks[point.name]
            axes.plot([point.low, point.high], [row, row], color=look.colour, linewidth=2.4)
            axes.plot([point.value], [row], look.marker, color=look.colour, markersize=7)
        axes.set_yticks(range(len(points)), [looks[point.name].label for point in points])
        axes.set_ylim(len(points) - 0.4, -0.6)
        axes.set_xlabel(unit)
        axes.grid(axis="x")
    return result[0]


def scatter(title: str, points: Sequence[Point], looks: Mapping[str, Style], x: str, y: str) -> str:
    """Points with vertical ranges over a logarithmic x axis; those at equal x are drawn side by side."""
    with _chart(title, HEIGHT) as (axes, result):
        axes.set_xscale("log")
        for point in points:
            look = looks[point.name]
            equals = [other.name for other in points if other.at == point.at]
            aside = 1.06 ** (equals.index(point.name) - (len(equals) - 1) / 2)
            axes.errorbar(
                [point.at * aside],
                [point.value],
                yerr=[[point.value - point.low], [point.high - point.value]],
                fmt=look.marker,
                color=look.colour,
                capsize=3,
                label=look.label,
            )
        least, most = min(point.at for point in points), max(point.at for point in points)
        axes.set_xlim(least / 1.6, most * 1.6)
        axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(base=10, subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.grid()
        _legend(axes)
    return result[0]


def bars(
    title: str, groups: Sequence[str], points: Sequence[Sequence[Point]], looks: Mapping[str, Style], unit: str
) -> str:
    """Horizontal bars with ranges in groups.

    Args:
        title: what the chart shows, for those who cannot see it.
        groups: names of the groups, from top to bottom.
        points: the bars of each group; a series without a value in it is left out.
        looks: the style of every series.
        unit: of the values.
    """
    names = [name for name in looks if any(point.name == name for group in points for point in group)]
    thick = 1 / (len(names) + 1)
    with _chart(title, 1.1 + len(groups) * (0.16 * len(names) + 0.14) + 0.09 * len(names)) as (axes, result):
        for name in names:
            where, values, below, above = [], [], [], []
            for row, group in enumerate(points):
                for point in group:
                    if point.name == name:
                        where.append(row + thick * (names.index(name) - (len(names) - 1) / 2))
                        values.append(point.value)
                        below.append(point.value - point.low)
                        above.append(point.high - point.value)
            whiskers = [below, above] if any(below) or any(above) else None
            look = looks[name]
            axes.barh(where, values, thick, xerr=whiskers, color=look.colour, ecolor=INK, label=look.label)
        axes.set_yticks(range(len(groups)), [shorten(group) for group in groups])
        axes.set_ylim(len(groups) - 0.45, -0.55)
        axes.set_xlabel(unit)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        _legend(axes)
    return result[0]


def lines(title: str, curves: Sequence[Curve], looks: Mapping[str, Style], x: str, y: str) -> str:
    """Lines; a series is named once however many lines it has. One of a single point is a level across the chart."""
    with _chart(title, HEIGHT) as (axes, result):
        named: set[str] = set()
        for curve in curves:
            look = looks[curve.name]
            label = None if curve.name in named else look.label
            named.add(curve.name)
            if len(curve.x) == 1:
                axes.axhline(curve.y[0], color=look.colour, linestyle=look.dash, linewidth=1.4, label=label)
            else:
                marker = look.marker if len(curve.x) <= 12 else ""
                axes.plot(
                    curve.x, curve.y, look.dash, color=look.colour, marker=marker, markersize=4, alpha=0.85, label=label
                )
        axes.autoscale_view(scalex=False)  # a level above all curves would be drawn on the chart's edge
        places = sorted({at for curve in curves if len(curve.x) > 1 for at in curve.x})
        # Epochs and pixels, but not seconds.
        if 0 < len(places) <= FEW_PLACES and all(at == round(at) for at in places):
            axes.set_xticks(marked := _far_enough(places), [f"{at:g}" for at in marked])
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.grid()
        _legend(axes)
    return result[0]


def shorten(name: str) -> str:
    """A name that fits beside an axis.

    Example:
        >>> shorten("a" * 40) == "a" * 25 + "…"
        True
    """
    name = printable(name)
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def _far_enough(places: Sequence[float]) -> list[float]:
    """Those whose number would not run into that of the next."""
    digit = DIGIT * (places[-1] - places[0])
    kept = [at for at, after in pairwise(places) if after - at > digit * len(f"{after:g}")]
    return [*kept, places[-1]]


def _legend(axes: Axes) -> None:
    """Below the chart, in two columns."""
    figure = axes.figure
    assert isinstance(figure, Figure)
    handles, labels = axes.get_legend_handles_labels()
    # A label that begins with "_" would be left out by matplotlib, so labels are set by hand.
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=9)


@contextmanager
def _chart(title: str, height: float) -> Iterator[tuple[Axes, list[str]]]:
    """Axes to draw on, and a list that holds the chart as SVG once they are left."""
    result: list[str] = []
    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the page has fonts of its own
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
        yield axes, result
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    result.append(_inline(file.getvalue(), title))


def _inline(svg: bytes, title: str) -> str:
    """An SVG file as an element of a page: no addresses, no fixed size, no identifiers that two charts share."""
    root = ElementTree.fromstring(svg)
    own = re.sub(r"\W+", "-", title)
    for parent in root.iter():
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        for key, value in list(element.attrib.items()):
            if key == "id" and element.tag == "g":  # which nothing refers to
                del element.attrib[key]
            elif key == "id":
                element.set(key, f"{own}-{value}")
            elif key == _LINK:
                del element.attrib[key]
                element.set("href", f"#{own}-{value[1:]}")
            elif "url(#" in value:
                element.set(key, value.replace("url(#", f"url(#{own}-"))
            elif INK in value:
                element.set(key, value.replace(INK, "currentColor"))
            elif key == "style" and element.tag == "text":
                # Font and colour are the page's.
                kept = re.findall(r"(?:text-anchor|font-size|font-weight): [^;]+|(?<=font: )[\d.]+px", value)
                element.set(key, "; ".join(f"font-size: {part}" if part[0].isdigit() else part for part in kept))
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("role", "img")
    root.set("aria-label", title)
    return ElementTree.tostring(root, encoding="unicode")
