from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdistill.datasets import SyntheticAerial
from segdistill.reporting.gallery import MISTAKES
from tests.reporting.browser import MISSING, Browser

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

#: Resolves once the first image is drawn.
DRAWN = """
return new Promise((done) => {
  const look = () => document.getElementById("counts").rows.length ? done(true) : setTimeout(look, 50);
  look();
});
"""
#: Heights of all letters in pixels; those of a chart are scaled with it.
SIZES = """
return [...document.querySelectorAll("p, td, th, figcaption, figure text")].filter((it) => it.textContent).map((it) => {
  const scale = it.getScreenCTM ? Math.hypot(it.getScreenCTM().a, it.getScreenCTM().b) : 1;
  return scale * parseFloat(getComputedStyle(it).fontSize);
});
"""


@pytest.fixture(scope="module")
def browser(comparison_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile") / "new") as opened:
        load(opened, comparison_folder)
        yield opened
        assert opened.messages() == []  # no error, no warning, nothing refused by the page's policy


def load(browser: Browser, folder: Path) -> None:
    browser.open(folder / "report.html")
    assert browser.run(DRAWN)


def choose(browser: Browser, select: str, value: str) -> None:
    browser.run(
        f"const it = document.getElementById('{select}'); it.value = {json.dumps(value)};"
        "if (it.selectedIndex < 0) throw Error('no such choice'); it.dispatchEvent(new Event('change'));"
    )


def drawn(browser: Browser, side: str) -> np.ndarray:
    """Red, green, blue of each pixel of a picture."""
    address = browser.run(f"return document.getElementById('{side}-picture').toDataURL('image/png')")
    return decoded(address)[..., :3]


def decoded(address: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))))


def counts(browser: Browser) -> list[list[str]]:
    return browser.run(
        "return [...document.getElementById('counts').rows].map((row) => [...row.cells].map((c) => c.textContent))"
    )


def coded(browser: Browser, layer: str) -> tuple[np.ndarray, np.ndarray]:
    """Class and kind of mistake of each pixel, as the page holds them for its first image."""
    values = json.loads(browser.run("return document.getElementById('gallery-data').textContent"))
    scene = values["scenes"][0]
    address = scene["labels"] if layer == "truth" else scene["predictions"][layer]
    picture = decoded(address)
    return picture[..., 0], picture[..., 1]


def test_the_slider_moves_by_keyboard_and_by_pointer(browser: Browser) -> None:
    shown = "return getComputedStyle(document.getElementById('right-picture')).clipPath"
    before = browser.run(shown)
    browser.run("document.getElementById('slider').focus()")
    browser.press("ArrowRight", 3)
    assert browser.run("return document.getElementById('slider').value") == "53"
    assert browser.run(shown) != before
    browser.run(
        "const stage = document.getElementById('stage'); stage.scrollIntoView(); stage.setPointerCapture = () => {};"
        "const box = stage.getBoundingClientRect();"
        "stage.dispatchEvent(new PointerEvent('pointerdown', {pointerId: 1, clientX: box.left + box.width / 4}))"
    )
    assert float(browser.run("return document.getElementById('slider').value")) == pytest.approx(25, abs=1)


def test_it_opens_on_the_plain_prediction_and_says_what_the_colours_are(browser: Browser) -> None:
    chosen = "return document.getElementById('view').value"
    legend = "return [...document.querySelectorAll('#legend li')].map((it) => it.textContent)"
    meaning = "return document.getElementById('meaning').textContent"
    assert browser.run(chosen) == "classes"
    assert browser.run(legend) == list(SyntheticAerial.CLASSES)
    assert browser.run(meaning).startswith("The colour of a pixel is its class")
    choose(browser, "view", "mistakes")
    assert browser.run(legend) == [name for name, _ in MISTAKES.values()]
    assert browser.run(meaning).startswith("Only the wrong pixels of a prediction are coloured")


def test_black_is_explained_where_it_is_seen(browser: Browser, comparison_folder: Path) -> None:
    choose(browser, "view", "classes")
    legend = browser.run(
        "const gallery = new Gallery(JSON.parse(document.getElementById('gallery-data').textContent));"
        "gallery.colours.splice(1);"  # all classes but the first are none then
        "await gallery.open(0);"
        "return [...document.querySelectorAll('#legend li')].map((it) => it.textContent)"
    )
    load(browser, comparison_folder)
    assert legend == [*SyntheticAerial.CLASSES, "no label"]


