"""What a comparison's report asks of the networks themselves: their time for an image, and a few predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from segdistill.comparison.options import BASELINE, called
from segdistill.comparison.results import Comparison, Row
from segdistill.datasets import SegmentationDataset
from segdistill.device import choose_device
from segdistill.errors import UserError
from segdistill.evaluation.forward_time import forward_ms
from segdistill.networks.loading import load_run
from segdistill.networks.network import Network
from segdistill.progress import tracked
from segdistill.recipe.data import build_split
from segdistill.recipe.recipes import DistillRecipe
from segdistill.recipe.teachers import given_teachers
from segdistill.reporting import gallery
from segdistill.reporting.picture import predict
from segdistill.training.loading import Images, teacher_for

#: Images in the gallery.
IMAGES = 8


@dataclass
class Seen:
    """What was measured and predicted for the page.

    Attributes:
        where: the device.
        milliseconds: for one image, by method.
        scenes: for the gallery, see `gallery.scene_values`.
        dataset: the validation split; None where it cannot be read.
        usual: an image on which the recommended method gains as usual, with its predictions; None where there is none.
        notes: what could not be done, and why.
    """

    where: str
    milliseconds: dict[str, float] = field(default_factory=dict)
    scenes: list[dict[str, Any]] = field(default_factory=list)
    dataset: SegmentationDataset | None = None
    usual: gallery.Scene | None = None
    notes: list[str] = field(default_factory=list)


def look(
    comparison: Comparison, device: str, quiet: bool, recipe: DistillRecipe | None = None, method: str = BASELINE
) -> Seen:
    """Loads a network of each row, one after the other, times it and lets it predict the images of the gallery.

    Args:
        comparison: what was found.
        device: auto, cpu, cuda, cuda:N or mps.
        quiet: show no progress.
        recipe: its cells' shared recipe, with the objects that it was given; None: what is written of it is enough.
        method: that the page recommends: the first image is one on which it gains as usual.

    Raises:
        UserError: if there is no such device.
    """
    chosen = choose_device(device)
    seen = Seen(str(chosen))
    measured = [row for row in (comparison.teacher, *comparison.rows) if row.finished]
    pictures: list[gallery.Scene] = []
    usual = _usual_image(measured, method)
    try:
        given = None if recipe is None or isinstance(recipe.data, Mapping) else recipe.data
        dataset = build_split(comparison.recipe["data"], "val") if given is None else given.val
        if dataset.ids != comparison.ids:
            raise UserError("the validation images have changed since the comparison was made")
        pictures = [gallery.read_scene(dataset, index) for index in _chosen_images(measured, usual)]
        seen.dataset = dataset
    except UserError as error:
        seen.notes.append(f"No images: {error}.")
    times: dict[tuple[int | None, int | None], float] = {}  # equal networks take equal time
    for row in tracked(measured, "predicting for the report", len(measured), Console(quiet=quiet)):
        try:
            channels = 3 if seen.dataset is None else seen.dataset.in_channels
            network = _network(row, comparison, recipe, channels).to(chosen)
        except UserError as error:
            seen.notes.append(f"No predictions of {row.method}: {error}.")
            continue
        cost = (row.parameters, row.macs)
        if cost not in times:
            height, width = (row.finished[0].evaluation or {}).get("size", (256, 256))
            times[cost] = forward_ms(network, (height, width))
        seen.milliseconds[row.method] = times[cost]
        for picture in pictures:
            picture.predictions[row.method] = predict(network, picture.image)
    if seen.dataset is not None:
        scores = gallery.image_scores(_confusion(measured))
        values = (gallery.scene_values(picture, seen.dataset) for picture in pictures)
        seen.scenes = gallery.within(values)
        for picture, scene in zip(pictures, seen.scenes, strict=False):
            each = {called(name): one[picture.index] for name, one in scores.items()}
            scene["note"] = ", ".join(f"{name} {score:.1f}" for name, score in each.items())
        seen.usual = next((picture for picture in pictures if picture.index == usual), None)
    return seen


def _network(row: Row, comparison: Comparison, recipe: DistillRecipe | None, in_channels: int) -> Network:
    """The network of a row's first finished cell."""
    if row.method != "teacher":
        return load_run(row.finished[0].run)
    keys = ("teacher", "teacher_weights", "teacher_classes", "teacher_bands")
    written = (comparison.recipe.get(key) for key in keys)
    given = given_teachers(*written) if recipe is None else recipe.teachers()
    return teacher_for(given, Images(tuple(comparison.classes), in_channels))


def _confusion(rows: Sequence[Row]) -> dict[str, list[Any]]:
    return {row.method: [cell.confusion for cell in row.finished if cell.confusion is not None] for row in rows}


def _usual_image(measured: Sequence[Row], method: str) -> int | None:
    """One on which the method, or else the teacher, is better than the student alone by as much as usual."""
    confusion = _confusion(measured)
    shown = "teacher" if method == BASELINE else method
    return gallery.most_usual(confusion, shown, BASELINE) if {shown, BASELINE} <= confusion.keys() else None


def _chosen_images(measured: Sequence[Row], usual: int | None) -> list[int]:
    """The usual one, then those on which students differ most; a single student is compared with the teacher."""
    students = [row for row in measured if row.method != "teacher"]
    confusion = _confusion(students if len(students) > 1 else measured)
    others = gallery.most_different(confusion, IMAGES) if confusion else []
    return list(dict.fromkeys([*([] if usual is None else [usual]), *others]))[:IMAGES]
