"""`segdistill.benchmark`: how fast, how large and how good networks are, side by side, runtime by runtime."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table

from segdistill.device import choose_precision, processor
from segdistill.errors import UserError, missing_package
from segdistill.evaluation.timing import RUNTIMES, Job, Timing, job_line, timing_in
from segdistill.exporting.export import FOLDER, export
from segdistill.exporting.options import BenchmarkOptions
from segdistill.files import write_json
from segdistill.formats.choosing import format_named
from segdistill.networks.loading import files_of, load_run
from segdistill.networks.size import count_macs, count_parameters
from segdistill.networks.weights import SUFFIXES
from segdistill.progress import counted, during
from segdistill.recipe.keywords import takes_fields
from segdistill.recipe.sizes import parse_size
from segdistill.run_folder import RunFolder

_FORMAT_OF = {"onnxruntime": "onnx", "openvino": "openvino", "litert": "tflite"}


@dataclass(frozen=True)
class Measurement:
    """One network in one runtime, precision and number of threads.

    Attributes:
        run: the run folder.
        runtime: pytorch, torch.compile, onnxruntime, openvino or litert.
        precision: fp32, bf16 or int8.
        threads: of the computation.
        timing: latency, rate and memory.
        parameters: number of parameters.
        macs: multiply-accumulates for one image.
        file_mb: size of the file, or pair of files, in 10^6 bytes.
        miou: on the validation split, in percent: of the finished run, for int8 of the int8 file; None if never
            measured.
        speedup: how many times faster than `Benchmark.reference`, by median latency.
    """

    run: str
    runtime: str
    precision: str
    threads: int
    timing: Timing
    parameters: int
    macs: int
    file_mb: float
    miou: float | None
    speedup: float

    @property
    def name(self) -> str:
        """What was measured, in words."""
        return f"{self.run}, {self.runtime} {self.precision}, {counted(self.threads, 'thread')}"


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


@dataclass(frozen=True)
class _Model:
    """One network in one form, ready to be timed."""

    runtime: str
    precision: str
    path: Path
    dtype: str
    file_mb: float
    miou: float | None


@takes_fields
def benchmark(options: BenchmarkOptions) -> Benchmark:
    """Measure latency, memory, size and mIoU of networks on the CPU, in every runtime and precision.

    Each measurement is a process of its own that sees one image at a time, from raw pixels to class ids. Files of
    fp32 are made for the purpose; those of int8 are the runs' own, made by `segdistill export --int8`.

    Returns:
        The rows; `Benchmark` says what else.

    Raises:
        UserError: for a folder that holds no network, an unknown runtime, or a JSON file that cannot be written.
    """
    size = parse_size(options.input, "input")
    threads, runtimes = options.threads or [1], options.runtimes or list(RUNTIMES)
    for run in options.folders:
        load_run(run)  # whatever is wrong with the last one is told before the first one is measured
    console = Console(quiet=options.quiet)
    rows: list[Measurement] = []
    skipped: list[str] = []
    with tempfile.TemporaryDirectory(prefix="segdistill-benchmark-") as temporary:
        for number, run in enumerate(options.folders):
            folder = Path(temporary) / str(number)
            _measure(Path(run), size, runtimes, threads, options.seconds, folder, rows, skipped, console)
    reference = rows[0].name if rows else None
    found = Benchmark(size, _machine(), reference, tuple(rows), tuple(dict.fromkeys(skipped)))
    console.print(benchmark_tables(found), markup=False)
    for line in found.skipped:
        console.print(f"left out: {line}", highlight=False, markup=False, soft_wrap=True)
    if options.output is not None:
        write_json(Path(options.output), asdict(found))
    return found


def _measure(
    run: Path,
    size: tuple[int, int],
    runtimes: Sequence[str],
    threads: Sequence[int],
    seconds: float,
    folder: Path,
    rows: list[Measurement],
    skipped: list[str],
    console: Console,
) -> None:
    """Adds to ``rows`` all that can be measured of a run, and to ``skipped`` what cannot, and why."""
    network = load_run(run)
    channels, parameters, macs = network.info.in_channels, count_parameters(network), count_macs(network, size)
    del network
    for model in _models(run, size, runtimes, folder, skipped, console):
        for count in threads:
            job = Job(model.runtime, model.precision, str(model.path), channels, model.dtype, size, count, seconds)
            with during(f"measuring {run}, {model.runtime} {model.precision}, threads: {count}", console):
                timing = _timed(job)
            if isinstance(timing, str):
                skipped.append(f"{run}: {model.runtime} {model.precision} fails: {timing}")
                break
            first = rows[0].timing.median_ms if rows else timing.median_ms
            rows.append(
                Measurement(
                    run=str(run),
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
    for run, rows in groupby(found.rows, key=lambda row: row.run):
        own = list(rows)
        size = f"{own[0].parameters / 1e6:.2f} million parameters, {own[0].macs / 1e9:.2f} G MACs"
        table = Table(title=escape(f"{run}: {size}"), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
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


def _models(
    run: Path,
    size: tuple[int, int],
    runtimes: Sequence[str],
    folder: Path,
    skipped: list[str],
    console: Console,
) -> Iterator[_Model]:
    """Every form of a run's network that can be measured; what cannot is listed in ``skipped``."""
    miou = RunFolder(run).read_accuracy().get("miou")
    has_bf16 = choose_precision("auto", torch.device("cpu")) == "bf16"
    precisions = ("fp32", "bf16") if has_bf16 else ("fp32",)
    if not has_bf16:
        skipped.append("bf16: this CPU has no instructions for it")
    weights_mb = sum(file.stat().st_size for file in files_of(run) if file.suffix in SUFFIXES) / 1e6
    for runtime in runtimes:
        if runtime not in _FORMAT_OF:
            for precision in precisions if runtime == "pytorch" else ("fp32",):
                yield _Model(runtime, precision, run, "uint8", weights_mb, miou)
            continue
        kind = format_named(_FORMAT_OF[runtime])
        missing = [name for name in kind.needs if importlib.util.find_spec(name) is None]
        if missing:
            skipped.append(str(missing_package(runtime, missing[0], kind.extra)))
            continue
        path = folder / f"model{kind.suffix}"
        try:
            with during(f"converting {run} to {_FORMAT_OF[runtime]}", console):
                export(run=run, format=_FORMAT_OF[runtime], output=path, size=list(size), batch=1, quiet=True)
        except UserError as error:
            skipped.append(f"{run}: {error}")
        else:
            for precision in precisions if runtime == "openvino" else ("fp32",):
                yield _Model(runtime, precision, path, _read_report(path)["dtype"], _megabytes(path), miou)
        if kind.takes_int8:
            yield from _quantised(run, runtime, size, skipped)


