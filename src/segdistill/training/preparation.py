"""What a run needs before its first step: band statistics, a pre-stage, compilation."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch import nn
from torch.utils.data import DataLoader

from segdistill.data.statistics import BandStatistics, band_statistics
from segdistill.datasets.base import Window
from segdistill.datasets.reading.tiles import TileDataset
from segdistill.distiller import Distiller, Supervised
from segdistill.errors import UserError
from segdistill.locks import alone_in
from segdistill.naming import objects_in
from segdistill.networks.network import Network
from segdistill.networks.normalisation import check_one_image
from segdistill.progress import counted, tracked
from segdistill.recipe.data import Data
from segdistill.recipe.data_keys import check_apart
from segdistill.recipe.recipes import DistillRecipe, TrainRecipe
from segdistill.recipe.train_config import TrainConfig
from segdistill.run_folder import RunFolder, recipe_differences
from segdistill.training.failures import short
from segdistill.training.options import RunOptions
from segdistill.training.strategies import raised_by_all

_LARGE = 10  # crops that an image holds


@contextmanager
def alone(folder: RunFolder, config: Mapping[str, Any], options: RunOptions, fabric: Fabric) -> Iterator[None]:
    """Keep other runs out of a run folder within the ``with`` statement; a dry run writes nothing, and keeps none out.

    Raises:
        UserError: another run writes there, or has begun one there since the folder was looked at.
    """
    with ExitStack() as held:
        if not options.dry_run:
            with raised_by_all(fabric):
                if fabric.is_global_zero:
                    held.enter_context(alone_in(folder.path))
                    folder.check_free(config, resume=options.resume, overwrite=options.overwrite)
        yield


def check_sources(config: Mapping[str, Any], output: Path) -> None:
    """Refuse an output folder that holds what the run starts from, which would be replaced, or lies among images."""
    check_apart(config["data"], output)
    for key in ("network", "teacher", "teacher_weights", "student", "init_weights"):
        value = config.get(key)
        # Weights of several networks are by network: the files are the values.
        sources = list(value.values() if key != "teacher" else value) if isinstance(value, Mapping) else value
        for source in sources if isinstance(sources, list) else [sources]:
            if isinstance(source, str) and Path(source).resolve().is_relative_to(output.resolve()):
                raise UserError(f"{key} {source} lies in the output folder {output}; choose another output folder")


def note_objects(config: Mapping[str, Any], console: Console) -> None:
    """Say which keys of config.yaml cannot make the run again, since their values were given as objects."""
    keys = list(dict.fromkeys(objects_in(config)))
    if keys:
        console.out(
            f"note: {', '.join(keys)} given as an object that config.yaml cannot write down: only Python, given the "
            "same object again, can resume or repeat this run",
            highlight=False,
        )


def fit_bands(
    network: Network, data: Data, file: Path | None, console: Console, progress: bool
) -> BandStatistics | None:
    """For images that are not 8-bit RGB: normalises by the training images' own statistics, pads with their mean.

    The file of statistics that the data names, if any, holds for any images.

    Args:
        network: what is trained.
        data: gets its padding here.
        file: where a run that is resumed has the statistics already; None for a new run.
        console: where values that are hardly measurements are named.
        progress: whether there is a bar.
    """
    image, _ = data.train.open(0).window(Window(0, 0, 1, 1))
    if data.statistics is None and image.dtype == torch.uint8 and data.train.in_channels == 3:
        return None
    if file is not None and file.exists():
        statistics = BandStatistics.load(file)
    else:
        statistics = data.statistics or band_statistics(data.as_student_sees(), progress=progress)
    for text in statistics.doubts():
        console.out(f"warning: {text}", highlight=False)
    network.set_normalization(statistics.mean, statistics.std)
    data.train.fill = data.val.fill = statistics.padding(image.dtype)
    return statistics


def warn_of_small_data(data: Data, recipe: TrainRecipe | DistillRecipe, console: Console) -> None:
    """Warns of too few images or crops, unless few are to be overfitted, and of too small ones."""
    if recipe.overfit is None:
        warn_of_few_images(data, recipe.train.batch_size, console)
        hint_at_more_crops(data, console)
    warn_of_enlarging(data, console)


def tell_precision(asked: str, chosen: str, console: Console) -> None:
    """Says where a run's precision is not the one asked for."""
    if asked not in ("auto", chosen):
        console.out(f"this machine has no fast {asked}; training in {chosen}", highlight=False)


