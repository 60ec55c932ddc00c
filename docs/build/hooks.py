"""The site's navigation: a section for each folder, its pages sorted by name, and an index page that lists them."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files
from notebooks import NOTEBOOKS
from notebooks import page as notebook_page
from pages import GENERATED, methods

#: Folder, name of its tab, and the first line of its index page.
SECTIONS = (
    (
        "tutorials",
        "Tutorials",
        "Lessons from beginning to end. Each is a notebook that you can download and run.",
    ),
    ("how-to", "How-to", "One task a page: what it is for, the command, what you see, what can go wrong."),
    ("methods", "Methods", ""),
    ("reference", "Reference", "Facts to look up."),
    ("explanation", "Explanation", "Why things are as they are."),
    ("benchmarks", "Benchmarks", "All measurements, good or bad, each with its command."),
)

#: Where a page wants the table of methods, which is made from their classes.
TABLE_OF_METHODS = "<!-- table of methods -->"


def on_files(files: Files, config: Any) -> Files:
    """Add generated pages, notebooks, and an index page to each section that has none, and set the navigation."""
    for place, make in GENERATED.items():
        files.append(File.generated(config, place, content=make()))
    for notebook in NOTEBOOKS:
        files.append(File.generated(config, f"tutorials/{notebook.stem}.md", content=notebook_page(notebook)))
    nav: list[Any] = ["index.md"]
    for folder, name, line in SECTIONS:
        pages = sorted(
            (file for file in files.documentation_pages() if PurePosixPath(file.src_uri).parent.as_posix() == folder),
            key=lambda file: file.src_uri,
        )
        if not pages:
            continue
        index = f"{folder}/index.md"
        if index not in files.src_uris:
            entries = "\n".join(f"* [{title(page)}]({PurePosixPath(page.src_uri).name})" for page in pages)
            files.append(File.generated(config, index, content=f"# {name}\n\n{line}\n\n{entries}\n"))
        nav.append({name: [index, *(page.src_uri for page in pages if page.src_uri != index)]})
    config.nav = nav
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put in the table of methods, and let links to notebooks, which a repository shows as they are, lead to pages."""
    if TABLE_OF_METHODS in markdown:
        markdown = markdown.replace(TABLE_OF_METHODS, methods())
    return re.sub(r"(\]\([^)\s]+)\.ipynb\)", r"\1.md)", markdown)


def title(page: File) -> str:
    """Return the first heading of a page."""
    found = re.search(r"^# (.+)$", page.content_string, re.MULTILINE)
    return found[1] if found else page.name
