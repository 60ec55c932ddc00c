"""`LabelOptions`: the arguments of `segdistill.label`, checked without torch."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from segdistill.device import check_device
from segdistill.errors import UserError
from segdistill.networks.there import check_there
from segdistill.prediction.options import Flips
from segdistill.recipe.sizes import parse_resize


@dataclass(frozen=True)
class LabelOptions:
    """What to label, with which model, and how.

    Args:
        model: a run folder, another folder of a trained network, or an exported file, such as model.onnx.
        images: a folder of images and videos, an image, a video, a pattern such as 'photos/*.jpg', or a list of these.
        output: a new folder for the data set; the same command continues in it.
        confidence: lowest probability, 0 to 1, that the model must give to a pixel's class; pixels below it get the
            ignore label, 255.
        frame_step: number of video frames from one labelled frame to the next: 1 labels every frame; 25 labels about
            one frame a second.
        copy: copy the images; by default they are linked, and must stay where they are.
        window: longest side of what goes through the network at once, in pixels; by default as the model was validated.
        overlap: overlap of neighbouring windows as a share of a window's side, at most 1/3.
        resize: size that images are resized to before they go through the network; their labels have the image's own
            size all the same. auto: as the model was validated; none: each image's own size; or HEIGHTxWIDTH.
        batch_size: windows per batch; by default 1 on a CPU, else 8.
        flips: average the scores over mirror images: horizontal, or both (also top to bottom, for images from above);
            better labels in 2 or 4 times the time. none: no mirror images.
        bands: numbers of the bands to read, counted from 1; by default those that the model was trained on.
        overwrite: replace masks that were made with another model or other options, or changed by hand.
        device: auto, cpu, cuda, cuda:N or mps.
        quiet: print nothing but errors.
    """

    model: str | Path
    images: list[str | Path] | str | Path
    _: KW_ONLY
    output: str | Path
    confidence: float = 0.9
    frame_step: int = 25
    copy: bool = False
    window: int | None = None
    overlap: float = 1 / 16
    resize: str | list[int] = "auto"
    batch_size: int | None = None
    flips: Flips = "none"
    bands: list[int] | None = None
    overwrite: bool = False
    device: str = "auto"
    quiet: bool = False

    def __post_init__(self) -> None:
        if not str(self.output):
            raise UserError("output is empty; expected a folder")
        if not 0 <= self.confidence <= 1:
            raise UserError(f"confidence is {self.confidence}, expected a probability from 0 to 1, such as 0.9")
        if self.frame_step < 1:
            raise UserError(f"frame_step is {self.frame_step}, expected at least 1")
        if self.batch_size is not None and self.batch_size < 1:
            raise UserError(f"batch_size is {self.batch_size}, expected at least 1")
        check_there(self.model)
        parse_resize(self.resize)
        check_device(self.device)
