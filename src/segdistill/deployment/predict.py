"""`segdistill.predict`: label maps of images of any size."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from segdistill.cluster import spread
from segdistill.datasets.base import IGNORE_INDEX, Window
from segdistill.deployment import geotiff, video
from segdistill.deployment.geotiff import PROBABILITY_STEPS, Raster, UnfinishedMap, UnreadableError
from segdistill.deployment.images_in import Item, Picture, find_items, read_picture
from segdistill.deployment.polygons import require_pyogrio
from segdistill.deployment.predictor import Predictor, open_predictor
from segdistill.deployment.video import KEY_TAG, Video, VideoWriter
from segdistill.deployment.windows import Flips, Grid, Piece, ahead, blended, flipped, label_map, piece_labels
from segdistill.errors import UserError
from segdistill.files import write_atomically
from segdistill.reporting.picture import colourise, photograph

OVERLAP = 1 / 8
"""Share of a window's side that it has in common with its neighbour."""

WINDOWS_AT_ONCE = 8
"""Windows per batch on a device that is the faster for it."""

KEY_TEXT = "segdistill_key"
"""The text in a finished PNG that says what it was made from."""

_OVERLAYS = {"picture": "-overlay.png", "video": "-overlay.mp4"}

_DECODERS = 2
"""Threads that decode pictures ahead of the network."""


def predict(
    *,
    model: str | Path,
    input: list[str] | str | Path,
    output: str | Path,
    window: int | None = None,
    overlap: float = OVERLAP,
    batch_size: int | None = None,
    flips: Flips = "none",
    bands: list[int] | None = None,
    overlay: bool = False,
    probabilities: bool = False,
    vector: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    engine: Literal["local", "ray"] = "local",
    cpus_per_image: int = 1,
    gpus_per_image: float | None = None,
    quiet: bool = False,
) -> list[Path]:
    """Predicts label maps of images, folders of images, GeoTIFFs of any size and videos.

    A picture becomes a PNG of class indices with the classes' colours; a GeoTIFF becomes a cloud-optimised GeoTIFF in
    the same place on the map, in bounded memory; a video becomes a video of class indices (.mkv, FFV1, kept exactly).
    Images larger than a window go through the network in overlapping windows whose scores are blended. What is finished
    is not done again: the same command goes on where it was stopped.

    Args:
        model: a run folder, or an exported file (.onnx, .xml, .pt2).
        input: an image, a video, a folder of images, a pattern such as 'photos/*.jpg', or a list of these.
        output: a file for one image, else a folder.
        window: longest side of what goes through the network at once, in pixels; by default that of the run's
            evaluation, or 1024.
        overlap: share of a window's side that it has in common with its neighbour, at most 1/3.
        batch_size: windows per batch; by default 1 on a CPU, else 8.
        flips: average over mirror images, none, horizontal or both (also top to bottom, for images from above): better
            labels in 2 or 4 times the time.
        bands: numbers of the bands to read, the first being 1; by default those that the run was trained on.
        overlay: beside each label map of a picture or a video, NAME-overlay.png or .mp4: it under its labels' colours.
        probabilities: beside each GeoTIFF, NAME-probabilities.tif: a band per class.
        vector: beside each GeoTIFF, NAME.gpkg: its areas as polygons; holds all polygons of a map in memory.
        overwrite: replace label maps that were made otherwise.
        device: auto, cpu, cuda, cuda:N or mps.
        engine: local; or ray, which spreads the images over a Ray cluster: the one that RAY_ADDRESS names, else one
            started on this machine.
        cpus_per_image: cores that an image takes on a Ray cluster.
        gpus_per_image: GPUs that it takes there; by default 1 where the device is a GPU, else none.
        quiet: print nothing but errors.

    Returns:
        The label maps, in the order of the images.

    Raises:
        UserError: for a model or an image that cannot be read, or that disagree. With several images the others are
            done first.
    """
    if not str(output):
        raise UserError("output is empty; expected a file or a folder")
    predictor = open_predictor(model, device)
    if cpus_per_image < 1:
        raise UserError(f"cpus_per_image is {cpus_per_image}, expected at least 1")
    if gpus_per_image is not None and gpus_per_image < 0:
        raise UserError(f"gpus_per_image is {gpus_per_image}, expected 0 or more")
    options = Options(window, overlap, batch_size, flips, None if bands is None else tuple(bands))
    wanted = Wanted(overlay, probabilities, vector, overwrite)
    job = _Job(predictor, options, wanted, quiet)
    items = find_items(input, Path(output))
    if engine == "local":
        return job.run(items)
    gpus = float(predictor.device.type == "cuda") if gpus_per_image is None else gpus_per_image
    one = functools.partial(_predict_there, str(model), device, options, wanted)
    return job.run(items, lambda todo: spread(one, todo, what="image", cpus=cpus_per_image, gpus=gpus))


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


