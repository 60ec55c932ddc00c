"""`segdistill.predict`: label maps of images of any size."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

from rich.progress import Progress

from segdistill.cluster import spread
from segdistill.datasets.reading.rasters import with_companions
from segdistill.errors import UserError
from segdistill.locks import alone_in
from segdistill.prediction import pictures as predict_pictures
from segdistill.prediction import rasters as predict_rasters
from segdistill.prediction import videos as predict_videos
from segdistill.prediction.images_in import Item, Kind, find_items
from segdistill.prediction.job import Job, Options, Wanted
from segdistill.prediction.options import PredictOptions
from segdistill.prediction.polygons import require_pyogrio
from segdistill.prediction.predictor import Predictor, open_predictor
from segdistill.progress import Tasks
from segdistill.recipe.keywords import takes_fields
from segdistill.recipe.sizes import parse_resize

KINDS: Kinds = {"picture": predict_pictures, "raster": predict_rasters, "video": predict_videos}
"""Each with ``predict_all``, ``companions`` (the files beside a label map) and ``made_from`` (what one was made of)."""

Kinds = dict[Kind, ModuleType]

Elsewhere = Callable[[Sequence[Item]], Iterator[tuple[Item, int | str | RuntimeError]]]
"""Predicts images in other processes: each with the number of its pixels, or with what went wrong."""


@takes_fields
def predict(options: PredictOptions) -> list[Path]:
    """Predict label maps of images, folders of images, GeoTIFFs of any size and videos.

    A picture becomes a PNG of class indices with the classes' colours; a GeoTIFF becomes a cloud-optimised GeoTIFF in
    the same place on the map, in bounded memory; a video becomes a video of class indices (.mkv, FFV1, kept exactly).
    Images larger than a window go through the network in overlapping windows whose scores are blended. What is finished
    is not done again: the same command continues where it stopped.

    Returns:
        The label maps, in the order of the images.

    Raises:
        UserError: for a model or an image that cannot be read, or that disagree. With several images the others are
            done first.
    """
    items = find_items(options.input, Path(options.output))
    predictor = open_predictor(options.model, options.device)
    scoring = Options(
        options.window,
        options.overlap,
        parse_resize(options.resize),
        options.batch_size,
        options.flips,
        None if options.bands is None else tuple(options.bands),
    )
    wanted = Wanted(options.overlay, options.probabilities, options.vector, options.overwrite)
    job = Job(predictor, scoring, wanted, options.quiet)
    if options.executor == "local":
        return _run(job, items, Path(options.output))
    gpus = options.gpus_per_image
    gpus = float(predictor.model.device.type == "cuda") if gpus is None else gpus
    one = functools.partial(_predict_there, str(options.model), options.device, scoring, wanted)

    def elsewhere(todo: Sequence[Item]) -> Iterator[tuple[Item, int | str | RuntimeError]]:
        return spread(one, todo, what="image", cpus=options.cpus_per_image, gpus=gpus)

    return _run(job, items, Path(options.output), elsewhere)


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
    return _run(Job(predictor, options, wanted, quiet), find_items(given, output), output)


def _predict_there(model: str, device: str, options: Options, wanted: Wanted, item: Item) -> int | str:
    """The pixels predicted, in a process of a cluster; or the user's error in words."""
    try:
        job = Job(_open_once(model, device), options, wanted, quiet=True)
        _run(job, [item], item.target)
    except UserError as error:
        return str(error)
    return job.pixels


@functools.cache
def _open_once(model: str, device: str) -> Predictor:
    """A process of a cluster predicts many images."""
    return open_predictor(model, device)


def _run(job: Job, items: Sequence[Item], output: Path, elsewhere: Elsewhere | None = None) -> list[Path]:
    """`carry_out`, while nobody else writes there, and a line that says what was done."""
    started = time.perf_counter()
    target = items[0].target
    done = 0
    if still_to_do(job, items, KINDS):  # otherwise nothing is written, perhaps since nothing can be
        # One image at a time may be predicted into a folder by several processes, or by those of a cluster.
        with alone_in(target.parent, target.name) if len(items) == 1 else alone_in(output):
            done = carry_out(job, items, elsewhere)
    if job.failures:
        raise UserError(f"{len(job.failures)} of {len(items)} images could not be predicted, see above")
    if not job.quiet:
        print(_summary(items, done, job.pixels, time.perf_counter() - started))
    return [item.target for item in items]


