"""Latency as deployed, from raw pixels to class indices, in a process of its own.

``python -m segdistill.evaluation.timing`` reads a job as JSON from stdin. Such a process has a memory and threads of
its own, and loads no library but the one that is measured.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from segdistill.device import peak_memory_mb

RUNTIMES = ("pytorch", "torch.compile", "onnxruntime", "openvino", "litert")

_MARK = "segdistill-timing:"
"""Begins the line with the result; libraries print others."""

_FEWEST = 10
"""Timed passes, however long they take."""


@dataclass(frozen=True)
class Job:
    """What to measure.

    Attributes:
        runtime: one of `RUNTIMES`.
        precision: fp32, bf16, fp16 or int8.
        path: a run folder for the runtimes of PyTorch, a file for the others.
        channels: of the image.
        dtype: of the image, uint8 or float32.
        layout: of the image, nchw or nhwc.
        size: (height, width) of the image.
        threads: of the computation.
        seconds: for which passes are timed.
    """

    runtime: str
    precision: str
    path: str
    channels: int
    dtype: str
    layout: str
    size: tuple[int, int]
    threads: int
    seconds: float


@dataclass(frozen=True)
class Timing:
    """What was measured, of one image at a time from raw pixels to class ids.

    Attributes:
        median_ms: median latency.
        p95_ms: 95th percentile of it.
        images_per_second: images over the time of all passes.
        passes: number of timed passes.
        peak_mb: most memory of the process at any time, in 10^6 bytes, the runtime's library included; None where the
            system does not tell.
        library_mb: the part of it before the model was loaded.
    """

    median_ms: float
    p95_ms: float
    images_per_second: float
    passes: int
    peak_mb: float | None
    library_mb: float | None


def job_line(job: Job) -> str:
    """The job as the process reads it."""
    return json.dumps(asdict(job))


def timing_in(printed: str) -> Timing | None:
    """The result in what the process printed; None if there is none."""
    found = re.search(rf"^{_MARK}(.*)$", printed, re.MULTILINE)
    return None if found is None else Timing(**json.loads(found[1]))


def time_passes(run: Callable[[], object], seconds: float) -> list[float]:
    """Seconds that each pass took, after some that are not counted: the first ones plan, compile and fill caches.

    Args:
        run: one pass.
        seconds: for which passes are timed; a third of it goes before.
    """
    for budget, fewest in ((seconds / 3, 3), (seconds, _FEWEST)):
        times: list[float] = []
        end = time.perf_counter() + budget
        while len(times) < fewest or time.perf_counter() < end:
            began = time.perf_counter()
            run()
            times.append(time.perf_counter() - began)
    return times


def summarise(times: list[float], peak_mb: float | None, library_mb: float | None) -> Timing:
    """Median, 95th percentile and rate.

    Example:
        >>> timing = summarise([0.010] * 19 + [0.030], None, None)
        >>> round(timing.median_ms, 3), round(timing.p95_ms, 3), round(timing.images_per_second, 1)
        (10.0, 11.0, 90.9)
    """
    return Timing(
        median_ms=1000 * statistics.median(times),
        p95_ms=1000 * float(np.percentile(times, 95)),
        images_per_second=len(times) / sum(times),
        passes=len(times),
        peak_mb=peak_mb,
        library_mb=library_mb,
    )


def _prepare(job: Job, image: np.ndarray) -> tuple[Callable[[], object], float | None]:
    """One pass, and the memory before the model."""
    if job.runtime == "onnxruntime":
        import onnxruntime  # noqa: F401  # its memory is the library's

        from segdistill.formats.onnx import OnnxFile

        library = peak_memory_mb()
        onnx_file = OnnxFile(Path(job.path), job.threads)
        return lambda: onnx_file(image), library
    if job.runtime == "openvino":
        import openvino  # noqa: F401

        from segdistill.formats.openvino import OpenVinoFile

        library = peak_memory_mb()
        hint = "bf16" if job.precision == "bf16" else "f32"
        openvino_file = OpenVinoFile(Path(job.path), job.threads, hint)
        return lambda: openvino_file(image), library
    if job.runtime == "litert":
        import ai_edge_litert.interpreter  # noqa: F401

        from segdistill.formats.tflite import TfLiteFile

        library = peak_memory_mb()
        tflite_file = TfLiteFile(Path(job.path), job.threads)
        return lambda: tflite_file(image), library
    import torch

    from segdistill.formats.deployable import Deployable
    from segdistill.networks.loading import load_run

    torch.set_num_threads(job.threads)
    library = peak_memory_mb()
    module: Callable[[torch.Tensor], object] = Deployable(load_run(job.path), size=job.size)
    if job.runtime == "torch.compile":
        module = torch.compile(module)
    pixels = torch.from_numpy(image)

    def run() -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=job.precision == "bf16"):
            module(pixels)

    return run, library


def main() -> None:
    """Measures the job on stdin and prints the result."""
    values = json.load(sys.stdin)
    job = Job(**(values | {"size": tuple(values["size"])}))
    shape = (1, *job.size, job.channels) if job.layout == "nhwc" else (1, job.channels, *job.size)
    noise = np.random.default_rng(0).integers(0, 256, shape)
    run, library = _prepare(job, noise.astype(job.dtype))
    times = time_passes(run, job.seconds)
    print(_MARK + json.dumps(asdict(summarise(times, peak_memory_mb(), library))))


if __name__ == "__main__":
    main()
