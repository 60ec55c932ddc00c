"""The end of a run whose validations no longer improve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console

from segdistill.training.callbacks.callback import Callback, Judge

if TYPE_CHECKING:
    from segdistill.training.loop import Loop


class EarlyStopping(Callback):
    """Stops a run after so many validations in a row that were not better.

    Args:
        patience: so many; None to never stop.
        validation: knows whether an epoch was validated, and better.
        what: is to become better, in words.
        console: for a line that says so.
    """

    def __init__(self, patience: int | None, validation: Judge, console: Console, what: str = "mIoU") -> None:
        self.what = what
        self.patience = patience
        self.validation = validation
        self.console = console
        self._without_better = 0

    @property
    def _over(self) -> bool:
        return self.patience is not None and self._without_better >= self.patience

    def before_run(self, loop: Loop) -> None:
        loop.stopping = self._over

    def after_epoch(self, loop: Loop, row: dict[str, Any]) -> None:
        if self.validation.validated:
            self._without_better = 0 if self.validation.better else self._without_better + 1
        loop.stopping = self._over
        if loop.stopping and loop.epoch < loop.epochs:
            self.console.out(
                f"no better {self.what} in {self.patience} validations; stopping after epoch {loop.epoch}",
                highlight=False,
            )

    def state_dict(self) -> dict[str, Any]:
        return {"without_better": self._without_better}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._without_better = state["without_better"]
