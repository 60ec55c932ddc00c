"""The page that `segdistill.play` shows; importing this imports Gradio."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fastapi
import gradio as gr
import torch
from gradio.utils import get_upload_folder
from PIL import Image

from segdistill.colors import hex_color
from segdistill.datasets.reading.images import PICTURES
from segdistill.datasets.reading.rasters import TIFF
from segdistill.errors import UserError
from segdistill.files import write_atomically
from segdistill.playground.contenders import Contender, TimedLabels, predicted, read_dropped
from segdistill.prediction.images_in import Picture
from segdistill.reporting.page import render
from segdistill.reporting.picture import photograph

LONGEST_SIDE = 1600
"""Pixels of what the page shows; larger images are predicted whole and shown smaller."""

_KEPT_SECONDS = 3600
_BEGIN = "Drop an image, or choose one, to begin."

_STYLE = """
.gradio-container { width: 100%; max-width: 1180px !important; margin: 0 auto; }
#heading, #message, .figures { min-width: 0; }
#heading .html-container, #message .html-container, .figures .html-container { padding: 0; }
#heading h1 { font-size: 1.5rem; font-weight: 650; margin: 0 0 0.1rem; }
#heading p { margin: 0; color: var(--body-text-color-subdued); }
#message p { margin: 0; padding: 0.55rem 0.8rem; border-radius: 6px; background: var(--background-fill-secondary); }
#message p.error { background: var(--error-background-fill); color: var(--error-text-color);
  border: 1px solid var(--error-border-color); }
#examples .grid-wrap { height: auto; min-height: 0; max-height: none; overflow: visible; padding-top: 2.2rem; }
#examples .grid-container { grid-template-columns: repeat(3, minmax(0, 1fr)); height: auto; }
.figures, .figures .html-container, .figures .prose { overflow-x: auto; max-width: 100%; }
.figures h2 { font-size: 1.05rem; font-weight: 650; margin: 0.2rem 0 0.4rem; }
.figures table, .figures table tr { border: 0; }
.figures table { border-collapse: collapse; width: 100%; font-size: 0.92rem; font-variant-numeric: tabular-nums; }
.figures table th, .figures table td { padding: 0.3rem 0 0.3rem 1rem; text-align: right; border: 0;
  border-bottom: 1px solid var(--border-color-primary); overflow-wrap: normal; }
.figures table th:first-child, .figures table td:first-child { text-align: left; padding-left: 0; min-width: 6rem;
  overflow-wrap: anywhere; }
@media (max-width: 480px) {
  .figures table th, .figures table td { padding-left: 0.5rem; overflow-wrap: anywhere; }
  #networks table th { overflow-wrap: normal; }
}
.figures table th { font-weight: 600; color: var(--body-text-color-subdued); }
.figures p { margin: 0.4rem 0 0; font-size: 0.85rem; color: var(--body-text-color-subdued); }
.swatch { display: inline-block; width: 0.9em; height: 0.9em; margin-right: 0.5em; vertical-align: -0.08em;
  border: 1px solid var(--body-text-color-subdued); border-radius: 3px; }
