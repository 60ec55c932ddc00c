"""What `segdistill evaluate` costs with all its scores, against mIoU alone over the same images.

Both read the same synthetic scenes, kept in memory, through the same network, in turns within one run. mIoU alone is a
loop by hand: predict, count the confusion. The ratio is largest for a network that is small.

    python benchmarks/evaluate.py
    python benchmarks/evaluate.py --size 512 1024 --images 16 --network smp:FPN:resnet34
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader

from segdistill import Network, load_network
from segdistill.datasets import SegmentationDataset, SyntheticAerial
from segdistill.evaluation.evaluate import measure


class InMemory(SegmentationDataset):
    """Scenes that were drawn before the clock starts."""

    def __init__(self, scenes: SyntheticAerial) -> None:
        super().__init__(classes=scenes.classes, ids=scenes.ids, palette=scenes.palette)
        self._samples = [scenes[index] for index in range(len(scenes))]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._samples[index]


def miou_alone(network: Network, dataset: SegmentationDataset) -> float:
    """The mean IoU in percent, and nothing else."""
    classes = len(dataset.classes)
    counts = torch.zeros(classes, classes, dtype=torch.int64)
    network.eval()
    with torch.inference_mode():
        for images, labels in DataLoader(dataset, 8):
            predictions = network(images).argmax(1)
            valid = labels != dataset.ignore_index
            pairs = labels[valid] * classes + predictions[valid]
            counts += torch.bincount(pairs, minlength=classes**2).view(classes, classes)
    union = counts.sum(0) + counts.sum(1) - counts.diagonal()
    return float((counts.diagonal()[union > 0] / union[union > 0]).mean() * 100)


def seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="smp:FPN:tu-mobilenetv3_small_050")
    parser.add_argument("--size", type=int, nargs=2, default=(256, 256), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    dataset = InMemory(SyntheticAerial(count=options.images, size=tuple(options.size)))
    network = load_network(options.network, num_classes=len(dataset.classes))
    # Also the turn that warms both up.
    assert abs(miou_alone(network, dataset) - measure(network, dataset).miou) < 1e-3
    ratios, plain, ours = [], [], []
    for _ in range(options.repeats):
        plain.append(seconds(lambda: miou_alone(network, dataset)))
        ours.append(seconds(lambda: measure(network, dataset)))
        ratios.append(ours[-1] / plain[-1])
    height, width = options.size
    table = Table(
        title=f"{options.network}, {options.images} images of {height} x {width}, "
        f"{torch.get_num_threads()} threads of {os.cpu_count()} cores",
        title_justify="left",
    )
    for heading in ("", "ms / image", "over mIoU alone", "lowest", "highest"):
        table.add_column(heading, justify="left" if not heading else "right")
    per_image = 1000 / options.images
    table.add_row("mIoU alone", f"{statistics.median(plain) * per_image:.1f}", "1.00", "", "")
    found = (statistics.median(ratios), min(ratios), max(ratios))
    table.add_row("evaluate", f"{statistics.median(ours) * per_image:.1f}", *(f"{ratio:.2f}" for ratio in found))
    Console().print(table)


if __name__ == "__main__":
    main()
