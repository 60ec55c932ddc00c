"""One call of `segdistill.predict`: the model, the options, and what the images of the call have in common."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import Progress

from segdistill.data.scoring import ReadableImage, TiledModel
from segdistill.data.tiling import OVERLAP, Piece
from segdistill.datasets.reading.images import RGB
from segdistill.errors import UserError
from segdistill.prediction.flips import flipped
from segdistill.prediction.geotiff import Raster
from segdistill.prediction.images_in import Item
from segdistill.prediction.labels import Labels
from segdistill.prediction.options import Flips
from segdistill.prediction.prediction import Prediction
from segdistill.prediction.predictor import Predictor
from segdistill.recipe.sizes import Resize


@dataclass(frozen=True)
class Options:
    """How scores are computed; `predict` says what each means."""

    window: int | None = None
    overlap: float = OVERLAP
    resize: Resize = "auto"
    batch_size: int | None = None
    flips: Flips = "none"
    bands: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Wanted:
    """What is written; `predict` and `label` say what each means."""

    overlay: bool = False
    probabilities: bool = False
    vector: bool = False
    overwrite: bool = False
    confidence: float | None = None
    frame_step: int = 1


class LabelMap(NamedTuple):
    """Labels of one image.

    Attributes:
        labels: class indices, uint8 (H, W), and 255 where the image has no data or no class is probable enough.
        counts: as in `Labels`; None without a confidence.
    """

    labels: np.ndarray
    counts: np.ndarray | None


class Job:
    """What the images of one call have in common.

    Args:
        predictor: the model.
        options: how scores are computed.
        wanted: what is written.
        quiet: print nothing.

    Attributes:
        keys: by label map, what its labels depend on, as a hash.
        failures: what went wrong with one of several images.
        notes: what a user should know of the labels, a line each.
        pixels: predicted so far.

    Raises:
        UserError: for options that the model cannot be used with.
    """

    def __init__(self, predictor: Predictor, options: Options, wanted: Wanted, quiet: bool) -> None:
        self.predictor = predictor
        self.wanted = wanted
        self.model = configured(predictor, options)
        self.flips = options.flips
        self.bands = predictor.bands if options.bands is None else options.bands
        if self.bands is not None and (not self.bands or min(self.bands) < 1):
            raise UserError(f"bands is {list(self.bands)}; expected numbers of bands, the first being 1")
        self.notes = (*predictor.notes, *_notes_of(predictor.model.resize, self.model.resize))
        self.quiet = quiet
        self.console = Console(stderr=True)
        self.keys: dict[Path, str] = {}
        self.failures: list[UserError] = []
        self.pixels = 0

    @property
    def takes_rgb(self) -> bool:
        """Whether the model sees pictures as they are, three bands of colour."""
        described = self.predictor.description
        return self.bands in (None, RGB) and described.in_channels == 3 and described.pixels in (None, "uint8")

    def opened(self, item: Item) -> Raster:
        """An image to be read by windows, in the bands that the model takes."""
        return Raster(
            item.path,
            described=self.predictor.description,
            bands=self.bands,
            window=self.model.tiling.longest((sys.maxsize, sys.maxsize)),
        )

    def prediction(self, image: ReadableImage) -> Prediction:
        """What the model predicts for an image of this call."""
        return Prediction(self.model, image)

    def pieces(self, bar: Progress, image: ReadableImage, finished_rows: int = 0) -> Iterator[Piece]:
        """The scores of an image, piece by piece, behind a bar where there are several."""
        prediction = self.prediction(image)
        grid = prediction.grid
        if finished_rows == len(grid.rows):
            return
        done = finished_rows * len(grid.columns)
        windows = bar.add_task("windows", total=len(grid), completed=done, visible=len(grid) > 1)
        try:
            for piece in prediction.pieces(finished_rows):
                yield piece
                self.pixels += piece.window.height * piece.window.width
                bar.update(windows, advance=1)
        finally:
            bar.remove_task(windows)

    def labels(self) -> Labels:
        """What turns the scores of one image into labels."""
        return Labels(self.wanted.confidence, self.model.classes)

    def label_map(self, image: ReadableImage) -> LabelMap:
        """The labels of an image."""
        if self.wanted.confidence is None:
            found = LabelMap(self.prediction(image).label_map().numpy(), None)
        else:
            certain = self.labels()
            found = LabelMap(self.prediction(image).label_map(certain).numpy(), certain.counts)
        self.pixels += found.labels.size
        return found

    def failed(self, error: UserError, together: int) -> None:
        """Of several images the others are done; the one image of a call is the call's error."""
        if together == 1:
            raise error
        self.failures.append(error)
        self.console.out(f"segdistill: {error}", highlight=False)

    def may_replace(self, target: Path, source: Path) -> None:
        """Refuses to replace a label map that was made otherwise, without leave.

        Raises:
            UserError: there is no leave.
        """
        if not self.wanted.overwrite:
            raise UserError(
                f"{target} is there already, and was not made by this model from {source} in this way; replace it "
                "with --overwrite, or choose another output"
            )

    def note(self, text: str) -> None:
        """Tells the user."""
        if not self.quiet:
            self.console.out(text, highlight=False)


def _notes_of(own: tuple[int, int] | None, asked: tuple[int, int] | None) -> tuple[str, ...]:
    """What to say where images are predicted at another size than those that the model was validated on."""
    if asked == own:
        return ()
    validated, here = (
        "at their own size" if size is None else f"resized to {size[0]} x {size[1]}" for size in (own, asked)
    )
    return (f"the model was validated on images {validated}; these go through it {here}, and scores may be lower",)


def configured(predictor: Predictor, options: Options = Options()) -> TiledModel:
    """The model as ``options`` run it.

    Raises:
        UserError: an option out of its range.
    """
    stride = predictor.model.tiling.stride
    least = 4 * stride
    if options.window is not None and options.window < least:
        raise UserError(f"window is {options.window}; expected at least {least} pixels for a model of stride {stride}")
    if not 0 <= options.overlap <= 1 / 3:
        raise UserError(f"overlap is {options.overlap}; expected a share of the window's side from 0 to 1/3")
    if options.batch_size is not None and options.batch_size < 1:
        raise UserError(f"batch_size is {options.batch_size}, expected at least 1")
    model = predictor.model
    return replace(
        model,
        scorer=flipped(model.scorer, options.flips),
        tiling=replace(model.tiling, window=options.window or model.tiling.window, overlap=options.overlap),
        resize=model.resize if options.resize == "auto" else options.resize,
        batch_size=options.batch_size or model.batch_size,
    )
