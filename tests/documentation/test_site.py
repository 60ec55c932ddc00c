"""The built site: no warning, nothing from elsewhere, no dead link, everything from the code in it."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from urllib.parse import unquote

import pytest

import segdistill
from segdistill import DistillRecipe, TrainConfig, TrainRecipe
from segdistill.cli.main import COMMANDS
from tests.documentation.pages import PAGES, ROOT, name_of
from tests.reporting.browser import MISSING, Browser

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder


def test_every_page_is_there(site: Path) -> None:
    for page in PAGES:
        if ROOT / "docs" in page.parents:
            assert (site / page.relative_to(ROOT / "docs")).with_suffix(".html").exists(), name_of(page)


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 60
    for page in pages:
        text = page.read_text()
        loaded = re.findall(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?([^\"' >]+)", text)
        loaded += re.findall(r"<link\b(?![^>]*rel=[\"']?(?:canonical|prev|next))[^>]*\bhref=[\"']?([^\"' >]+)", text)
        assert [one for one in loaded if re.match(r"(https?:)?//", one)] == [], page
    for style in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", style.read_text()), style


def test_no_link_is_dead(site: Path) -> None:
    texts = {page: page.read_text() for page in site.rglob("*.html") if page.name != "404.html"}
    anchors = {page: set(re.findall(r"\bid=[\"']?([^\"' >]+)", text)) for page, text in texts.items()}
    for page, text in texts.items():
        for target in map(html.unescape, re.findall(r"<a\b[^>]*\bhref=[\"']?([^\"' >]+)", text)):
            if re.match(r"https?://|mailto:", target):
                continue
            path, _, anchor = unquote(target).partition("#")
            other = (page.parent / path).resolve() if path else page
            assert other.exists(), (page, target)
            assert not anchor or other not in anchors or anchor in anchors[other], (page, target)


@pytest.mark.skipif(bool(MISSING), reason=MISSING)
def test_pages_from_disk_can_be_searched(site: Path, tmp_path: Path) -> None:
    found = "document.querySelector('.md-search-result__meta').innerText"
    with Browser(tmp_path / "profile") as browser:
        for page in ("index.html", "how-to/compare.html"):
            browser.open(site / page)
            browser.run(
                "const field = document.querySelector('.md-search__input'); field.focus(); field.value = 'resume';"
                "field.dispatchEvent(new KeyboardEvent('keyup', {bubbles: true, key: 'e'}))"
            )
            browser.run(
                "return new Promise((done) => { const look = () =>"
                f"/documents/.test({found}) ? done(true) : setTimeout(look, 100); look(); }})"
            )
            first = browser.run("return [...document.querySelectorAll('.md-search-result__link')].map((it) => it.href)")
            assert (site / "how-to/resume-a-run.html").as_uri() in first
        assert browser.messages() == []


def test_how_tos_are_grouped_as_on_the_first_page(site: Path) -> None:
    page = (site / "how-to/index.html").read_text()
    groups = re.findall(r"<h2[^>]*>([^<]+)", page)
    assert groups[:2] == ["Train on my own images", "Use a teacher that I have"]
    content = page[page.index("<h1") :]
    assert content.index(groups[0]) < content.index('.html"')  # no page stands before the first group


def test_what_is_made_from_the_code(site: Path) -> None:
    api = (site / "reference/api.html").read_text()
    assert [name for name in segdistill.__all__ if name != "__version__" and f">segdistill.{name}<" not in api] == []
    for name in ("datasets", "losses", "methods"):
        page = (site / f"reference/api-{name}.html").read_text()
        module = getattr(segdistill, name)
        names = [one for one in module.__all__ if callable(getattr(module, one))]
        assert [one for one in names if f'id="{one.lower()}"' not in page] == []
        api += page
    assert "<mfrac>" in api
    # Neither an object's address nor markup of a docstring that nothing reads.
    assert [text for text in ("at 0x", "&lt;factory&gt;", ":: ", ":math:", "\\frac", "\\|") if text in api] == []
    keys = (site / "reference/recipe-keys.html").read_text()
    names = [field.name for kind in (TrainRecipe, DistillRecipe, TrainConfig) for field in fields(kind)]
    assert [name for name in names if f"<code>{name}</code>" not in keys] == []
    commands = (site / "reference/commands.html").read_text()
    assert [name for name in COMMANDS if f"usage: segdistill {name}" not in commands] == []


def test_a_how_to_says_what_its_recipe_is(site: Path) -> None:
    """Its first command begins with recipe.yaml, which a reader who came by a search has never seen."""
    for name in ("choose-a-method", "watch-a-run", "use-several-gpus"):
        shown = (site / "how-to" / f"{name}.html").read_text()
        assert shown.count("is a file with the data, the networks and the settings of a run") == 1
    for name in ("pseudo-labels", "predict"):  # one has a recipe of its own, the other needs none
        assert "settings of a run:" not in (site / "how-to" / f"{name}.html").read_text()


@pytest.mark.skipif(bool(MISSING), reason=MISSING)
def test_pages_fit_a_phone(site: Path, tmp_path: Path) -> None:
    """Nothing makes a page wider than the screen, and names in the first column of a table leave room for the rest."""
    with Browser(tmp_path / "profile", width=390, height=844) as phone:
        for page in ("how-to/pretrain.html", "reference/networks.html", "reference/commands.html", "methods/kd.html"):
            phone.open(site / page)
            assert phone.run("return document.documentElement.scrollWidth") == 390, page
            assert phone.run(
                "return [...document.querySelectorAll('td:first-child')].every(one => one.clientWidth < 200)"
            ), page
        phone.open(site / "reference/commands.html")
        assert phone.run("return getComputedStyle(document.querySelector('.columns code')).whiteSpace") == "pre"
