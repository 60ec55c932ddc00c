"""Runs one learner through its epochs into a run folder: what `train` and `distill` share."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.progress import track

from segdistill.data.loading import evaluation_loader, training_loader
from segdistill.datasets.checking import check_dataset
from segdistill.distiller import Distiller, Supervised, TaskLoss
from segdistill.errors import UserError
from segdistill.networks.size import count_parameters
from segdistill.recipe import Data
from segdistill.training.callbacks import AtomicCheckpoints, Keeper
from segdistill.training.config import TrainConfig
from segdistill.training.device import choose_device, choose_precision
from segdistill.training.run_folder import RunFolder
from segdistill.training.task import SegmentationTask

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}


@dataclass(frozen=True)
class RunOptions:
    """Where and how a run goes, apart from its recipe.

    Attributes:
        output: the run folder.
        device: see `choose_device`.
        resume: go on from the last checkpoint in ``output``; a finished run is left as it is.
        overwrite: replace the run in ``output``.
        quiet: print nothing.
    """

    output: str | Path
    device: str
    resume: bool
    overwrite: bool
    quiet: bool


def fit(
    make_learner: Callable[[TaskLoss], Distiller | Supervised],
    *,
    kind: Literal["train", "distill"],
    config: Mapping[str, Any],
    data: Data,
    train: TrainConfig,
    seed: int,
    options: RunOptions,
) -> RunFolder:
    """Trains a learner into a run folder.

    Args:
        make_learner: builds the learner, given the loss on labels, once the random state is set.
        kind: what the run is, for metrics.json.
        config: the complete recipe, written to config.yaml.
        data: splits and augmentation.
        train: hyper-parameters.
        seed: seed of everything random.
        options: where and how.

    Returns:
        The finished run.

    Raises:
        UserError: for a recipe or data that cannot work, before anything is written.
    """
    folder = RunFolder(options.output)
    folder.check_free(config, resume=options.resume, overwrite=options.overwrite)
    if options.resume and folder.read_metrics() is not None:
        return folder
    device = choose_device(options.device)
    console = Console(quiet=options.quiet)
    precision = choose_precision(train.precision, device)
    if train.precision not in ("auto", precision):
        console.print(f"this machine has no fast {train.precision}; training in {precision}")
    _check_classes(data)
    # Every mask is read once, so that a bad label stops the run now and not after an hour.
    counts = check_dataset(data.train, progress=not options.quiet)
    check_dataset(data.val, progress=not options.quiet)
    L.seed_everything(seed, workers=True, verbose=False)
    learner = make_learner(train.build_task_loss(counts.pixels.to(device)))
    task = SegmentationTask(learner, train, data.train.classes, data.train.ignore_index, seed)
    loader = training_loader(data.train, data.augmentation, train.batch_size, seed, train.workers)
    validation = evaluation_loader(data.val, train.batch_size, train.workers)

    resuming = options.resume and folder.checkpoint_file.exists()
    folder.start(config, resume=resuming)
    if isinstance(learner, Distiller) and not resuming:
        began = time.perf_counter()
        with torch.autocast(device.type, AUTOCAST[precision], enabled=precision != "fp32"):
            learner.to(device).prepare(_Tracked(loader, "pre-stage of the method", console))
        if learner.has_pre_stage:
            folder.write_history([{"epoch": 0, "seconds": round(time.perf_counter() - began, 2)}])
    _train(task, loader, validation, folder, device, precision, console, options.quiet, resuming)
    assert task.scores is not None
    folder.write_metrics(
        {
            "kind": kind,
            "split": "val",
            **task.scores.as_dict(),
            "epochs": train.epochs,
            "parameters": count_parameters(learner.student),
            "training_seconds": round(sum(float(row["seconds"]) for row in folder.read_history()), 1),
            "device": str(device),
            "precision": precision,
            "torch": torch.__version__,
        }
    )
    return folder


def _train(
    task: SegmentationTask,
    loader: Iterable[Any],
    validation: Iterable[Any],
    folder: RunFolder,
    device: torch.device,
    precision: str,
    console: Console,
    quiet: bool,
    resuming: bool,
) -> None:
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    callbacks: list[L.Callback] = [Keeper(folder, console)]
    if not quiet:
        callbacks.append(RichProgressBar(leave=False))
    config = task.config
    with warnings.catch_warnings():
        # Lightning's advice is about things decided here: workers, logging intervals, the folder that exists.
        warnings.filterwarnings("ignore", module=r"lightning\..*")
        trainer = L.Trainer(
            accelerator={"cuda": "gpu"}.get(device.type, device.type),
            devices=[device.index or 0] if device.type == "cuda" else 1,
            precision={"bf16": "bf16-mixed", "fp16": "16-mixed", "fp32": "32-true"}[precision],  # type: ignore[arg-type]
            max_epochs=config.epochs,
            check_val_every_n_epoch=config.validate_every,
            num_sanity_val_steps=0,
            callbacks=callbacks,
            logger=TensorBoardLogger(folder.path, name="tensorboard", version=""),
            plugins=[AtomicCheckpoints()],
            enable_checkpointing=False,
            enable_progress_bar=not quiet,
            enable_model_summary=False,
            log_every_n_steps=10,
        )
        checkpoint = str(folder.checkpoint_file) if resuming else None
        trainer.fit(task, loader, validation, ckpt_path=checkpoint, weights_only=True)
        if config.epochs % config.validate_every:
            trainer.validate(task, validation, verbose=False)


def _check_classes(data: Data) -> None:
    if data.train.classes != data.val.classes:
        raise UserError(f"the splits disagree on classes: train {data.train.classes}, val {data.val.classes}")


class _Tracked:
    """An iterable with a progress bar that appears only once somebody iterates."""

    def __init__(self, batches: Any, text: str, console: Console) -> None:
        self.batches, self.text, self.console = batches, text, console

    def __iter__(self) -> Iterator[Any]:
        return iter(track(self.batches, self.text, total=len(self.batches), console=self.console, transient=True))
