"""Work done ahead of its use, in threads: reading and decoding while a network computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def ahead(
    worker: ThreadPoolExecutor, function: Callable[[S], T], items: Iterable[S], depth: int = 2
) -> Iterator[tuple[S, T]]:
    """Each item and what ``function`` makes of it, made by ``worker`` up to ``depth`` items ahead."""
    pending: deque[tuple[S, Future[T]]] = deque()
    for item in items:
        pending.append((item, worker.submit(function, item)))
        if len(pending) > depth:
            first, result = pending.popleft()
            yield first, result.result()
    for first, result in pending:
        yield first, result.result()
