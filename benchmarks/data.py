"""How fast training images are read and augmented, with decoded images kept nowhere, in memory, or on disk.

Rates are images per second of one core: of processor time, so that what else runs on the machine matters little; files
lie in the system's cache. Beside them stands what the student of recipes/idd-lite eats: images per second of its
training step on the same crops, of processor time with one CPU thread, or of wall-clock time on a GPU. The last column
is the one divided by the other: above 1.5 one core that reads is more than enough for one that trains, or for the GPU.

    OMP_NUM_THREADS=1 python benchmarks/data.py --root data/idd_lite      # the recipe's own images
    OMP_NUM_THREADS=1 python benchmarks/data.py                           # JPEGs of 1280 x 720 that it makes itself
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils.data import default_collate

from segdistill import Supervised, load_network
from segdistill.data import TrainingSamples
from segdistill.device import choose_device, choose_precision
from segdistill.recipe.data import Data, build_data, keep_decoded
from segdistill.recipe.train_config import TrainConfig

RECIPE = Path(__file__).parent.parent / "recipes" / "idd-lite" / "alone.yaml"
BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder of IDD-Lite, or of any data set of its layout and classes")
    parser.add_argument("--size", type=int, nargs=2, default=(720, 1280), metavar=("H", "W"), help="without --root")
    parser.add_argument("--count", type=int, default=48, help="images, without --root")
    parser.add_argument("--crop", type=int, nargs=2, metavar=("H", "W"), help="the recipe's 96 x 128, else 512 x 512")
    parser.add_argument("--device", default="auto", help="where the student's step is measured")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each row of the table")
    options = parser.parse_args()
    recipe = yaml.safe_load(RECIPE.read_text())
    with tempfile.TemporaryDirectory() as name:
        values = recipe["data"] | {"root": options.root or name}
        if options.root is None:
            write_images(Path(name), options.count, tuple(options.size), len(values["classes"]))
            values = {key: value for key, value in values.items() if key != "resize"} | {"crop": [512, 512]}
        if options.crop:
            values["crop"] = list(options.crop)
        eaten, place = training_rate(recipe["network"], values, options.device, options.seconds)
        table = Table("images are kept", "decoded and cut", "and augmented", "and made a batch", "to the training step")
        size = " x ".join(str(side) for side in build_data(values).train[0][0].shape[-2:])
        crop = " x ".join(str(side) for side in values["crop"])
        table.title = f"images / s of one core: {size} pixels as read, crops of {crop}, batches of {BATCH}"
        table.caption = f"the student trains on {eaten:.1f} images / s ({place})"
        for label, keep in (("nowhere", None), ("ram", "ram"), ("disk", str(Path(name) / "kept"))):
            data = keep_decoded(build_data(values | {"decoded_cache": keep}), Console(quiet=True))
            rates = [rate(work, options.seconds) for work in works(data)]
            table.add_row(label, *(f"{one:.0f}" for one in rates), f"{rates[-1] / eaten:.1f} x")
        Console(width=110).print(table)


def works(data: Data) -> list[Callable[[int], int]]:
    """What is measured, each told a number and telling how many images it has been through."""
    samples = TrainingSamples(data.train, data.augmentation, seed=0)

    def cut(number: int) -> int:
        source = data.train.open(number % len(data.train))
        source.window(data.augmentation.view(source.size, key=(0, 0, number)).window)
        return 1

    def augment(number: int) -> int:
        samples[number // len(samples), number % len(samples)]
        return 1

    def batch(number: int) -> int:
        keys = [divmod(BATCH * number + index, len(samples)) for index in range(BATCH)]
        default_collate([samples[key] for key in keys])
        return BATCH

    return [cut, augment, batch]


def rate(work: Callable[[int], int], seconds: float) -> float:
    """Images per second of processor time; memory is set up in the first calls, which do not count."""
    for number in range(5):
        work(number)
    began, images = time.process_time(), 0
    for number in itertools.count():
        images += work(number)
        if time.process_time() - began >= seconds:
            break
    return images / (time.process_time() - began)


def training_rate(spec: str, values: dict[str, Any], device_name: str, seconds: float) -> tuple[float, str]:
    """Images per second of the student's forward pass, loss, backward pass and optimiser step, and where."""
    device = choose_device(device_name)
    precision = choose_precision("auto", device)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    learner = Supervised(load_network(spec, num_classes=len(values["classes"])))
    learner.to(device).to(memory_format=torch.channels_last).train()
    optimizer = TrainConfig().build_optimizer(learner.named_parameters())
    images = torch.randint(256, (BATCH, 3, *values["crop"]), dtype=torch.uint8, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(len(values["classes"]), (BATCH, *values["crop"]), device=device)
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    times: list[float] = []
    while len(times) < 5 or sum(times) < seconds:
        began = clock()
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            loss = learner(images, labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(clock() - began)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU thread"
    return BATCH / statistics.median(times[2:]), f"{name}, {precision}"


def write_images(root: Path, count: int, size: tuple[int, int], classes: int) -> None:
    """images/SPLIT and masks/SPLIT: JPEGs of blurred blocks with some noise, about as long to decode as photographs."""
    chance = np.random.default_rng(0)
    height, width = size
    for split, number in itertools.product(("train", "val"), range(count)):
        if split == "val" and number >= 2:
            continue
        blocks = chance.integers(0, 256, (height // 24, width // 24, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(blocks).resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = (smooth + chance.integers(-12, 13, smooth.shape)).clip(0, 255).astype(np.uint8)
        labels = Image.fromarray(chance.integers(0, classes, (height // 24, width // 24), dtype=np.uint8))
        for kind, picture, suffix in (
            ("images", Image.fromarray(noisy), "jpg"),
            ("masks", labels.resize((width, height), Image.Resampling.NEAREST), "png"),
        ):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
            picture.save(root / kind / split / f"{number:04d}.{suffix}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
