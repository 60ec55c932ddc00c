"""What happens after every epoch: the history grows, the network and the checkpoint are saved, a line is printed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from rich.console import Console

from segdistill.files import write_atomically
from segdistill.training.run_folder import RunFolder
from segdistill.training.task import SegmentationTask


class AtomicCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoints, put in place by one rename within their own folder.

    Lightning's own way goes through the system's temporary folder, often another disk, where a move is a slow copy
    that a kill can cut short.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        write_atomically(Path(path), lambda file: torch.save(checkpoint, file))


class Keeper(L.Callback):
    """Keeps what an epoch has made: history.csv, the network and, last, the checkpoint that says the epoch is done.

    The network kept is that of the last epoch, not of the best one: choosing an epoch by its validation score and then
    reporting that score flatters whichever run fluctuates most.
    """

    def __init__(self, folder: RunFolder, console: Console) -> None:
        self.folder = folder
        self.console = console
        self._began = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._began = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        task = pl_module
        assert isinstance(task, SegmentationTask)
        epoch = trainer.current_epoch + 1
        validated = epoch % task.config.validate_every == 0 or epoch == task.config.epochs
        row: dict[str, object] = {
            "epoch": epoch,
            "seconds": round(time.perf_counter() - self._began, 2),
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
        }
        row |= {f"loss/{name}": mean for name, mean in task.close_epoch().items()}
        if validated and task.scores is not None:
            row |= {
                "val/miou": task.scores.miou,
                "val/pixel_accuracy": task.scores.pixel_accuracy,
                "val/mean_f1": task.scores.mean_f1,
            }
        if trainer.is_global_zero:
            rows = [old for old in self.folder.read_history() if int(old["epoch"]) < epoch]
            self.folder.write_history([*rows, row])
            self.folder.save_network(task.learner.student)
            self.console.print(_line(row, task.config.epochs), highlight=False)
        trainer.save_checkpoint(self.folder.checkpoint_file)


def _line(row: dict[str, object], epochs: int) -> str:
    losses = "  ".join(
        f"{name.removeprefix('loss/')} {value:.3f}" for name, value in row.items() if name.startswith("loss/")
    )
    text = f"epoch {row['epoch']}/{epochs}  {losses}"
    if "val/miou" in row:
        text += f"  val mIoU {row['val/miou']:.2f}"
    return f"{text}  {row['seconds']} s"
