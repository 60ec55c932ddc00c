"""`segdistill.export`: a run as a file that runs without segdistill."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch
from rich.console import Console
from torch import Tensor

import segdistill
from segdistill.datasets import SegmentationDataset
from segdistill.deployment import int8 as eight_bits
from segdistill.deployment import to_onnx, to_openvino, to_torch_export
from segdistill.deployment.agreement import LEAST_EQUAL_LABELS, Agreement, File, Form, Opener, compare
from segdistill.deployment.deployable import LAYOUTS, OUTPUTS, Deployable
from segdistill.deployment.extra import require
from segdistill.deployment.int8 import CALIBRATION_IMAGES, QuantisationCost
from segdistill.deployment.predictor import Predictor, open_predictor
from segdistill.deployment.sample_images import at_size, images_in, made_up_images, spread_images
from segdistill.errors import UserError, unknown_name
from segdistill.files import permissions, write_json
from segdistill.networks.network import Network
from segdistill.networks.size import count_parameters
from segdistill.recipe import build_split
from segdistill.training.run_folder import RunFolder

FOLDER = "exports"
"""Where in a run its files go by default."""

COMPARED_IMAGES = 8
"""Images on which a file is compared with its network; of a file of any size, some of them also cut to odd sizes."""

EXAMPLE_SIZE = (193, 259)
"""Of the images with which a file of any size is traced: odd, and unlike anything that a network has inside."""


@dataclass(frozen=True)
class Format:
    """How one kind of file is made and run.

    Attributes:
        module: has ``SUFFIX``, ``convert`` and ``write``.
        open: of the file.
        needs: packages of the extra ``deploy``.
    """

    module: ModuleType
    open: Opener
    needs: tuple[str, ...]


FORMATS = {
    "onnx": Format(to_onnx, to_onnx.OnnxFile, ("onnx", "onnxscript", "onnxruntime")),
    "openvino": Format(to_openvino, to_openvino.OpenVinoFile, ("onnx", "onnxscript", "openvino")),
    "torch-export": Format(to_torch_export, to_torch_export.TorchExportFile, ()),
}


@dataclass(frozen=True)
class Exported:
    """A file that was made, and how near it comes to its network.

    Attributes:
        path: the file; OpenVINO's ``.xml``, beside which its ``.bin`` lies.
        form: of the file.
        agreement: of the float32 file with PyTorch.
        compared_on: which images it was compared on, in words.
        int8: the file of 8 bits, if one was asked for.
        cost: what 8 bits cost.
    """

    path: Path
    form: Form
    agreement: Agreement
    compared_on: str
    int8: Path | None = None
    cost: QuantisationCost | None = None


def export(
    *,
    run: str | Path,
    format: str = "onnx",
    output: str | Path | None = None,
    layout: str = "nchw",
    outputs: str = "labels",
    size: str | list[int] | None = None,
    batch: int | None = None,
    images: str | Path | None = None,
    int8: bool = False,
    calibration: int = CALIBRATION_IMAGES,
    quiet: bool = False,
) -> Exported:
    """Exports a run's network to a file that runs without segdistill, and compares the file with PyTorch.

    Preprocessing is inside: raw images go in, class ids or probabilities come out. Classes, palette, mean, standard
    deviation and segdistill's version are in the file. The comparison is saved beside the file as JSON; a file that
    fails it is deleted.

    Args:
        run: a run folder, or any folder that `Network.save` made.
        format: onnx, openvino or torch-export.
        output: the file, ending in .onnx, .xml or .pt2; by default exports/model in the run folder.
        layout: of the images, nchw (B, C, H, W) or nhwc (B, H, W, C).
        outputs: labels, class ids as uint8 (B, H, W); or probabilities, float32, with the classes where the images
            have their channels.
        size: height and width of the images, such as 512x512; by default any, where the network allows it.
        batch: number of images at once; by default any.
        images: an image or a folder of images to compare on; by default validation images of the run's data.
        int8: also make a file of 8 bits, calibrated on training images, and score both on the validation images.
        calibration: number of training images for that.
        quiet: print nothing.

    Returns:
        The file and what was measured.

    Raises:
        UserError: for a folder that holds no network, a network that the format cannot express, a file that differs
            from its network, or one that cannot be written.
    """
    kind, form = _checked(format, layout, outputs, size, batch)
    if int8 and format == "torch-export":
        raise UserError("int8 is made for onnx and openvino, not for torch-export")
    if calibration < 1:
        raise UserError(f"calibration is {calibration}, expected at least 1")
    for package in (*kind.needs, *(("nncf",) if int8 else ())):
        require(package, "int8" if package == "nncf" else f"export to {format}")
    predictor = open_predictor(run, "cpu")
    network = predictor.scores
    assert isinstance(network, Network)
    path = _output_file(Path(run), output, kind.module.SUFFIX)
    sets, trouble = _splits(Path(run), ("train", "val") if int8 else ("val",), len(predictor.classes))
    if int8 and trouble is not None:
        raise UserError(f"int8 needs the data of {run}: {trouble}")
    samples, compared_on = _samples(network, sets.get("val"), trouble, images, form)
    metadata = _metadata(network, predictor, form, samples[0].dtype)
    _check_space(path, network, int8)
    console = Console(quiet=quiet)
    with _beside(path) as temporary:
        with _converting(run, format, form):
            example, axes = _example(network, form, samples[0].dtype)
            with_logits = format != "torch-export"
            deployable = Deployable(
                network, layout=form.layout, outputs=form.outputs, size=form.size, with_logits=with_logits
            )
            model = kind.module.convert(deployable, example, axes, metadata)
        files = kind.module.write(model, temporary / path.name)
        with _running(path):
            agreement = compare(network, kind.open(temporary / path.name), form, samples)
        if not agreement.is_close:
            raise UserError(
                f"{path.name} differs from {run}: {agreement} on {compared_on}; expected at least "
                f"{100 * LEAST_EQUAL_LABELS} % and no more than rounding, so the file was deleted"
                + ("; a fixed size, such as --size 512x512, may do" if form.size is None else "")
            )
        report = _report(run, format, form, metadata, agreement, compared_on)
        _put(files, path, report)
    console.print(f"{path}  {agreement}, on {compared_on}", highlight=False, soft_wrap=True)
    exported = Exported(path, form, agreement, compared_on)
    if not int8:
        return exported
    return _quantised(exported, kind, model, sets, calibration, report, console)


def parse_size(size: str | Sequence[int], argument: str) -> tuple[int, int]:
    """(height, width) from ``"512x768"``, ``"512"`` for a square, or two numbers.

    Raises:
        UserError: for anything else.

    Example:
        >>> parse_size("512x768", "size"), parse_size("512", "size"), parse_size([96, 128], "size")
        ((512, 768), (512, 512), (96, 128))
    """
    sides: list[Any] = size.lower().split("x") if isinstance(size, str) else list(size)
    if all(str(side).isdecimal() and int(side) > 0 for side in sides) and len(sides) in (1, 2):
        return int(sides[0]), int(sides[-1])
    raise UserError(f"{argument} is {size!r}, expected height and width in pixels, such as 512x512")


def _checked(
    format: str, layout: str, outputs: str, size: str | list[int] | None, batch: int | None
) -> tuple[Format, Form]:
    if format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    for name, value, known in (("layout", layout, LAYOUTS), ("outputs", outputs, OUTPUTS)):
        if value not in known:
            raise unknown_name(name, value, known)
    if batch is not None and batch < 1:
        raise UserError(f"batch is {batch}, expected at least 1")
    shape = None if size is None else parse_size(size, "size")
    return FORMATS[format], Form(cast(Any, layout), cast(Any, outputs), shape, batch)


def _output_file(run: Path, output: str | Path | None, suffix: str) -> Path:
    path = run / FOLDER / f"model{suffix}" if output is None else Path(output)
    if path.suffix != suffix:
        raise UserError(f"output {path} ends in '{path.suffix}', expected {suffix}")
    if path.is_dir():
        raise UserError(f"output {path} is a folder, expected a file")
    return path


def _splits(run: Path, names: Sequence[str], classes: int) -> tuple[dict[str, SegmentationDataset], str | None]:
    """The splits of a run's data; none of them, and why, where one cannot be read."""
    folder = RunFolder(run)
    data = folder.read_config().get("data") if folder.config_file.exists() else None
    if not isinstance(data, dict):
        return {}, "its folder names no data"
    try:
        sets = {name: build_split(data, name) for name in names}
        for dataset in sets.values():
            next(spread_images(dataset, 1))
    except UserError as error:
        return {}, str(error)
    if any(len(dataset.classes) != classes for dataset in sets.values()):
        return {}, f"the data has another number of classes than the network's {classes}"
    return sets, None


