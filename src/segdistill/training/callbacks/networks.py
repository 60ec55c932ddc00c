"""The network of the last epoch and that of the best one, in the run folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segdistill.run_folder import RunFolder
from segdistill.training.callbacks.callback import Callback, Judge

if TYPE_CHECKING:
    from segdistill.training.loop import Loop


class SaveNetworks(Callback):
    """Saves the network after every epoch, and into ``best/`` where its validation was the best so far.

    The network of the last epoch is the result: choosing an epoch by its validation score and then reporting that score
    favours whichever run fluctuates most.

    Args:
        folder: the run folder.
        validation: knows whether the epoch is the best so far.
    """

    def __init__(self, folder: RunFolder, validation: Judge) -> None:
        self.folder = folder
        self.validation = validation

    def after_epoch(self, loop: Loop, row: dict[str, Any]) -> None:
        network = loop.step.network_to_save()
        if loop.step.fabric.is_global_zero:
            self.folder.save_network(network)
            if self.validation.better:
                self.folder.save_best(network)
