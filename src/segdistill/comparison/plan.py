"""What a comparison is going to be: its seeds, its plan.json, and what is refused before anything is trained."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import segdistill
from segdistill.comparison.cells import cell_differences, check_teacher_finished, student_hash
from segdistill.comparison.methods import cell_recipe
from segdistill.comparison.options import PLATEAU
from segdistill.comparison.reading import EVALUATION_FILE, cell_folder, read_plan
from segdistill.device import choose_device, processor
from segdistill.distiller import Distiller
from segdistill.errors import UserError
from segdistill.locks import is_free
from segdistill.methods.building import build_methods
from segdistill.networks.identity import network_label
from segdistill.networks.network import Network
from segdistill.recipe.data import Data
from segdistill.recipe.data_keys import check_apart
from segdistill.recipe.recipes import DistillRecipe
from segdistill.training.loading import load_student, load_teacher, teacher_hash

LIBRARIES = ("torch", "lightning-fabric", "timm", "segmentation-models-pytorch", "transformers", "numpy")


def choose_seeds(seeds: list[int] | int, first: int) -> tuple[int, ...]:
    """The seeds of a comparison: so many from ``first`` on, or those of a list.

    Raises:
        UserError: for none, one that comes twice, or one out of range.
    """
    if isinstance(seeds, int) and seeds < 1:
        raise UserError(f"seeds is {seeds}, expected at least 1")
    chosen = tuple(range(first, first + seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not chosen or len(set(chosen)) < len(chosen):
        raise UserError(f"seeds is {list(chosen)}, expected different numbers")
    if not all(0 <= one < 2**32 for one in chosen):
        raise UserError(f"seeds is {list(chosen)}, expected numbers from 0 to {2**32 - 1}")
    return chosen


def checked_plan(
    folder: Path,
    recipe: DistillRecipe,
    names: tuple[str, ...],
    seeds: tuple[int, ...],
    sets: Data,
    device: str,
    *,
    resume: bool,
) -> dict[str, Any]:
    """What plan.json of a comparison holds; before anything is written, what cannot work is refused.

    Args:
        folder: of the comparison.
        recipe: shared by all cells.
        names: its methods.
        seeds: its seeds.
        sets: the data.
        device: see `compare`.
        resume: whether the folder may hold a comparison already.

    Raises:
        UserError: for networks that cannot be paired, or a folder with something else in it.
    """
    check_apart(recipe.data, folder)
    plan = _plan(folder, recipe, names, seeds, sets, device)
    _check_folder(folder, plan, resume)
    _check_cells(folder, recipe, names, seeds)
    return plan | {"teacher_scored": check_pairs(recipe, sets, names)}


def _plan(
    folder: Path, recipe: DistillRecipe, names: tuple[str, ...], seeds: tuple[int, ...], sets: Data, device: str
) -> dict[str, Any]:
    """What plan.json holds."""
    command = ["segdistill", "compare", str(folder / "recipe.yaml"), "--methods", ",".join(names)]
    command += ["--seeds", str(list(seeds)), "--output", str(folder)]
    return {
        "methods": list(names),
        "seeds": list(seeds),
        "command": shlex.join(command),
        "recipe": recipe.as_dict(),
        "classes": list(sets.val.classes),
        "palette": [list(color) for color in sets.val.palette],
        "ids": list(sets.val.ids),
        "content_hash": sets.fingerprint(),
        "teacher_hash": teacher_hash(recipe),
        "student_hash": student_hash(recipe),
        "versions": _versions(),
        "machine": _machine(device),
    }


def _versions() -> dict[str, str]:
    found = {"segdistill": segdistill.__version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _machine(device: str) -> dict[str, str]:
    where = choose_device(device)
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else where.type
    return {
        "system": platform.platform(),
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "device": name,
    }


def _check_folder(folder: Path, plan: dict[str, Any], resume: bool) -> None:
    """Refuses a folder that holds something else, or finished cells of other data or another teacher."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"output {folder} is a file, expected a folder")
    old = read_plan(folder)
    if old is None:
        if not is_free(folder):
            raise UserError(f"output folder {folder} is not empty and holds no comparison; choose a new folder")
        return
    if not resume:
        raise UserError(
            f"output folder {folder} already holds a comparison; continue it with --resume, or choose another"
        )
    # The trials of the plateau become cells, too.
    if not any(found for below in (".", "plateau/*") for found in folder.glob(f"{below}/cells/*/*/{EVALUATION_FILE}")):
        return
    if old["classes"] != plan["classes"]:
        raise UserError(
            f"the runs in {folder} are of the classes {', '.join(old['classes'])}, but the data has "
            f"{', '.join(plan['classes'])}; choose another output folder"
        )
    if old["ids"] != plan["ids"]:
        raise UserError(
            f"the runs in {folder} were scored on {len(old['ids'])} validation images, but the data has "
            f"{len(plan['ids'])}{_changed(old['ids'], plan['ids'])}; choose another output folder"
        )
    if old.get("content_hash", plan["content_hash"]) != plan["content_hash"]:
        raise UserError(
            f"images or masks of the data have changed since the runs in {folder} were made; choose another output "
            "folder"
        )
    if old.get("teacher_hash") != plan["teacher_hash"]:
        raise UserError(
            f"the teacher {network_label(plan['recipe']['teacher'])} has other weights than when the runs in {folder} "
            "were made; choose another output folder"
        )
    if old.get("student_hash") != plan["student_hash"]:
        raise UserError(
            f"the student begins with other weights than when the runs in {folder} were made; choose another output "
            "folder"
        )


