"""Time and peak memory of the relation losses, forward and backward, against the plain formula.

    python benchmarks/relations.py [--device cuda] [--threads 2]

"Plain" is what a paper's code does in PyTorch: the N x N matrices, differentiated by autograd. The
row-softmax relation keeps each position's similarity to itself in both forms, as the published code does, so
that the plain form pays for no mask. Every measurement runs in a process of its own. Time: warm-up, then the
median of interleaved repeats.
Memory: the growth of the peak over what is held once library and inputs are there.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from segdistill.losses import affinity_mse, relation_kl

STUDENT_CHANNELS, TEACHER_CHANNELS = 128, 256


def plain_affinity(student: Tensor, teacher: Tensor) -> Tensor:
    student, teacher = F.normalize(student.flatten(2), dim=1), F.normalize(teacher.flatten(2), dim=1)
    return (student.mT @ student - teacher.mT @ teacher).square().mean()


def plain_relation(student: Tensor, teacher: Tensor) -> Tensor:
    student, teacher = F.normalize(student.flatten(2), dim=1), F.normalize(teacher.flatten(2), dim=1)
    log_student = (student.mT @ student).log_softmax(dim=2)
    divergence = F.kl_div(log_student, (teacher.mT @ teacher).softmax(dim=2), reduction="sum")
    return divergence / (student.shape[0] * student.shape[2])


def our_affinity(student: Tensor, teacher: Tensor) -> Tensor:
    return affinity_mse(student=student, teacher=teacher)


def our_relation(student: Tensor, teacher: Tensor) -> Tensor:
    return relation_kl(student=student, teacher=teacher, include_self=True)


def run(loss: Callable[[Tensor, Tensor], Tensor], student: Tensor, teacher: Tensor) -> None:
    loss(student, teacher).backward()
    student.grad = None
    if student.device.type == "cuda":
        torch.cuda.synchronize()


def inputs(size: int, batch: int, device: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(batch, STUDENT_CHANNELS, size, size, generator=generator).to(device)
    teacher = torch.randn(batch, TEACHER_CHANNELS, size, size, generator=generator).to(device)
    return student.requires_grad_(), teacher


def peak_bytes(loss: Callable[[Tensor, Tensor], Tensor], size: int, batch: int, device: str) -> int:
    run(loss, *inputs(16, batch, device))  # what libraries allocate once is not the loss's
    student, teacher = inputs(size, batch, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(loss, student, teacher)
        return torch.cuda.max_memory_allocated() - before
    before = resident_peak()
    run(loss, student, teacher)
    return resident_peak() - before


def resident_peak() -> int:
    """Bytes; the kernel counts in KiB on Linux, in bytes on macOS."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def seconds(
    losses: list[Callable[[Tensor, Tensor], Tensor]], size: int, batch: int, repeats: int, device: str
) -> list[float]:
    """Median time of each loss."""
    return seconds_of(losses, *inputs(size, batch, device), repeats)


def seconds_of(
    losses: list[Callable[[Tensor, Tensor], Tensor]], student: Tensor, teacher: Tensor, repeats: int
) -> list[float]:
    """Median time of each loss; repeats take turns, so that a busy moment of the machine hits all alike.

    On one processor thread, time is that of the processor, which other work on the machine disturbs little.
    """
    alone_on_cpu = student.device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone_on_cpu else time.perf_counter
    taken: list[list[float]] = [[] for _ in losses]
    for repeat in range(repeats + 1):
        for loss, times in zip(losses, taken, strict=True):
            start = clock()
            run(loss, student, teacher)
            if repeat > 0:
                times.append(clock() - start)
    return [statistics.median(times) for times in taken]


def alone(threads: int | None, function: Callable[..., Any], *arguments: object) -> Any:
    """The function's result, computed in a fresh process."""
    set_threads = None if threads is None else torch.set_num_threads
    with ProcessPoolExecutor(
        1,
        mp_context=get_context("spawn"),
        initializer=set_threads,
        initargs=() if threads is None else (threads,),
    ) as pool:
        return pool.submit(function, *arguments).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, help="processor threads (default: torch's; 1 where others compute too)")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    device, threads, repeats = options.device, options.threads, options.repeats

    name = torch.cuda.get_device_name() if device == "cuda" else f"cpu, {threads or torch.get_num_threads()} threads"
    print(f"{name}; torch {torch.__version__}; channels {STUDENT_CHANNELS} and {TEACHER_CHANNELS}; float32")
    print("| loss | features | plain ms | ours ms | faster | plain MB | ours MB | less memory |")
    print("|---|---|---|---|---|---|---|---|")
    for loss, plain, ours in (
        ("affinity_mse", plain_affinity, our_affinity),
        ("relation_kl", plain_relation, our_relation),
    ):
        for size in (64, 96):
            slow, fast = alone(threads, seconds, [plain, ours], size, 2, repeats, device)
            large, small = (alone(threads, peak_bytes, form, size, 2, device) for form in (plain, ours))
            print(
                f"| {loss} | 2 x {size} x {size} | {slow * 1e3:.1f} | {fast * 1e3:.1f} | {slow / fast:.1f}x "
                f"| {large / 1e6:.0f} | {small / 1e6:.0f} | {large / small:.1f}x ({small / large:.1%}) |",
                flush=True,
            )
        (fast,) = alone(threads, seconds, [ours], 128, 4, 1, device)
        small = alone(threads, peak_bytes, ours, 128, 4, device)
        print(f"| {loss} | 4 x 128 x 128 | | {fast * 1e3:.1f} | | | {small / 1e6:.0f} | |", flush=True)


if __name__ == "__main__":
    main()
