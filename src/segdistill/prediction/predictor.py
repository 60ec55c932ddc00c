"""A trained network as prediction sees it: scores of windows, and what the classes are."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from segdistill.colors import Color
from segdistill.datasets.base import IGNORE_INDEX
from segdistill.device import choose_device
from segdistill.errors import UserError
from segdistill.files import digest
from segdistill.formats.exported import SUFFIXES, ExportedModel
from segdistill.networks.description import Description
from segdistill.networks.loading import files_of, load_run
from segdistill.prediction.windows import Scores

WINDOW = 1024
"""Side of the windows in pixels, where neither the user nor the run names one."""


@dataclass(frozen=True)
class Predictor:
    """Anything that gives class scores for windows of an image.

    Attributes:
        scores: class scores (B, K, H, W), before any softmax, of windows (B, C, H, W) on ``device``: uint8 in 0..255,
            or float32 of the values in the file. It is called with no gradients wanted.
        in_channels: C.
        classes: the K names, in order; at most 255, since 255 marks pixels without data.
        palette: a colour per class.
        identity: differs wherever the scores do; what was begun with one identity is not continued with another.
        stride: scores of a window agree with those of the whole image where it begins at a multiple of this.
        window: side of the windows it works best with, in pixels.
        bands: numbers of the bands that it was trained on, the first being 1; None: RGB, or all there are.
        only_8_bits: whether it was trained on images of 8 bits alone.
        batch: number of windows that it computes at once, however few it is given; None: any.
        device: where it computes.
        notes: what a user should know of its labels, a line each.

    Raises:
        UserError: for more than 255 classes.
    """

    scores: Scores
    in_channels: int
    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    identity: str
    stride: int = 1
    window: int = WINDOW
    bands: tuple[int, ...] | None = None
    only_8_bits: bool = False
    batch: int | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.classes) > IGNORE_INDEX:
            raise UserError(
                f"the model has {len(self.classes)} classes; label maps of 8 bits have room for {IGNORE_INDEX}"
            )


def open_predictor(model: str | Path, device: str = "auto") -> Predictor:
    """The network of a run folder, of any folder made by `Network.save`, or an exported file, ready to predict.

    Args:
        model: the folder or the file.
        device: auto, cpu, cuda, cuda:N or mps; exported files run on the CPU.

    Raises:
        UserError: no such folder or file, no network in it, a damaged one, or no such device.
    """
    folder = Path(model)
    if folder.is_file() or (not folder.exists() and folder.suffix.lower() in SUFFIXES):
        return _open_file(folder, device)
    network = load_run(model)
    chosen = choose_device(device)
    return Predictor(
        scores=network.to(chosen),
        identity=digest(*files_of(model)),
        device=chosen,
        notes=_notes_of(network.description),
        **_facts(network.description),
    )


def _open_file(path: Path, device: str) -> Predictor:
    if device not in ("auto", "cpu"):
        raise UserError(f"device is {device}, but exported files run on the CPU here; use the run of {path} itself")
    model = ExportedModel(path)
    described, size = model.about.description, model.about.form.size
    facts = _facts(described)
    facts["only_8_bits"] |= model.about.dtype == "uint8"
    notes = _notes_of(described)
    if size is not None:
        facts["window"] = min(size)
        # Four strides to a window at least, see `predict`; scores near its edges then differ a little from those of
        # the whole image.
        facts["stride"] = min(described.stride, max(1, min(size) // 4))
        told = "of larger images its labels differ from those of a file of any size, which sees more"
        notes += (f"{path.name} sees {size[0]} x {size[1]} pixels at once; {told}",)
    return Predictor(scores=model, identity=model.identity, batch=model.about.form.batch, notes=notes, **facts)


def _facts(described: Description) -> dict[str, Any]:
    """What network.json and exported files say of the network, as `Predictor` names it."""
    return {
        "in_channels": described.in_channels,
        "classes": described.classes,
        "palette": described.palette,
        "stride": described.stride,
        "window": described.window or WINDOW,
        "bands": described.bands,
        "only_8_bits": described.pixels == "uint8",
    }


def _notes_of(described: Description) -> tuple[str, ...]:
    if described.resize is None:
        return ()
    size = " x ".join(str(side) for side in described.resize)
    return (f"the model was trained on images resized to {size}; these are taken at the size that they have",)
