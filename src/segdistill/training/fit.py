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
import rich
import torch
import yaml
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.progress import track

from segdistill.data.loading import evaluation_loader, training_loader
from segdistill.datasets.checking import check_dataset
from segdistill.distiller import Distiller, Supervised
from segdistill.errors import UserError
from segdistill.files import write_text
from segdistill.metrics.scores import Scores, percent
from segdistill.networks.network import Network
from segdistill.networks.size import count_parameters
from segdistill.recipe import Data, plain
from segdistill.reporting.page import report_page
from segdistill.reporting.picture import side_by_side
from segdistill.training.callbacks import AtomicCheckpoints, Bar, Keeper
from segdistill.training.config import TrainConfig
from segdistill.training.device import choose_device, choose_precision
from segdistill.training.run_folder import RunFolder
from segdistill.training.task import SegmentationTask

#: Validation images in a run's report.
PICTURED = 6

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
    make_learner: Callable[[], Distiller | Supervised],
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
        make_learner: builds the learner, once the random state is set; its loss on labels is set here.
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
    if not 0 <= seed < 2**32:
        raise UserError(f"seed is {seed}, expected 0 to {2**32 - 1}")
    config = plain(config, "")
    folder = RunFolder(options.output)
    folder.check_free(config, resume=options.resume, overwrite=options.overwrite)
    _check_sources(config, folder.path)
    # Rich's own console is the one that the progress bar draws on, so that lines appear above the bar.
    console = Console(quiet=True) if options.quiet else rich.get_console()
    if options.resume and folder.read_metrics() is not None:
        console.out(f"{folder.path} is finished already", highlight=False)
        return folder
    device = choose_device(options.device)
    progress = not options.quiet and console.is_terminal
    precision = choose_precision(train.precision, device)
    if train.precision not in ("auto", precision):
        console.out(f"this machine has no fast {train.precision}; training in {precision}", highlight=False)
    _check_classes(data)
    L.seed_everything(seed, workers=True, verbose=False)
    learner = make_learner()
    # Every mask is read once, so that a bad label stops the run now and not after an hour.
    counts = check_dataset(data.train, progress=progress)
    check_dataset(data.val, progress=progress)
    learner.task_loss = train.build_task_loss(counts.pixels.to(device))
    task = SegmentationTask(learner, train, data.train.classes, data.train.ignore_index, seed)
    loader = training_loader(data.train, data.augmentation, train.batch_size, seed, train.workers)
    validation = evaluation_loader(data.val, train.batch_size, train.workers)

    resuming = options.resume and folder.checkpoint_file.exists()
    folder.start(config, resume=resuming)
    if isinstance(learner, Distiller) and not resuming:
        began = time.perf_counter()
        with torch.autocast(device.type, AUTOCAST[precision], enabled=precision != "fp32"):
            learner.to(device).prepare(_Tracked(loader, "pre-stage of the method", console, progress))
        if learner.has_pre_stage:
            folder.write_history([{"epoch": 0, "seconds": round(time.perf_counter() - began, 2)}])
    _train(task, loader, validation, folder, device, precision, console, progress, resuming)
    assert task.scores is not None
    networks = {"teacher": learner.teacher} if isinstance(learner, Distiller) else {}
    networks |= {"student" if networks else "network": learner.student}
    write_text(folder.report_file, _report(folder.path, config, task.scores, data, networks))
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
    text = f"{folder.path}  val mIoU {task.scores.miou:.2f}  pixel accuracy {task.scores.pixel_accuracy:.2f}"
    console.out(text, highlight=False)
    return folder