"""

_FONT = [gr.themes.Font(name) for name in ("Segoe UI", "Helvetica Neue", "Arial", "Liberation Sans", "sans-serif")]
_MONO = [gr.themes.Font(name) for name in ("Consolas", "Liberation Mono", "monospace")]


class Page:
    """The page, and the application that serves it.

    Args:
        contenders: the networks, of the same classes.
        examples: image files to begin with.
        max_bytes: the largest file that may be dropped.

    Attributes:
        app: answers requests, as ASGI has it.
    """

    def __init__(self, contenders: Sequence[Contender], examples: Sequence[Path], *, max_bytes: int) -> None:
        self._contenders = contenders
        self._examples = examples
        blocks = self._blocks()
        blocks.queue(max_size=20, api_open=False)
        self.app: Any = gr.mount_gradio_app(
            fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
            blocks,
            path="/",
            footer_links=[],
            run_history=False,
            max_file_size=max_bytes,
            show_error=False,
            ssr_mode=False,
            enable_monitoring=False,
            pwa=False,
            mcp_server=False,
            theme=gr.themes.Default(primary_hue="blue", neutral_hue="slate", font=_FONT, font_mono=_MONO),
            css=_STYLE,
        )
        # As Gradio's own launch does: else it would not check which files a request names.
        blocks.has_launched = True
        self._streams = next(route.app for route in self.app.routes if isinstance(route.app, gr.routes.App))

    def end_streams(self) -> None:
        """Ends what is open for as long as a browser shows the page."""
        self._streams.stop_event.set()

    def _blocks(self) -> Any:
        names = ["original", *(contender.name for contender in self._contenders)]
        heading = render("play.html", part="heading", networks=names[1:])
        kept = (_KEPT_SECONDS, _KEPT_SECONDS)
        with gr.Blocks(title="segdistill play", analytics_enabled=False, fill_width=True, delete_cache=kept) as blocks:
            views = gr.State(None, time_to_live=_KEPT_SECONDS)
            gr.HTML(heading, elem_id="heading")
            with gr.Row():
                with gr.Column(scale=2, min_width=280):
                    dropped = gr.File(label="Your image", file_types=[*PICTURES, *TIFF], height=150, elem_id="drop")
                    offered = gr.Gallery(
                        [str(file) for file in self._examples],
                        label="Or a validation image",
                        columns=3,
                        object_fit="cover",
                        allow_preview=False,
                        interactive=False,
                        buttons=[],
                        visible=bool(self._examples),
                        elem_id="examples",
                    )
                with gr.Column(scale=5, min_width=280):
                    message = gr.HTML(_note(_BEGIN), elem_id="message")
                    with gr.Row():
                        left = _side("Left", names, 0)
                        right = _side("Right", names, len(names) - 1)
                    slider = gr.ImageSlider(
                        format="png",
                        show_label=False,
                        interactive=False,
                        max_height=640,
                        buttons=["fullscreen"],
                        elem_id="slider",
                    )
            with gr.Row():
                with gr.Column(scale=1, min_width=280):
                    networks = gr.HTML(self._networks(), elem_id="networks", elem_classes="figures")
                with gr.Column(scale=1, min_width=280):
                    classes = gr.HTML(self._classes(), elem_id="classes", elem_classes="figures")
            outputs = [views, message, slider, networks, classes]
            # One image at a time: two at once would measure each other. What is chosen meanwhile comes next; by default
            # Gradio ignores it.
            one = {
                "concurrency_limit": 1,
                "concurrency_id": "predict",
                "trigger_mode": "multiple",
                "api_visibility": "private",
            }
            dropped.upload(self._show_dropped, [dropped, left, right], outputs, **one)
            offered.select(self._show_example, [left, right], outputs, **one)
            for side in (left, right):
                side.input(pair, [views, left, right], slider, api_visibility="private", show_progress="hidden")
        return blocks

    def _show_dropped(self, file: str, left: int, right: int) -> tuple[Any, ...]:
        return self._shown(Path(file), left, right)

    def _show_example(self, left: int, right: int, chosen: gr.SelectData) -> tuple[Any, ...]:
        return self._shown(self._examples[chosen.index], left, right)

    def _shown(self, file: Path, left: int, right: int) -> tuple[Any, ...]:
        """State, message, pair of pictures, and both tables."""
        try:
            image = read_dropped(file)
            found = [predicted(contender, image) for contender in self._contenders]
            views = pictures(image, found, self._contenders[0].predictor.palette)
            both = pair(views, left, right)
        except UserError as error:
            return None, _note(f"{error}.", is_error=True), None, self._networks(), self._classes()
        height, width = image.size
        note = _note(f"{file.name}, {width} x {height} pixels")
        return views, note, both, self._networks(found), self._classes(found)

    def _networks(self, found: Sequence[TimedLabels] | None = None) -> str:
        """Parameters and times."""
        rows = []
        for number, contender in enumerate(self._contenders):
            cells = ["" if contender.parameters is None else _short(contender.parameters), "", ""]
            if found is not None:
                cells[1] = f"{found[number].milliseconds:.1f}"
                if number:
                    cells[2] = f"{found[0].milliseconds / found[number].milliseconds:.1f}x"
            rows.append((None, contender.name, cells))
        device, threads = self._contenders[0].predictor.model.device, torch.get_num_threads()
        how = f"on the CPU, {threads} thread{'s' * (threads > 1)}" if device.type == "cpu" else f"on {device}"
        note = f"Time for the whole image, {how}; 'faster' is compared with {self._contenders[0].name}."
        columns = ("network", "parameters", "time in ms", "faster")
        return render("play.html", part="table", title="Networks", columns=columns, rows=rows, note=note)

    def _classes(self, found: Sequence[TimedLabels] | None = None) -> str:
        """Colours, and shares of the image."""
        predictor = self._contenders[0].predictor
        rows = []
        for label, (name, color) in enumerate(zip(predictor.classes, predictor.palette, strict=True)):
            shares = (
                [""] * len(self._contenders) if found is None else [f"{100 * one.shares[label]:.1f} %" for one in found]
            )
            rows.append((hex_color(color), name, shares))
        columns = ("class", *(contender.name for contender in self._contenders))
        title = "Classes, share of the pixels"
        return render("play.html", part="table", title=title, columns=columns, rows=rows, note="")


def pictures(
    image: Picture, found: Sequence[TimedLabels], palette: Sequence[tuple[int, int, int]]
) -> list[Image.Image]:
    """The image and the label maps in their classes' colours, none of them longer than the page needs."""
    photo = photograph(image.pixels)
    smaller = min(1.0, LONGEST_SIDE / max(photo.size))
    size = (max(1, round(photo.width * smaller)), max(1, round(photo.height * smaller)))
    shown = [photo.resize(size, Image.Resampling.LANCZOS)]
    for one in found:
        # Label colours must not mix, so only the photograph is smoothed.
        indexed = Image.fromarray(one.labels.numpy()).resize(size, Image.Resampling.NEAREST)
        indexed.putpalette([channel for color in palette for channel in color])
        shown.append(indexed)
    return shown