def carry_out(job: Job, items: Sequence[Item], elsewhere: Elsewhere | None = None, kinds: Kinds = KINDS) -> int:
    """Do all that is not done yet, here or elsewhere.

    Args:
        job: is told what fails of several images.
        items: all of the call.
        elsewhere: other processes; None for this one.
        kinds: how each kind of image is predicted.

    Returns:
        How many were not done yet and are now.

    Raises:
        UserError: for an image that is the only one and fails, or for a file that is in the way.
    """
    todo = still_to_do(job, items, kinds)
    _remove_companions_of_others(job, todo, kinds)
    for line in job.notes:
        job.note(f"note: {line}")
    with Tasks(job.console, shown=not job.quiet) as bar:
        files = bar.add_task("", total=len(todo), visible=len(todo) > 1)
        try:
            finished = _here(job, bar, todo, kinds) if elsewhere is None else _gathered(job, elsewhere(todo), len(todo))
            for item in finished:
                bar.update(files, advance=1, description=item.path.name)
        except KeyboardInterrupt:
            job.note("what is finished is kept; the same command continues from there")
            raise
    return len(todo) - len(job.failures)


def still_to_do(job: Job, items: Sequence[Item], kinds: Kinds) -> list[Item]:
    """The items of which not all files are there, made as they would be made now.

    Raises:
        UserError: for a file that is in the way, or something wanted that none of the items has.
    """
    _check_wanted(job, items, kinds)
    job.keys = {item.target: _key(job, item) for item in items}
    return [item for item in items if not _is_done(job, item, kinds)]


def _remove_companions_of_others(job: Job, items: Sequence[Item], kinds: Kinds) -> None:
    """Removes what goes with label maps that are about to be replaced, or it would be taken for the new ones'."""
    everything = dataclasses.replace(job.wanted, overlay=True, probabilities=True, vector=True)
    for item in items:
        kind = kinds[item.kind]
        if item.target.exists() and kind.made_from(item.target) not in (None, job.keys[item.target]):
            for file in kind.companions(item, everything):
                file.unlink(missing_ok=True)


def _here(job: Job, bar: Progress, todo: Sequence[Item], kinds: Kinds) -> Iterator[Item]:
    """Predicts one image after another, each given before it is begun."""
    for name, kind in kinds.items():
        yield from kind.predict_all(job, bar, [item for item in todo if item.kind == name], len(todo))


def _gathered(job: Job, results: Iterator[tuple[Item, int | str | RuntimeError]], together: int) -> Iterator[Item]:
    """What other processes have predicted, each given when it is done."""
    for item, result in results:
        if isinstance(result, int):
            job.pixels += result
        else:
            job.failed(UserError(result if isinstance(result, str) else f"{item.path}: {result}"), together)
        yield item


def _check_wanted(job: Job, items: Sequence[Item], kinds: Kinds) -> None:
    if job.wanted.vector:
        require_pyogrio()
    for name in ("probabilities", "vector"):
        if getattr(job.wanted, name) and all(item.kind != "raster" for item in items):
            raise UserError(f"{name} is for GeoTIFFs, and there is none among the images; leave --{name} out")
    taken = {item.target for item in items} | {item.path for item in items}
    for item in items:
        for file in kinds[item.kind].companions(item, job.wanted):
            if file in taken:
                raise UserError(
                    f"{file}, a file beside the label map of {item.path}, is also an image or another label map; "
                    "rename one of the images, choose another output, or leave out the option that writes this file"
                )


def _key(job: Job, item: Item) -> str:
    """All that the labels depend on."""
    if not item.path.exists():
        raise UserError(f"{item.path} does not exist (any more)")
    states = [(file.name, file.stat()) for file in with_companions(item.path)]
    told: dict[str, object] = {
        "model": job.predictor.identity,
        "classes": job.predictor.classes,
        "palette": job.predictor.palette,
        "tiling": dataclasses.asdict(job.model.tiling),
        "resize": job.model.resize,
        "flips": job.flips,
        "bands": job.bands,
        "image": [entry for name, state in states for entry in (name, state.st_size, state.st_mtime_ns)],
    }
    if job.wanted.confidence is not None:
        told["confidence"] = job.wanted.confidence
        if item.kind == "video":
            told["frame_step"] = job.wanted.frame_step
    return hashlib.blake2b(json.dumps(told).encode(), digest_size=16).hexdigest()


def _is_done(job: Job, item: Item, kinds: Kinds) -> bool:
    """Whether all files of an item are there, made as they would be made now.

    Raises:
        UserError: there is a file that was made otherwise, and no leave to replace it.
    """
    if item.target.is_dir():
        raise UserError(f"{item.target} is a folder; the label map of {item.path} needs that name")
    if not item.target.exists():
        return False
    kind = kinds[item.kind]
    if kind.made_from(item.target) == job.keys[item.target]:
        return all(file.exists() for file in kind.companions(item, job.wanted))
    job.may_replace(item.target, item.path)
    return False


def _summary(items: Sequence[Item], done: int, pixels: int, seconds: float) -> str:
    what = f"{items[0].target}" if len(items) == 1 else f"{len(items)} label maps"
    if done == 0:
        return f"{what}: there already"
    there = f", {len(items) - done} were there already" if done < len(items) else ""
    many = f"{pixels} pixels" if pixels < 100_000 else f"{pixels / 1e6:.1f} million pixels"
    return f"{what}: {many} in {seconds:.1f} s, {pixels / 1e6 / seconds:.2f} million pixels/s{there}"
