"""The events of a training loop that a callback may act on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segdistill.training.loop import Loop


class Callback:
    """Acts on the events of a `Loop`; every method does nothing unless a class overrides it.

    On several processes each has its own callbacks, and all of them are called at the same events.
    """

    def before_run(self, loop: Loop) -> None:
        """Called before the first step that is left, after a checkpoint was loaded."""

    def before_epoch(self, loop: Loop) -> None:
        """Called before the steps of an epoch, or before what is left of one."""

    def after_step(self, loop: Loop) -> None:
        """Called after every optimiser step; ``loop.parts`` are its loss terms."""

    def after_epoch(self, loop: Loop, row: dict[str, Any]) -> None:
        """Called after the steps of an epoch; ``loop.epoch`` counts it already.

        Args:
            loop: the loop.
            row: numbers of the epoch by name, which callbacks may add to.
        """

    def after_run(self, loop: Loop) -> None:
        """Called after the last epoch."""

    def close(self) -> None:
        """Called last of all, also after an error."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of this callback."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from what `state_dict` gave."""


class Judge(Callback):
    """Judges the network after some of the epochs.

    Attributes:
        validated: whether the last epoch was judged.
        better: whether it is the best epoch so far.
    """

    validated = False
    better = False

    def in_words(self) -> str:
        """The last judgement, for a line on the terminal; empty before the first."""
        return ""
