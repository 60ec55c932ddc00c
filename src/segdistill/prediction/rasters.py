"""Rasters: read and predicted by windows, written as GeoTIFFs in the same place on the map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress

from segdistill.data.ahead import ahead
from segdistill.data.tiling import Piece
from segdistill.datasets.base import IGNORE_INDEX, Window
from segdistill.datasets.reading.image_folders import PROBABILITIES
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

__all__ = ["companions", "counts_in", "made_from", "predict_all"]


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
    endings = {PROBABILITIES: wanted.probabilities, ".gpkg": wanted.vector}
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
        job.note(f"going on with {item.target}: {rows} of {len(grid.rows)} rows of windows are done")

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
    unfinished.finish(raster, vector=job.wanted.vector)


def _probabilities(piece: Piece) -> np.ndarray:
    """Probabilities, uint8 (K, h, w), in steps of 1 / `PROBABILITY_STEPS`, and 255 where there is no data."""
    steps = (piece.scores.softmax(0) * PROBABILITY_STEPS).round().to("cpu", torch.uint8)
    if piece.missing is not None:
        steps[:, piece.missing] = IGNORE_INDEX
    return steps.numpy()
