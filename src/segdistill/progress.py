"""How far long work has come: a bar on a terminal or in a notebook, a line now and then in a file or a pipe."""

from __future__ import annotations

import html
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn, track
from rich.table import Column

T = TypeVar("T")

#: Seconds between two looks at the losses: each makes a GPU wait for its queue.
BETWEEN_LOOKS = 2.0

#: Seconds between two pictures of a bar in a notebook.
BETWEEN_PICTURES = 0.2

#: Seconds between two lines where the output is no terminal.
BETWEEN_LINES = 15.0

#: The same within an epoch of a training, which prints a line for each epoch anyway.
BETWEEN_TRAINING_LINES = 60.0


class NotebookBar:
    """A bar below the cell of a notebook that is running; `close` removes it.

    rich draws bars in notebooks with ipywidgets alone, which few environments have.
    """

    def __init__(self) -> None:
        from IPython.display import display  # a running notebook has it

        self._handle = display({"text/plain": ""}, raw=True, display_id=True)
        self._drawn = 0.0

    def show(self, text: str, done: float, total: float | None) -> None:
        """Draw the bar with ``text`` beside it, unless it was drawn a moment ago; ``total`` may be unknown."""
        now = time.perf_counter()
        if now - self._drawn < BETWEEN_PICTURES:
            return
        self._drawn = now
        extent = "" if total is None else f' value="{done:.0f}" max="{total:.0f}"'
        shown = {"text/html": f"<progress{extent}></progress> {html.escape(text)}", "text/plain": text}
        self._handle.update(shown, raw=True)

    def close(self) -> None:
        """Remove the bar."""
        self._handle.update({"text/plain": ""}, raw=True)


class Bar:
    """The progress of a training: a bar on a terminal or in a notebook, elsewhere a line now and then.

    The lines come every `BETWEEN_TRAINING_LINES` seconds.

    Args:
        console: what lines are printed on, above the bar where there is one.
        shown: whether anything is shown at all.
        images_per_batch: for the speed, over all processes.
    """

    def __init__(self, console: Console, shown: bool, images_per_batch: int) -> None:
        self.images_per_batch = images_per_batch
        self.shown = shown and not console.quiet
        self._console = console
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
            disable=not (self.shown and console.is_terminal),
        )
        self._task = self._progress.add_task("", total=None, speed="", losses="")
        self._live = console.is_terminal or console.is_jupyter
        self._notebook: NotebookBar | None = None
        self._text, self._losses, self._total = "", "", 0
        self._looked = 0.0 if self._live else time.perf_counter()  # there at once
        self._done = self._batches = 0
        self._since = 0.0

    def __enter__(self) -> Bar:
        self._progress.start()
        if self.shown and self._console.is_jupyter:
            self._notebook = NotebookBar()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        if self._notebook is not None:
            self._notebook.close()

    def start(self, text: str, total: int, done: int = 0) -> None:
        """Begins a new stretch of ``total`` batches, the first ``done`` of which are finished."""
        self._progress.reset(self._task, description=text, total=total, completed=done)
        self._progress.refresh()
        self._text, self._total, self._done = text, total, done
        self._batches, self._since = 0, time.perf_counter()

    def due(self) -> bool:
        """Whether it is time to show the losses again."""
        pause = BETWEEN_LOOKS if self._live else BETWEEN_TRAINING_LINES
        return self.shown and time.perf_counter() - self._looked > pause

    def advance(self, losses: str | None = None) -> None:
        """Counts one more batch; ``losses`` replaces the losses shown."""
        self._done, self._batches = self._done + 1, self._batches + 1
        if not self.shown:
            return
        speed = f"{self._batches * self.images_per_batch / max(1e-9, time.perf_counter() - self._since):.1f} images/s"
        if losses is not None:
            self._looked, self._losses = time.perf_counter(), losses
            self._progress.update(self._task, losses=losses)
        said = f"{self._text}  batch {self._done} of {self._total}  {speed}  {self._losses}"
        if self._notebook is not None:
            self._notebook.show(said, self._done, self._total)
        elif losses is not None and not self._live:
            self._console.out(said, highlight=False)
        self._progress.update(self._task, advance=1, speed=speed, refresh=losses is not None)


