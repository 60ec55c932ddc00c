"""`segdistill.label`: pseudo-labels, as a data set to train on or to correct by hand."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rich
import yaml
from rich.table import Table

from segdistill.colors import hex_color
from segdistill.datasets.base import UNLABELLED
from segdistill.datasets.reading.image_folders import LABELLED, is_labelled
from segdistill.errors import UserError
from segdistill.files import UNFINISHED, write_text
from segdistill.locks import alone_in, is_free
from segdistill.prediction import frames, pictures, rasters
from segdistill.prediction.images_in import Item, find_files, refuse_clashes
from segdistill.prediction.job import Job, Options, Wanted
from segdistill.prediction.label_options import LabelOptions
from segdistill.prediction.predict import Kinds, carry_out
from segdistill.prediction.predictor import Predictor, open_predictor
from segdistill.progress import counted
from segdistill.recipe.keywords import takes_fields
from segdistill.recipe.sizes import parse_resize
from segdistill.reporting import page

RECIPE, _MARK = LABELLED
"""The file in an output folder that says what the data set is; its first line marks the folder as one of ours."""

_TITLE = "pixels of each class"
_COLUMNS = ("class", "share of all labels", "pixels kept")

_KINDS: Kinds = {"picture": pictures, "raster": rasters, "video": frames}


@dataclass(frozen=True)
class Labelled:
    """What `label` made.

    Attributes:
        data: the data set, as the ``train`` of a recipe's data takes it.
        images: how many there are, frames of videos among them.
        predicted: pixels that the model takes for each class, by name.
        kept: of these, the pixels whose probability reaches the confidence, by name.
    """

    data: dict[str, Any]
    images: int
    predicted: dict[str, int]
    kept: dict[str, int]

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the table that the command prints."""
        return page.fragment([page.Table(f"{_TITLE}, {counted(self.images, 'image')}", _COLUMNS, _rows(self))])


@takes_fields
def label(options: LabelOptions) -> Labelled:
    """Label images with a model, as a data set to train on or to correct by hand.

    OUTPUT becomes a data set of the kind ``folder``: the images (linked or copied), a mask for each, the split
    ``train``, and recipe.yaml. A pixel whose class is not probable enough has the ignore label, 255, which counts
    nowhere. A picture's mask is a PNG of class indices, a GeoTIFF's a GeoTIFF in the same place, and of videos every
    so many frames become pictures. What is finished is not done again: the same command continues where it stopped,
    and takes in images that are new. The split is listed last, so that nothing trains on half of it.

    Returns:
        The data set, and how much of each class was kept.

    Raises:
        UserError: for a model or an image that cannot be read, or that disagree, or an output folder that holds
            something else. With several images the others are done first.
    """
    output = Path(options.output)
    items = _items(options.images, output)
    _check_free(output)
    job = _job(options)
    with alone_in(output):
        found = _made(job, items, output, options)
    if not options.quiet:
        _show(found, options)
    if job.failures:
        raise UserError(
            f"{len(job.failures)} of {len(items)} images could not be labelled, see above; the others are in {output}"
        )
    return found


def _made(job: Job, items: Sequence[Item], output: Path, options: LabelOptions) -> Labelled:
    """Writes the data set."""
    data = _data(options, job)
    recipe = output / RECIPE
    if not recipe.exists():  # what marks the folder comes first
        write_text(recipe, _recipe(options, data))
    carry_out(job, items, kinds=_KINDS)
    write_text(recipe, _recipe(options, data))
    masks = [
        mask
        for item in items
        if item.target.exists()
        for mask in (frames.frames_of(item.target) if item.kind == "video" else [item.target])
    ]
    for item in items:
        if item.kind != "video" and item.target.exists():
            _place(item, output / "images", copy=options.copy)
    write_text(output / "train.txt", "".join(f"{mask.stem}\n" for mask in masks))
    return _labelled(data, masks, job.predictor)


def _items(given: Sequence[str | Path] | str | Path, output: Path) -> list[Item]:
    """The images, and a mask for each; the folders of an image become a part of its name."""
    if output.is_file():
        raise UserError(f"output {output} is a file; expected a folder for the data set")
    items = []
    for path, below in find_files(given, output):
        # A line of train.txt names it, which begins and ends where the name does.
        name = "".join(sign if sign.isprintable() else "_" for sign in "-".join(below.with_suffix("").parts)).strip()
        kind = Item(path, path).kind
        target = {"picture": f"{name}.png", "raster": f"{name}.tif", "video": f".{name}.json"}[kind]
        items.append(Item(path, output / "masks" / target))
    refuse_clashes(items)
    videos = {frames.name_of(item): item.path for item in items if item.kind == "video"}
    stems: dict[str, Path] = {}
    for item in items:
        video = videos.get(re.sub(r"-\d{6,}$", "", item.target.stem))
        if video is not None:
            raise UserError(f"{item.path} has the name of a frame of {video}; rename one of them")
        if stems.setdefault(item.target.stem, item.path) != item.path:
            raise UserError(
                f"{stems[item.target.stem]} and {item.path} would both become {item.target.stem}; rename one of them"
            )
    return items


