"""What each method costs beyond a training step: time over the floor, and memory kept for the backward pass.

The floor with a live teacher is the teacher's forward pass and the student's forward and backward pass; with a cached
one it is the student's alone. Networks are run once; each method is then run by itself, forward and backward, on the
features that they showed. Memory is what autograd keeps between the two passes, in percent of what the student's own
step keeps, and the method's parameters and buffers.

On a processor, times are of the processor, not of the clock, so that other work on the machine disturbs them little.

    python benchmarks/methods.py
    python benchmarks/methods.py --device cuda --teacher smp:Segformer:mit_b2 --student smp:DeepLabV3Plus:mobilenet_v2
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from segdistill import Features, Network, Supervised, load_network
from segdistill.device import choose_device
from segdistill.methods import METHODS, Method

CLASSES = 19


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="smp:DeepLabV3:resnet101")
    parser.add_argument("--student", default="smp:DeepLabV3:resnet18")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--size", type=int, nargs=2, default=(512, 512), metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = choose_device(options.device)
    teacher, student = (_network(spec, device) for spec in (options.teacher, options.student))
    images = torch.rand(options.batch, 3, *options.size, device=device).contiguous(memory_format=torch.channels_last)
    blocks = torch.randint(0, CLASSES, (options.batch, *(-(-side // 16) for side in options.size)), device=device)
    labels = blocks.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, : options.size[0], : options.size[1]]

    with torch.no_grad():
        shown = teacher.eval().features(images)
        look = _best(lambda: teacher.features(images), device, options.repeats)
    learner = Supervised(student.train())
    step, kept = _cost(lambda: learner(images, labels).loss, device, options.repeats)
    with torch.no_grad():
        seen = student.features(images)

    table = Table(title=f"{options.teacher} -> {options.student}, {options.size}, batch {options.batch}, {device}")
    for column in ("method", "ms", "over the floor", "over a cached floor", "memory kept", "state"):
        table.add_column(column, justify="left" if column == "method" else "right")
    table.add_row("floor", f"{1000 * (look + step):.0f}", "1.000", "1.000", f"{kept / 1e6:.0f} MB", "")
    for name in options.methods:
        method = METHODS[name]()
        own, more, state = _method_cost(method, student, teacher, seen, shown, labels, device, options.repeats)
        cells = (f"{1 + own / (look + step):.3f}", f"{1 + own / step:.3f}", f"+{100 * more / kept:.0f} %")
        table.add_row(name, f"+{1000 * own:.0f}", *cells, f"{state / 1e6:.0f} MB")
    Console(width=110).print(table)


def _network(spec: str, device: torch.device) -> Network:
    return load_network(spec, num_classes=CLASSES).to(device, memory_format=torch.channels_last)


def _method_cost(
    method: Method,
    student: Network,
    teacher: Network,
    seen: Features,
    shown: Features,
    labels: Tensor,
    device: torch.device,
    repeats: int,
) -> tuple[float, int, int]:
    """Seconds of a method alone, bytes that it keeps for backward, and bytes of its parameters and buffers."""
    method.build(student.info, teacher.info)
    method.to(device).train()
    with torch.no_grad():
        outputs = method.teacher_outputs(shown)
    method.prepare([outputs])
    valid = torch.ones_like(labels, dtype=torch.bool)
    leaves = [maps.detach().requires_grad_() for maps in (*seen.stages, seen.embedding, seen.logits)]
    features = Features(tuple(leaves[:-2]), *leaves[-2:])

    def loss() -> Tensor:
        terms = method(student=features, teacher=outputs, labels=labels, valid=valid)
        return torch.stack(list(terms.values())).sum()

    seconds, kept = _cost(loss, device, repeats, but=[*leaves, *outputs.values()])
    state = [*method.parameters(), *method.buffers()]
    return seconds, kept, sum(value.nbytes for value in state)


def _cost(
    loss: Callable[[], Tensor], device: torch.device, repeats: int, but: Sequence[Tensor] = ()
) -> tuple[float, int]:
    """Least seconds of a loss and its backward pass; bytes kept between them, without those of the tensors ``but``."""
    storages: dict[int, int] = {}

    def pack(value: Tensor) -> Tensor:
        storages[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        value = loss()
    own = {one.untyped_storage().data_ptr() for one in but}
    kept = sum(size for at, size in storages.items() if at not in own)
    value.backward()
    return _best(lambda: loss().backward(), device, repeats), kept


def _best(work: Callable[[], Any], device: torch.device, repeats: int) -> float:
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    times = []
    for _ in range(repeats):
        began = clock()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(clock() - began)
    return min(times)


if __name__ == "__main__":
    main()
