"""The progress bar of the epochs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from torch import Tensor

from segdistill.progress import Bar
from segdistill.training.callbacks.callback import Callback, Judge
from segdistill.training.callbacks.history import losses_in_words

if TYPE_CHECKING:
    from segdistill.training.loop import Loop


class ProgressBar(Callback):
    """Shows steps, speed, losses and what the last validation said.

    Args:
        console: where the bar is drawn.
        shown: whether there is one.
        batch_size: images of one optimiser step.
        validation: says what the last one found.
    """

    def __init__(self, console: Console, shown: bool, batch_size: int, validation: Judge) -> None:
        self.bar = Bar(console, shown, batch_size)
        self.validation = validation

    def before_run(self, loop: Loop) -> None:
        self.bar.__enter__()

    def before_epoch(self, loop: Loop) -> None:
        self.bar.start(f"epoch {loop.epoch + 1}/{loop.epochs}", loop.batches, loop.batch)

    def after_step(self, loop: Loop) -> None:
        self.bar.advance(self._state(loop.parts[-1]) if self.bar.due() else None)

    def close(self) -> None:
        self.bar.__exit__(None, None, None)

    def _state(self, terms: Mapping[str, Tensor]) -> str:
        text = losses_in_words({name: float(value) for name, value in terms.items()})
        return f"{text}  {self.validation.in_words()}".rstrip()