def tracked(items: Iterable[T], text: str, total: int, console: Console, shown: bool = True) -> Iterator[T]:
    """Gives ``items`` one by one and shows how many are done.

    On a terminal and in a notebook this is a bar that disappears at the end. Elsewhere it is a line every
    `BETWEEN_LINES` seconds, so that short work prints nothing.

    Args:
        items: anything that can be iterated over.
        text: what is done, such as "evaluating".
        total: how many items there are.
        console: where it is shown; a quiet one shows nothing.
        shown: false shows nothing.
    """
    if not shown or console.quiet:
        yield from items
    elif console.is_terminal:
        yield from track(items, text, total=total, console=console, transient=True)
    else:
        yield from _told(items, text, total, console)


def _told(items: Iterable[T], text: str, total: int, console: Console) -> Iterator[T]:
    began = last = time.perf_counter()
    notebook = NotebookBar() if console.is_jupyter else None
    try:
        for done, item in enumerate(items):
            now = time.perf_counter()
            left = duration((now - began) / max(1, done) * (total - done))
            said = f"{text}: {done} of {total}, about {left} left"
            if notebook is not None:
                notebook.show(said if done else f"{text} ...", done, total)
            elif done and now - last >= BETWEEN_LINES:
                last = now
                console.out(said, highlight=False)
            yield item
    finally:
        if notebook is not None:
            notebook.close()


class Tasks(Progress):
    """Several bars below each other on a terminal; in a notebook one for them all, elsewhere a line now and then.

    The lines come every `BETWEEN_LINES` seconds.

    Args:
        console: where they are shown; a quiet one shows nothing.
        shown: false shows nothing.
    """

    def __init__(self, console: Console, shown: bool = True) -> None:
        shown = shown and not console.quiet
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        super().__init__(*columns, console=console, transient=True, disable=not (shown and console.is_terminal))
        self._lines = shown and not console.is_terminal
        self._notebook = NotebookBar() if self._lines and console.is_jupyter else None
        self._last = time.perf_counter()

    def stop(self) -> None:
        """Remove the bars."""
        super().stop()
        if self._notebook is not None:
            self._notebook.close()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Changes a task as rich's own does, and prints the line when it is time."""
        super().update(task_id, **changes)
        due = self._notebook is not None or time.perf_counter() - self._last >= BETWEEN_LINES
        shown = [task for task in self.tasks if task.visible and task.description]
        if not self._lines or not due or not shown:
            return
        self._last = time.perf_counter()
        said = ", ".join(f"{task.description}: {task.completed:.0f} of {task.total or '?'}" for task in shown)
        if self._notebook is not None:
            self._notebook.show(said, shown[0].completed, shown[0].total)
        else:
            self.console.out(said, highlight=False)


@contextmanager
def during(text: str, console: Console) -> Iterator[None]:
    """Says what is being done while it is done, for a step of unknown length.

    On a terminal this is a line that disappears at the end; elsewhere the line stays.
    """
    if console.is_terminal and not console.quiet:
        with console.status(text):
            yield
    else:
        console.out(f"{text} ...", highlight=False)
        yield


def counted(number: int, thing: str) -> str:
    """A number with its noun.

    Example:
        >>> counted(1, "mask"), counted(3, "mask"), counted(2, "class")
        ('1 mask', '3 masks', '2 classes')
    """
    if number == 1:
        return f"1 {thing}"
    return f"{number} {thing}{'es' if thing.endswith('s') else 's'}"


def duration(seconds: float) -> str:
    """A time in words.

    Example:
        >>> [duration(seconds) for seconds in (0.25, 90, 5400, 200_000)]
        ['0.2 s', '90 s', '90 min', '2.3 days']
    """
    for unit, length, most in (("s", 1, 120), ("min", 60, 120), ("h", 3600, 48)):
        number = seconds / length
        if number <= most:
            return f"{number:.1f} {unit}" if number < 10 else f"{number:.0f} {unit}"
    return f"{seconds / 86400:.1f} days"
