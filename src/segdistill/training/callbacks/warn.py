"""Warnings about a run that looks wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segdistill.distiller import Distiller
from segdistill.methods import Method
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
            means = {name.removeprefix("loss/"): row[name] for name in row if name.startswith("loss/")}
            silent = _only_without_labels(loop)
            self.watch.terms(
                {name: mean for name, mean in means.items() if mean or name.partition(".")[0] not in silent}
            )

    def after_run(self, loop: Loop) -> None:
        assert self.validation.scores is not None
        self.watch.classes(self.validation.scores, str(loop.step.config.loss))


def _only_without_labels(loop: Loop) -> set[str]:
    """The methods whose terms are 0 where every pixel has a label, and are meant to be."""
    learner = loop.step.learner
    methods = learner.methods.items() if isinstance(learner, Distiller) else ()
    return {name for name, method in methods if isinstance(method, Method) and method.only_without_labels}
