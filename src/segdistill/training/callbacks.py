"""What happens after every epoch: the history grows, the network and the checkpoint are saved, a line is printed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import IO, Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import RichProgressBar
from rich.console import Console

from segdistill.errors import UserError
from segdistill.files import write_atomically
from segdistill.training.run_folder import RunFolder
from segdistill.training.task import SegmentationTask


class AtomicCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoints, put in place by one rename within their own folder; a damaged one is told of.

    Lightning's own way goes through the system's temporary folder, often another disk, where a move is a slow copy
    that a kill can cut short.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        def write(file: IO[bytes]) -> None:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # what torch makes of an OSError in the midst of its archive
                raise OSError(f"no space left, or no longer writable ({error})") from error

        write_atomically(Path(path), write)

    def load_checkpoint(self, path: Any, *args: Any, **options: Any) -> dict[str, Any]:
        try:
            return super().load_checkpoint(path, *args, **options)
        except Exception as error:  # torch raises errors of many kinds, most of them on pickle's innards
            raise UserError(
                f"checkpoint {path} is damaged and cannot be resumed from; start over with --overwrite"
            ) from error


class Bar(RichProgressBar):
    """Lightning's progress bar with epochs counted from 1, as everywhere else, and terms by their short names."""

    def __init__(self) -> None:
        super().__init__(leave=False)

    def _get_train_description(self, current_epoch: int) -> str:
        # As long as "Validation", so that the bars do not jump.
        return f"{f'epoch {current_epoch + 1}/{self.trainer.max_epochs}':{len(self.validation_description)}}"

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        return {name.removeprefix("loss/"): value for name, value in metrics.items()}


class Keeper(L.Callback):
    """Keeps what an epoch has made: history.csv, the network and, last, the checkpoint that says the epoch is done.

    The network kept is that of the last epoch, not of the best one: choosing an epoch by its validation score and then
    reporting that score flatters whichever run fluctuates most.
    """

    def __init__(self, folder: RunFolder, console: Console) -> None:
        self.folder = folder
        self.console = console
        self._began = 0.0
        self._rate = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._began = time.perf_counter()
        self._rate = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        task = pl_module
        assert isinstance(task, SegmentationTask)
        epoch = trainer.current_epoch + 1
        row: dict[str, object] = {
            "epoch": epoch,
            "seconds": round(time.perf_counter() - self._began, 2),
            "lr": self._rate,
        }
        row |= {f"loss/{name}": mean for name, mean in task.close_epoch().items()}
        if epoch % task.config.validate_every == 0:
            row |= _scores(task)
        if trainer.is_global_zero:
            rows = [old for old in self.folder.read_history() if int(old["epoch"]) < epoch]
            self.folder.write_history([*rows, row])
            self.folder.save_network(task.learner.student)
            self.console.out(_line(row, task.config.epochs), highlight=False)
        trainer.save_checkpoint(self.folder.checkpoint_file)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, SegmentationTask)
        if trainer.state.fn == "validate" and trainer.is_global_zero:
            # A validation by itself, after the last epoch, whose row is there already.
            *before, last = self.folder.read_history()
            self.folder.write_history([*before, {**last, **_scores(pl_module)}])


def _scores(task: SegmentationTask) -> dict[str, float]:
    assert task.scores is not None
    return {
        "val/miou": task.scores.miou,
        "val/pixel_accuracy": task.scores.pixel_accuracy,
        "val/mean_f1": task.scores.mean_f1,
    }


def _line(row: dict[str, object], epochs: int) -> str:
    losses = "  ".join(
        f"{name.removeprefix('loss/')} {value:.3f}" for name, value in row.items() if name.startswith("loss/")
    )
    text = f"epoch {row['epoch']}/{epochs}  {losses}"
    if "val/miou" in row:
        text += f"  val mIoU {row['val/miou']:.2f}"
    return f"{text}  {row['seconds']} s"
