"""What a distillation step costs with a teacher cache, as a ratio to the student's own step.

The floor is what the student costs alone: forward pass, cross-entropy, backward pass, optimiser step. A method's cached
step is that, its teacher outputs brought to float32 on the device, and everything the method does; the live step runs
the teacher instead. Reading the cache is the loader's work and stands beside it: MB and ms of one image.

    python benchmarks/cache.py                      # the shipped recipe's pair, 256 x 256, batch 8
    python benchmarks/cache.py --device cuda --size 512 512
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning_fabric import Fabric
from rich.console import Console
from rich.table import Table

from segdistill import Distiller, Network, Supervised, load_network
from segdistill.data.augmentation import Augmentation
from segdistill.data.loading import TrainingSamples, training_loader
from segdistill.datasets import SyntheticAerial
from segdistill.device import choose_device, choose_precision, wait_for
from segdistill.methods import METHODS
from segdistill.recipe.train_config import TrainConfig
from segdistill.training.step import Step
from segdistill.training.strategies import launch
from segdistill.training.teacher_cache import TeacherCache
from segdistill.training.teacher_outputs import teacher_output_names
from segdistill.training.teacher_source import TeacherSource

RECIPES = Path(__file__).parent.parent / "recipes" / "idd-lite"
CLASSES = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(256, 256), metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=["auto", "bf16", "fp16", "fp32"])
    parser.add_argument("--threads", type=int, default=None, help="CPU threads; all by default")
    parser.add_argument("--images", type=int, default=64, help="images in the cache that is read from")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)
    fabric = launch(device, precision)

    teacher_spec = yaml.safe_load((RECIPES / "teacher.yaml").read_text())["network"]
    student_spec = yaml.safe_load((RECIPES / "distill.yaml").read_text())["student"]
    torch.manual_seed(0)
    teacher = load_network(teacher_spec, num_classes=CLASSES).to(device).eval()
    teacher.to(memory_format=torch.channels_last)
    student = load_network(student_spec, num_classes=CLASSES)
    dataset = SyntheticAerial(split="train", size=options.size, count=max(options.batch, options.images))
    augmentation = Augmentation(crop=options.size, jitter=0.3)

    plain = training_loader(dataset, augmentation, options.batch, seed=0, workers=0)
    alone = _step(Supervised(copy.deepcopy(student)), next(iter(plain)), fabric)
    steps = {"student alone": alone}
    sizes: dict[str, float] = {}
    reading: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name, kind in METHODS.items():
            cache = _filled(Path(temporary) / name, teacher, student, name, dataset, augmentation, fabric)
            files = (Path(temporary) / name).glob("*.bin")
            sizes[name] = sum(file.stat().st_size for file in files) / len(dataset) / 1e6
            reading[name] = _milliseconds_per_record(cache, len(dataset))
            loader = training_loader(dataset, augmentation, options.batch, 0, 0, views=1, attach=cache.read)
            batch = next(iter(loader))
            for way, source in (("cached", TeacherSource(lambda: teacher, Path(temporary) / name)), ("live", teacher)):
                learner = Distiller(source, copy.deepcopy(student), kind()).to(device)
                with fabric.autocast():
                    learner.prepare([batch])
                steps[f"{name} {way}"] = _step(learner, batch if way == "cached" else batch[:2], fabric)

        seconds, ratios = _take_turns(alone, steps, options.repeats)

    place = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    title = (
        f"{teacher_spec} -> {student_spec}, {options.size[0]} x {options.size[1]}, batch {options.batch}, "
        f"{precision}, {place} of {os.cpu_count()} cores"
    )
    table = Table(title=title, title_justify="left")
    for column in ("step", "median ms", "over the student's", "lowest", "highest", "MB / image", "ms / image to read"):
        table.add_column(column, justify="left" if column == "step" else "right")
    for name, times in seconds.items():
        cells = [f"{1000 * statistics.median(times):.1f}", f"{statistics.median(ratios[name]):.3f}"]
        cells += [f"{min(ratios[name]):.3f}", f"{max(ratios[name]):.3f}"]
        method = name.removesuffix(" cached")
        cells += [f"{sizes[method]:.3f}", f"{reading[method]:.3f}"] if method in sizes else ["", ""]
        table.add_row(name, *cells)
    Console(width=120).print(table)


def _filled(
    folder: Path,
    teacher: Network,
    student: Network,
    method: str,
    dataset: SyntheticAerial,
    augmentation: Augmentation,
    fabric: Fabric,
) -> TeacherCache:
    """A cache of one view of every image, with what ``method`` needs."""
    distiller = Distiller(teacher, copy.deepcopy(student), METHODS[method]()).to(fabric.device)
    cache = TeacherCache(folder, {}, images=len(dataset), views=1)
    cache.want(teacher_output_names(distiller))
    samples = TrainingSamples(dataset, augmentation, seed=0, views=1)
    cache.fill(distiller, samples, batch_size=8, workers=0, fabric=fabric, console=Console(quiet=True), progress=False)
    return cache


def _milliseconds_per_record(cache: TeacherCache, images: int) -> float:
    """Median time of reading what is kept of one image; the first pass only opens the files."""
    times = []
    for turn in range(2):
        for image in torch.randperm(images).tolist():
            began = time.perf_counter()
            cache.read(0, image)
            if turn:
                times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


def _step(learner: Any, batch: list[Any], fabric: Fabric) -> Callable[[], None]:
    """One training step on ``batch``: images, labels and, where the teacher is cached, its outputs."""
    step = Step(learner, TrainConfig(ema=0, clip=None), steps=10**6, fabric=fabric)
    learner.train()

    def make() -> None:
        step(iter([batch]))
        wait_for(fabric.device)

    return make


def _take_turns(
    alone: Callable[[], None], steps: dict[str, Callable[[], None]], repeats: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of every step, and their ratios to a step of the student alone just before.

    In turn, so that a change of the machine's speed touches all alike; the first turn only warms up.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    ratios: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 1):
        for name, step in steps.items():
            floor, mine = _timed(alone), _timed(step)
            if turn:
                seconds[name].append(mine)
                ratios[name].append(mine / floor)
    return seconds, ratios


def _timed(step: Callable[[], None]) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
