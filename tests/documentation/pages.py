"""The pages of the documentation and their blocks of code."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: The tutorials.
NOTEBOOKS = sorted((ROOT / "docs/tutorials").glob("*.ipynb"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")), *NOTEBOOKS]
#: Pages of the built site that are made from the code, see docs/build/pages.py.
_PLACES = re.findall(r'^    "(\S+\.md)": ', (ROOT / "docs/build/pages.py").read_text(), re.MULTILINE)
MADE = {ROOT / "docs" / place for place in _PLACES}


def name_of(page: Path) -> str:
    """How a test names a page."""
    return page.relative_to(ROOT).as_posix()


def text_of(page: Path) -> str:
    """A page in Markdown; of a notebook the cells that are text, since another test runs the others."""
    if page.suffix != ".ipynb":
        return page.read_text()
    cells = json.loads(page.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def blocks(page: Path, language: str) -> list[str]:
    """The blocks of code of one language in a page, without the indent that a list may give them."""
    found = re.findall(rf"^( *)```(?:{language})\n(.*?)^\1```", text_of(page), re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]