def pair(views: Sequence[Image.Image] | None, left: int, right: int) -> tuple[Path, Path] | None:
    """What lies on either side of the slider."""
    return None if views is None else (_file_of(views[left]), _file_of(views[right]))


def _file_of(view: Image.Image) -> Path:
    """A PNG file of a picture, in the folder that Gradio serves and clears.

    Given the picture itself, Gradio names its file by the content too, but writes into it again each time it is shown:
    a browser that still loads it receives half a file.
    """
    png = io.BytesIO()
    view.save(png, "PNG")
    file = Path(get_upload_folder()) / hashlib.sha256(png.getvalue()).hexdigest() / "image.png"
    write_atomically(file, lambda opened: opened.write(png.getvalue()))
    return file


def _side(label: str, names: Sequence[str], chosen: int) -> Any:
    """What may lie on one side of the slider, by number: a run may be named like another choice."""
    choices = [(name, number) for number, name in enumerate(names)]
    return gr.Dropdown(choices, value=chosen, label=label, filterable=False, min_width=120, elem_id=label.lower())


def _note(text: str, is_error: bool = False) -> str:
    return render("play.html", part="note", text=text, is_error=is_error)


def _short(number: int) -> str:
    """A count to three digits.

    Example:
        >>> [_short(number) for number in (812, 45_300, 1_234_567)]
        ['812', '45.3 k', '1.23 M']
    """
    for unit, name in ((1_000_000, " M"), (1_000, " k")):
        if number >= unit:
            return f"{number / unit:.3g}{name}"
    return str(number)
