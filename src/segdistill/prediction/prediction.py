"""One call of `segdistill.predict`: the model, the options, and what pictures, videos and rasters share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

from segdistill.errors import UserError
from segdistill.prediction.geotiff import Raster
from segdistill.prediction.images_in import Item, Picture
from segdistill.prediction.predictor import Predictor
from segdistill.prediction.windows import Flips, Grid, Piece, blended, flipped, label_map

OVERLAP = 1 / 16
"""Share of a window's side that it has in common with its neighbour. Twice as much changed mIoU by less than 0.3 points
either way, and costs an eighth of the speed (docs/deployment.md)."""

WINDOWS_AT_ONCE = 8
"""Windows per batch on a device that is the faster for it."""


@dataclass(frozen=True)
class Options:
    """How scores are computed; `predict` says what each means."""

    window: int | None = None
    overlap: float = OVERLAP
    batch_size: int | None = None
    flips: Flips = "none"
    bands: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Wanted:
    """What is written; `predict` says what each means."""

    overlay: bool = False
    probabilities: bool = False
    vector: bool = False
    overwrite: bool = False


class Prediction:
    """What the images of one call have in common.

    Args:
        predictor: the model.
        options: how scores are computed.
        wanted: what is written.
        quiet: print nothing.

    Attributes:
        keys: by label map, what its labels depend on, as a hash.
        failures: what went wrong with one of several images.
        pixels: predicted so far.

    Raises:
        UserError: for options that the model cannot be used with.
    """

    def __init__(self, predictor: Predictor, options: Options, wanted: Wanted, quiet: bool) -> None:
        self.predictor = predictor
        self.wanted = wanted
        self.window, self.overlap = window_and_overlap(predictor, options)
        self.flips = options.flips
        self.scores = flipped(predictor.scores, options.flips)
        self.bands = predictor.bands if options.bands is None else options.bands
        if self.bands is not None and (not self.bands or min(self.bands) < 1):
            raise UserError(f"bands is {list(self.bands)}; expected numbers of bands, the first being 1")
        if options.batch_size is not None and options.batch_size < 1:
            raise UserError(f"batch_size is {options.batch_size}, expected at least 1")
        # A CPU gains nothing from batches, and they need memory.
        fewest = 1 if predictor.device.type == "cpu" else WINDOWS_AT_ONCE
        self.batch_size = options.batch_size or predictor.batch or fewest
        self.quiet = quiet
        self.console = Console(stderr=True)
        self.keys: dict[Path, str] = {}
        self.failures: list[UserError] = []
        self.pixels = 0

    @property
    def takes_rgb(self) -> bool:
        """Whether the model sees pictures as they are, three bands of colour."""
        return self.bands is None and self.predictor.in_channels == 3

    def opened(self, item: Item) -> Raster:
        """An image to be read by windows, in the bands that the model takes."""
        return Raster(
            item.path,
            in_channels=self.predictor.in_channels,
            bands=self.bands,
            only_8_bits=self.predictor.only_8_bits,
            window=self.window,
        )

    def grid(self, image: Picture | Raster) -> Grid:
        """The windows of an image."""
        return Grid.over(image.size, window=self.window, overlap=self.overlap, stride=self.predictor.stride)

    def pieces(self, bar: Progress, image: Picture | Raster, finished_rows: int = 0) -> Iterator[Piece]:
        """The scores of an image, piece by piece, behind a bar where there are several."""
        grid = self.grid(image)
        if finished_rows == len(grid.rows):
            return
        done = finished_rows * len(grid.columns)
        windows = bar.add_task("windows", total=len(grid), completed=done, visible=len(grid) > 1)
        try:
            for piece in blended(
                image.read,
                self.scores,
                grid,
                classes=len(self.predictor.classes),
                device=self.predictor.device,
                batch_size=self.batch_size,
                first_row=finished_rows,
            ):
                yield piece
                self.pixels += piece.window.height * piece.window.width
                bar.update(windows, advance=1)
        finally:
            bar.remove_task(windows)

    def label_map(self, bar: Progress, image: Picture) -> np.ndarray:
        """Class indices, uint8 (H, W)."""
        return label_map(self.pieces(bar, image), image.size).numpy()

    def failed(self, error: UserError, together: int) -> None:
        """Of several images the others are done; the one image of a call is the call's error."""
        if together == 1:
            raise error
        self.failures.append(error)
        self.console.out(f"segdistill: {error}", highlight=False)

    def note(self, text: str) -> None:
        """Tells the user."""
        if not self.quiet:
            self.console.out(text, highlight=False)


def window_and_overlap(predictor: Predictor, options: Options) -> tuple[int, int]:
    """Both in pixels, as multiples of the model's stride."""
    stride = predictor.stride
    least = 4 * stride
    if options.window is not None and options.window < least:
        raise UserError(f"window is {options.window}; expected at least {least} pixels for a model of stride {stride}")
    if not 0 <= options.overlap <= 1 / 3:
        raise UserError(f"overlap is {options.overlap}; expected a share of the window's side from 0 to 1/3")
    window = max(least, options.window or predictor.window) // stride * stride
    return window, min(math.ceil(window * options.overlap / stride), window // (3 * stride)) * stride
