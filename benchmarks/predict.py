"""How fast `segdistill predict` labels a large GeoTIFF, against the bare model, and how much memory it adds.

Makes a GeoTIFF of noise over large areas in a temporary folder, in tiles, compressed. The bare model says scores of one
window in memory again and again. Two rates of `predict` stand against it: of the pixels that go through the model,
those in several windows counted each time, which leaves what reading, blending and writing cost; and of the pixels of
the image, which also leaves the price of the overlap. Memory is the process's peak above what it held after the bare
model had run (on a GPU the device's peak stands beside it).

    python benchmarks/predict.py
    python benchmarks/predict.py --size 20000 --device cuda --window 2048
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from segdistill import load_network
from segdistill.data.scoring import WINDOWS_AT_ONCE
from segdistill.data.tiling import OVERLAP, WINDOW
from segdistill.prediction.job import Options, Wanted, configured
from segdistill.prediction.predict import predict_files
from segdistill.prediction.predictor import open_predictor

CLASSES = 6
ROWS = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096, help="side of the image in pixels")
    parser.add_argument("--network", default="smp:FPN:tu-mobilenetv3_small_050")
    parser.add_argument("--window", type=int, default=WINDOW)
    parser.add_argument("--overlap", type=float, default=OVERLAP)
    parser.add_argument("--batch", type=int, default=None)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--probabilities", action="store_true")
    parser.add_argument("--seconds", type=float, default=10.0, help="for the bare model")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # In a process of its own, whose memory does not count.
        maker = multiprocessing.get_context("spawn").Process(target=write_image, args=(folder / "a.tif", options.size))
        maker.start()
        maker.join()
        torch.manual_seed(0)
        load_network(options.network, num_classes=CLASSES).save(folder / "network")
        predictor = open_predictor(folder / "network", options.device)
        chosen = Options(window=options.window, overlap=options.overlap, batch_size=options.batch)
        model = configured(predictor, chosen)
        _, overlap = model.tiling.in_pixels(options.window)
        grid = model.grid((options.size, options.size))
        on_gpu = model.device.type == "cuda"
        batch = options.batch or (WINDOWS_AT_ONCE if on_gpu else 1)
        # The windows that are used, which may be shorter than the longest allowed.
        bare = bare_rate(model.scorer, model.device, grid.rows[0].length, batch, options.seconds)
        held = peak_megabytes()
        started = time.perf_counter()
        predict_files(
            predictor,
            folder / "a.tif",
            folder / "labels.tif",
            options=chosen,
            wanted=Wanted(probabilities=options.probabilities),
        )
        seconds = time.perf_counter() - started
        added = peak_megabytes() - held
    table = Table("", "million pixels / s", "of the bare model's", title_justify="left")
    table.title = (
        f"{options.network}, {options.size} x {options.size} in {len(grid)} windows of {grid.rows[0].length}, "
        f"{overlap} shared, batch {batch}, {model.device}, {torch.get_num_threads()} threads"
    )
    table.add_row("bare model", f"{bare / 1e6:.2f}", "")
    for what, pixels in (("predict, through the model", grid.pixels()), ("predict, of the image", options.size**2)):
        table.add_row(what, f"{pixels / seconds / 1e6:.2f}", f"{pixels / seconds / bare:.1%}")
    Console(width=140).print(table)
    print(f"{seconds:.1f} s; {added:.0f} MB of memory added", end="")
    print(f"; {torch.cuda.max_memory_allocated() / 1e6:.0f} MB at most on the GPU" if on_gpu else "")


def bare_rate(scores: torch.nn.Module, device: torch.device, side: int, batch: int, seconds: float) -> float:
    """Pixels per second of the model alone, on one batch that lies on the device."""
    images = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, device=device)
    rounds = 0
    with torch.no_grad():
        for _ in range(2):
            scores(images)
        _wait(device)
        started = time.perf_counter()
        while time.perf_counter() - started < seconds:
            scores(images)
            _wait(device)
            rounds += 1
    return rounds * images[:, 0].numel() / (time.perf_counter() - started)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def write_image(path: Path, side: int) -> None:
    """Areas of some size under a little noise, as compressible as a photograph."""
    import rasterio

    chance = np.random.default_rng(0)
    shape = {"height": side, "width": side, "count": 3, "dtype": "uint8", "crs": "EPSG:32633"}
    place = rasterio.transform.from_origin(400_000, 5_000_000, 0.1, 0.1)
    tiles = {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate", "BIGTIFF": "IF_SAFER"}
    with rasterio.open(path, "w", driver="GTiff", transform=place, **shape, **tiles) as file:
        for top in range(0, side, ROWS):
            rows = min(ROWS, side - top)
            y, x = np.mgrid[top : top + rows, :side].astype(np.float32)
            areas = 100 * np.sin(y / 90) * np.cos(x / 70) + 128
            pixels = np.stack([areas + chance.integers(0, 16, areas.shape) for _ in range(3)])
            file.write(pixels.clip(0, 255).astype(np.uint8), window=((top, top + rows), (0, side)))


def peak_megabytes() -> float:
    """The most memory this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    main()