def warn_of_enlarging(data: Data, console: Console) -> None:
    """Warns where a teacher that looks closer would see enlarged pictures, which show no more than the student's.

    Judged by the first image, at the scale factor nearest to 1 that the augmentation draws.
    """
    if data.teacher_scale == 1:
        return
    height, width = data.train.at_own_size().open(0).size
    smallest, largest = data.augmentation.scale
    zoom = min(max(1.0, smallest), largest)
    shown = data.train.resize or (data.teacher_scale * height, data.teacher_scale * width)
    rows, columns = (round(zoom * side) for side in shown)
    if rows > height or columns > width:
        remedy = "resize" if data.train.resize is not None else "scale"
        console.out(
            f"warning: teacher_scale {data.teacher_scale} shows the teacher images of {rows} x {columns} pixels, but "
            f"the first one has {height} x {width}, and enlarging adds no detail; lower data.{remedy} or teacher_scale",
            highlight=False,
        )


def warn_of_few_images(data: Data, batch_size: int, console: Console) -> None:
    """Warns where there are fewer images than a batch takes, of those with labels or of the further ones without."""
    without_labels = data.unlabelled_in_batch(batch_size)
    kinds = [("training", data.train, batch_size - without_labels)]
    if data.unlabelled is not None:
        kinds = [("labelled", data.train, batch_size - without_labels), ("unlabelled", data.unlabelled, without_labels)]
    for kind, images, taken in kinds:
        if len(images) * data.train.crops_per_image < taken:
            console.out(
                f"warning: each batch takes {counted(taken, f'{kind} image')}, but the data has {len(images)}, so that "
                "images are repeated within a batch, augmented anew each time; lower train.batch_size",
                highlight=False,
            )


def hint_at_more_crops(data: Data, console: Console) -> None:
    """Says where an epoch sees little of large images, and how it sees more; judged by the first image."""
    crop, images = data.augmentation.crop, data.train
    if crop is None or images.crops_per_image > 1 or not isinstance(images, TileDataset):
        return
    height, width = images.resize or images.at_own_size().open(0).size
    if height * width >= _LARGE * crop[0] * crop[1]:
        in_parts = ", and data.evaluation_window validates in parts that fit into memory"
        console.out(
            f"hint: an epoch takes one crop of {crop[0]} x {crop[1]} from each image, but the first has {height} x "
            f"{width}: data.crops_per_image takes more{'' if images.evaluation_window else in_parts}",
            highlight=False,
        )


def check_smallest_image(learner: Distiller | Supervised, data: Data, sizes: Iterable[tuple[int, int]]) -> None:
    """Refuse a network that cannot take the smallest validation image by itself: it would fail after the training.

    Args:
        learner: on its device; of a teacher that is at hand only one that has the classes of the data is scored.
        data: its validation images are scored in windows.
        sizes: (height, width) of the validation images as the student sees them.

    Raises:
        UserError: it cannot.
    """
    window = data.val.evaluation_window
    height, width = min(sizes, key=max)  # features shrink to a single place where both sides are short
    seen = (min(height, window or height), min(width, window or width))
    teacher = learner.teacher if isinstance(learner, Distiller) else None
    check_one_image(learner.student, seen, "student" if isinstance(learner, Distiller) else "network")
    if teacher is not None and teacher.num_classes == len(data.val.classes):
        check_one_image(teacher, seen, "teacher")


