"""What each method adds to a training step, as a ratio to the floor measured in the same run.

The floor is what any distillation with a live teacher must pay: the teacher's forward pass, and the student's forward
pass, cross-entropy, backward pass and optimiser step. A method's step is that and everything the method does.

    python benchmarks/step_cost.py                      # the shipped recipe's pair, 256 x 256, batch 8
    python benchmarks/step_cost.py --device cuda --size 512 512
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.table import Table

from segdistill import Distiller, Supervised, load_network
from segdistill.device import choose_device, choose_precision, wait_for
from segdistill.methods import METHODS
from segdistill.recipe.train_config import TrainConfig
from segdistill.training.step import Step
from segdistill.training.strategies import launch

RECIPES = Path(__file__).parent.parent / "recipes" / "idd-lite"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(256, 256), metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=["auto", "bf16", "fp16", "fp32"])
    parser.add_argument("--threads", type=int, default=None, help="CPU threads; all by default")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)

    teacher_spec = yaml.safe_load((RECIPES / "teacher.yaml").read_text())["network"]
    student_spec = yaml.safe_load((RECIPES / "distill.yaml").read_text())["student"]
    torch.manual_seed(0)
    teacher = load_network(teacher_spec, num_classes=7).to(device, memory_format=torch.channels_last).eval()
    student = load_network(student_spec, num_classes=7)
    images = torch.rand(options.batch, 3, *options.size, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 7, (options.batch, *options.size), device=device)

    fabric = launch(device, precision)

    def step_of(learner: Any, see_teacher: bool) -> Callable[[], None]:
        step = Step(learner, TrainConfig(ema=0, clip=None), steps=10**6, fabric=fabric)
        learner.train()

        def make() -> None:
            if see_teacher:
                with torch.no_grad(), fabric.autocast():
                    teacher(images)
            step(iter([(images, labels)]))
            wait_for(device)

        return make

    steps = {"floor": step_of(Supervised(copy.deepcopy(student)), True)}
    for name in options.methods:
        distiller = Distiller(teacher, copy.deepcopy(student), METHODS[name]()).to(device)
        with fabric.autocast():
            distiller.prepare([images])
        steps[name] = step_of(distiller, False)

    # In turn, so that a change of the machine's speed touches all alike; the first turn only warms up.
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(options.repeats + 1):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if turn:
                seconds[name].append(time.perf_counter() - began)

    place = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    title = (
        f"{teacher_spec} -> {student_spec}, {options.size[0]} x {options.size[1]}, batch {options.batch}, "
        f"{precision}, {place} of {os.cpu_count()} cores"
    )
    table = Table(title=title, title_justify="left")
    for column in ("step", "median ms", "over the floor", "lowest", "highest"):
        table.add_column(column, justify="left" if column == "step" else "right")
    for name, times in seconds.items():
        ratios = [mine / floor for mine, floor in zip(times, seconds["floor"], strict=True)]
        cells = (f"{statistics.median(ratios):.3f}", f"{min(ratios):.3f}", f"{max(ratios):.3f}")
        table.add_row(name, f"{1000 * statistics.median(times):.1f}", *cells)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