def forget_other_teacher(folder: Path, plan: dict[str, Any]) -> None:
    """Removes the teacher's scores where they are of other data or weights, which no finished cell holds to."""
    old = read_plan(folder)
    if old is None:
        return

    def measured(of: dict[str, Any]) -> list[Any]:
        keys = ("data", "teacher", "teacher_classes", "teacher_bands", "teacher_scale")
        return [
            of["classes"],
            of["ids"],
            of.get("content_hash"),
            of.get("teacher_hash"),
            *(of["recipe"].get(key) for key in keys),
        ]

    if measured(old) != measured(plan):
        (cell_folder(folder, "teacher", -1) / EVALUATION_FILE).unlink(missing_ok=True)


def _changed(before: list[str], after: list[str]) -> str:
    gone = [name for name in before if name not in set(after)]
    new = [name for name in after if name not in set(before)]
    told = [
        f"{names[0]} and {len(names) - 1} more {what}" if names[1:] else f"{names[0]} {what}"
        for names, what in ((gone, "gone"), (new, "new"))
        if names
    ]
    return f" ({', '.join(told)})" if told else " in another order"


def _check_cells(folder: Path, recipe: DistillRecipe, names: tuple[str, ...], seeds: tuple[int, ...]) -> None:
    """Refuses a folder with runs of another recipe, which would not be compared but confused."""
    made = [(folder, name, seed) for name in names for seed in seeds]
    if PLATEAU in names:  # whose trials become cells
        made += [(trial, PLATEAU, seed) for trial in sorted(folder.glob("plateau/*")) for seed in seeds]
    for where, name, seed in made:
        differences = cell_differences(recipe, where, name, seed)
        if differences:
            raise UserError(
                f"{cell_folder(where, name, seed)} was made with another recipe: {'; '.join(differences)}; use "
                f"{folder / 'recipe.yaml'}, or another output folder"
            )


def check_pairs(recipe: DistillRecipe, sets: Data, names: tuple[str, ...]) -> bool:
    """Makes every pair of networks once, so that what cannot work is told before the first hour is spent.

    Args:
        recipe: shared by all cells.
        sets: the data.
        names: methods.

    Returns:
        Whether the teacher has the classes of the data, so that it can be scored.

    Raises:
        UserError: a method cannot pair the two networks, or one of these cannot be loaded.
    """
    big, misfits = _pairs(recipe, sets, names)
    for told in misfits.values():
        raise told
    return big.num_classes == len(sets.train.classes)


def misfits(recipe: DistillRecipe, sets: Data, names: Sequence[str]) -> dict[str, UserError]:
    """The methods that cannot pair the two networks, each with why; arguments as for `check_pairs`.

    Raises:
        UserError: one of the networks cannot be loaded.
    """
    return _pairs(recipe, sets, names)[1]


def _pairs(recipe: DistillRecipe, sets: Data, names: Sequence[str]) -> tuple[Network, dict[str, UserError]]:
    """The teacher, and why methods do not fit it and the student."""
    for split, images in (("training", sets.train), ("validation", sets.val)):
        if images.unlabelled_index is not None:
            raise UserError(
                f"the {split} images have no labels, but the student alone learns from labels, and all scores need "
                "them; name a data set with labels, and images without labels as data.unlabelled"
            )
    sets.check_classes()
    found: dict[str, UserError] = {}
    with torch.random.fork_rng(devices=[]):
        check_teacher_finished(recipe)
        big = load_teacher(recipe, sets)
        small = load_student(recipe, sets)
        for name in names:
            own = cell_recipe(recipe, name, recipe.seed)
            if isinstance(own, DistillRecipe):
                options: dict[str, Any] = {"teacher_scale": own.teacher_scale, "auxiliary": own.train.aux}
                try:
                    learner = Distiller(big, small, build_methods(own.method), **options)
                except UserError as error:
                    found[name] = error
                    continue
                if sets.augmentation.crop is not None:
                    learner.check_crop(sets.augmentation.crop)
    return big, found