def _predict_there(model: str, device: str, options: Options, wanted: Wanted, item: Item) -> int | str:
    """The pixels predicted, in a process of a cluster; or the user's error in words."""
    try:
        job = _Job(_open_once(model, device), options, wanted, quiet=True)
        job.run([item])
    except UserError as error:
        return str(error)
    return job.pixels


@functools.cache
def _open_once(model: str, device: str) -> Predictor:
    """A process of a cluster predicts many images."""
    return open_predictor(model, device)


def predict_files(
    predictor: Predictor,
    given: str | Path | Sequence[str | Path],
    output: Path,
    *,
    options: Options = Options(),
    wanted: Wanted = Wanted(),
    quiet: bool = True,
) -> list[Path]:
    """`predict` with any predictor: an exported model, or a function of one's own.

    Raises:
        UserError: see `predict`.
    """
    job = _Job(predictor, options, wanted, quiet)
    items = find_items(given, output)
    return job.run(items)


Elsewhere = Callable[[Sequence[Item]], Iterator[tuple[Item, int | str | RuntimeError]]]
"""Predicts images in other processes: each with the number of its pixels, or with what went wrong."""


class _Job:
    """One call of `predict`."""

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
        if wanted.vector:
            require_pyogrio()

    def run(self, items: Sequence[Item], elsewhere: Elsewhere | None = None) -> list[Path]:
        """All that is not done yet, here or elsewhere."""
        self._check_wanted(items)
        self.keys = {item.target: self._key(item) for item in items}
        todo = [item for item in items if not self._is_done(item)]
        started = time.perf_counter()
        with self._progress() as bar:
            files = bar.add_task("", total=len(todo), visible=len(todo) > 1)
            try:
                for item in self._here(bar, todo) if elsewhere is None else self._gathered(elsewhere(todo), len(todo)):
                    bar.update(files, advance=1, description=item.path.name)
            except KeyboardInterrupt:
                self._note("what is finished is kept; the same command goes on from there")
                raise
        done = len(todo) - len(self.failures)
        if self.failures:
            raise UserError(f"{len(self.failures)} of {len(items)} images could not be predicted, see above")
        if not self.quiet:
            print(_summary(items, done, self.pixels, time.perf_counter() - started))
        return [item.target for item in items]

    def _here(self, bar: Progress, todo: Sequence[Item]) -> Iterator[Item]:
        """Predicts one image after another, each given before it is begun."""
        for kind, predict_some in (("picture", self._pictures), ("raster", self._rasters), ("video", self._videos)):
            yield from predict_some(bar, [item for item in todo if item.kind == kind], len(todo))

    def _gathered(self, results: Iterator[tuple[Item, int | str | RuntimeError]], together: int) -> Iterator[Item]:
        """What other processes have predicted, each given when it is done."""
        for item, result in results:
            if isinstance(result, int):
                self.pixels += result
            else:
                self._failed(UserError(result if isinstance(result, str) else f"{item.path}: {result}"), together)
            yield item

    # ------------------------------------------------------------------------------------------ what is there

    def _check_wanted(self, items: Sequence[Item]) -> None:
        for name, has_it, kinds in (
            ("overlay", ("picture", "video"), "pictures and videos"),
            ("probabilities", ("raster",), "GeoTIFFs"),
            ("vector", ("raster",), "GeoTIFFs"),
        ):
            if getattr(self.wanted, name) and all(item.kind not in has_it for item in items):
                raise UserError(f"{name} is for {kinds}, and there is none among the images; leave --{name} out")
        taken = {item.target for item in items} | {item.path for item in items}
        for item in items:
            for file in self._companions(item):
                if file in taken:
                    raise UserError(f"{file} has two meanings; rename that image or leave --overlay out")

    def _companions(self, item: Item) -> list[Path]:
        """The files that go with a label map."""
        wanted = self.wanted
        if item.kind != "raster":
            return [item.beside(_OVERLAYS[item.kind])] if wanted.overlay else []
        endings = {"-probabilities.tif": wanted.probabilities, ".gpkg": wanted.vector}
        return [item.beside(ending) for ending, asked in endings.items() if asked]

    def _key(self, item: Item) -> str:
        """All that the labels depend on."""
        try:
            state = item.path.stat()
        except OSError:
            raise UserError(f"{item.path} does not exist (any more)") from None
        told = {
            "model": self.predictor.identity,
            "classes": self.predictor.classes,
            "palette": self.predictor.palette,
            "window": [self.window, self.overlap, self.predictor.stride],
            "flips": self.flips,
            "bands": self.bands,
            "image": [item.path.name, state.st_size, state.st_mtime_ns],
        }
        return hashlib.blake2b(json.dumps(told).encode(), digest_size=16).hexdigest()

    def _is_done(self, item: Item) -> bool:
        """Whether all files of an item are there, made as they would be made now.

        Raises:
            UserError: there is a file that was made otherwise, and no leave to replace it.
        """
        if item.target.is_dir():
            raise UserError(f"{item.target} is a folder; the label map of {item.path} needs that name")
        if not item.target.exists():
            return False
        made_from = {"raster": geotiff.made_from, "picture": _text_in, "video": video.made_from}[item.kind]
        if made_from(item.target) == self.keys[item.target]:
            return all(file.exists() for file in self._companions(item))
        if self.wanted.overwrite:
            return False
        raise UserError(
            f"{item.target} is there already, and was not made by this model from this image in this way; replace it "
            "with --overwrite, or choose another output"
        )

    # ------------------------------------------------------------------------------------------ pictures

    def _pictures(self, bar: Progress, items: Sequence[Item], together: int) -> Iterator[Item]:
        """Predicts pictures, while the next ones are decoded and the last one is written."""
        written: deque[Future[None]] = deque()
        with ThreadPoolExecutor(_DECODERS, "pictures") as decoders, ThreadPoolExecutor(1, "label maps") as writer:
            for item, image in ahead(decoders, self._decoded, items):
                yield item
                if isinstance(image, UserError):
                    self._failed(image, together)
                    continue
                try:
                    labels = self._label_map(bar, image)
                except UserError as error:
                    self._failed(UserError(f"{item.path}: {error}"), together)
                    continue
                written.append(writer.submit(self._write_picture, item, image, labels))
                while len(written) > 1:
                    written.popleft().result()
            while written:
                written.popleft().result()

    def _label_map(self, bar: Progress, image: Picture) -> np.ndarray:
        """Class indices, uint8 (H, W)."""
        return label_map(self._pieces(bar, image), image.size).numpy()

    def _decoded(self, item: Item) -> Picture | UserError:
        try:
            if self.bands is None and self.predictor.in_channels == 3:
                return read_picture(item.path)
            with self._opened(item) as raster:
                return Picture(*raster.read(Window(0, 0, *raster.size)))
        except UserError as error:
            return error

    def _write_picture(self, item: Item, image: Picture, labels: np.ndarray) -> None:
        found = torch.from_numpy(labels)
        if self.wanted.overlay:
            mixed = self._overlay(image, found)
            write_atomically(item.beside("-overlay.png"), lambda file: mixed.save(file, "PNG"))
        indexed = Image.fromarray(labels)
        indexed.putpalette([channel for color in self.predictor.palette for channel in color])
        texts = PngImagePlugin.PngInfo()
        texts.add_text(KEY_TEXT, self.keys[item.target])
        texts.add_itxt("classes", ", ".join(self.predictor.classes))
        # The label map last: it stands for all.
        write_atomically(item.target, lambda file: indexed.save(file, "PNG", pnginfo=texts))

    def _overlay(self, image: Picture, labels: torch.Tensor) -> Image.Image:
        return Image.blend(photograph(image.pixels), colourise(labels, self.predictor.palette), 0.5)

    # ------------------------------------------------------------------------------------------ videos

    def _videos(self, bar: Progress, items: Sequence[Item], together: int) -> Iterator[Item]:
        for item in items:
            yield item
            try:
                if self.bands is not None or self.predictor.in_channels != 3:
                    raise UserError(f"{item.path} is a video, whose frames are RGB; the model takes other bands")
                with Video(item.path) as frames:
                    self._predict_video(bar, item, frames)
            except UserError as error:
                self._failed(error, together)

    def _predict_video(self, bar: Progress, item: Item, frames: Video) -> None:
        tags = {KEY_TAG: self.keys[item.target], "CLASSES": ", ".join(self.predictor.classes)}
        task = bar.add_task("frames", total=frames.frames or None)
        try:
            with ExitStack() as files, ThreadPoolExecutor(1, "frames") as writer:
                # Entered first, the label map gets its name last: it stands for all.
                labelled = files.enter_context(VideoWriter(item.target, frames, tags))
                shown = None
                if self.wanted.overlay:
                    shown = files.enter_context(VideoWriter(item.beside(_OVERLAYS["video"]), frames, tags))

                def made() -> Iterator[tuple[Picture, np.ndarray, int]]:
                    for pixels, ticks in frames:
                        image = Picture(torch.from_numpy(pixels).permute(2, 0, 1))
                        yield image, self._label_map(bar, image), ticks

                def write(frame: tuple[Picture, np.ndarray, int]) -> None:
                    image, labels, ticks = frame
                    labelled.write(labels, ticks)
                    if shown is not None:
                        shown.write(np.asarray(self._overlay(image, torch.from_numpy(labels))), ticks)

                for _ in ahead(writer, write, made()):
                    bar.update(task, advance=1)
        finally:
            bar.remove_task(task)

    # ------------------------------------------------------------------------------------------ rasters

    def _rasters(self, bar: Progress, items: Sequence[Item], together: int) -> Iterator[Item]:
        for item in items:
            yield item
            try:
                with self._opened(item) as raster:
                    self._predict_raster(bar, item, raster)
            except UnreadableError as error:
                self._failed(error, together)

    def _predict_raster(self, bar: Progress, item: Item, raster: Raster) -> None:
        if not raster.has_place:
            self._note(f"note: {item.path} has no coordinate reference system, and neither will its label map")
        grid = self._grid(raster)
        unfinished = UnfinishedMap(
            item.target,
            key=self.keys[item.target],
            grid=grid,
            classes=self.predictor.classes,
            palette=self.predictor.palette,
            probabilities=self.wanted.probabilities,
        )
        rows = unfinished.finished_rows()
        if rows:
            self._note(f"going on with {item.target}: {rows} of {len(grid.rows)} rows of windows are done")

        def made() -> Iterator[tuple[Window, np.ndarray, np.ndarray | None]]:
            for piece in self._pieces(bar, raster, rows):
                yield (
                    piece.window,
                    piece_labels(piece).numpy(),
                    _probabilities(piece) if self.wanted.probabilities else None,
                )

        with ThreadPoolExecutor(1, "label map") as writer:
            for _ in ahead(writer, lambda piece: unfinished.write(*piece), made()):
                pass
        unfinished.finish(raster, vector=self.wanted.vector)

    def _opened(self, item: Item) -> Raster:
        predictor = self.predictor
        return Raster(
            item.path,
            in_channels=predictor.in_channels,
            bands=self.bands,
            only_8_bits=predictor.only_8_bits,
            window=self.window,
        )

    # ------------------------------------------------------------------------------------------ both

    def _grid(self, image: Picture | Raster) -> Grid:
        return Grid.over(image.size, window=self.window, overlap=self.overlap, stride=self.predictor.stride)

    def _pieces(self, bar: Progress, image: Picture | Raster, finished_rows: int = 0) -> Iterator[Piece]:
        """The scores of an image, piece by piece, behind a bar where there are several."""
        grid = self._grid(image)
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

    def _failed(self, error: UserError, together: int) -> None:
        """Of several images the others are done; the one image of a call is the call's error."""
        if together == 1:
            raise error
        self.failures.append(error)
        self.console.out(f"segdistill: {error}", highlight=False)

    def _note(self, text: str) -> None:
        if not self.quiet:
            self.console.out(text, highlight=False)

    def _progress(self) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=self.quiet or not self.console.is_terminal,
        )


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


def _probabilities(piece: Piece) -> np.ndarray:
    """Probabilities, uint8 (K, h, w), in steps of 1 / `PROBABILITY_STEPS`, and 255 where there is no data."""
    steps = (piece.scores.softmax(0) * PROBABILITY_STEPS).round().to("cpu", torch.uint8)
    if piece.missing is not None:
        steps[:, piece.missing] = IGNORE_INDEX
    return steps.numpy()


def _text_in(path: Path) -> str | None:
    """The key in a finished PNG; None for any other file."""
    try:
        with Image.open(path) as image:
            key = image.info.get(KEY_TEXT)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return key if isinstance(key, str) else None


def _summary(items: Sequence[Item], done: int, pixels: int, seconds: float) -> str:
    what = f"{items[0].target}" if len(items) == 1 else f"{len(items)} label maps"
    if done == 0:
        return f"{what}: there already"
    there = f", {len(items) - done} were there already" if done < len(items) else ""
    return (
        f"{what}: {pixels / 1e6:.1f} million pixels in {seconds:.1f} s, {pixels / 1e6 / seconds:.2f} million/s{there}"
    )
