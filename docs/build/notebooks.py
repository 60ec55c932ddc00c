"""The notebooks of the tutorials: run with nbclient, their outputs stored in the file, and shown as pages of the site.

`make notebooks` runs them all anew. The site needs no further plugin, and so nothing from elsewhere: a notebook becomes
Markdown, with its outputs as HTML.
"""

from __future__ import annotations

import html
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

NOTEBOOKS = sorted((Path(__file__).parents[1] / "tutorials").glob("*.ipynb"))

_LONGEST_CELL = 1200  # seconds
_LINES_OF_TABLES = re.compile("[┃│]")
_COLOUR_OF_TERMINALS = re.compile(r"\x1b\[[0-9;]*m")


def executed(file: Path, folder: Path) -> Any:
    """Run a notebook in a folder, and return it with its outputs, an nbformat node.

    Args:
        file: the notebook; it is not changed.
        folder: where its cells read and write.

    Raises:
        CellExecutionError: a cell failed; the message has the cell and its traceback.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(file, as_version=4)
    client = NotebookClient(notebook, timeout=_LONGEST_CELL, resources={"metadata": {"path": str(folder)}})
    client.execute(env={**os.environ, "PYTHONWARNINGS": "ignore:IProgress not found"})  # tqdm's, without ipywidgets
    for cell in notebook.cells:
        cell.metadata = {}  # the times of the run
        if cell.cell_type == "code":
            cell.outputs = _tidied(cell.outputs)
    notebook.metadata = {"kernelspec": notebook.metadata.kernelspec, "language_info": {"name": "python"}}
    return notebook


def _tidied(outputs: Iterable[Any]) -> list[Any]:
    """Return outputs as they are stored: printed lines as text, each picture once, no bar that has gone."""
    import nbformat

    kept: list[Any] = []
    for output in outputs:
        data = output.get("data", {})
        for larger in sorted(data.keys() & {"image/jpeg", "image/png"}, key=lambda kind: len(data[kind]))[1:]:
            del data[larger]  # Pillow gives both
        printed = output.get("text")
        if "<pre style=" in data.get("text/html", ""):  # a line that rich printed
            printed = data["text/plain"]
        if printed is None:
            if len(data) > 1:  # the text is for programs that show neither HTML nor pictures
                data.pop("text/plain", None)
            kept += [output] if "".join(data.values()) else []
            continue
        name, text = output.get("name", "stdout"), _COLOUR_OF_TERMINALS.sub("", printed)
        if kept and kept[-1].get("name") == name:
            kept[-1].text += text
        else:
            kept.append(nbformat.v4.new_output("stream", name=name, text=text))
    return kept


def page(file: Path) -> str:
    """Return a notebook as a page of the site, in Markdown."""
    parts = []
    for cell in json.loads(file.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        else:
            parts.append(f"```python\n{source}\n```")
            parts += [_shown(output) for output in cell["outputs"]]
    download = f'<p><a href="{file.name}" download>Download this page as a notebook</a> and run it yourself.</p>'
    return "\n\n".join([parts[0], download, *parts[1:]]) + "\n"


def _shown(output: dict[str, Any]) -> str:
    """Return one output of a cell: a picture, HTML, or text."""
    data = {kind: value if isinstance(value, str) else "".join(value) for kind, value in output.get("data", {}).items()}
    picture = next((kind for kind in data if kind.startswith("image/")), None)
    if picture is not None:
        shown = f'<img alt="what the cell shows" src="data:{picture};base64,{data[picture].strip()}">'
    elif "text/html" in data:
        shown = data["text/html"]
    else:
        text = data.get("text/plain", "".join(output.get("text", "")))
        text = re.sub("─{20,}", "─" * 20, text)  # rules as wide as a terminal
        kind = "table" if _LINES_OF_TABLES.search(text) else "log"  # only a log may be broken into shorter lines
        shown = f'<pre class="{kind}">{html.escape(text.rstrip())}</pre>'
    return f'<div class="output" style="overflow-x: auto">\n{shown}\n</div>'


def main(names: list[str]) -> None:
    """Run all notebooks, or those whose names are given, and store their outputs in them."""
    import nbformat

    for file in NOTEBOOKS:
        if not names or file.stem in names:
            with tempfile.TemporaryDirectory() as folder:
                nbformat.write(executed(file, Path(folder)), file)
            print(file)


if __name__ == "__main__":
    main(sys.argv[1:])
