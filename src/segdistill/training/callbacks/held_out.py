"""The distillation loss on held-out images after epochs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from segdistill.training.callbacks.callback import Judge
from segdistill.training.held_out import HeldOut, HeldOutLoss

if TYPE_CHECKING:
    from segdistill.training.loop import Loop


class HeldOutValidation(Judge):
    """Measures the network every few epochs and after the last one, and remembers the best epoch.

    Args:
        validator: measures a network.
        every: epochs between validations.

    Attributes:
        found: by the last validation; None before the first.
        best: loss and number of the best epoch so far; empty before the first validation.
    """

    def __init__(self, validator: HeldOut, every: int) -> None:
        self.validator = validator
        self.every = every
        self.found: HeldOutLoss | None = None
        self.best: dict[str, float] = {}

    def in_words(self) -> str:
        return "" if self.found is None else f"val loss {self.found.loss:.4f}"

    def after_epoch(self, loop: Loop, row: dict[str, Any]) -> None:
        self.validated = loop.epoch % self.every == 0 or loop.epoch == loop.epochs
        self.better = False
        if not self.validated:
            return
        self.found = self.validator(loop.step.network)
        row |= {"val/loss": self.found.loss}
        self.better = not self.best or self.found.loss < self.best["loss"]
        if self.better:
            self.best = {"loss": self.found.loss, "epoch": loop.epoch}

    def after_run(self, loop: Loop) -> None:
        if self.found is None:  # the run was killed between its last checkpoint and its scores
            self.found = self.validator(loop.step.network)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best = state["best"]
