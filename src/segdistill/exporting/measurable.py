"""What `segdistill.benchmark` can measure of a run, and of an exported file."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from segdistill.device import choose_precision
from segdistill.errors import UserError, missing_package
from segdistill.exporting.export import FOLDER, export
from segdistill.formats.choosing import format_named, format_of
from segdistill.formats.deployable import Layout
from segdistill.formats.exported import ExportedModel
from segdistill.networks.loading import files_of
from segdistill.networks.weights import SUFFIXES
from segdistill.progress import during
from segdistill.run_folder import RunFolder

_FORMAT_OF = {"onnxruntime": "onnx", "openvino": "openvino", "litert": "tflite"}


@dataclass(frozen=True)
class Measurable:
    """One network in one runtime and precision, ready to be timed.

    Attributes:
        runtime: one of `segdistill.evaluation.timing.RUNTIMES`.
        precision: fp32, bf16, fp16 or int8; "" where a file does not say.
        path: a run folder for the runtimes of PyTorch, a file for the others.
        dtype: of the image, uint8 or float32.
        file_mb: size of the file, or pair of files, in 10^6 bytes.
        miou: on the validation split, in percent; None if never measured.
        layout: of the image.
    """

    runtime: str
    precision: str
    path: Path
    dtype: str
    file_mb: float
    miou: float | None
    layout: Layout = "nchw"

    @property
    def form(self) -> str:
        """Runtime and precision, in words."""
        return f"{self.runtime} {self.precision}".rstrip()


def measurables_of_run(
    run: Path,
    size: tuple[int, int],
    runtimes: Sequence[str],
    folder: Path,
    skipped: list[str],
    console: Console,
) -> Iterator[Measurable]:
    """A run's network in each runtime and precision; what cannot be measured is listed in ``skipped``.

    Args:
        run: the folder.
        size: (height, width) of the image.
        runtimes: to measure in.
        folder: for the files that are made of it.
        skipped: gets one sentence for each that is left out.
        console: for the progress.
    """
    miou = RunFolder(run).read_accuracy().get("miou")
    if not _has_bf16():
        skipped.append("bf16: this CPU has no instructions for it")
    weights_mb = sum(file.stat().st_size for file in files_of(run) if file.suffix in SUFFIXES) / 1e6
    for runtime in runtimes:
        if runtime not in _FORMAT_OF:
            for precision in _precisions(runtime):
                yield Measurable(runtime, precision, run, "uint8", weights_mb, miou)
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
            for precision in _precisions(runtime):
                yield Measurable(runtime, precision, path, _read_report(path)["dtype"], _megabytes(path), miou)
        if kind.takes_int8:
            yield from _quantised(run, runtime, size, skipped)


def measurables_of_file(
    model: ExportedModel, size: tuple[int, int], runtimes: Sequence[str], skipped: list[str]
) -> Iterator[Measurable]:
    """An exported file in its runtime; where it cannot be measured, ``skipped`` gets one sentence.

    Args:
        model: the file.
        size: (height, width) of the image.
        runtimes: to measure in.
        skipped: gets one sentence where the file is left out.
    """
    path, form = model.path, model.about.form
    kind = format_of(path)
    assert kind is not None  # the file could be opened
    runtime = next((name for name, format in _FORMAT_OF.items() if format == kind.name), None)
    if runtime is None:
        skipped.append(
            f"{path}: files of format {kind.name} are not measured, those of {', '.join(_FORMAT_OF.values())} are"
        )
    elif runtime not in runtimes:
        skipped.append(f"{path} runs in {runtime}, which is not among the runtimes {', '.join(runtimes)}")
    elif form.size not in (None, size):
        skipped.append(f"{path} takes images of one size only; give --input {form.size[0]}x{form.size[1]}")
    elif form.batch not in (None, 1):
        skipped.append(f"{path} takes {form.batch} images at once, expected a file for one; export it with --batch 1")
    else:
        own, miou = _said_beside(path)
        for precision in _precisions(runtime) if own == "fp32" else (own,):
            yield Measurable(runtime, precision, path, model.about.dtype, _megabytes(path), miou, form.layout)


def _said_beside(path: Path) -> tuple[str, float | None]:
    """Precision and mIoU of a file by the report of `export`, which may not have been moved along."""
    try:
        report = _read_report(path)
    except UserError:
        return "", None
    return report["precision"], report["miou"]


def _precisions(runtime: str) -> tuple[str, ...]:
    """In which a network of float32 is measured."""
    return ("fp32", "bf16") if runtime in ("pytorch", "openvino") and _has_bf16() else ("fp32",)


def _has_bf16() -> bool:
    return choose_precision("auto", torch.device("cpu")) == "bf16"


def _quantised(run: Path, runtime: str, size: tuple[int, int], skipped: list[str]) -> Iterator[Measurable]:
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
    yield Measurable(runtime, "int8", path, facts["dtype"], _megabytes(path), facts["miou"])


def _read_report(path: Path) -> dict[str, Any]:
    """What `export` wrote beside a file: its form, its precision, the dtype of its images, for int8 its mIoU.

    Raises:
        UserError: missing or damaged.
    """
    report = path.with_name(f"{path.name}.json")
    try:
        values = json.loads(report.read_text())
        cost = values.get("cost")
        half = (values.get("agreement") or {}).get("half", False)
        precision = "int8" if cost else "fp16" if half else "fp32"
        facts = {"precision": precision, "dtype": values["metadata"]["images"]["dtype"]}
        return {**values["form"], **facts, "miou": (cost or {}).get("miou_after")}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{report} is missing or damaged; export {path.name} again") from error


def _megabytes(path: Path) -> float:
    weights = path.with_suffix(".bin")
    both = path.suffix == ".xml" and weights.exists()
    return (path.stat().st_size + (weights.stat().st_size if both else 0)) / 1e6
