"""A trained network as prediction sees it, from a run folder or an exported file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from segdistill.colors import Color
from segdistill.data.scoring import TiledModel
from segdistill.data.tiling import Tiling
from segdistill.datasets.base import IGNORE_INDEX
from segdistill.device import choose_device
from segdistill.errors import UserError
from segdistill.files import digest
from segdistill.formats.choosing import format_of
from segdistill.formats.exported import ExportedModel
from segdistill.networks.description import Description
from segdistill.networks.identity import network_digest
from segdistill.networks.loading import files_of, load_run
from segdistill.run_folder import unfinished_note


@dataclass(frozen=True)
class Predictor:
    """A model, how images of any size go through it, and what its classes and its images are.

    Attributes:
        model: the model as it was validated.
        description: its classes, colours, bands and kind of pixels; at most 255 classes, since 255 marks pixels without
            data.
        identity: differs wherever the scores do; what was begun with one identity is not continued with another.
        notes: what a user should know of its labels, a line each.

    Raises:
        UserError: for more than 255 classes.
    """

    model: TiledModel
    description: Description
    identity: str
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.classes) > IGNORE_INDEX:
            raise UserError(
                f"the model has {len(self.classes)} classes; label maps of 8 bits have room for {IGNORE_INDEX}"
            )

    @property
    def in_channels(self) -> int:
        """Channels of the images."""
        return self.description.in_channels

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in order."""
        return self.description.classes

    @property
    def palette(self) -> tuple[Color, ...]:
        """A colour per class."""
        return self.description.palette

    @property
    def bands(self) -> tuple[int, ...] | None:
        """Which bands of the files are the channels, the first being 1; None: red, green and blue, or all there are."""
        return self.description.bands


def open_predictor(model: str | Path, device: str = "auto") -> Predictor:
    """The network of a run folder or of another that `load_run` takes, or an exported file, ready to predict.

    Args:
        model: the folder, a name that `load_run` takes, or the file.
        device: auto, cpu, cuda, cuda:N or mps; exported files run on the CPU.

    Raises:
        UserError: no such folder or file, no network in it, a damaged one, or no such device.
    """
    folder = Path(model)
    kind = None if folder.is_dir() and not folder.suffix else format_of(folder)
    if folder.is_file() or (kind is not None and (kind.folder or not folder.exists())):
        return _open_file(folder, device)
    network, files = load_run(model), files_of(model)
    described = network.description
    return Predictor(
        TiledModel.of(network.to(choose_device(device)), window=described.window, resize=described.resize),
        described,
        identity=digest(*files) if files else network_digest(network),
        notes=tuple(unfinished_note(model)),
    )


def _open_file(path: Path, device: str) -> Predictor:
    if device not in ("auto", "cpu"):
        raise UserError(f"device is {device}, but exported files run on the CPU here; use the run of {path} itself")
    model = ExportedModel(path)
    described, form = model.about.description, model.about.form
    tiling = Tiling(described.window, stride=described.stride)
    notes: tuple[str, ...] = ()
    if form.size is not None:
        tiling = Tiling.within(form.size, None, described.stride)
        told = "on larger images its labels differ from those of a file for any size, which takes them whole"
        notes = (f"{path.name} takes {form.size[0]} x {form.size[1]} pixels at once; {told}",)
    tiled = TiledModel(model, described.num_classes, tiling, described.resize, batch_size=form.batch)
    return Predictor(tiled, described, model.identity, notes)
