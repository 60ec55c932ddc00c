"""Work spread over a Ray cluster."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from segdistill.errors import UserError, missing_package
from segdistill.files import environment

T = TypeVar("T")
R = TypeVar("R")


def spread(
    function: Callable[[T], R], items: Sequence[T], *, what: str, cpus: int, gpus: float
) -> Iterator[tuple[T, R | RuntimeError]]:
    """Each item and what ``function`` makes of it, in the order in which they are done.

    Joins the cluster that ``RAY_ADDRESS`` or an earlier ``ray.init`` names, else starts one on this machine until all
    is done. As many items are worked on at once as it has room for. On several machines, the working directory and all
    files must be under the same paths on all.

    Args:
        function: and the items: what Ray can send to another process.
        items: its arguments.
        what: an item is, in the singular; ``"cell"`` where the options are ``cpus_per_cell`` and ``gpus_per_cell``.
        cpus: cores that an item takes.
        gpus: GPUs that an item takes; a part of one lets several share it.

    Yields:
        An item, and its result; a RuntimeError in words where the process ended without one.

    Raises:
        UserError: Ray is not installed, or the cluster has too little for a single item.
        Exception: what ``function`` raises.
    """
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise missing_package("executor ray", "ray", "ray") from error
    started = not ray.is_initialized()
    if started:
        with environment(RAY_USAGE_STATS_ENABLED="0"):  # nothing is reported to anybody unasked
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    waiting: dict[Any, T] = {}
    try:
        there = ray.cluster_resources()
        for kind, wanted in (("CPU", cpus), ("GPU", gpus)):
            if wanted > there.get(kind, 0):
                raise UserError(
                    f"one {what} takes {wanted:g} {kind}s, but the Ray cluster has {there.get(kind, 0):g} in all; "
                    f"lower {kind.lower()}s_per_{what}"
                )
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(_there)
        where, shared = str(Path.cwd()), ray.put(function)
        waiting = {task.remote(where, cpus, shared, item): item for item in items}
        while waiting:
            for reference in ray.wait(list(waiting))[0]:
                item = waiting.pop(reference)
                try:
                    result = ray.get(reference)
                except ray.exceptions.RayTaskError:  # the function's own
                    raise
                except ray.exceptions.RayError as error:  # memory, a kill, a lost machine
                    told = f"its process ended ({type(error).__name__}); too little memory is the usual cause"
                    result = RuntimeError(told)
                yield item, result
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)
        if started:
            ray.shutdown()


def _there(working_directory: str, cpus: int, function: Callable[[T], R], item: T) -> R:
    os.chdir(working_directory)  # relative paths mean what they mean to the one who asked
    torch.set_num_threads(cpus)
    return function(item)