def _samples(
    network: Network, val: SegmentationDataset | None, trouble: str | None, images: str | Path | None, form: Form
) -> tuple[list[Tensor], str]:
    """The images to compare on, at the form's size, and what they are."""
    channels = network.info.in_channels
    if images is not None:
        if channels != 3:
            raise UserError(f"images are read as RGB, but the network takes {channels} channels; leave images out")
        found, what = images_in(Path(images), COMPARED_IMAGES), f"images of {images}"
    elif val is not None:
        found, what = list(spread_images(val, COMPARED_IMAGES)), "validation images"
    else:
        found = made_up_images(network, COMPARED_IMAGES, form.size)
        what = f"SYNTHETIC images, for there are no real ones ({trouble}; --images DIR names some)"
    samples = [at_size(image, form.size) for image in found]
    if form.size is None:
        # Sizes that nothing divides, and another one than any seen so far.
        samples += [image[:, : _odd(image.shape[1]), : _odd(image.shape[2])] for image in samples[:2]]
    return samples, f"{len(samples)} {what}"


def _odd(side: int) -> int:
    """An odd length, shorter than ``side`` by about a tenth."""
    return max(side - side // 10 - 1, 1) | 1


def _example(network: Network, form: Form, dtype: torch.dtype) -> tuple[Tensor, dict[int, str]]:
    """Images to trace with, and the names of the axes that may have any length."""
    height, width = form.size or EXAMPLE_SIZE
    # Of an axis of length 1 the exporters hold that it is always 1.
    images = torch.zeros(form.batch or 2, network.info.in_channels, height, width, dtype=dtype)
    axes = {"batch": 0, "height": 2, "width": 3}
    if form.layout == "nhwc":
        images = images.permute(0, 2, 3, 1).contiguous()
        axes = {"batch": 0, "height": 1, "width": 2}
    fixed = {name for name in axes if (form.batch if name == "batch" else form.size) is not None}
    return images, {axis: name for name, axis in axes.items() if name not in fixed}


def _metadata(network: Network, predictor: Predictor, form: Form, dtype: torch.dtype) -> dict[str, str]:
    """What a file says of itself; every value is JSON."""

    def values(column: Tensor | None) -> list[float] | None:
        # Through float's shortest form, as in network.json.
        return None if column is None else [float(f"{value:.7g}") for value in column.flatten().tolist()]

    facts = {
        "segdistill": segdistill.__version__,
        "network": network.spec,
        "classes": predictor.classes,
        "palette": predictor.palette,
        "mean": values(network.mean),
        "std": values(network.std),
        "images": {"layout": form.layout, "dtype": str(dtype).removeprefix("torch."), "size": form.size},
        "outputs": form.outputs,
    }
    return {key: json.dumps(value) for key, value in facts.items()}


def _report(
    run: str | Path, format: str, form: Form, metadata: dict[str, str], agreement: Agreement, compared_on: str
) -> dict[str, Any]:
    return {
        "run": str(run),
        "format": format,
        "form": asdict(form),
        "metadata": {key: json.loads(value) for key, value in metadata.items()},
        "compared_on": compared_on,
        "agreement": asdict(agreement),
    }


def _quantised(
    exported: Exported,
    kind: Format,
    model: Any,
    sets: dict[str, SegmentationDataset],
    calibration: int,
    report: dict[str, Any],
    console: Console,
) -> Exported:
    """The int8 file beside the float32 one, scored."""
    path = exported.path.with_name(f"{exported.path.stem}-int8{exported.path.suffix}")
    form, count = exported.form, min(calibration, len(sets["train"]))
    images = (at_size(image, form.size) for image in spread_images(sets["train"], count))
    with _beside(path) as temporary:
        with _converting(path, "int8", form):
            quantised = eight_bits.quantise(model, images, form, count)
        files = kind.module.write(quantised, temporary / path.name)
        before, after = kind.open(exported.path), kind.open(temporary / path.name)
        progress = not console.quiet and console.is_terminal
        with _running(path):
            cost = eight_bits.quantisation_cost(before, after, sets["val"], form, progress=progress)
        about = {"calibration_images": count, "cost": cost.as_dict()}
        facts = {key: value for key, value in report.items() if key not in ("agreement", "compared_on")}
        _put(files, path, facts | about)
    console.print(f"{path}  calibrated on {count} training images", highlight=False, soft_wrap=True)
    console.print(cost.table())
    if (warning := cost.warning()) is not None:
        console.print(f"warning: {warning}", highlight=False, soft_wrap=True)
    return Exported(exported.path, form, exported.agreement, exported.compared_on, path, cost)


def _check_space(path: Path, network: Network, int8: bool) -> None:
    """A full disk is told of before the work, not after."""
    there = next(folder for folder in path.absolute().parents if folder.exists())
    # The files, and at their side the ones that they replace.
    needed = 4 * count_parameters(network) * (2 if int8 else 1)
    free = shutil.disk_usage(there).free
    if free < needed:
        raise UserError(f"cannot write {path}: it takes {needed / 1e6:.1f} MB, but {free / 1e6:.1f} MB are free")


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A folder for unfinished files, gone afterwards; on the same disk, so that they are done by a rename."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".exporting-", dir=path.parent) as temporary:
            yield Path(temporary)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"cannot write {path}: one of its folders is a file") from error
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def _converting(what: str | Path, format: str, form: Form) -> Iterator[None]:
    """Whatever an exporter fails with becomes one sentence; its own warnings and advice are for its developers."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (UserError, OSError):
        raise
    except Exception as error:  # exporters fail in every way there is
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        hint = "; a fixed size, such as --size 512x512, may do" if form.size is None else ""
        raise UserError(f"{what} cannot be exported to {format}: {reason}{hint}") from error


@contextmanager
def _running(path: Path) -> Iterator[None]:
    """A file that its own library refuses is told of in one sentence."""
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:  # each library has its own errors
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path.name} was made but does not run, so it was deleted: {reason}") from error


def _put(files: Sequence[Path], path: Path, report: dict[str, Any]) -> None:
    """Moves finished files to where they belong: each whole, none beside a part or a report of another export."""
    report_file = path.with_name(f"{path.name}.json")
    report_file.unlink(missing_ok=True)
    if len(files) > 1:
        path.unlink(missing_ok=True)
    for file in files:
        os.chmod(file, permissions())
        os.replace(file, path.with_name(file.name))
    write_json(report_file, report)


__all__ = ["Exported", "File", "export", "parse_size"]
