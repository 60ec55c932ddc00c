"""Validation after epochs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from segdistill.metrics.scores import Scores
from segdistill.training.callbacks.callback import Judge
from segdistill.training.validator import Validator

if TYPE_CHECKING:
    from segdistill.training.loop import Loop


class Validation(Judge):
    """Scores the network every few epochs and after the last one, and remembers the best epoch.

    Args:
        validator: scores a network.
        every: epochs between validations.
        what: the mIoU is called on the terminal; another word where it is no accuracy.

    Attributes:
        scores: of the last validation; None before the first.
        best: mIoU and number of the best epoch so far; empty before the first validation.
        validated: whether the last epoch was validated.
        better: whether it is the best epoch so far.
    """

    def __init__(self, validator: Validator, every: int, what: str = "mIoU") -> None:
        self.what = what
        self.validator = validator
        self.every = every
        self.scores: Scores | None = None
        self.best: dict[str, float] = {}

    def in_words(self) -> str:
        return "" if self.scores is None else f"val {self.what} {self.scores.miou:.2f}"

    def after_epoch(self, loop: Loop, row: dict[str, Any]) -> None:
        due = loop.epoch % self.every == 0 or loop.epoch == loop.epochs
        # What has learnt features alone has a classifier of random weights.
        self.validated = due and loop.step.number > loop.step.features_first
        self.better = False
        if not self.validated:
            return
        self.scores = self.validator(loop.step.network)
        row |= {
            "val/miou": self.scores.miou,
            "val/pixel_accuracy": self.scores.pixel_accuracy,
            "val/mean_f1": self.scores.mean_f1,
        }
        self.better = not self.best or self.scores.miou > self.best["miou"]
        if self.better:
            self.best = {"miou": self.scores.miou, "epoch": loop.epoch}

    def after_run(self, loop: Loop) -> None:
        if self.scores is None:  # the run was killed between its last checkpoint and its scores
            self.scores = self.validator(loop.step.network)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best = state["best"]
