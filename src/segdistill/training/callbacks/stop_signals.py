"""SIGTERM and Ctrl-C: the run saves a checkpoint and ends."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from segdistill.training.callbacks.callback import Callback
from segdistill.training.callbacks.checkpoints import Checkpoints

if TYPE_CHECKING:
    from segdistill.training.loop import Loop


class Stopped(KeyboardInterrupt):
    """A run that a signal ended, all saved.

    Attributes:
        exit_code: 130 for Ctrl-C, 143 for SIGTERM, as shells have it.
    """

    def __init__(self, number: int, where: str) -> None:
        super().__init__(where)
        self.exit_code = 128 + number


class StopSignals(Callback):
    """Notes SIGTERM, by which a scheduler or a spot machine announces the end, and Ctrl-C; then saves and ends the run.

    A second Ctrl-C does not wait. Only the main thread can receive signals; elsewhere nothing changes.

    Args:
        checkpoints: saves.
        every: steps between the moments at which several processes ask each other.
    """

    def __init__(self, checkpoints: Checkpoints, every: int) -> None:
        self.checkpoints = checkpoints
        self.every = every
        self.received: int | None = None
        self._before: dict[int, object] = {}

    def before_run(self, loop: Loop) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)

    def after_step(self, loop: Loop) -> None:
        """Saves and ends the run if a signal was received.

        Raises:
            Stopped: then.
        """
        if not self._to_stop(loop):
            return
        loop.check()
        self.checkpoints.save(loop)
        where = f"epoch {loop.epoch + 1}, batch {loop.batch} of {loop.batches}"
        raise Stopped(self.received or int(signal.SIGTERM), where)

    def close(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before = {}

    def _to_stop(self, loop: Loop) -> bool:
        fabric = loop.step.fabric
        if fabric.world_size == 1:
            return self.received is not None
        if loop.step.number % self.every:
            return False
        # All processes stop at the same step, whichever of them received the signal.
        told = torch.tensor(float(self.received or 0), device=fabric.device)
        return bool(cast(Tensor, fabric.all_reduce(told, reduce_op="sum")) > 0)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
