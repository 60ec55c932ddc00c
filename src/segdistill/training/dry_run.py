"""A run's first steps and no more: what it would be made of, and how long it would take; nothing is written."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from segdistill.data.evaluation import scored_parts
from segdistill.device import peak_memory_mb, wait_for
from segdistill.distiller import Distiller
from segdistill.networks.identity import network_label
from segdistill.networks.network import Network
from segdistill.networks.size import count_macs, count_parameters
from segdistill.progress import counted, duration
from segdistill.recipe.data import Data
from segdistill.training.held_out import HeldOut
from segdistill.training.loop import Loop
from segdistill.training.validator import Validator

#: Steps that are timed, after a first one that is not: memory is set up in it, and kernels are chosen.
TIMED_STEPS = 3


@dataclass(frozen=True)
class DryRun:
    """What a run would be.

    Attributes:
        rows: (part, what, text), e.g. ("network", "student", "1.98 M parameters, 0.11 G MACs at 96 x 128").
        terms: every weighted loss term of the first step by name.
        step_seconds: median time of an optimiser step, reading its images included.
        epoch_seconds: estimate for an epoch without its validation.
        total_seconds: estimate for the whole run: pre-stage, epochs, validations.
        peak_bytes: most memory held, by the GPU where there is one, else by the process; None where it cannot be told.
    """

    rows: tuple[tuple[str, str, str], ...]
    terms: Mapping[str, float]
    step_seconds: float
    epoch_seconds: float
    total_seconds: float
    peak_bytes: int | None

    def show(self, console: Console) -> None:
        """Prints the table."""
        table = Table("", "", "", show_header=False, title="dry run: nothing was written", title_justify="left")
        before = ""
        for part, what, text in self.rows:
            if before not in ("", part):
                table.add_section()
            table.add_row(part if part != before else "", what, text)
            before = part
        console.print(table, highlight=False, markup=False)


def dry_run(loop: Loop, validator: Validator | HeldOut, data: Data, config: Mapping[str, Any]) -> DryRun:
    """Takes a few optimiser steps and one batch of the validation, and estimates the rest from them.

    The learner is another one afterwards: this ends what could have been a run.

    Args:
        loop: ready to run; its callbacks are not called.
        validator: whose batches and scores are timed.
        data: splits and augmentation.
        config: the complete recipe.

    Raises:
        UserError: whatever would stop the run at its first step.
    """
    device = loop.step.fabric.device
    rows = _data_rows(loop, data) + _network_rows(loop, data, config)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    batches = _endless(loop)
    preparing = _time_pre_stage(loop, batches)
    loop.step.learner.train()
    terms = {name: float(value) for name, value in loop.step(batches)[-1].items()}
    if loop.step.balance.factors is None:
        loop.step.balance.factors = {}  # measuring gradients takes longer than the steps after it
    times = [_timed(loop, batches) for _ in range(TIMED_STEPS)]
    step = statistics.median(times)
    epoch = step * loop.batches
    if isinstance(validator, HeldOut):
        validation = validator.estimated_seconds(loop.step.network)
    else:
        validation = _time_validation(validator, loop.step.network)
    epochs = loop.epochs
    validations = -(-epochs // loop.step.config.validate_every)
    total = preparing + epochs * epoch + validations * validation
    peak = _peak_bytes(device)
    rows += [
        ("method", name, _hyper_parameters(values)) for one in config.get("method", ()) for name, values in one.items()
    ]
    rows += [("loss", name, f"{value:.4g}") for name, value in terms.items()]
    rate = f"{loop.step.config.batch_size / step:.1f} images/s"
    rows.append(("time", "step", f"{step:.3f} s, {rate} ({min(times):.3f} to {max(times):.3f} s)"))
    if preparing:
        rows.append(("time", "pre-stage", f"about {duration(preparing)}"))
    rows.append(("time", "epoch", f"about {duration(epoch)}, and {duration(validation)} for a validation"))
    length = f"{counted(epochs, 'epoch')} with {counted(validations, 'validation')}"
    rows.append(("time", "in all", f"about {duration(total)} for {length}"))
    place = str(device) if device.type == "cuda" else "this process"
    rows.append(("memory", "peak", "not known on this machine" if peak is None else f"{peak / 1e9:.2f} GB, {place}"))
    return DryRun(tuple(rows), terms, step, epoch, total, peak)


def _data_rows(loop: Loop, data: Data) -> list[tuple[str, str, str]]:
    height, width = data.augmentation.crop or data.train.open(0).size
    size = " x ".join(str(side) for side in data.train.open(0).size)
    crops = f", {data.train.crops_per_image} crops each" if data.train.crops_per_image > 1 else ""
    steps = loop.sampler.batches
    return [
        ("data", "set", str(data.values.get("dataset", "one for each split"))),
        ("data", "train", f"{counted(len(data.train), 'image')}{crops}, the first {size}; crops of {height} x {width}"),
        *_unlabelled_rows(loop, data),
        ("data", "val", counted(len(data.val), "image")),
        ("data", "classes", f"{len(data.train.classes)}: {', '.join(data.train.classes)}"),
        ("data", "epoch", f"{steps} step{'s' * (steps > 1)} of {loop.step.config.batch_size} images"),
    ]


def _unlabelled_rows(loop: Loop, data: Data) -> list[tuple[str, str, str]]:
    if data.unlabelled is None:
        return []
    share = f"{loop.sampler.unlabelled_in_batch} of the {loop.step.config.batch_size} images of each batch"
    return [("data", "unlabelled", f"{counted(len(data.unlabelled), 'image')}, {share}")]


def _network_rows(loop: Loop, data: Data, config: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    learner = loop.step.learner
    networks = {"network": learner.student}
    if isinstance(learner, Distiller):
        networks = {"student": learner.student}
        if learner.teacher is not None:
            networks = {"teacher": learner.teacher, **networks}
    height, width = data.augmentation.crop or data.train.open(0).size
    rows = []
    for role, network in networks.items():
        side = data.teacher_scale if role == "teacher" else 1
        # What is compiled cannot be counted operation by operation.
        with torch.compiler.set_stance("force_eager"):
            macs = count_macs(network, (side * height, side * width))
        parameters = count_parameters(network)
        rows.append(("network", role, network_label(config[role])))
        rows.append(
            ("network", "", f"{parameters / 1e6:.2f} M parameters, {_macs(macs)} at {side * height} x {side * width}")
        )
    return rows


def _endless(loop: Loop) -> Iterator[Any]:
    """Batches of epoch after epoch: a small data set has few of them in each."""
    epoch = 0
    while True:
        loop.sampler.set_epoch(epoch)
        yield from loop.loader
        epoch += 1


def _timed(loop: Loop, batches: Iterator[Any]) -> float:
    began = time.perf_counter()
    loop.step(batches)
    wait_for(loop.step.fabric.device)
    return time.perf_counter() - began


def _time_pre_stage(loop: Loop, batches: Iterator[Any]) -> float:
    """Estimated seconds of what a method does before the first step, from one batch."""
    learner = loop.step.learner
    if not isinstance(learner, Distiller) or not learner.has_pre_stage:
        return 0.0
    began = time.perf_counter()
    with loop.step.fabric.autocast():
        learner.prepare([next(batches)])
    wait_for(loop.step.fabric.device)
    return (time.perf_counter() - began) * loop.sampler.batches * loop.step.config.accumulate


def _time_validation(validator: Validator, network: Network) -> float:
    """Estimated seconds of a validation, from its second batch where it has two: readers start with the first."""
    network.eval()
    device = validator.fabric.device
    began, seconds = time.perf_counter(), 0.0
    with torch.inference_mode(), validator.fabric.autocast():
        for part in itertools.islice(scored_parts(network, validator.loader), 2):
            validator.counts.update(part.scores, part.labels.to(device))
            wait_for(device)
            images = len(part.indices) * part.window.height * part.window.width / (part.size[0] * part.size[1])
            seconds = (time.perf_counter() - began) / images
            began = time.perf_counter()
    return seconds * len(validator.loader)


def _peak_bytes(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = peak_memory_mb()
    return None if peak is None else int(1e6 * peak)


def _hyper_parameters(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {'none' if value is None else value}" for name, value in values.items())


def _macs(count: int) -> str:
    return f"{count / 1e9:.2f} G MACs" if count >= 1e7 else f"{count / 1e6:.3f} M MACs"