def _trainer(
    task: SegmentationTask,
    folder: RunFolder,
    device: torch.device,
    precision: str,
    console: Console,
    progress: bool,
) -> L.Trainer:
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    callbacks: list[L.Callback] = [Keeper(folder, console)]
    if progress:
        callbacks.append(Bar())
    return L.Trainer(
        accelerator={"cuda": "gpu"}.get(device.type, device.type),
        devices=[device.index or 0] if device.type == "cuda" else 1,
        precision={"bf16": "bf16-mixed", "fp16": "16-mixed", "fp32": "32-true"}[precision],  # type: ignore[arg-type]
        max_epochs=task.config.epochs,
        check_val_every_n_epoch=task.config.validate_every,
        num_sanity_val_steps=0,
        callbacks=callbacks,
        logger=TensorBoardLogger(folder.path, name="tensorboard", version=""),
        plugins=[AtomicCheckpoints()],
        enable_checkpointing=False,
        enable_progress_bar=progress,
        enable_model_summary=False,
        log_every_n_steps=10,
    )


def _train(
    task: SegmentationTask,
    loader: Iterable[Any],
    validation: Iterable[Any],
    folder: RunFolder,
    device: torch.device,
    precision: str,
    console: Console,
    progress: bool,
    resuming: bool,
) -> None:
    checkpoint = folder.checkpoint_file if resuming else None
    # Lightning keeps each module's mode as it finds it, and a method's frozen parts are told theirs by train().
    task.train()
    with warnings.catch_warnings():
        # Lightning's advice is about things decided here: workers, logging intervals, the folder that exists.
        warnings.filterwarnings("ignore", module=r"lightning\..*")
        trainer = _trainer(task, folder, device, precision, console, progress)
        try:
            trainer.fit(task, loader, validation, ckpt_path=checkpoint, weights_only=True)
            # Also where a run was killed between its last checkpoint and its scores.
            if task.scores is None or task.config.epochs % task.config.validate_every:
                trainer.validate(task, validation, verbose=False)
        except SystemExit:
            # Lightning's answer to Ctrl-C and to SIGTERM, with exit codes that say 1 and "all is well".
            raise KeyboardInterrupt from None
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{device} has too little memory for batches of {task.config.batch_size}: lower train.batch_size or "
                "data.crop"
            ) from error
        except ValueError as error:
            if "more than 1 value per channel" in str(error):  # torch's words for a mean over a single number
                raise UserError(
                    f"a batch normalisation of the network sees one number per channel at train.batch_size "
                    f"{task.config.batch_size} and this data.crop: raise one of them"
                ) from error
            raise


def _report(path: Path, config: Mapping[str, Any], scores: Scores, data: Data, networks: Mapping[str, Network]) -> str:
    """The run as a page: scores by class, a few validation images with predictions, the recipe."""
    rows = [("mean", f"{scores.miou:.2f}", f"{scores.mean_f1:.2f}")]
    for name, iou in scores.iou.items():
        rows.append((name, percent(iou), percent(scores.f1[name])))
    # Spread over the split, since neighbours in a list are often neighbours in a film.
    shown = sorted({index * len(data.val) // PICTURED for index in range(PICTURED)})
    picture = side_by_side(data.val, networks, shown)
    title = f"{path.name}: mIoU {scores.miou:.2f} on {len(data.val)} validation images"
    recipe = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    return report_page(title, ("class", "IoU %", "F1 %"), rows, picture, recipe)


def _check_classes(data: Data) -> None:
    if data.train.classes != data.val.classes:
        raise UserError(f"the splits disagree on classes: train {data.train.classes}, val {data.val.classes}")


def _check_sources(config: Mapping[str, Any], output: Path) -> None:
    """Refuses an output folder that holds what the run starts from: it would be replaced."""
    for key in ("network", "weights", "teacher", "teacher_weights", "student", "student_weights"):
        source = config.get(key)
        if source is not None and Path(source).resolve().is_relative_to(output.resolve()):
            raise UserError(f"{key} {source} lies in the output folder {output}; choose another output folder")


class _Tracked:
    """An iterable with a progress bar that appears only once somebody iterates."""

    def __init__(self, batches: Any, text: str, console: Console, shown: bool) -> None:
        self.batches, self.text, self.console, self.shown = batches, text, console, shown

    def __iter__(self) -> Iterator[Any]:
        bar = track(
            self.batches,
            self.text,
            total=len(self.batches),
            console=self.console,
            transient=True,
            disable=not self.shown,
        )
        return iter(bar)
