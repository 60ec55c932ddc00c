from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from segdistill.errors import printable
from segdistill.reporting.charts import Curve, Point, bars, intervals, lines, scatter, styles

NAMES = ["teacher", "none", "brd", "<i>&$x$"]
LOOKS = styles(NAMES, plain=("teacher", "none"))
POINTS = [Point(name, value, value - 1, value + 1, 2.0) for value, name in enumerate(NAMES, 50)]
CURVES = [Curve("brd", [1, 2], [3, 4]), Curve("brd", [1, 2], [3, 5]), Curve("teacher", [0], [6])]
CHARTS = {
    "intervals": intervals("one", POINTS, LOOKS, "points"),
    "scatter": scatter("two", POINTS, LOOKS, "parameters", "mIoU"),
    "bars": bars("three", ["road", "$car$"], [POINTS, POINTS[:1]], LOOKS, "%"),
    "lines": lines("four", CURVES, LOOKS, "epoch", "mIoU"),
}


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("text")]


@pytest.mark.parametrize("kind", CHARTS)
def test_a_chart_is_an_element_of_the_page(kind: str) -> None:
    svg = CHARTS[kind]
    root = ElementTree.fromstring(svg)
    assert root.tag == "svg"
    assert root.get("aria-label") in ("one", "two", "three", "four")
    assert root.get("viewBox") is not None
    assert root.get("width") is None
    assert "http" not in svg
    assert "<style" not in svg
    ids = {element.get("id") for element in root.iter() if element.get("id")}
    used = {element.get("href") for element in root.iter() if element.get("href")}
    assert {reference[1:] for reference in used if reference} <= ids
    assert not any("fill" in (element.get("style") or "") for element in root.iter("text"))


def test_names_are_texts_as_they_are() -> None:
    assert "<i>&$x$" in texts(CHARTS["intervals"])
    assert {"road", "$car$", *NAMES} <= set(texts(CHARTS["bars"]))
    assert texts(CHARTS["lines"]).count("brd") == 1  # two runs, one name
    assert set(NAMES) <= set(texts(CHARTS["scatter"]))


def test_few_epochs_are_each_marked_and_seconds_are_not() -> None:
    assert {"1", "2"} <= set(texts(CHARTS["lines"]))
    close = [Curve("brd", [101.38, 243.62], [3, 4]), Curve("none", [108.98, 140.65], [3, 5])]
    assert not {"101.38", "108.98"} & set(texts(lines("five", close, LOOKS, "seconds", "mIoU")))


def test_marks_of_epochs_do_not_run_into_each_other() -> None:
    marked = texts(lines("six", [Curve("brd", [120, 240, 360, 437, 450], [1] * 5)], LOOKS, "epoch", "mIoU"))
    assert [text for text in marked if text in ("120", "240", "360", "437", "450")] == ["120", "240", "360", "450"]
    assert {"1", "2", "4", "8", "16"} <= set(
        texts(lines("seven", [Curve("brd", [1, 2, 4, 8, 16], [1] * 5)], LOOKS, "", ""))
    )


def test_a_level_above_all_curves_is_not_the_edge_of_the_chart() -> None:
    svg = lines("eight", [Curve("brd", [1, 2], [30.0, 50.0]), Curve("teacher", [0], [50.9])], LOOKS, "epoch", "mIoU")
    heights = [  # of horizontal lines, and of the ends of the vertical ones
        [float(at) for at in re.findall(r"[ML] [\d.]+ ([\d.]+)", path.get("d") or "")]
        for path in ElementTree.fromstring(svg).iter("path")
        if LOOKS["teacher"].colour in (path.get("style") or "") or "stroke-linecap: square" in (path.get("style") or "")
    ]
    level = min(ends[0] for ends in heights if len(ends) == 2 and ends[0] == ends[1])
    assert level > min(min(ends) for ends in heights) + 3


def test_no_two_charts_share_an_identifier() -> None:
    ids = [element.get("id") for svg in CHARTS.values() for element in ElementTree.fromstring(svg).iter()]
    named = [one for one in ids if one]
    assert len(named) == len(set(named))


def test_equal_charts_are_equal() -> None:
    assert intervals("one", POINTS, LOOKS, "points") == CHARTS["intervals"]


def test_every_series_looks_different() -> None:
    looks = styles([f"method {number}" for number in range(12)] + ["none", "none@time"], plain=("none", "none@time"))
    assert len(set(looks.values())) == 14
    assert looks["none"].colour != looks["none@time"].colour


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["\x1b[31mroad", "道路"])
def test_any_name_may_stand_on_a_page(name: str) -> None:
    """XML knows no control characters; the page has fonts that matplotlib has not."""
    svg = bars("five", [name], [[Point("brd", 1.0, 0.5, 1.5, 2.0)]], styles(["brd"], plain=()), "%")
    assert printable(name) in texts(svg)
