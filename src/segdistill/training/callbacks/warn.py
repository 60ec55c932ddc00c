"""Warnings about a run that looks wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segdistill.training.callbacks.callback import Callback
from segdistill.training.callbacks.validation import Validation
from segdistill.training.watch import Watch

if TYPE_CHECKING:
    from segdistill.training.loop import Loop


class Warn(Callback):
    """Warns of loss terms out of proportion, and of classes that are never found.

    Args:
        watch: says each warning once.
        validation: knows the scores.
    """

    def __init__(self, watch: Watch, validation: Validation) -> None:
        self.watch = watch
        self.validation = validation

    def after_epoch(self, loop: Loop, row: dict[str, Any]) -> None:
        if not loop.step.balance.measures:  # gradients are balanced then, and the values may differ
            prefix = "loss/"
            self.watch.terms({name.removeprefix(prefix): row[name] for name in row if name.startswith(prefix)})

    def after_run(self, loop: Loop) -> None:
        assert self.validation.scores is not None
        self.watch.classes(self.validation.scores, str(loop.step.config.loss))
