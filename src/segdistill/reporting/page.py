"""A self-contained HTML page with a table and a picture: it opens from disk, without a network."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

from PIL import Image

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; }
td, th { padding: .3rem .9rem; border-bottom: 1px solid #8885; text-align: right; }
td:first-child, th:first-child { text-align: left; }
img { max-width: 100%; }
pre { overflow-x: auto; }
"""


def report_page(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], picture: Image.Image, details: str = ""
) -> str:
    """The page as HTML.

    Args:
        title: its heading.
        columns: headings of the table.
        rows: cells of the table, as texts.
        picture: shown below it.
        details: shown below that as it stands, e.g. the recipe.
    """
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    encoded = base64.b64encode(buffer.getvalue()).decode()
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n'
        f"<body><h1>{html.escape(title)}</h1>\n<table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>\n"
        f'<p><img alt="image, truth and predictions side by side" src="data:image/png;base64,{encoded}"></p>\n'
        f"<pre>{html.escape(details)}</pre>\n</body></html>\n"
    )
