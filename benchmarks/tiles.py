"""How fast training reads crops from a large aerial tile, and in how much memory.

Makes a GeoTIFF of 6000 x 6000 pixels (the size of an ISPRS Potsdam tile) and its RGB mask in a temporary folder, and
reads random crops from them in one process: windows of the image alone; image and labels; augmented training samples,
where a scale of 0.5 to 2 makes the window up to four times as large as the crop. Rates are per second of
processor time.

    OMP_NUM_THREADS=1 python benchmarks/tiles.py
    OMP_NUM_THREADS=1 python benchmarks/tiles.py --bands 5 --dtype float32 --crop 256
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from segdistill.data import Augmentation, TrainingSamples
from segdistill.datasets import Folder
from segdistill.datasets.base import Window
from segdistill.datasets.reading.rasters import RasterFile, TiledWriter

CLASSES = ("impervious surfaces", "building", "low vegetation", "tree", "car", "clutter")
PALETTE = ((255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0))
ROWS = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=6000)
    parser.add_argument("--crop", type=int, default=512)
    parser.add_argument("--bands", type=int, default=3)
    parser.add_argument("--dtype", choices=["uint8", "uint16", "float32"], default="uint8")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each row of the table")
    options = parser.parse_args()
    imported = peak_megabytes()
    table = Table("what is read", "crops / s of one core", "MB / s", "MB of memory added", title_justify="left")
    table.title = (
        f"{options.crop} x {options.crop} from {options.size} x {options.size}, {options.bands} {options.dtype}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arguments = {"palette": PALETTE, "bands": range(1, options.bands + 1)}
        # In processes of their own, whose memory does not count.
        in_another_process(write_tile, folder, options.size, options.bands, options.dtype)
        in_another_process(Folder, folder, CLASSES, tiled_copy=folder / "cache", **arguments)
        dataset = Folder(folder, CLASSES, **arguments)
        converted = Folder(folder, CLASSES, tiled_copy=folder / "cache", **arguments)
        image = folder / "images" / "train" / "tile.tif"
        bands = tuple(range(1, options.bands + 1))
        chance = np.random.default_rng(0)

        def window() -> Window:
            top, left = chance.integers(0, options.size - options.crop + 1, 2).tolist()
            return Window(top, left, options.crop, options.crop)

        plain = TrainingSamples(dataset, Augmentation((options.crop,) * 2, scale=(1, 1), quarter_turns=True), 0)
        scaled = TrainingSamples(converted, Augmentation((options.crop,) * 2, quarter_turns=True, jitter=0.3), 0)
        rows: dict[str, Callable[[int], object]] = {
            "image alone": lambda _: RasterFile(image).read(bands, window()),
            "image and RGB mask": lambda _: dataset.open(0).window(window()),
            "image and converted mask": lambda _: converted.open(0).window(window()),
            "training sample, scale 1, RGB mask": lambda number: plain[0, number],
            "training sample, scale 0.5 to 2, jitter, converted mask": lambda number: scaled[0, number],
        }
        megabytes = options.crop**2 * options.bands * np.dtype(options.dtype).itemsize / 1e6
        for what, read in rows.items():
            rate = crops_per_second(read, options.seconds)
            table.add_row(what, f"{rate:.0f}", f"{rate * megabytes:.0f}", f"{peak_megabytes() - imported:.0f}")
    Console().print(table)
    Console().print(f"PyTorch and segdistill themselves, imported: {imported:.0f} MB")


def in_another_process(work: Callable[..., object], *arguments: object, **named: object) -> None:
    process = multiprocessing.get_context("spawn").Process(target=work, args=arguments, kwargs=named)
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(process.exitcode)


def write_tile(folder: Path, size: int, bands: int, dtype: str) -> None:
    """images/train/tile.tif and masks/train/tile.tif, noise and blocks of colour, in tiles."""
    chance = np.random.default_rng(0)
    whole = (size, size)
    image, mask = (folder / kind / "train" / "tile.tif" for kind in ("images", "masks"))
    with (
        TiledWriter(image, size=whole, bands=bands, dtype=dtype) as pixels,
        TiledWriter(mask, size=whole, bands=3, dtype="uint8") as colors,
    ):
        for top in range(0, size, ROWS):
            strip = Window(top, 0, min(ROWS, size - top), size)
            pixels.write(chance.integers(0, 255, (bands, strip.height, size)).astype(dtype), strip)
            blocks = chance.integers(0, len(CLASSES), (-(-strip.height // 50), -(-size // 50)))
            labels = blocks.repeat(50, 0).repeat(50, 1)[: strip.height, :size]
            colors.write(np.array(PALETTE, dtype=np.uint8)[labels].transpose(2, 0, 1), strip)


def crops_per_second(read: Callable[[int], object], seconds: float) -> float:
    # Processor time, so that what else runs on the machine matters little; the file lies in the system's cache.
    for number in range(10):
        read(number)
    began, count = time.process_time(), 0
    while time.process_time() - began < seconds:
        read(count)
        count += 1
    return count / (time.process_time() - began)


def peak_megabytes() -> float:
    """The most memory that this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e6 / 1024)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
