"""`segdistill.export`: a run as a file that runs without segdistill."""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from segdistill.data.tiling import Tiling
from segdistill.datasets import SegmentationDataset
from segdistill.datasets.reading.images import resized
from segdistill.errors import UserError, reason
from segdistill.exporting import int8 as eight_bits
from segdistill.exporting.finetune import find_teacher
from segdistill.exporting.finetune import finetune as tune
from segdistill.exporting.hub import HubModel, write_folder
from segdistill.exporting.int8 import QuantisationCost
from segdistill.exporting.options import HUB, ExportOptions
from segdistill.exporting.sample_images import comparison_images, splits_of, spread_images
from segdistill.files import permissions, write_json
from segdistill.formats.about import About
from segdistill.formats.agreement import Agreement, File, Form, compare
from segdistill.formats.choosing import all_formats, format_named
from segdistill.formats.deployable import Deployable
from segdistill.formats.extra import check_installed
from segdistill.formats.format import Format
from segdistill.networks.network import Network
from segdistill.networks.size import count_parameters
from segdistill.prediction.predictor import Predictor, open_predictor
from segdistill.progress import during
from segdistill.recipe.keywords import takes_fields
from segdistill.recipe.sizes import parse_size

FOLDER = "exports"
"""Where in a run its files go by default."""

EXAMPLE_SIZE = (193, 259)
"""Of the images with which a file of any size is traced: odd, and unlike anything that a network has inside."""


@dataclass(frozen=True)
class Exported:
    """A file that was made, and how near it comes to its network.

    Attributes:
        path: the file; OpenVINO's ``.xml``, beside which its ``.bin`` lies.
        form: of the file.
        agreement: of the float32 file with PyTorch; None for a Core ML package, which cannot be run here.
        compared_on: which images it was compared on, in words; None where it was not compared.
        int8: the file of 8 bits, if one was asked for.
        cost: what 8 bits cost.
    """

    path: Path
    form: Form
    agreement: Agreement | None
    compared_on: str | None
    int8: Path | None = None
    cost: QuantisationCost | None = None


@takes_fields
def export(options: ExportOptions) -> Exported:
    """Export a run's network to a file that runs without segdistill, and compare the file with PyTorch.

    Preprocessing is inside: raw images go in, class ids or probabilities come out. Classes, palette, mean, standard
    deviation and segdistill's version are in the file. The comparison is saved beside the file as JSON; a file that
    fails it is deleted. Of a Core ML package the structure alone is checked, for only macOS runs it.

    Returns:
        The file and what was measured.

    Raises:
        UserError: for a folder that holds no network, a network that the format cannot express, a file that differs
            from its network, or one that cannot be written.
    """
    run, format, int8, finetune = options.run, options.format, options.int8, options.finetune
    console = Console(quiet=options.quiet)
    if format == HUB:
        return _to_hub(run, options.output, options.images, console)
    kind = format_named(format)
    form = _form(options, kind)
    if int8 and not kind.takes_int8:
        able = " and ".join(one.name for one in all_formats() if one.takes_int8)
        raise UserError(f"int8 is made for {able}, not for {format}")
    for package in kind.needs:
        check_installed(package, f"export to {format}", kind.extra)
    if int8:
        check_installed("nncf", "int8", "deploy")
    predictor, network = _opened(run, console)
    only = network.info.size
    if only is not None and form.size != only:
        raise UserError(f"the network of {run} takes images of one size only; give --size {only[0]}x{only[1]}")
    path = _output_file(Path(run), options.output, kind, "model-fp16" if options.half else "model")
    sets, trouble = splits_of(Path(run), ("train", "val") if int8 else ("val",), len(predictor.classes))
    if int8 and trouble is not None:
        raise UserError(f"int8 needs the data of {run}: {trouble}")
    guide = None if finetune is None else find_teacher(Path(run), options.teacher, network)
    samples, compared_on = comparison_images(network, sets.get("val"), trouble, options.images, form)
    about = About(form, str(samples[0].dtype).removeprefix("torch."), network.description)
    metadata = about.as_metadata()
    _check_space(path, network, int8)

    def converted(network: Network) -> Any:
        with during(f"converting {run} to {format}", console), _converting(run, format, form):
            example, axes = _example(network, form, samples[0].dtype)
            deployable = Deployable(
                network, layout=form.layout, outputs=form.outputs, size=form.size, with_logits=kind.with_logits
            )
            return kind.convert(deployable, example, axes, metadata)

    def fine_tuned() -> Any:
        assert guide is not None
        assert finetune is not None
        return converted(tune(Path(run), network, guide, finetune, console))

    with _beside(path) as temporary:
        model = converted(_in_half(network) if options.half else network)
        files = kind.write(model, temporary / path.name)
        agreement, said = _verified(options, kind, network, temporary / path.name, about, samples, compared_on, console)
        report = _report(run, format, form, metadata, agreement, compared_on)
        _put(files, path, report)
    console.print(f"{path}  {said}", highlight=False, markup=False, soft_wrap=True)
    exported = Exported(path, form, agreement, report["compared_on"])
    if not int8:
        return exported
    if guide is not None:
        report["finetune"] = {"epochs": finetune, "teacher": guide.folder}
    tuned = None if guide is None else fine_tuned
    return _quantised(exported, kind, model, tuned, sets, options.calibration, report, console)


