"""The numbers of every epoch: history.csv and a line on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console

from segdistill.run_folder import RunFolder
from segdistill.training.callbacks.callback import Callback

if TYPE_CHECKING:
    from segdistill.training.loop import Loop


class History(Callback):
    """Writes a row of history.csv and prints a line after every epoch.

    Args:
        folder: the run folder.
        console: where the line is printed.
        what: the mIoU is called there.
    """

    def __init__(self, folder: RunFolder, console: Console, what: str = "mIoU") -> None:
        self.what = what
        self.folder = folder
        self.console = console

    def after_epoch(self, loop: Loop, row: dict[str, Any]) -> None:
        if loop.step.fabric.is_global_zero:
            rows = [old for old in self.folder.read_history() if int(old["epoch"]) < loop.epoch]
            self.folder.write_history([*rows, row])
        self.console.out(_line(row, loop.epochs, self.what), highlight=False)


def losses_in_words(terms: Mapping[str, float]) -> str:
    """Loss terms on one line.

    Example:
        >>> losses_in_words({"task": 0.51, "kd": 1.0})
        'task 0.510  kd 1.000'
    """
    return "  ".join(f"{name} {value:.3f}" for name, value in terms.items())


def _line(row: Mapping[str, Any], epochs: int, what: str) -> str:
    losses = {name.removeprefix("loss/"): value for name, value in row.items() if name.startswith("loss/")}
    text = f"epoch {row['epoch']}/{epochs}  {losses_in_words(losses)}"
    if "val/miou" in row:
        text += f"  val {what} {row['val/miou']:.2f}"
    if "val/loss" in row:
        text += f"  val loss {row['val/loss']:.4f}"
    return f"{text}  {row['seconds']} s"
