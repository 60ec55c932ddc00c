"""`segdistill.benchmark`: how fast, how large and how good networks are, side by side, runtime by runtime."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table

from segdistill.device import processor
from segdistill.evaluation.timing import RUNTIMES, Job, Timing, job_line, timing_in
from segdistill.exporting.measurable import measurables_of_file, measurables_of_run
from segdistill.exporting.options import BenchmarkOptions
from segdistill.files import write_json
from segdistill.formats.choosing import format_of
from segdistill.formats.exported import ExportedModel
from segdistill.networks.loading import load_run
from segdistill.networks.network import Network
from segdistill.networks.size import count_macs, count_parameters
from segdistill.progress import counted, during
from segdistill.recipe.keywords import takes_fields
from segdistill.recipe.sizes import parse_size


@dataclass(frozen=True)
class Measurement:
    """One network in one runtime, precision and number of threads.

    Attributes:
        model: the run folder, or the exported file.
        runtime: pytorch, torch.compile, onnxruntime, openvino or litert.
        precision: fp32, bf16, fp16 or int8; "" for a file without the report that `segdistill export` wrote beside it.
        threads: of the computation.
        timing: latency, rate and memory.
        parameters: number of parameters; None for an exported file.
        macs: multiply-accumulates for one image; None for an exported file.
        file_mb: size of the file, or pair of files, in 10^6 bytes.
        miou: on the validation split, in percent: of the finished run, for int8 of the int8 file; None if never
            measured, and for other exported files.
        speedup: how many times faster than `Benchmark.reference`, by median latency.
    """

    model: str
    runtime: str
    precision: str
    threads: int
    timing: Timing
    parameters: int | None
    macs: int | None
    file_mb: float
    miou: float | None
    speedup: float

    @property
    def name(self) -> str:
        """What was measured, in words."""
        form = f"{self.runtime} {self.precision}".rstrip()
        return f"{self.model}, {form}, {counted(self.threads, 'thread')}"


@dataclass(frozen=True)
class Benchmark:
    """All rows, and what was left out and why.

    Attributes:
        input: (height, width) of the image.
        machine: processor, cores and versions.
        reference: what speed-ups are relative to: the first row, in words; None where nothing was measured.
        rows: what was measured.
        skipped: one sentence each.
    """

    input: tuple[int, int]
    machine: dict[str, Any]
    reference: str | None
    rows: tuple[Measurement, ...]
    skipped: tuple[str, ...]


@takes_fields
def benchmark(options: BenchmarkOptions) -> Benchmark:
    """Measure latency, memory, size and mIoU of networks on the CPU, in every runtime and precision.

    Each measurement is a process of its own that sees one image at a time, from raw pixels to class ids. Files of
    fp32 are made for the purpose; those of int8 are the runs' own, made by `segdistill export --int8`. Exported files
    are measured as they are.

    Returns:
        The rows; `Benchmark` says what else.

    Raises:
        UserError: for a folder that holds no network, a file that `segdistill export` did not make, an unknown runtime,
            or a JSON file that cannot be written.
    """
    size = parse_size(options.input, "input")
    threads, runtimes = options.threads or [1], options.runtimes or list(RUNTIMES)
    for path in options.models:
        _opened(path)  # whatever is wrong with the last one is told before the first one is measured
    console = Console(quiet=options.quiet)
    rows: list[Measurement] = []
    skipped: list[str] = []
    with tempfile.TemporaryDirectory(prefix="segdistill-benchmark-") as temporary:
        for number, path in enumerate(options.models):
            folder = Path(temporary) / str(number)
            _measure(Path(path), size, runtimes, threads, options.seconds, folder, rows, skipped, console)
    reference = rows[0].name if rows else None
    found = Benchmark(size, _machine(), reference, tuple(rows), tuple(dict.fromkeys(skipped)))
    console.print(benchmark_tables(found), markup=False)
    for line in found.skipped:
        console.print(f"left out: {line}", highlight=False, markup=False, soft_wrap=True)
    if options.output is not None:
        write_json(Path(options.output), asdict(found))
    return found


def _opened(path: str | Path) -> Network | ExportedModel:
    """A run's network, or an exported file."""
    return load_run(path) if Path(path).is_dir() and format_of(Path(path)) is None else ExportedModel(Path(path))


