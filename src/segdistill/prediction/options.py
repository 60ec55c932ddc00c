"""`PredictOptions`: the arguments of `segdistill.predict`, checked without torch."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Literal

from segdistill.device import check_device
from segdistill.errors import UserError
from segdistill.networks.there import check_there
from segdistill.recipe.sizes import parse_resize

Flips = Literal["none", "horizontal", "both"]
"""Mirror images whose scores are averaged with the image's own; "both" also mirrors top and bottom."""


@dataclass(frozen=True)
class PredictOptions:
    """What to predict, with which model, and how.

    Args:
        model: a run folder, an exported file, such as model.onnx, or transformers:OWNER/NAME, a network
            trained by others, on the Hugging Face hub.
        input: an image, a video, a folder of images, a pattern such as 'photos/*.jpg', or a list of these.
        output: a file for one image, else a folder.
        window: longest side of what goes through the network at once, in pixels; by default the run's
            data.evaluation_window; without one, images of up to 2048 pixels a side go through whole and larger ones in
            windows of 1024.
        overlap: overlap of neighbouring windows as a share of a window's side, at most 1/3.
        resize: size that images are resized to before they go through the network; their labels have the image's own
            size all the same. auto: as the run was validated (its data.resize); none: each image's own size; or
            HEIGHTxWIDTH.
        batch_size: windows per batch; by default 1 on a CPU, else 8.
        flips: average the scores over mirror images: horizontal, or both (also top to bottom, for images from above);
            better labels in 2 or 4 times the time. none: no mirror images.
        bands: numbers of the bands to read, counted from 1; by default those that the run was trained on.
        overlay: also write NAME-overlay.png (.mp4 for a video), the image under the colours of its labels, beside each
            label map. That of a GeoTIFF is at most 2048 pixels wide and high.
        probabilities: for GeoTIFFs, also write NAME-probabilities.tif, with a band for each class.
        vector: for GeoTIFFs, also write NAME.gpkg, with the areas of each class as polygons. It holds all polygons of a
            map in memory.
        overwrite: replace label maps that were made with other options.
        device: auto, cpu, cuda, cuda:N or mps.
        executor: local; or ray, which distributes the images over a Ray cluster: the one that RAY_ADDRESS names, else
            one started on this machine.
        cpus_per_image: CPU cores for each image, with ray.
        gpus_per_image: GPUs for each image, with ray; by default 1 where the device is a GPU, else none.
        quiet: print nothing but errors.
    """

    model: str | Path
    input: list[str | Path] | str | Path
    _: KW_ONLY
    output: str | Path
    window: int | None = None
    overlap: float = 1 / 16
    resize: str | list[int] = "auto"
    batch_size: int | None = None
    flips: Flips = "none"
    bands: list[int] | None = None
    overlay: bool = False
    probabilities: bool = False
    vector: bool = False
    overwrite: bool = False
    device: str = "auto"
    executor: Literal["local", "ray"] = "local"
    cpus_per_image: int = 1
    gpus_per_image: float | None = None
    quiet: bool = False

    def __post_init__(self) -> None:
        if not str(self.output):
            raise UserError("output is empty; expected a file or a folder")
        check_there(self.model)
        parse_resize(self.resize)
        check_device(self.device)
        if self.batch_size is not None and self.batch_size < 1:
            raise UserError(f"batch_size is {self.batch_size}, expected at least 1")
        if self.cpus_per_image < 1:
            raise UserError(f"cpus_per_image is {self.cpus_per_image}, expected at least 1")
        if self.gpus_per_image is not None and self.gpus_per_image < 0:
            raise UserError(f"gpus_per_image is {self.gpus_per_image}, expected 0 or more")