def test_classes_are_drawn_in_their_colours(browser: Browser) -> None:
    choose(browser, "view", "classes")
    choose(browser, "class", "")
    choose(browser, "left", "truth")
    choose(browser, "right", "kd")
    values = json.loads(browser.run("return document.getElementById('gallery-data').textContent"))
    palette = np.array([[int(one["colour"][at : at + 2], 16) for at in (1, 3, 5)] for one in values["classes"]])
    for side, layer in (("left", "truth"), ("right", "kd")):
        classes, _ = coded(browser, layer)
        assert (drawn(browser, side) == palette[classes]).all()
    # With one class alone, all else is grey.
    choose(browser, "class", "1")
    classes, _ = coded(browser, "kd")
    picture = drawn(browser, "right")
    assert (picture[classes == 1] == palette[1]).all()
    assert (np.ptp(picture[classes != 1].astype(int), axis=-1) == 0).all()


def test_the_class_filter_leaves_the_mistakes_of_one_class(browser: Browser) -> None:
    choose(browser, "view", "mistakes")
    choose(browser, "class", "")
    choose(browser, "left", "none")
    choose(browser, "right", "kd")
    truth, _ = coded(browser, "truth")
    for side, layer in (("left", "none"), ("right", "kd")):
        classes, kinds = coded(browser, layer)
        column = 1 if side == "left" else 2
        choose(browser, "class", "")
        coloured = np.ptp(drawn(browser, side).astype(int), axis=-1) > 0
        grey = 1  # the kind whose colour is grey itself
        assert (coloured == (kinds > grey)).all()
        assert float(counts(browser)[-1][column]) == pytest.approx(100 * (kinds > 0).mean(), abs=0.01)
        for number in (0, 2):
            choose(browser, "class", str(number))
            concerned = (classes == number) | (truth == number)
            coloured = np.ptp(drawn(browser, side).astype(int), axis=-1) > 0
            assert (coloured == ((kinds > grey) & concerned)).all()
            expected = 100 * ((kinds > 0) & concerned).sum() / max(1, concerned.sum())
            assert float(counts(browser)[-1][column]) == pytest.approx(expected, abs=0.01)


def test_another_image_is_shown(browser: Browser) -> None:
    choose(browser, "left", "image")
    before = drawn(browser, "left")
    browser.run("document.querySelectorAll('#thumbnails input')[1].click()")
    browser.run("return new Promise((done) => setTimeout(done, 500))")
    assert (drawn(browser, "left") != before).any()
    browser.run("document.querySelectorAll('#thumbnails input')[0].click()")
    browser.run("return new Promise((done) => setTimeout(done, 500))")
    assert (drawn(browser, "left") == before).all()


def test_light_and_dark(browser: Browser) -> None:
    paper = "return getComputedStyle(document.body).backgroundColor"
    light = browser.run(paper)
    browser.run("document.getElementById('theme').click()")
    dark = browser.run(paper)
    browser.run("document.getElementById('theme').click()")
    assert light == browser.run(paper) == "rgb(255, 255, 255)"
    assert dark == "rgb(20, 23, 26)"


#: What sticks out of the page, boxes that scroll by themselves aside.
CUT_OFF = """
const width = document.documentElement.clientWidth;
return [...document.querySelectorAll("body *")]
  .filter((it) => !it.closest(".wide *, pre, svg, details:not([open]) > *"))
  .filter((it) => getComputedStyle(it).position !== "absolute" && it.getBoundingClientRect().right > width + 1)
  .map((it) => it.outerHTML.slice(0, 120));
"""


@pytest.mark.parametrize(("width", "dark"), [(1400, False), (800, False), (390, True)])
def test_it_fits_the_window(comparison_folder: Path, tmp_path: Path, width: int, dark: bool) -> None:
    with Browser(tmp_path / "profile", width, 800, dark) as browser:
        load(browser, comparison_folder)
        assert browser.run("return document.documentElement.scrollWidth") <= width
        assert browser.run(CUT_OFF) == []
        sizes = browser.run(SIZES)
        assert min(sizes) > 9
        commands = "[...document.querySelectorAll('pre')].filter((it) => it.scrollWidth > it.clientWidth).length"
        assert width > 500 or browser.run(f"return {commands}") == 0
        screenshot = np.asarray(Image.open(io.BytesIO(browser.screenshot())).convert("RGB"))
        assert screenshot.shape == (800, width, 3)
        assert len(np.unique(screenshot.reshape(-1, 3), axis=0)) > 20
        assert (np.median(screenshot) < 60) == dark
        browser.open(comparison_folder.parent / "teacher" / "report.html")
        assert browser.run("return document.documentElement.scrollWidth") <= width
        assert browser.run(CUT_OFF) == []
        assert browser.messages() == []