def _in_half(network: Network) -> Network:
    """A copy that computes in half precision from the normalised image on.

    Mean and deviation stay as they are: those of bands with values above 65504 are no numbers in half precision.
    """
    copied = copy.deepcopy(network)
    copied.model.half()
    return copied


def _opened(run: str | Path, console: Console) -> tuple[Predictor, Network]:
    predictor = open_predictor(run, "cpu")
    for line in predictor.notes:
        console.print(f"note: {line}", highlight=False, markup=False, soft_wrap=True)
    network = predictor.model.scorer
    assert isinstance(network, Network)
    return predictor, network


def _to_hub(run: str | Path, output: str | Path | None, images: str | Path | None, console: Console) -> Exported:
    """The folder for a hub, compared like any other export."""
    predictor, network = _opened(run, console)
    path, form = Path(run) / FOLDER / HUB if output is None else Path(output), Form("nchw", "labels", None, None)
    sets, trouble = splits_of(Path(run), ("val",), len(predictor.classes))
    samples, compared_on = comparison_images(network, sets.get("val"), trouble, images, form)
    found: list[Agreement] = []

    def check(folder: Path) -> None:
        with during(f"comparing the folder with PyTorch on {compared_on}", console), _running(path):
            found.append(compare(network, HubModel(folder, network), form, samples))
        _require_close(found[0], path, run, compared_on)

    write_folder(Path(run), network, predictor, path, check)
    console.print(f"{path}  {found[0]}, on {compared_on}", highlight=False, markup=False, soft_wrap=True)
    console.print(
        "its README.md has a license to fill in; nothing was uploaded", highlight=False, markup=False, soft_wrap=True
    )
    return Exported(path, form, found[0], compared_on)


def _verified(
    options: ExportOptions,
    kind: Format,
    network: Network,
    file: Path,
    about: About,
    samples: Sequence[Tensor],
    compared_on: str,
    console: Console,
) -> tuple[Agreement | None, str]:
    """How near an unfinished file comes to its network, in words too; refused where that is not near enough."""
    if kind.cannot_run:
        try:
            kind.check(file, about)
        except Exception as error:  # each library has its own errors
            raise UserError(f"{file.name} was made but is wrong, so it was deleted: {reason(error)}") from error
        return None, f"structure checked, values not compared with PyTorch: {kind.cannot_run}"
    with during(f"comparing {file.name} with PyTorch on {compared_on}", console), _running(file):
        agreement = compare(network, kind.open(file), about.form, samples, half=options.half)
    hint = "; try a fixed size, such as --size 512x512" if about.form.size is None else ""
    if options.half:
        hint = "; half precision holds numbers up to 65504, and about three digits of each: leave out --half"
    _require_close(agreement, file, options.run, compared_on, hint)
    return agreement, f"{agreement}, on {compared_on}"


def _require_close(agreement: Agreement, path: Path, run: str | Path, compared_on: str, hint: str = "") -> None:
    if not agreement.is_close:
        raise UserError(
            f"{path.name} differs from {run}: {agreement} on {compared_on}; expected at least "
            f"{100 * agreement.least_equal_labels:g} % and no more than rounding, so the file was deleted{hint}"
        )


def _form(options: ExportOptions, kind: Format) -> Form:
    size = None if options.size is None else parse_size(options.size, "size")
    if kind.fixed and size is None:
        raise UserError(
            f"format {kind.name} makes files for one image size only; give that size, such as --size 512x512"
        )
    return Form(options.layout, options.outputs, size, (options.batch or 1) if kind.fixed else options.batch)


