"""Checkpoints, from which a run continues."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from segdistill.errors import UserError
from segdistill.run_folder import RunFolder
from segdistill.training.callbacks.callback import Callback
from segdistill.training.checkpoint import save_checkpoint

if TYPE_CHECKING:
    from segdistill.training.loop import Loop


class Checkpoints(Callback):
    """Saves a checkpoint after every epoch, and within long ones every few minutes.

    Args:
        folder: the run folder.
        recipe: the complete recipe, kept in every checkpoint.
        minutes: between checkpoints within an epoch.
        inputs: `Job.inputs`, kept in every checkpoint.
    """

    def __init__(self, folder: RunFolder, recipe: Mapping[str, Any], minutes: float, inputs: Mapping[str, Any]) -> None:
        self.folder = folder
        self.kept = {"recipe": dict(recipe), **inputs}
        self.seconds = 60 * minutes
        self._saved = 0.0

    def before_epoch(self, loop: Loop) -> None:
        self._saved = time.perf_counter()

    def after_step(self, loop: Loop) -> None:
        if time.perf_counter() - self._saved >= self.seconds and loop.batch < loop.batches:
            loop.check()
            self.save(loop)
            self._saved = time.perf_counter()

    def after_epoch(self, loop: Loop, row: dict[str, Any]) -> None:
        self.save(loop)

    def save(self, loop: Loop) -> None:
        """Writes a checkpoint, from the first process. Every process must call this."""
        state = loop.state_dict()
        if loop.step.fabric.is_global_zero:
            save_checkpoint({**self.kept, **state}, self.folder.checkpoint_file)

    def load(self, loop: Loop, state: Mapping[str, Any]) -> None:
        """Continues from a checkpoint.

        Raises:
            UserError: if it belongs to another network or method.
        """
        try:
            loop.load_state_dict(state)
        except (RuntimeError, ValueError, KeyError, AttributeError) as error:
            told = " ".join(str(error).split())[:200]
            raise UserError(
                f"checkpoint {self.folder.checkpoint_file} is of another network or method ({told}); "
                "start over with --overwrite"
            ) from error
