"""Runs one learner from its recipe to a finished run folder: what `train` and `distill` share."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import rich
import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers.logger import Logger
from lightning_fabric.loggers.tensorboard import TensorBoardLogger
from rich.console import Console
from torch.utils.data import DataLoader

from segdistill.data.describing import describe_network
from segdistill.data.evaluation import EvaluationLoader, EvaluationSamples
from segdistill.data.loading import EpochSampler, reading, training_loader
from segdistill.data.seeding import seeded
from segdistill.data.statistics import BandStatistics
from segdistill.device import choose_device, choose_precision
from segdistill.distiller import Distiller, Supervised
from segdistill.files import write_text, write_yaml
from segdistill.inspection.before_run import check_before_run
from segdistill.networks.size import count_parameters
from segdistill.recipe.data import KEEP_IN_MEMORY, keep_decoded
from segdistill.recipe.recipes import DistillRecipe
from segdistill.run_folder import RunFolder
from segdistill.training.balance import Balance
from segdistill.training.cached_teacher import CachedRun, fill_cache, warn_of_repeats
from segdistill.training.callbacks.callback import Callback
from segdistill.training.callbacks.checkpoints import Checkpoints
from segdistill.training.callbacks.curves import Curves
from segdistill.training.callbacks.early_stopping import EarlyStopping
from segdistill.training.callbacks.history import History
from segdistill.training.callbacks.loss_weights import MeasuredWeights
from segdistill.training.callbacks.networks import SaveNetworks
from segdistill.training.callbacks.progress_bar import ProgressBar
from segdistill.training.callbacks.stop_signals import StopSignals
from segdistill.training.callbacks.teacher_score import TeacherScore
from segdistill.training.callbacks.validation import Validation
from segdistill.training.callbacks.warn import Warn
from segdistill.training.checkpoint import load_checkpoint
from segdistill.training.dry_run import dry_run
from segdistill.training.failures import told
from segdistill.training.features_first import steps_of_features_alone
from segdistill.training.held_out import HeldOut
from segdistill.training.job import Job
from segdistill.training.loggers import check_tracker, make_tracker
from segdistill.training.loop import STEPS_BETWEEN_LOOKS, Loop
from segdistill.training.options import RunOptions
from segdistill.training.preparation import (
    alone,
    check_checkpoint,
    check_smallest_image,
    check_sources,
    compile_student,
    fit_bands,
    note_objects,
    parts_of_batch,
    run_pre_stage,
    synchronise_batch_norm,
    tell_precision,
    warn_of_small_data,
)
from segdistill.training.report import image_counts, last_line, run_report
from segdistill.training.sharding import whole_network
from segdistill.training.step import Step
from segdistill.training.strategies import launch, without_lightning_notes
from segdistill.training.teacher_labels import labelled_by_teacher
from segdistill.training.teacher_source import TeacherSource
from segdistill.training.validator import Validator
from segdistill.training.watch import Watch

_LARGE = 10_000_000
"""Parameters; gradients, optimiser and averaged weights take four times as much again."""


def run(job: Job, options: RunOptions, kind: Callable[[Job, RunOptions], Run] | None = None) -> RunFolder:
    """Trains a learner into a run folder, in five phases: check, build, prepare, train, finish.

    Args:
        job: what is trained.
        options: where and how.
        kind: makes the run; by default a `Run`.

    Returns:
        The finished run; of a dry run, the folder that was not made.

    Raises:
        UserError: for a recipe or data that cannot work, before anything is written.
    """
    with without_lightning_notes(), seeded(job.recipe.seed):
        going = (kind or Run)(job, options)
        if going.check():
            with alone(going.folder, going.config, options, going.fabric):
                going.build()
                going.prepare()
                if going.train():
                    going.finish()
    folder, is_large = going.folder, going.is_large
    del going
    if is_large:
        # Its networks refer to each other, and Python would look for them long after the next run needs the memory.
        gc.collect()
    return folder


class Run:
    """A run on its way through the phases; each sets what later ones need."""

    fabric: Fabric
    learner: Distiller | Supervised
    source: TeacherSource | None
    bands: BandStatistics | None
    loaders: tuple[DataLoader[Any], ...]
    inputs: dict[str, str | None]
    state: dict[str, Any] | None
    loop: Loop
    validation: Validation
    validator: Validator | HeldOut
    teacher_score: TeacherScore | None
    against_teacher: bool

    def __init__(self, job: Job, options: RunOptions) -> None:
        self.job = job
        self.options = options
        self.folder = RunFolder(options.output)
        self.config = job.recipe.as_dict()
        self.train_config = job.recipe.train
        self.data = job.data
        self.console = Console(quiet=True) if options.quiet else rich.get_console()

    @property
    def is_large(self) -> bool:
        """Whether the networks take memory that the next run of the process may need."""
        learner = getattr(self, "learner", None)
        return learner is not None and sum(one.numel() for one in learner.parameters()) > _LARGE

    @property
    def share(self) -> dict[str, int]:
        """The number of this process among all."""
        return {"rank": self.fabric.global_rank, "world": self.fabric.world_size}

    def check(self) -> bool:
        """Refuses what cannot work, before anything is written, and starts the processes; False if all is done."""
        options, train = self.options, self.train_config
        if options.tracker is not None:
            check_tracker(options.tracker)
        factors = self.job.recipe.loss_weights if isinstance(self.job.recipe, DistillRecipe) else "fixed"
        self.balance = Balance(None if factors == "auto" else {} if isinstance(factors, str) else factors)
        self.folder.check_free(self.config, resume=options.resume, overwrite=options.overwrite)
        check_sources(self.config, self.folder.path)
        self.device = choose_device(options.device)
        self.precision = choose_precision(train.precision, self.device)
        self.parts = parts_of_batch(train, options.processes)
        if options.resume and self.folder.read_metrics() is not None:
            self.console.out(f"{self.folder.path} is finished already", highlight=False)
            return False
        self.data.check_classes()
        self.fabric = launch(
            self.device,
            self.precision,
            devices=options.devices,
            nodes=options.nodes,
            strategy=options.strategy,
        )
        if not self.fabric.is_global_zero:
            self.console = Console(quiet=True)
        return True

    def build(self) -> None:
        """Makes the learner, with its teacher where there is one, and reads the data into memory where asked to."""
        job = self.job
        if not self.options.dry_run or self.data.decoded_cache == KEEP_IN_MEMORY:
            self.data = keep_decoded(self.data, self.console, progress=self.shown, **self.share)
        cache = job.recipe.teacher_cache if isinstance(job.recipe, DistillRecipe) else None
        folder = None if cache is None or self.options.dry_run else Path(cache)
        self.source = None if job.load_teacher is None else TeacherSource(job.load_teacher, folder)
        self.learner = job.make_learner(self.source)
        tell_precision(self.train_config.precision, self.precision, self.console)
        networks = {"network" if self.source is None else "student": self.learner.student}
        if self.source is not None and self.source.network is not None:
            networks["teacher"] = self.source.network
        for role, network in networks.items():
            for note in network.notes:
                self.console.out(f"{role}: {note}", highlight=False)
        if job.hint:
            self.console.out(job.hint, highlight=False)

    def prepare(self) -> None:
        """Checks the data, fills the teacher cache, makes the loaders, begins the run folder, runs the pre-stage."""
        data, learner, fabric, bar = self.data, self.learner, self.fabric, self.shown
        learner.to(fabric.device)
        self.check_data()
        data = self.data
        bands_file = self.folder.path / "bands.json"
        kept = bands_file if self.options.resume else None
        self.bands = fit_bands(learner.student, data, kept, self.console, bar)
        describe_network(learner.student, data.val, self.bands)
        warn_of_small_data(data, self.job.recipe, self.console)
        views = self._views()
        synchronise_batch_norm(learner, fabric, self.console)
        self.loaders = self.training_loader(views), *self.validation_loaders()
        resuming = self.options.resume and not self.options.dry_run
        self.state = load_checkpoint(self.folder.checkpoint_file, self.console) if resuming else None
        self.inputs = self.job.inputs()
        check_checkpoint(self.state, self.config, self.folder, self.inputs, self.console)
        if self.options.dry_run:
            return
        if fabric.is_global_zero:
            self.folder.start(self.config, resume=self.state is not None)
            note_objects(self.config, self.console)
            if self.bands is not None:
                self.bands.save(bands_file)
        if isinstance(learner, Distiller) and learner.has_pre_stage and self.state is None:
            with reading(self.loaders[0]):
                run_pre_stage(learner, self.loaders[0], fabric, self.folder, self.console, bar)

    def check_data(self) -> None:
        """Reads every mask once, so that a bad label stops the run now and not after an hour; sets the task loss."""
        data, no_labels = self.data, self.data.train.unlabelled_index is not None
        unlabelled = no_labels or self.config.get("ignored") == "distil"
        splits = check_before_run(data, self.console, unlabelled=unlabelled, progress=self.shown)
        check_smallest_image(self.learner, data, splits.get("val", splits["train"]).sizes)
        if not no_labels and splits["train"].counts.pixels.any():  # without labels it is 0, whichever it is
            pixels = splits["train"].counts.pixels.to(self.fabric.device)
            self.learner.task_loss = self.train_config.build_task_loss(pixels)
        self.against_teacher = data.val.unlabelled_index is not None
        self.data = labelled_by_teacher(data, self.source, self.fabric, self.console, bar=self.shown)

    def train(self) -> bool:
        """Makes the steps that are left, or, of a dry run, a few; False if that is all."""
        if self.options.compile:
            compile_student(self.learner, self.data, self.fabric, self.console)
        learner, train, seed, fabric = self.learner, self.train_config, self.job.recipe.seed, self.fabric
        steps = train.total_steps(self.batches)
        first = steps_of_features_alone(learner, train, steps, self.batches, self.console)
        if self.options.dry_run:
            first = 0  # the other steps cost more
        step = Step(learner, train, steps, fabric=fabric, seed=seed, balance=self.balance, features_first=first)
        checkpoints = Checkpoints(self.folder, self.config, self.options.checkpoint_minutes, self.inputs)
        callbacks = [*self.callbacks(), StopSignals(checkpoints, STEPS_BETWEEN_LOOKS), checkpoints]
        self.loop = Loop(step, self.loaders[0], steps, callbacks)
        if self.state is not None:
            checkpoints.load(self.loop, self.state)
        with told(fabric, self.config, self.data, train, self.parts), reading(*self.loaders):
            if self.options.dry_run:
                dry_run(self.loop, self.validator, self.data, self.config).show(self.console)
                return False
            self.loop.run()
        return True

    def finish(self) -> None:
        """Writes the report and the scores."""
        scores, learner = self.validation.scores, self.learner
        assert scores is not None
        teacher = learner.teacher if isinstance(learner, Distiller) else None
        teacher_miou = None if self.teacher_score is None else self.teacher_score.miou
        shown = {} if teacher is None or not self.teacher_has_our_classes else {"teacher": teacher}
        shown["student" if isinstance(learner, Distiller) else "network"] = self.loop.step.network
        with ExitStack() as whole:
            for network in shown.values():
                whole.enter_context(whole_network(network))
            if self.fabric.is_global_zero:
                page = run_report(self.folder, scores, self.data, shown, teacher_miou, agreement=self.against_teacher)
                write_text(self.folder.report_file, page)
        if self.fabric.is_global_zero:
            self.folder.write_metrics(
                {
                    "kind": "distill" if isinstance(self.job.recipe, DistillRecipe) else "train",
                    "split": "val",
                    **scores.as_dict(),
                    "best": self.validation.best,
                    "teacher_miou": teacher_miou,
                    "epochs": self.loop.epoch,
                    "steps": self.loop.step.number,
                    **image_counts(self.data, agreement=self.against_teacher),
                    "parameters": count_parameters(learner.student),
                    "training_seconds": round(sum(float(row["seconds"]) for row in self.folder.read_history()), 1),
                    "device": str(self.fabric.device),
                    "processes": self.fabric.world_size,
                    "precision": self.precision,
                    "torch": torch.__version__,
                }
            )
        self.fabric.barrier()
        told = last_line(self.folder, scores, teacher_miou, agreement=self.against_teacher)
        self.console.out(told, highlight=False)

    @property
    def teacher_has_our_classes(self) -> bool:
        """Whether there is a teacher with as many classes as the data."""
        return self.source is not None and self.source.info.num_classes == len(self.data.train.classes)

    @property
    def shown(self) -> bool:
        """Whether progress is shown."""
        return not self.console.quiet

    @property
    def batches(self) -> int:
        """Optimiser steps of an epoch."""
        sampler = self.loaders[0].sampler
        assert isinstance(sampler, EpochSampler)
        return sampler.batches

    @property
    def epochs(self) -> int:
        """Epochs of the run, the last of them perhaps cut short."""
        return self.train_config.total_epochs(self.data.images_per_epoch(self.train_config.batch_size))

    def _views(self) -> int | None:
        """The number of views, from a filled cache where there is one."""
        views, source, learner = self.job.recipe.views, self.source, self.learner
        if views is None or source is None or source.cache_folder is None:
            if views is not None and views != "auto":
                warn_of_repeats(views, self.epochs, self.console)
            return None if views == "auto" else views
        assert isinstance(learner, Distiller)
        assert isinstance(self.job.recipe, DistillRecipe)
        cached = CachedRun(self.job.recipe, self.data, self.epochs, self.parts, self.precision)
        if views == "auto" and self.options.resume and self.folder.config_file.exists():
            kept = self.folder.read_config()["views"]
            views = kept if isinstance(kept, int) else views
        with told(self.fabric, self.config, self.data, self.train_config, self.parts):
            found = fill_cache(cached, learner, source, views, self.fabric, self.console)
        self.config["views"] = found
        return found

    def training_loader(self, views: int | None) -> DataLoader[Any]:
        """Batches of views of the training images."""
        train = self.train_config
        cache = None if self.source is None else self.source.cache
        return training_loader(
            self.data.training_set(train.batch_size),
            self.data.augmentation,
            train.batch_size,
            self.job.recipe.seed,
            train.workers,
            views=views,
            attach=None if cache is None else cache.read,
            teacher_scale=self.data.teacher_scale,
            parts=self.parts,
            unlabelled_in_batch=self.data.unlabelled_in_batch(train.batch_size),
            **self.share,
        )

    def validation_loaders(self) -> tuple[DataLoader[Any], ...]:
        """Validation images, for the student and for the teacher."""
        batch_size = max(1, self.train_config.batch_size // self.parts)
        splits = dict.fromkeys((self.data.val, self.data.val_for_teacher()))
        workers = self.train_config.workers
        found = [EvaluationLoader(EvaluationSamples.of(one), batch_size, workers, **self.share) for one in splits]
        return found[0], found[-1]

    def callbacks(self) -> list[Callback]:
        """The callbacks of a run in the order in which they act, but those that keep its state."""
        train, console, folder = self.train_config, self.console, self.folder
        student, teacher = (
            Validator(
                loader,
                self.data.train.classes,
                self.learner.ignore_index,
                fabric=self.fabric,
                console=console,
                bar=self.shown,
            )
            for loader in self.loaders[1:]
            if isinstance(loader, EvaluationLoader)
        )
        watch = Watch(lambda line: console.out(line, highlight=False))
        self.validator = student
        what = "agreement" if self.against_teacher else "mIoU"
        self.validation = Validation(student, train.validate_every, what)
        # A teacher of other classes can teach features, and cannot be scored on these labels.
        scored = self.source if self.teacher_has_our_classes and not self.against_teacher else None
        of = self.config["data"] | self.inputs  # masks may have changed since a cache kept the score
        self.teacher_score = None if scored is None else TeacherScore(scored, self.validation, teacher, of, watch)
        callbacks: list[Callback | None] = [
            self.validation,
            Curves(self.loggers(), console, STEPS_BETWEEN_LOOKS),
            ProgressBar(console, self.shown, train.batch_size, self.validation),
            MeasuredWeights(self._keep_factors, console),
            SaveNetworks(folder, self.validation),
            History(folder, console, what),
            Warn(watch, self.validation),
            self.teacher_score,
            EarlyStopping(train.patience, self.validation, console, what),
        ]
        return [callback for callback in callbacks if callback is not None]

    def _keep_factors(self, factors: Mapping[str, float]) -> None:
        write_yaml(self.folder.config_file, {**self.config, "loss_weights": dict(factors)})

    def loggers(self) -> list[Logger]:
        """What draws curves, on the first process."""
        if not self.fabric.is_global_zero or self.options.dry_run:
            return []
        loggers: list[Logger] = [TensorBoardLogger(self.folder.path, name="tensorboard", version="")]
        if self.options.tracker is not None:
            loggers.append(make_tracker(self.options.tracker, self.folder, self.config))
        return loggers
