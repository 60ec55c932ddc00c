"""`ExportOptions` and `BenchmarkOptions`: the arguments of two functions, checked without torch."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Literal, get_args

from segdistill.errors import UserError, unknown_name
from segdistill.files import check_json_file
from segdistill.naming import check_name
from segdistill.networks.there import check_there
from segdistill.recipe.sizes import parse_size

CALIBRATION_IMAGES = 128
"""From which ranges are taken; scores change little with more."""

MOST_PIXELS = 2**26
"""Of one batch that a file may be made for; it is run to be compared, and takes memory in proportion."""

HUB = "hub"
"""The format that is a folder for the Hugging Face hub."""

Runtime = Literal["pytorch", "torch.compile", "onnxruntime", "openvino", "litert"]


@dataclass(frozen=True)
class ExportOptions:
    """Which network to export, to what.

    Args:
        run: a run folder, or any folder that Network.save made.
        format: onnx, openvino, torch-export, tflite, coreml, one that an installed package adds, or hub: a folder that
            smp or transformers alone load, with a model card.
        output: the file, with the ending of its format, such as .onnx; by default exports/model in the run folder. For
            hub the folder, by default exports/hub.
        layout: layout of the images, nchw (B, C, H, W) or nhwc (B, H, W, C).
        outputs: labels: class numbers, uint8 (B, H, W); or probabilities: float32, a channel for each class, in the
            layout of the images.
        size: height and width of the images, such as 512x512; by default any, if the network takes any. Formats tflite
            and coreml need it.
        batch: number of images at once; by default any, for tflite and coreml 1.
        images: an image or a folder of images to compare on; by default validation images of the run's data.
        half: compute in half precision (fp16), for GPUs and other accelerators; for onnx. The file, half as large, is
            called model-fp16 by default.
        int8: also make a file of 8 bits, calibrated on training images, and score both on the validation images.
        calibration: number of training images for the calibration.
        finetune: for int8: epochs of distillation with values rounded to 8 bits, at a tenth of the run's learning rate,
            on the CPU.
        teacher: a run folder, for finetune; by default the run's own teacher.
        quiet: print nothing.
    """

    run: str | Path
    _: KW_ONLY
    format: str = "onnx"
    output: str | Path | None = None
    layout: Literal["nchw", "nhwc"] = "nchw"
    outputs: Literal["labels", "probabilities"] = "labels"
    size: str | list[int] | None = None
    batch: int | None = None
    images: str | Path | None = None
    half: bool = False
    int8: bool = False
    calibration: int = CALIBRATION_IMAGES
    finetune: int | None = None
    teacher: str | Path | None = None
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.format != HUB:
            check_name("format", self.format, HUB)
        for name in ("layout", "outputs", "size", "batch", "half", "int8"):
            if self.format == HUB and getattr(self, name) != getattr(ExportOptions, name):
                raise UserError(f"format hub saves the network as it is; leave {name} out")
        if self.half and self.format != "onnx":
            raise UserError(f"half is made for onnx, not for {self.format}")
        if self.half and self.int8:
            raise UserError("half and int8 are both asked for, expected one of them")
        if self.batch is not None and self.batch < 1:
            raise UserError(f"batch is {self.batch}, expected at least 1")
        shape = None if self.size is None else parse_size(self.size, "size")
        if shape is not None and (pixels := shape[0] * shape[1] * (self.batch or 1)) > MOST_PIXELS:
            raise UserError(
                f"size is {shape[0]} x {shape[1]}, {pixels / 1e6:.0f} million pixels at once; expected at most "
                f"{MOST_PIXELS / 1e6:.0f} million; without size the file takes any"
            )
        if self.calibration < 1:
            raise UserError(f"calibration is {self.calibration}, expected at least 1")
        if self.finetune is not None and not self.int8:
            raise UserError("finetune needs int8")
        if self.finetune is not None and self.finetune < 1:
            raise UserError(f"finetune is {self.finetune}, expected at least 1 epoch")
        if self.teacher is not None and self.finetune is None:
            raise UserError("teacher is for finetune, the number of epochs to learn from it")
        if Path(self.run).is_file():
            raise UserError(f"run {self.run} is a file; expected the folder of a run")
        check_there(self.run, "run")


@dataclass(frozen=True)
class BenchmarkOptions:
    """Which models to measure, and how.

    Args:
        runs: run folders, such as a teacher's and its students', or exported files, such as exports/model-fp16.onnx.
        input: height and width of the image, such as 512x512.
        threads: numbers of threads to measure with, such as [1, 2]; by default 1.
        runtimes: some of pytorch, torch.compile, onnxruntime, openvino, litert; by default all.
        seconds: seconds of each measurement, after a warm-up of a third of that; at least ten passes are measured.
        output: JSON file for everything measured.
        quiet: print nothing.
    """

    runs: list[str | Path] | str | Path
    _: KW_ONLY
    input: str | list[int] = "512x512"
    threads: list[int] | None = None
    runtimes: list[str] | None = None
    seconds: float = 5.0
    output: str | Path | None = None
    quiet: bool = False

    def __post_init__(self) -> None:
        parse_size(self.input, "input")
        if self.output is not None:
            check_json_file(self.output, "output")
        if not self.models:
            raise UserError("runs is empty, expected run folders or exported files, such as runs/teacher runs/student")
        if self.threads is not None and (not self.threads or min(self.threads) < 1):
            raise UserError(f"threads is {self.threads}, expected numbers of at least 1, such as 1,2")
        for runtime in self.runtimes or ():
            if runtime not in get_args(Runtime):
                raise unknown_name("runtime", runtime, get_args(Runtime))
        for path in self.models:
            check_there(path, "run")

    @property
    def models(self) -> tuple[str, ...]:
        """The models, also where a single one is given."""
        return tuple(map(str, self.runs)) if isinstance(self.runs, list | tuple) else (str(self.runs),)
