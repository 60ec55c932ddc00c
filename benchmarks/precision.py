"""A training step in bf16 over the same step in fp32, on a processor, for several networks and sizes.

Times are of the processor, not of the clock, so that other work on the machine disturbs them little; one thread.

    python benchmarks/precision.py
    python benchmarks/precision.py --networks smp:Unet:resnet34 --sizes 512
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

from segdistill import load_network
from segdistill.device import choose_precision, processor

NARROW = "?decoder_pyramid_channels=64&decoder_segmentation_channels=32"
NETWORKS = (
    f"smp:FPN:tu-mobilenetv3_small_100{NARROW}",
    "smp:FPN:tu-mobilenetv3_small_050",
    "smp:FPN:tu-tf_efficientnet_lite2",
    "smp:Unet:resnet34",
)
CLASSES = 11


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--sizes", type=int, nargs="+", default=(64, 128, 192, 320))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    bf16 = "has" if choose_precision("auto", torch.device("cpu")) == "bf16" else "has no"
    table = Table(title=f"bf16 over fp32, batch {options.batch}; {processor()} {bf16} instructions for bf16")
    for column in ("network", *(f"{size} x {size}" for size in options.sizes)):
        table.add_column(column, overflow="fold")
    for spec in options.networks:
        table.add_row(spec, *(f"{_ratio(spec, size, options):.2f}" for size in options.sizes))
    Console().print(table)


def _ratio(spec: str, size: int, options: argparse.Namespace) -> float:
    network = load_network(spec, num_classes=CLASSES).train().to(memory_format=torch.channels_last)
    images = torch.rand(options.batch, 3, size, size).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, CLASSES, (options.batch, size, size))

    def seconds(*, bf16: bool) -> float:
        began = time.thread_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(network(images).float(), labels)
        loss.backward()
        network.zero_grad()
        return time.thread_time() - began

    turns = [(seconds(bf16=True), seconds(bf16=False)) for _ in range(options.repeats + 1)][1:]
    return statistics.median(half / single for half, single in turns)


if __name__ == "__main__":
    main()