def _output_file(run: Path, output: str | Path | None, kind: Format, stem: str) -> Path:
    path = run / FOLDER / f"{stem}{kind.suffix}" if output is None else Path(output)
    if path.suffix != kind.suffix:
        raise UserError(f"output {path} ends in '{path.suffix}', expected {kind.suffix}")
    if path.is_dir() and not kind.folder:
        raise UserError(f"output {path} is a folder, expected a file")
    return path


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


def _report(
    run: str | Path,
    format: str,
    form: Form,
    metadata: dict[str, str],
    agreement: Agreement | None,
    compared_on: str,
) -> dict[str, Any]:
    return {
        "run": str(run),
        "format": format,
        "form": asdict(form),
        "metadata": {key: json.loads(value) for key, value in metadata.items()},
        "compared_on": None if agreement is None else compared_on,
        "agreement": None if agreement is None else asdict(agreement),
    }


def _quantised(
    exported: Exported,
    kind: Format,
    model: Any,
    fine_tuned: Callable[[], Any] | None,
    sets: dict[str, SegmentationDataset],
    calibration: int,
    report: dict[str, Any],
    console: Console,
) -> Exported:
    """The int8 file beside the float32 one, scored; of the fine-tuned model, if one can be made."""
    path = exported.path.with_name(f"{exported.path.stem}-int8{exported.path.suffix}")
    form, count = exported.form, min(calibration, len(sets["train"]))
    with _beside(path) as temporary:

        def scored(model: Any, folder: Path, correct_bias: bool) -> tuple[Sequence[Path], QuantisationCost]:
            images = (resized(image, form.size) for image in spread_images(sets["train"], count))
            said = f"measuring the ranges of activations on {count} training images, and rounding to 8 bits"
            with during(said, console), _converting(path, "int8", form):
                quantised = eight_bits.quantise(model, images, form, count, correct_bias=correct_bias)
            folder.mkdir(exist_ok=True)
            files = kind.write(quantised, folder / path.name)
            before, after = kind.open(exported.path), kind.open(folder / path.name)
            with _running(path):
                stride = About.from_metadata(before.metadata(), str(path)).description.stride
                tiling = Tiling(sets["val"].evaluation_window, stride=stride)
                return files, eight_bits.quantisation_cost(before, after, sets["val"], form, tiling, console)

        files, cost = scored(model, temporary, correct_bias=True)
        if fine_tuned is not None:
            plain = cost.after
            files, cost = scored(fine_tuned(), temporary / "fine-tuned", correct_bias=False)
            cost = replace(cost, post_training=plain)
        about = {"calibration_images": count, "cost": cost.as_dict()}
        facts = {key: value for key, value in report.items() if key not in ("agreement", "compared_on")}
        _put(files, path, facts | about)
    console.print(f"{path}  calibrated on {count} training images", highlight=False, markup=False, soft_wrap=True)
    console.print(cost.table(), markup=False)
    if (warning := cost.warning()) is not None:
        console.print(f"warning: {warning}", highlight=False, markup=False, soft_wrap=True)
    return Exported(exported.path, form, exported.agreement, exported.compared_on, path, cost)


def _check_space(path: Path, network: Network, int8: bool) -> None:
    """Refuse a full disk before the work, not after."""
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
        hint = "; try a fixed size, such as --size 512x512" if form.size is None else ""
        raise UserError(f"{what} cannot be exported to {format}: {reason(error)}{hint}") from error


@contextmanager
def _running(path: Path) -> Iterator[None]:
    """Turn the refusal of a file by its own library into one sentence."""
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:  # each library has its own errors
        raise UserError(f"{path.name} was made but does not run, so it was deleted: {reason(error)}") from error


def _put(files: Sequence[Path], path: Path, report: dict[str, Any]) -> None:
    """Moves finished files to where they belong: each whole, none beside a part or a report of another export."""
    report_file = path.with_name(f"{path.name}.json")
    report_file.unlink(missing_ok=True)
    mode = permissions()
    if len(files) > 1:
        path.unlink(missing_ok=True)
    for file in files:
        for part in (file, *file.rglob("*")):
            os.chmod(part, mode | (mode & 0o444) >> 2 if part.is_dir() else mode)
        if file.is_dir():  # which no rename replaces
            shutil.rmtree(path, ignore_errors=True)
        os.replace(file, path.with_name(file.name))
    write_json(report_file, report)


__all__ = ["Exported", "File", "export", "parse_size"]
