"""Curves in TensorBoard and other trackers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning_fabric.loggers.logger import Logger
from rich.console import Console

from segdistill.training.callbacks.callback import Callback
from segdistill.training.failures import short

if TYPE_CHECKING:
    from segdistill.training.loop import Loop


class Curves(Callback):
    """Sends the losses every few steps, and the numbers of every epoch, to trackers.

    Args:
        loggers: the trackers; on the first process only.
        console: for a warning where one fails.
        every: steps between two values of the losses.
    """

    def __init__(self, loggers: Sequence[Logger], console: Console, every: int) -> None:
        self.loggers = list(loggers)
        self.console = console
        self.every = every

    def after_step(self, loop: Loop) -> None:
        if self.loggers and loop.step.number % self.every == 0:
            values = {f"loss/{name}": float(value) for name, value in loop.parts[-1].items()}
            self._log(values, loop.step.number)

    def after_epoch(self, loop: Loop, row: dict[str, Any]) -> None:
        self._log({name: float(row[name]) for name in row if name not in ("epoch", "seconds")}, loop.step.number)

    def after_run(self, loop: Loop) -> None:
        for logger in self.loggers:
            logger.finalize("success")  # writes what is still queued; the process may live on, as a notebook's does

    def _log(self, values: Mapping[str, float], step: int) -> None:
        for logger in list(self.loggers):
            try:
                logger.log_metrics(dict(values), step)
            except Exception as error:  # a full disk, a server that is gone: curves are not worth a run
                self.loggers.remove(logger)
                told = f"{type(logger).__name__} takes no more values ({short(error.__cause__ or error)})"
                self.console.out(f"warning: {told}; the run continues without it", highlight=False)