def _quantised(run: Path, runtime: str, size: tuple[int, int], skipped: list[str]) -> Iterator[_Model]:
    """The run's own int8 file, if it has one that takes the image."""
    path = run / FOLDER / f"model-int8{format_named(_FORMAT_OF[runtime]).suffix}"
    if not path.is_file():
        skipped.append(
            f"{run}: {runtime} int8 has no file; segdistill export {run} --format {_FORMAT_OF[runtime]} --int8 makes it"
        )
        return
    try:
        facts = _read_report(path)
    except UserError as error:
        skipped.append(str(error))
        return
    wanted = {"size": (None, list(size)), "batch": (None, 1), "layout": ("nchw",), "outputs": ("labels",)}
    unfit = [f"{key} {facts[key]}" for key, values in wanted.items() if facts[key] not in values]
    if unfit:
        skipped.append(f"{path} is made for other images or outputs: {', '.join(unfit)}")
        return
    yield _Model(runtime, "int8", path, facts["dtype"], _megabytes(path), facts["miou"])


def _read_report(path: Path) -> dict[str, Any]:
    """What `export` wrote beside a file of itself: its form, the dtype of its images, for int8 its mIoU.

    Raises:
        UserError: missing or damaged.
    """
    report = path.with_name(f"{path.name}.json")
    try:
        values = json.loads(report.read_text())
        dtype, miou = values["metadata"]["images"]["dtype"], values.get("cost", {}).get("miou_after")
        return {**values["form"], "dtype": dtype, "miou": miou}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{report} is missing or damaged; export {path.name} again") from error


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


def _megabytes(path: Path) -> float:
    weights = path.with_suffix(".bin")
    both = path.suffix == ".xml" and weights.exists()
    return (path.stat().st_size + (weights.stat().st_size if both else 0)) / 1e6


def _machine() -> dict[str, Any]:
    names = ("torch", "onnxruntime", "openvino", "ai-edge-litert")
    versions = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # onnxruntime-gpu brings onnxruntime
            versions[name] = importlib.metadata.version(name)
    return {"processor": processor(), "cores": os.cpu_count(), "system": platform.platform(), **versions}
