"""The site's navigation: a section for each folder, and an index page that lists its pages with what they are about.

The pages of the how-to stand in the groups of the table on the first page, all others in the order of their names, but
results of distillation before other measurements.
"""

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

#: What a how-to page says of the file that its commands begin with.
RECIPE = """
`recipe.yaml` is a file with the data, the networks and the settings of a run: [Recipes](../reference/recipes.md).
Every run writes its own, such as `runs/student/config.yaml`.
"""


def on_files(files: Files, config: Any) -> Files:
    """Add generated pages, notebooks, and an index page to each section that has none, and set the navigation."""
    for place, make in GENERATED.items():
        files.append(File.generated(config, place, content=make()))
    for notebook in NOTEBOOKS:
        files.append(File.generated(config, f"tutorials/{notebook.stem}.md", content=notebook_page(notebook)))
    nav: list[Any] = [{"Start": "index.md"}]
    first = next(file for file in files.documentation_pages() if file.src_uri == "index.md")
    for folder, name, line in SECTIONS:
        pages = sorted(
            (file for file in files.documentation_pages() if PurePosixPath(file.src_uri).parent.as_posix() == folder),
            key=lambda file: (not file.name.startswith("results"), file.name),
        )
        if not pages:
            continue
        index = f"{folder}/index.md"
        groups = grouped(first.content_string, [page for page in pages if page.src_uri != index])
        if index not in files.src_uris:
            text = f"# {name}\n\n{line}\n"
            for group, members in groups.items():
                text += f"\n## {group}\n\n" if group else "\n"
                text += "".join(entry(page) for page in members)
            files.append(File.generated(config, index, content=text))
        entries: list[Any] = [index]
        for group, members in groups.items():
            uris = [page.src_uri for page in members]
            entries += [{group: uris}] if group else uris
        nav.append({name: entries})
    config.nav = nav
    return files


def grouped(table: str, pages: list[File]) -> dict[str, list[File]]:
    """Return pages by the row of a table that links to them, in its order; under an empty name those without a row."""
    left = {page.src_uri: page for page in pages}
    groups: dict[str, list[File]] = {}
    for label, links in re.findall(r"^\| ([^|]+) \| (.+) \|$", table, re.MULTILINE):
        found = [left.pop(uri) for uri in re.findall(r"\]\(([^)#]+)", links) if uri in left]
        if found:
            groups[label[0].upper() + label[1:]] = found
    return {**({"": list(left.values())} if left else {}), **groups}


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put in the table of methods, and let links to notebooks, which a repository shows as they are, lead to pages."""
    if page.file.src_uri == "index.md":
        page.meta["hide"] = ["navigation"]  # beside the tabs it would hold this page alone
    if TABLE_OF_METHODS in markdown:
        markdown = markdown.replace(TABLE_OF_METHODS, methods())
    if page.file.src_uri.startswith("how-to/"):
        markdown = explained(markdown)
    return re.sub(r"(\]\([^)\s]+)\.ipynb\)", r"\1.md)", markdown)


def explained(markdown: str) -> str:
    """Return a page with what recipe.yaml is below the first command that has it, unless the page says so itself."""
    if "reference/recipes.md" in markdown:
        return markdown
    return re.sub(
        r"^```\w+\n(?:(?!```).*\n)*?.*(?<!/)\brecipe\.yaml\b.*\n(?:(?!```).*\n)*```\n",
        rf"\g<0>{RECIPE}",
        markdown,
        count=1,
        flags=re.M,
    )


def entry(page: File) -> str:
    """Return the line of an index page for a page: its title and its first sentence."""
    paragraph = re.search(r"^# .+\n\n(\w[^#|]*?|`[^`][^#|]*?)(?:\n\n|\n\*|\Z)", page.content_string)
    about = ""
    if paragraph:
        text = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", " ".join(paragraph[1].split()))
        about = "<br>" + re.sub(":$", ".", re.split(r"(?<=[.?!])\s", text)[0])
    return f"* [{title(page)}]({PurePosixPath(page.src_uri).name}){about}\n"


def title(page: File) -> str:
    """Return the first heading of a page."""
    found = re.search(r"^# (.+)$", page.content_string, re.MULTILINE)
    return found[1] if found else page.name