def _check_free(output: Path) -> None:
    if is_free(output):
        return
    if not is_labelled(output):
        raise UserError(
            f"the output folder {output} is not empty, and segdistill label did not make it; choose another"
        )


def _job(options: LabelOptions) -> Job:
    predictor = open_predictor(options.model, options.device)
    if len(predictor.classes) > UNLABELLED:
        raise UserError(f"the model has {len(predictor.classes)} classes; a data set has at most {UNLABELLED}")
    scoring = Options(
        options.window,
        options.overlap,
        parse_resize(options.resize),
        options.batch_size,
        options.flips,
        None if options.bands is None else tuple(options.bands),
    )
    wanted = Wanted(overwrite=options.overwrite, confidence=options.confidence, frame_step=options.frame_step)
    return Job(predictor, scoring, wanted, options.quiet)


def _data(options: LabelOptions, job: Job) -> dict[str, Any]:
    """The data set as a recipe writes it."""
    predictor = job.predictor
    data: dict[str, Any] = {
        "dataset": "folder",
        "root": str(options.output),
        "classes": list(predictor.classes),
        "palette": [hex_color(color) for color in predictor.palette],
    }
    if not job.takes_rgb:
        data["bands"] = list(job.bands or range(1, predictor.in_channels + 1))
    if job.model.resize is not None:
        data["resize"] = list(job.model.resize)
    return data


def _recipe(options: LabelOptions, data: dict[str, Any]) -> str:
    told = yaml.safe_dump({"data": {"train": data}}, sort_keys=False, allow_unicode=True)
    return (
        f"{_MARK} with {options.model}. Pixels less probable than {options.confidence:g} are ignored (255).\n"
        "# Validate on masks that people made: scores against these only say how alike two networks are.\n"
        f"{told}"
    )


def _place(item: Item, folder: Path, *, copy: bool) -> None:
    """Link or copy an image, and what belongs to a raster: files of its name and a further ending, such as .tif.msk."""
    sources = [item.path]
    if item.kind == "raster":
        sources += [path for path in item.path.parent.iterdir() if path.name.startswith(f"{item.path.name}.")]
    folder.mkdir(parents=True, exist_ok=True)
    for source in sources:
        ending = source.name.removeprefix(item.path.stem)
        target = folder / f"{item.target.stem}{ending}"
        unfinished = folder / f".{target.name}{UNFINISHED}"
        unfinished.unlink(missing_ok=True)
        if copy:
            if _is_copy(target, source):
                continue
            shutil.copy2(source, unfinished)
        else:
            unfinished.symlink_to(source.resolve())
        os.replace(unfinished, target)


def _is_copy(target: Path, source: Path) -> bool:
    if target.is_symlink() or not target.exists():
        return False
    made, given = target.stat(), source.stat()
    return (made.st_size, made.st_mtime_ns) == (given.st_size, given.st_mtime_ns)


def _labelled(data: dict[str, Any], masks: Sequence[Path], predictor: Predictor) -> Labelled:
    total = np.zeros((2, len(predictor.classes)), dtype=np.int64)
    for mask in masks:
        counts = (pictures if mask.suffix == ".png" else rasters).counts_in(mask)
        if counts is not None:  # another program may have written a mask anew
            total += counts
    predicted, kept = (dict(zip(predictor.classes, row, strict=True)) for row in total.tolist())
    return Labelled(data, len(masks), predicted, kept)


def _show(found: Labelled, options: LabelOptions) -> None:
    console = rich.get_console()
    table = Table(_COLUMNS[0], title=_TITLE, title_justify="left")
    for column in _COLUMNS[1:]:
        table.add_column(column, justify="right")
    *rows, total = _rows(found)
    for row in rows:
        table.add_row(*row)
    table.add_section()
    table.add_row(*total)
    console.print(table, highlight=False, markup=False)
    lost = [name for name, count in found.kept.items() if count == 0]
    if lost:
        console.out(
            f"warning: no pixel is labelled {', '.join(lost)}; no network can learn it from these labels",
            highlight=False,
        )
    console.out(
        f"{options.output}: {counted(found.images, 'image')}, {total[-1]} of the pixels labelled; to train on it:"
    )
    console.out(
        f"  segdistill train {Path(options.output) / RECIPE} --network NETWORK --output RUN \\\n"
        "      --data.val '{dataset: ..., root: ..., split: val}'",
        highlight=False,
    )


def _rows(found: Labelled) -> list[list[str]]:
    """A row for each class, and one for all."""
    pixels, kept = sum(found.predicted.values()), sum(found.kept.values())
    rows = [[name, _percent(own, kept), _percent(own, found.predicted[name])] for name, own in found.kept.items()]
    return [*rows, ["all", "", _percent(kept, pixels)]]


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"