def _measure(
    path: Path,
    size: tuple[int, int],
    runtimes: Sequence[str],
    threads: Sequence[int],
    seconds: float,
    folder: Path,
    rows: list[Measurement],
    skipped: list[str],
    console: Console,
) -> None:
    """Adds to ``rows`` all that can be measured of a run or file, and to ``skipped`` what cannot, and why."""
    opened = _opened(path)
    parameters, macs = None, None
    if isinstance(opened, ExportedModel):
        channels = opened.about.description.in_channels
        models = measurables_of_file(opened, size, runtimes, skipped)
    else:
        channels, parameters, macs = opened.info.in_channels, count_parameters(opened), count_macs(opened, size)
        models = measurables_of_run(path, size, runtimes, folder, skipped, console)
    del opened
    for model in models:
        for count in threads:
            job = Job(
                runtime=model.runtime,
                precision=model.precision,
                path=str(model.path),
                channels=channels,
                dtype=model.dtype,
                layout=model.layout,
                size=size,
                threads=count,
                seconds=seconds,
            )
            with during(f"measuring {path}, {model.form}, threads: {count}", console):
                timing = _timed(job)
            if isinstance(timing, str):
                skipped.append(f"{path}: {model.form} fails: {timing}")
                break
            first = rows[0].timing.median_ms if rows else timing.median_ms
            rows.append(
                Measurement(
                    model=str(path),
                    runtime=model.runtime,
                    precision=model.precision,
                    threads=count,
                    timing=timing,
                    parameters=parameters,
                    macs=macs,
                    file_mb=model.file_mb,
                    miou=model.miou,
                    speedup=first / timing.median_ms,
                )
            )


def benchmark_tables(found: Benchmark) -> Group:
    """What was measured for the terminal, a table per run, none wider than 80 columns."""
    height, width = found.input
    parts: list[RenderableType] = [f"one image of {height} x {width} on {found.machine['processor']}"]
    for model, rows in groupby(found.rows, key=lambda row: row.model):
        own = list(rows)
        title, (parameters, macs) = model, (own[0].parameters, own[0].macs)
        if parameters is not None and macs is not None:
            title += f": {parameters / 1e6:.2f} million parameters, {macs / 1e9:.2f} G MACs"
        table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("runtime", no_wrap=True, min_width=13)
        table.add_column("", no_wrap=True, min_width=4)
        for heading in ("threads", "median ms", "speed- up", "images /s", "peak MB", "file MB", "mIoU"):
            # Of one width in every table, so that runs can be compared down a column.
            table.add_column(heading.replace(" ", "\n"), justify="right", min_width=6, no_wrap=True)
        for row in own:
            timing = row.timing
            table.add_row(
                row.runtime,
                row.precision,
                str(row.threads),
                f"{timing.median_ms:.1f}",
                f"{row.speedup:.{1 if row.speedup < 99.95 else 0}f}x",
                f"{timing.images_per_second:.1f}",
                "" if timing.peak_mb is None else f"{timing.peak_mb:.0f}",
                f"{row.file_mb:.1f}",
                "" if row.miou is None else f"{row.miou:.2f}",
            )
        parts.append(table)
    if found.reference is not None:
        parts.append(f"speed-up: how many times faster than {found.reference}")
    parts.append("peak: most memory of the whole process, library included; mIoU of the validation split")
    return Group(*parts)


def _timed(job: Job) -> Timing | str:
    """The measurement, or why there is none."""
    settings = os.environ | {"OMP_NUM_THREADS": str(job.threads), "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.run(
        [sys.executable, "-m", "segdistill.evaluation.timing"],
        input=job_line(job),
        env=settings,
        capture_output=True,
        text=True,
        check=False,
    )
    timing = timing_in(process.stdout)
    if timing is None:
        lines = [line for line in process.stderr.strip().splitlines() if line.strip()]
        return lines[-1] if lines else f"exit code {process.returncode}"
    return timing


def _machine() -> dict[str, Any]:
    names = ("torch", "onnxruntime", "openvino", "ai-edge-litert")
    versions = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # onnxruntime-gpu brings onnxruntime
            versions[name] = importlib.metadata.version(name)
    return {"processor": processor(), "cores": os.cpu_count(), "system": platform.platform(), **versions}
