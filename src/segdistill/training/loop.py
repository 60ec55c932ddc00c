"""The training loop: optimiser steps in epochs, and callbacks for all that happens around them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils.data import DataLoader

from segdistill.data.loading import EpochSampler
from segdistill.errors import UserError
from segdistill.training.callbacks.callback import Callback
from segdistill.training.epoch_terms import EpochTerms
from segdistill.training.step import Step, Terms

#: Steps between looks at whether a loss has become NaN, and values in the curves; each makes a GPU wait for its queue.
STEPS_BETWEEN_LOOKS = 20


class Loop:
    """Makes optimiser steps until a run is finished.

    The order of images and their augmentation depend on seed, epoch and sample alone, and a step on its number
    (`Step`), so that a run which was stopped, wherever, continues from its last checkpoint as the unbroken run would.

    Args:
        step: makes one optimiser step.
        loader: training batches, through an `EpochSampler`.
        steps: optimiser steps of the whole run; the last epoch may be cut short.
        callbacks: called in this order at each event.

    Attributes:
        epoch: epochs finished so far.
        batch: steps made in the epoch that is not finished.
        parts: loss terms of each batch of the last step.
        terms: sums of the loss terms over the epoch.
        seconds: time that the epoch's steps have taken so far.
        stopping: set by a callback to finish the run at the end of the epoch.
    """

    def __init__(
        self,
        step: Step,
        loader: DataLoader[tuple[Any, ...]],
        steps: int,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        assert isinstance(loader.sampler, EpochSampler)
        self.step = step
        self.loader = loader
        self.sampler = loader.sampler
        self.steps = steps
        self.callbacks = tuple(callbacks)
        self.epoch = 0
        self.batch = 0
        self.parts: list[Terms] = []
        self.terms = EpochTerms()
        self.seconds = 0.0
        self.stopping = False

    @property
    def epochs(self) -> int:
        """Epochs of the whole run."""
        return -(-self.steps // self.sampler.batches)

    @property
    def batches(self) -> int:
        """Steps of the epoch that is not finished."""
        return min(self.sampler.batches, self.steps - self.epoch * self.sampler.batches)

    @property
    def finished(self) -> bool:
        """Whether no epoch is left, or a callback has stopped the run."""
        return self.stopping or self.epoch >= self.epochs

    def run(self) -> None:
        """Makes the steps that are left.

        Raises:
            UserError: if a loss or the weights become NaN.
        """
        try:
            for callback in self.callbacks:
                callback.before_run(self)
            while not self.finished:
                self.run_epoch()
            for callback in self.callbacks:
                callback.after_run(self)
        finally:
            for callback in reversed(self.callbacks):
                callback.close()

    def run_epoch(self) -> None:
        """Makes the steps that are left of one epoch, and closes it."""
        if self.batch == 0:
            self.terms, self.seconds = EpochTerms(), 0.0
        began = time.perf_counter() - self.seconds
        self.sampler.set_epoch(self.epoch, skipped=self.batch)
        for callback in self.callbacks:
            callback.before_epoch(self)
        batches = iter(self.loader)
        self.step.learner.train()
        while self.batch < self.batches:
            self.parts = self.step(batches)
            self.terms.add(self.parts)
            self.batch += 1
            if self.step.number % STEPS_BETWEEN_LOOKS == 0:
                self._check_terms()
            self.seconds = time.perf_counter() - began
            for callback in self.callbacks:
                callback.after_step(self)
        self._close_epoch()

    def _close_epoch(self) -> None:
        self.check()
        row: dict[str, Any] = {
            "epoch": self.epoch + 1,
            "seconds": round(self.seconds, 2),
            "lr": self.step.rate(self.epoch * self.sampler.batches),
        }
        row |= {f"loss/{name}": mean for name, mean in self.terms.means(self.step.fabric).items()}
        self.epoch, self.batch = self.epoch + 1, 0
        for callback in self.callbacks:
            callback.after_epoch(self, row)

    def check(self) -> None:
        """Checks that neither the losses nor the weights are NaN, before anything is saved.

        Every process must call this.

        Raises:
            UserError: if one of them is NaN or infinite.
        """
        self._check_terms()
        # The loss of the last step is that of the weights before it.
        if not self.step.weights_are_finite():
            done = self.batch == self.batches
            raise _not_finite("the weights", self.epoch, "at its end" if done else f"by batch {self.batch}")

    def _check_terms(self) -> None:
        broken = self.terms.not_finite()
        if broken:
            raise _not_finite("the loss", self.epoch, f"first in the term {', '.join(broken)}")

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the run depends on. Every process must call this; it is whole on the first one."""
        return {
            **self.step.state_dict(),
            "epoch": self.epoch,
            "batch": self.batch,
            "seconds": self.seconds,
            "terms": self.terms.state_dict(),
            "callbacks": {type(callback).__name__: callback.state_dict() for callback in self.callbacks},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from what `state_dict` gave.

        Raises:
            RuntimeError, ValueError, KeyError, AttributeError: if it belongs to another network or method.
        """
        self.step.load_state_dict(state)
        self.epoch, self.batch, self.seconds = state["epoch"], state["batch"], state["seconds"]
        self.terms.load_state_dict(state["terms"], self.step.fabric.device)
        for callback in self.callbacks:
            callback.load_state_dict(state["callbacks"][type(callback).__name__])


def _not_finite(what: str, epoch: int, where: str) -> UserError:
    return UserError(
        f"{what} became NaN or infinite in epoch {epoch + 1}, {where}; what earlier epochs saved is kept. Try a lower "
        "train.lr, a longer train.warmup, or precision fp32"
    )