def parts_of_batch(train: TrainConfig, processes: int) -> int:
    """Into how many parts each batch is split, one for each process and accumulated batch."""
    parts = train.accumulate * processes
    if train.batch_size % parts:
        raise UserError(
            f"train.batch_size is {train.batch_size}, which {processes} processes x {train.accumulate} accumulated "
            f"batches do not divide evenly; choose a multiple of {parts}"
        )
    return parts


def run_pre_stage(
    learner: Distiller, loader: DataLoader[Any], fabric: Fabric, folder: RunFolder, console: Console, bar: bool
) -> None:
    """Runs what methods do before the first step (KA's auto-encoder), and notes its time in history.csv."""
    began = time.perf_counter()
    batches = _Tracked(loader, "pre-stage of the method", console, bar)
    with fabric.autocast():
        learner.prepare(batches)
    if fabric.world_size > 1:  # each has seen its own part of the images: all take the first one's result
        for value in [*learner.methods.parameters(), *learner.methods.buffers()]:
            value.data.copy_(fabric.broadcast(value.data))
    if fabric.is_global_zero:
        folder.write_history([{"epoch": 0, "seconds": round(time.perf_counter() - began, 2)}])


def synchronise_batch_norm(learner: Distiller | Supervised, fabric: Fabric, console: Console) -> None:
    """Batch normalisation over all processes, so that a batch means the same however many share it."""
    if fabric.world_size == 1:
        return
    if fabric.device.type == "cuda":
        convert = nn.SyncBatchNorm.convert_sync_batchnorm
        learner.student = convert(learner.student)  # type: ignore[no-untyped-call]
        if learner.auxiliary is not None:
            learner.auxiliary = convert(learner.auxiliary)  # type: ignore[no-untyped-call]
    elif any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in learner.student.modules()):
        console.out(
            "batch normalisation stays within each process: torch synchronises it on GPUs only", highlight=False
        )


def check_checkpoint(
    state: Mapping[str, Any] | None,
    config: Mapping[str, Any],
    folder: RunFolder,
    inputs: Mapping[str, str | None],
    console: Console,
) -> None:
    """Refuse the checkpoint of a run of another recipe, and warn where it has seen other images or another teacher.

    Raises:
        UserError: it is one.
    """
    differences = [] if state is None else recipe_differences(state.get("recipe", {}), config)
    if differences:
        raise UserError(
            f"checkpoint {folder.checkpoint_file} is of another recipe: {'; '.join(differences)}; "
            "start over with --overwrite"
        )
    for key, what in (("content", "images or masks of the data"), ("teacher", "weights of the teacher")):
        if state is not None and state.get(key) not in (None, inputs[key]):
            console.out(
                f"warning: {what} have changed since {folder.path} was begun, so its result depends on the old and "
                "the new ones; --overwrite starts again with the new ones alone",
                highlight=False,
            )


def compile_student(learner: Distiller | Supervised, data: Data, fabric: Fabric, console: Console) -> None:
    """Compiles the student's model, and tries it on one batch: what cannot be compiled is trained as it is."""
    model = learner.student.model
    model.compile()
    image, _ = data.augmentation(*data.train[0], key=(0, 0, 0))
    images = image[None].repeat(2, 1, 1, 1).to(fabric.device)
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    try:
        with warnings.catch_warnings(), torch.random.fork_rng():
            warnings.simplefilter("ignore")
            model.train()
            with fabric.autocast():
                logits, features = learner.student.forward_with_features(images)
            torch.autograd.backward(logits.mean() + features.embedding.mean())
    except Exception as error:  # the compiler's errors are of many kinds
        model._compiled_call_impl = None
        console.out(f"torch.compile failed ({short(error)}); training without it", highlight=False)
    finally:
        model.zero_grad()
        for name, value in model.named_buffers():
            value.copy_(buffers[name])


class _Tracked:
    """An iterable with a progress bar that appears only once somebody iterates."""

    def __init__(self, batches: Any, text: str, console: Console, shown: bool) -> None:
        self.batches, self.text, self.console, self.shown = batches, text, console, shown

    def __iter__(self) -> Iterator[Any]:
        return tracked(self.batches, self.text, len(self.batches), self.console, self.shown)
