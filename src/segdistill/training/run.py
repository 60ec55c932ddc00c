"""Runs one learner through its epochs into a run folder: what `train` and `distill` share."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
import rich
import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers.logger import Logger
from lightning.fabric.loggers.tensorboard import TensorBoardLogger
from rich.console import Console
from torch import nn

from segdistill.data.describing import describe_network
from segdistill.data.loading import TrainingSamples, default_workers, evaluation_loader, reading, training_loader
from segdistill.data.statistics import BandStatistics, band_statistics
from segdistill.datasets.base import Window
from segdistill.device import choose_device, choose_precision
from segdistill.distiller import AbsentTeacher, Distiller, Supervised
from segdistill.errors import UserError
from segdistill.files import write_text, write_yaml
from segdistill.inspection.before_run import check_before_run
from segdistill.networks.network import Network
from segdistill.networks.size import count_parameters
from segdistill.progress import tracked
from segdistill.recipe.data import KEEP_IN_MEMORY, Data, keep_decoded
from segdistill.recipe.recipes import DistillRecipe, TrainRecipe
from segdistill.recipe.train_config import TrainConfig
from segdistill.run_folder import RunFolder, recipe_differences
from segdistill.training.balance import Balance
from segdistill.training.checkpoint import load_checkpoint
from segdistill.training.dry_run import dry_run
from segdistill.training.failures import short, told
from segdistill.training.loggers import check_tracker, make_tracker
from segdistill.training.loop import Loaders, TrainingLoop
from segdistill.training.options import RunOptions, Tracker
from segdistill.training.report import run_report
from segdistill.training.sharding import whole_network
from segdistill.training.strategies import launch
from segdistill.training.teacher_cache import TeacherCache, describe, teacher_output_names

T = TypeVar("T")

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}


def fit(
    make_learner: Callable[[AbsentTeacher | None], Distiller | Supervised],
    *,
    recipe: TrainRecipe | DistillRecipe,
    data: Data,
    options: RunOptions,
) -> RunFolder:
    """Trains a learner into a run folder.

    Args:
        make_learner: builds the learner, once the random state is set, with a stand-in for the teacher where one is
            given; its loss on labels is set here.
        recipe: complete, as it is written to config.yaml.
        data: splits and augmentation.
        options: where and how.

    Returns:
        The finished run; a dry run's folder is not even made.

    Raises:
        UserError: for a recipe or data that cannot work, before anything is written.
    """
    if options.tracker is not None:
        check_tracker(options.tracker)
    train, seed, views = recipe.train, recipe.seed, recipe.views
    loss_weights = recipe.loss_weights if isinstance(recipe, DistillRecipe) else "fixed"
    teacher_cache = recipe.teacher_cache if isinstance(recipe, DistillRecipe) else None
    balance = Balance(loss_weights if isinstance(loss_weights, Mapping) else {} if loss_weights == "fixed" else None)
    config = recipe.as_dict()
    folder = RunFolder(options.output)
    folder.check_free(config, resume=options.resume, overwrite=options.overwrite)
    _check_sources(config, folder.path)
    device = choose_device(options.device)
    precision = choose_precision(train.precision, device)
    parts = _parts(train, options.processes)
    finished = options.resume and folder.read_metrics() is not None
    if not finished:
        _check_classes(data)
        fabric = launch(options, precision)
    # Rich's own console is the one that the progress bar draws on, so that lines appear above the bar.
    silent = options.quiet or (not finished and not fabric.is_global_zero)
    console = Console(quiet=True) if silent else rich.get_console()
    if finished:
        console.out(f"{folder.path} is finished already", highlight=False)
        return folder
    progress = not silent
    if train.precision not in ("auto", precision):
        console.out(f"this machine has no fast {train.precision}; training in {precision}", highlight=False)
    device = fabric.device
    L.seed_everything(seed, workers=True, verbose=False)
    share = {"rank": fabric.global_rank, "world": fabric.world_size}
    if not options.dry_run or data.decoded_cache == KEEP_IN_MEMORY:
        data = keep_decoded(data, console, progress=progress, **share)
    cache_folder = None if teacher_cache is None or options.dry_run else Path(teacher_cache)
    learner = make_learner(None if cache_folder is None else TeacherCache.known_teacher(cache_folder))
    # Every mask is read once, so that a bad label stops the run now and not after an hour.
    counts = check_before_run(data, console, unlabelled=config.get("ignored") == "distil", progress=progress)
    bands_file = folder.path / "bands.json"
    bands = _fit_bands(learner.student, data, bands_file if options.resume else None, progress)
    describe_network(learner.student, data.val, bands)
    cache = None
    teacher = learner.teacher if isinstance(learner, Distiller) and isinstance(learner.teacher, Network) else None
    if cache_folder is not None and isinstance(learner, Distiller):
        with told(fabric, config, data, train, parts):
            learner, cache, teacher = _fill_cache(
                cache_folder,
                learner,
                make_learner,
                config,
                data,
                train,
                seed,
                views or 1,
                precision,
                parts,
                fabric,
                console,
            )
    learner.task_loss = train.build_task_loss(counts.pixels.to(device))
    learner.to(device)
    if options.processes > 1:
        learner.student = _synchronized(learner.student, device, console)
    loader = training_loader(
        data.train,
        data.augmentation,
        train.batch_size,
        seed,
        train.workers,
        views=views,
        attach=None if cache is None else cache.read,
        parts=parts,
        **share,
    )
    validation = evaluation_loader(data.val, max(1, train.batch_size // parts), train.workers, **share)

    state = load_checkpoint(folder.checkpoint_file, console) if options.resume and not options.dry_run else None
    if state is not None:
        differences = recipe_differences(state.get("recipe", {}), config)
        if differences:
            raise UserError(
                f"checkpoint {folder.checkpoint_file} is of another recipe: {'; '.join(differences)}; "
                "start over with --overwrite"
            )
    if fabric.is_global_zero and not options.dry_run:
        folder.start(config, resume=state is not None)
        if bands is not None:
            bands.save(bands_file)
    if isinstance(learner, Distiller) and learner.has_pre_stage and state is None and not options.dry_run:
        with reading(loader):
            _prepare(learner, loader, fabric, folder, console, progress)

    def keep_weights(factors: Mapping[str, float]) -> None:
        if fabric.is_global_zero:
            write_yaml(folder.config_file, {**config, "loss_weights": dict(factors)})
        found = ", ".join(f"{name} {value:g}" for name, value in factors.items())
        console.out(f"loss_weights found: {found}", highlight=False)

    def teacher_miou() -> float | None:
        if teacher is None:
            return None if cache is None else cache.teacher_miou(config["data"])
        miou = loop.score(teacher, "asking the teacher").miou
        if cache is not None and fabric.is_global_zero:
            cache.keep_teacher_miou(config["data"], miou)
        return miou

    if options.compile:
        _compile(learner, data, train, fabric, console)
    loop = TrainingLoop(
        learner,
        train,
        data.train.classes,
        Loaders(loader, validation),
        fabric=fabric,
        folder=folder,
        recipe=config,
        seed=seed,
        balance=balance,
        console=console,
        bar=progress,
        loggers=_loggers(folder, config, options.tracker) if fabric.is_global_zero and not options.dry_run else [],
        checkpoint_minutes=options.checkpoint_minutes,
        score_teacher=teacher_miou,
        on_balanced=keep_weights,
    )
    if state is not None:
        loop.load(state)
        if loss_weights == "auto" and loop.balance.factors:
            keep_weights(loop.balance.factors)
    if options.dry_run:
        with told(fabric, config, data, train, parts), reading(loader, validation):
            found = dry_run(loop, data, config)
        found.show(console)
        return folder
    with told(fabric, config, data, train, parts), reading(loader, validation):
        scores = loop.run()
    networks = {"teacher": learner.teacher} if isinstance(learner, Distiller) else {}
    shown = {name: network for name, network in networks.items() if isinstance(network, Network)}
    shown["student" if networks else "network"] = loop.network
    with contextlib.ExitStack() as whole:
        for network in shown.values():
            whole.enter_context(whole_network(network))
        if fabric.is_global_zero:
            write_text(folder.report_file, run_report(folder, scores, data.val, shown, loop.teacher_miou))
    if fabric.is_global_zero:
        folder.write_metrics(
            {
                "kind": "distill" if isinstance(recipe, DistillRecipe) else "train",
                "split": "val",
                **scores.as_dict(),
                "best": loop.best,
                "teacher_miou": loop.teacher_miou,
                "epochs": loop.epoch,
                "parameters": count_parameters(learner.student),
                "training_seconds": round(sum(float(row["seconds"]) for row in folder.read_history()), 1),
                "device": str(device),
                "processes": fabric.world_size,
                "precision": precision,
                "torch": torch.__version__,
            }
        )
    fabric.barrier()
    text = f"{folder.path}  val mIoU {scores.miou:.2f}  pixel accuracy {scores.pixel_accuracy:.2f}"
    console.out(text, highlight=False)
    return folder


def _fit_bands(network: Network, data: Data, file: Path | None, progress: bool) -> BandStatistics | None:
    """For images that are not 8-bit RGB: normalises by the training images' own statistics, pads with their mean.

    The data's own file of statistics, if it names one, is for any images.

    Args:
        network: what is trained.
        data: gets its padding here.
        file: where a run that goes on has them already; None for a new run.
        progress: whether there is a bar.
    """
    image, _ = data.train.open(0).window(Window(0, 0, 1, 1))
    if data.statistics is None and image.dtype == torch.uint8 and data.train.in_channels == 3:
        return None
    if file is not None and file.exists():
        statistics = BandStatistics.load(file)
    else:
        statistics = data.statistics or band_statistics(data.train, progress=progress)
    network.set_normalization(statistics.mean, statistics.std)
    data.train.fill = data.val.fill = statistics.padding(image.dtype)
    return statistics


def _parts(train: TrainConfig, processes: int) -> int:
    """Into how many parts each batch falls, one process's and one accumulation's each."""
    parts = train.accumulate * processes
    if train.batch_size % parts:
        raise UserError(
            f"train.batch_size is {train.batch_size}, which {processes} processes x {train.accumulate} accumulated "
            f"batches do not divide evenly; choose a multiple of {parts}"
        )
    return parts


def _fill_cache(
    folder: Path,
    learner: Distiller,
    make_learner: Callable[[AbsentTeacher | None], Distiller | Supervised],
    config: Mapping[str, Any],
    data: Data,
    train: TrainConfig,
    seed: int,
    views: int,
    precision: str,
    parts: int,
    fabric: Fabric,
    console: Console,
) -> tuple[Distiller, TeacherCache, Network | None]:
    """A learner that asks no teacher any more, the cache with all that it needs, and the teacher if it was loaded."""
    images = max(len(data.train) * data.train.crops_per_image, train.batch_size)
    made_for = describe(
        teacher=config["teacher"],
        teacher_weights=config["teacher_weights"],
        dataset=data.train,
        augmentation=data.augmentation,
        seed=seed,
        multiple=learner.multiple,
        precision=precision,
        progress=not console.quiet,
    )
    cache = TeacherCache(folder, made_for, images, views)
    names = teacher_output_names(learner)
    teacher = None
    if cache.want(names):
        if isinstance(learner.teacher, AbsentTeacher):
            # The images are as they were; only the teacher is wanted now.
            L.seed_everything(seed, workers=True, verbose=False)
            remade = make_learner(None)
            assert isinstance(remade, Distiller)
            remade.student = learner.student
            learner = remade
        learner.to(fabric.device)
        cache.fill(
            learner,
            TrainingSamples(data.train, data.augmentation, seed, views),
            batch_size=max(1, train.batch_size // parts),
            workers=default_workers() if train.workers is None else train.workers,
            fabric=fabric,
            console=console,
            progress=not console.quiet,
        )
        fabric.barrier()
        assert isinstance(learner.teacher, Network)
        teacher = learner.teacher
        object.__setattr__(learner, "teacher", AbsentTeacher(teacher.info, teacher.multiple))
    return learner, cache, teacher


def _prepare(
    learner: Distiller, loader: Any, fabric: Fabric, folder: RunFolder, console: Console, progress: bool
) -> None:
    began = time.perf_counter()
    batches = _Tracked(loader, "pre-stage of the method", console, progress)
    with fabric.autocast():
        learner.prepare(batches)
    if fabric.world_size > 1:  # each has seen its own part of the images: the first one's result is everybody's
        for value in [*learner.methods.parameters(), *learner.methods.buffers()]:
            value.data.copy_(fabric.broadcast(value.data))
    if fabric.is_global_zero:
        folder.write_history([{"epoch": 0, "seconds": round(time.perf_counter() - began, 2)}])


def _synchronized(student: Network, device: torch.device, console: Console) -> Network:
    """Batch normalisation over all processes, so that a batch means the same however many share it."""
    if device.type == "cuda":
        converted: Network = nn.SyncBatchNorm.convert_sync_batchnorm(student)  # type: ignore[no-untyped-call]
        return converted
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in student.modules()):
        console.out(
            "batch normalisation stays within each process: torch synchronises it on GPUs only", highlight=False
        )
    return student


def _compile(learner: Distiller | Supervised, data: Data, train: TrainConfig, fabric: Fabric, console: Console) -> None:
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
                logits, views = learner.student.forward_with_features(images)
            torch.autograd.backward(logits.mean() + views.embedding.mean())
    except Exception as error:  # the compiler's errors are of many kinds
        model._compiled_call_impl = None
        console.out(f"torch.compile failed ({short(error)}); training without it", highlight=False)
    finally:
        model.zero_grad()
        for name, value in model.named_buffers():
            value.copy_(buffers[name])


def _loggers(folder: RunFolder, config: Mapping[str, Any], tracker: Tracker | None) -> list[Logger]:
    loggers: list[Logger] = [TensorBoardLogger(folder.path, name="tensorboard", version="")]
    if tracker is not None:
        loggers.append(make_tracker(tracker, folder, config))
    return loggers


def _check_classes(data: Data) -> None:
    if data.train.classes != data.val.classes:
        raise UserError(f"the splits disagree on classes: train {data.train.classes}, val {data.val.classes}")


def _check_sources(config: Mapping[str, Any], output: Path) -> None:
    """Refuses an output folder that holds what the run starts from: it would be replaced."""
    for key in ("network", "teacher", "teacher_weights", "student", "init_weights"):
        source = config.get(key)
        if isinstance(source, str) and Path(source).resolve().is_relative_to(output.resolve()):
            raise UserError(f"{key} {source} lies in the output folder {output}; choose another output folder")


class _Tracked:
    """An iterable with a progress bar that appears only once somebody iterates."""

    def __init__(self, batches: Any, text: str, console: Console, shown: bool) -> None:
        self.batches, self.text, self.console, self.shown = batches, text, console, shown

    def __iter__(self) -> Iterator[Any]:
        return tracked(self.batches, self.text, len(self.batches), self.console, self.shown)
