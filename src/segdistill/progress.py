"""The bar of a run: where it stands, how fast it goes, when it will be done, and what the losses are."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn, track
from rich.table import Column

T = TypeVar("T")

#: Seconds between two looks at the losses: each makes a GPU wait for its queue.
BETWEEN_LOOKS = 2.0


class Bar:
    """One line at the bottom of a terminal; nothing at all where there is none.

    Args:
        console: what lines are printed on above the bar.
        shown: whether there is a bar.
        images_per_batch: for the speed, over all processes.
    """

    def __init__(self, console: Console, shown: bool, images_per_batch: int) -> None:
        self.images_per_batch = images_per_batch
        self.shown = shown
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[speed]}"),
            # Many terms on a narrow terminal are cut at the end, and nothing else is.
            TextColumn("{task.fields[losses]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            console=console,
            transient=True,
            expand=True,
            disable=not shown,
        )
        self._task = self._progress.add_task("", total=None, speed="", losses="")
        self._looked = 0.0
        self._batches = 0
        self._since = 0.0

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def start(self, text: str, total: int, done: int = 0) -> None:
        """Begins a new stretch of ``total`` batches, ``done`` of which lie behind."""
        self._progress.reset(self._task, description=text, total=total, completed=done)
        self._progress.refresh()
        self._batches, self._since = 0, time.perf_counter()

    def due(self) -> bool:
        """Whether the losses are worth a look."""
        return self.shown and time.perf_counter() - self._looked > BETWEEN_LOOKS

    def advance(self, losses: str | None = None) -> None:
        """One more batch; ``losses`` replaces what is shown of them."""
        self._batches += 1
        if not self.shown:
            return
        speed = self._batches * self.images_per_batch / max(1e-9, time.perf_counter() - self._since)
        if losses is not None:
            self._looked = time.perf_counter()
            self._progress.update(self._task, losses=losses)
        self._progress.update(self._task, advance=1, speed=f"{speed:.1f} images/s", refresh=losses is not None)


def tracked(items: Iterable[T], text: str, total: int, console: Console, shown: bool) -> Iterator[T]:
    """``items`` one by one, behind a bar of their own that goes when they are through."""
    yield from track(items, text, total=total, console=console, transient=True, disable=not shown)
