"""Rasters: read and predicted by windows, written as GeoTIFFs in the same place on the map."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress

from segdistill.colors import Color
from segdistill.data.ahead import ahead
from segdistill.data.tiling import Piece
from segdistill.datasets.base import IGNORE_INDEX, Window
from segdistill.datasets.reading.image_folders import OVERLAY, PROBABILITIES
from segdistill.files import write_atomically
from segdistill.prediction.geotiff import (
    PROBABILITY_STEPS,
    Raster,
    UnfinishedMap,
    UnreadableError,
    counts_in,
    made_from,
)
from segdistill.prediction.images_in import Item
from segdistill.prediction.job import Job, Wanted
from segdistill.reporting.picture import overlaid

__all__ = ["companions", "counts_in", "made_from", "predict_all"]

OVERLAY_SIDE = 2048
"""Longest side of an overlay in pixels: a picture to look at, of a raster that may be larger than memory."""

STRIP = 64
"""Rows of an overlay that are read at once."""


def predict_all(job: Job, bar: Progress, items: Sequence[Item], together: int) -> Iterator[Item]:
    """Predicts one raster after another, each given before it is begun."""
    for item in items:
        yield item
        try:
            with job.opened(item) as raster:
                _predict(job, bar, item, raster)
        except UnreadableError as error:
            job.failed(error, together)


def companions(item: Item, wanted: Wanted) -> list[Path]:
    """The files that go with a label map."""
    endings = {OVERLAY: wanted.overlay, PROBABILITIES: wanted.probabilities, ".gpkg": wanted.vector}
    return [item.beside(ending) for ending, asked in endings.items() if asked]


def _predict(job: Job, bar: Progress, item: Item, raster: Raster) -> None:
    if not raster.has_place:
        job.note(f"note: {item.path} has no coordinate reference system, and neither will its label map")
    grid = job.prediction(raster).grid
    unfinished = UnfinishedMap(
        item.target,
        key=job.keys[item.target],
        grid=grid,
        classes=job.predictor.classes,
        palette=job.predictor.palette,
        probabilities=job.wanted.probabilities,
    )
    rows = unfinished.finished_rows()
    if rows:
        job.note(f"continuing {item.target}: {rows} of {len(grid.rows)} rows of windows are done")

    def made() -> Iterator[tuple[Window, np.ndarray, np.ndarray | None, np.ndarray | None]]:
        for piece in job.pieces(bar, raster, rows):
            labels = job.labels()
            yield (
                piece.window,
                labels(piece).numpy(),
                _probabilities(piece) if job.wanted.probabilities else None,
                None if labels.confidence is None else labels.counts,
            )

    with ThreadPoolExecutor(1, "label map") as writer:
        for _ in ahead(writer, lambda piece: unfinished.write(*piece), made()):
            pass
    if job.wanted.overlay:
        _write_overlay(item.beside(OVERLAY), raster, unfinished.pieces("labels"), job.predictor.palette)
    unfinished.finish(raster, vector=job.wanted.vector)


def _write_overlay(
    target: Path, raster: Raster, pieces: Iterable[tuple[Window, np.ndarray]], palette: Sequence[Color]
) -> None:
    """Write a raster under the colours of its labels; of a larger one than `OVERLAY_SIDE` every n-th row and column."""
    step = -(-max(raster.size) // OVERLAY_SIDE)
    height, width = (-(-side // step) for side in raster.size)
    image, labels = torch.empty(0), torch.empty(height, width, dtype=torch.uint8)
    for window, found in pieces:
        columns = slice(-window.left % step, None, step)
        for top in range(-window.top % step, window.height, step * STRIP):
            rows = min(step * STRIP, window.height - top)
            pixels, _ = raster.read(Window(window.top + top, window.left, rows, window.width))
            kept = pixels[:, ::step, columns]
            if not image.numel():
                image = torch.empty(len(kept), height, width, dtype=kept.dtype)
            row, column = (window.top + top) // step, -(-window.left // step)
            place = (slice(row, row + kept.shape[1]), slice(column, column + kept.shape[2]))
            image[:, *place] = kept
            labels[place] = torch.tensor(found[0, top : top + rows : step, columns])
    mixed = overlaid(image, labels, palette)
    write_atomically(target, lambda file: mixed.save(file, "PNG"))


def _probabilities(piece: Piece) -> np.ndarray:
    """Probabilities, uint8 (K, h, w), in steps of 1 / `PROBABILITY_STEPS`, and 255 where there is no data."""
    steps = (piece.scores.softmax(0) * PROBABILITY_STEPS).round().to("cpu", torch.uint8)
    if piece.missing is not None:
        steps[:, piece.missing] = IGNORE_INDEX
    return steps.numpy()
