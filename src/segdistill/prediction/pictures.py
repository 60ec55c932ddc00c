"""Pictures: read whole, predicted, written as PNGs of class indices."""

from __future__ import annotations

import functools
import json
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from rich.progress import Progress

from segdistill.data.ahead import ahead
from segdistill.datasets.base import Window
from segdistill.datasets.reading.image_folders import LABEL_MAP_KEY, OVERLAY
from segdistill.errors import UserError
from segdistill.files import write_atomically
from segdistill.prediction.images_in import Item, Picture, read_picture
from segdistill.prediction.job import Job, LabelMap, Wanted
from segdistill.reporting.picture import overlaid

KEY_TEXT = LABEL_MAP_KEY
"""The text in a finished PNG that says what it was made from."""

COUNTS_TEXT = "segdistill_pixels"
"""The text in a PNG that holds the counts of its labels, see `Labels`."""

_DECODERS = 2
"""Threads that decode pictures ahead of the network."""


def predict_all(job: Job, bar: Progress, items: Sequence[Item], together: int) -> Iterator[Item]:
    """Predicts pictures, while the next ones are decoded and the last one is written."""
    written: deque[Future[None]] = deque()
    with ThreadPoolExecutor(_DECODERS, "pictures") as decoders, ThreadPoolExecutor(1, "label maps") as writer:
        for item, image in ahead(decoders, functools.partial(_decoded, job), items):
            yield item
            if isinstance(image, UserError):
                job.failed(image, together)
                continue
            try:
                labels = job.label_map(image)
            except UserError as error:
                job.failed(UserError(f"{item.path}: {error}"), together)
                continue
            written.append(writer.submit(write, job, item, image, labels))
            while len(written) > 1:
                written.popleft().result()
        while written:
            written.popleft().result()


def companions(item: Item, wanted: Wanted) -> list[Path]:
    """The files that go with a label map."""
    return [item.beside(OVERLAY)] if wanted.overlay else []


def made_from(path: Path) -> str | None:
    """The key in a finished PNG; None for any other file."""
    return _text(path, KEY_TEXT)


def counts_in(path: Path) -> np.ndarray | None:
    """The counts that `Labels` made of a finished PNG; None where another program has written it anew."""
    text = _text(path, COUNTS_TEXT)
    return None if text is None else np.array(json.loads(text), dtype=np.int64)


def _text(path: Path, name: str) -> str | None:
    try:
        with Image.open(path) as image:
            text = image.info.get(name)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return text if isinstance(text, str) else None


def _decoded(job: Job, item: Item) -> Picture | UserError:
    try:
        if job.takes_rgb:
            return read_picture(item.path)
        with job.opened(item) as raster:
            return Picture(*raster.read(Window(0, 0, *raster.size)))
    except UserError as error:
        return error


def write(job: Job, item: Item, image: Picture, found: LabelMap) -> None:
    """Write a label map as a PNG of class indices, and what goes with it."""
    if job.wanted.overlay:
        mixed = overlaid(image.pixels, torch.from_numpy(found.labels), job.predictor.palette)
        write_atomically(item.beside(OVERLAY), lambda file: mixed.save(file, "PNG"))
    indexed = Image.fromarray(found.labels)
    colors = [channel for color in job.predictor.palette for channel in color]
    # A shorter palette would be written with fewer bits to a pixel, and 255 would become another number.
    indexed.putpalette([*colors, *[0] * (3 * 256 - len(colors))])
    texts = PngImagePlugin.PngInfo()
    texts.add_text(KEY_TEXT, job.keys[item.target])
    if found.counts is not None:
        texts.add_text(COUNTS_TEXT, json.dumps(found.counts.tolist()))
    texts.add_itxt("classes", ", ".join(job.predictor.classes))
    # The label map last: it stands for all.
    write_atomically(item.target, lambda file: indexed.save(file, "PNG", pnginfo=texts))
