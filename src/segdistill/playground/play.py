"""`segdistill.play`: a page on this machine that shows what networks say of one's own images, side by side."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType

from segdistill.errors import missing_package
from segdistill.playground.contenders import example_images, open_contenders
from segdistill.playground.options import PlayOptions
from segdistill.recipe.keywords import takes_fields


@takes_fields
def play(options: PlayOptions) -> None:
    """Show a page on which you drop an image and compare the networks' predictions; Ctrl-C ends it.

    The page shows the image and each network's labels, any two of them with a slider between, the share of each class,
    each network's time and parameters, and some validation images to begin with. It is for one's
    own machine: nothing is loaded from elsewhere, no file outside the page's temporary folder can be read through it,
    and the folder is removed at the end.

    Raises:
        UserError: Gradio is not installed, a network cannot be read or has other classes than the first one or takes
            other images than RGB, or the address cannot be listened on.
    """
    if importlib.util.find_spec("gradio") is None:
        raise missing_package("the page", "gradio", "play")
    contenders = open_contenders(options.models, options.device)
    with contextlib.ExitStack() as at_end:
        at_end.enter_context(_sigterm_raises())
        folder = Path(at_end.enter_context(tempfile.TemporaryDirectory(prefix="segdistill-play-"))).resolve()
        # Gradio reads these when it is imported, too.
        settings = {
            "GRADIO_TEMP_DIR": str(folder),
            "GRADIO_EXAMPLES_CACHE": str(folder / "examples-cache"),
            "GRADIO_ANALYTICS_ENABLED": "False",
        }
        at_end.enter_context(_environment(settings))
        from segdistill.playground import page as play_page
        from segdistill.playground import server as play_server

        listening = at_end.enter_context(play_server.listen(options.host, options.port))
        examples, trouble = example_images(contenders, folder / "examples")
        if trouble and not options.quiet:
            print(f"no example images: {trouble}")
        page = play_page.Page(contenders, examples, max_bytes=int(options.max_megabytes * 2**20))
        host = options.host
        is_local = play_server.is_loopback(host)
        if not is_local:
            note = f"warning: everybody who can reach {host} can use this page; it has no password"
            print(f"segdistill: {note}", file=sys.stderr)
        shown = "127.0.0.1" if host == "0.0.0.0" else f"[{host}]" if ":" in host else host
        print(f"http://{shown}:{listening.getsockname()[1]}  (Ctrl-C ends it)", flush=True)
        play_server.serve(play_server.Gate(page.app, folder, is_local), listening, before_end=page.end_streams)


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """SIGTERM as an exception: what is temporary is removed on the way out."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(143)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables that hold inside."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
