"""The loss weights that a run measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from rich.console import Console

from segdistill.training.balance import MEASURED_STEPS
from segdistill.training.callbacks.callback import Callback

if TYPE_CHECKING:
    from segdistill.training.loop import Loop


class MeasuredWeights(Callback):
    """Writes the factors of the loss terms into the recipe and prints them, once they are measured.

    Args:
        write: writes the factors into the run's recipe.
        console: where they are printed.
    """

    def __init__(self, write: Callable[[Mapping[str, float]], None], console: Console) -> None:
        self.write = write
        self.console = console
        self._told = False

    def before_run(self, loop: Loop) -> None:
        self._tell(loop)

    def after_step(self, loop: Loop) -> None:
        self._tell(loop)

    def after_run(self, loop: Loop) -> None:
        if loop.step.balance.measuring:
            self.console.out(
                f"loss_weights: auto measures over {MEASURED_STEPS} steps, the run had {loop.step.number}: no term was "
                "scaled",
                highlight=False,
            )

    def _tell(self, loop: Loop) -> None:
        factors = loop.step.balance.factors
        if self._told or not loop.step.balance.measures or factors is None:
            return
        self._told = True
        if loop.step.fabric.is_global_zero:
            self.write(factors)
        found = ", ".join(f"{name} {value:g}" for name, value in factors.items())
        self.console.out(f"loss_weights found: {found}", highlight=False)
