"""The cells of a comparison: one method and one seed each, trained by one recipe and measured alike."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import Tensor

from segdistill.comparison.results import BASELINE, CONFUSION_FILE, EQUAL_TIME, EVALUATION_FILE, cell_folder, error_file
from segdistill.data.tiling import EvaluationTiles
from segdistill.datasets.base import SegmentationDataset
from segdistill.device import choose_device
from segdistill.distiller import AbsentTeacher, Supervised
from segdistill.errors import UserError, unknown_name
from segdistill.evaluation.evaluate import measure
from segdistill.files import write_atomically, write_json, write_text
from segdistill.methods import METHODS
from segdistill.networks.loading import load_network, weights_file
from segdistill.networks.network import Network
from segdistill.networks.size import count_macs, count_parameters
from segdistill.recipe import Data, MethodSpec, build_data, build_methods, plain
from segdistill.run_folder import RunFolder, recipe_differences
from segdistill.training.config import TrainConfig
from segdistill.training.distill import distill
from segdistill.training.run import RunOptions, fit
from segdistill.training.strategies import Machines


@dataclass(frozen=True)
class SharedRecipe:
    """What all cells of a comparison share: everything but method and seed. See `distill` for the keys.

    Attributes:
        method: hyper-parameters of methods by name; a method that is not named has its defaults.
        teacher_cache: folder of the caches, one in it for each seed.
    """

    data: dict[str, Any]
    teacher: str
    student: str
    train: TrainConfig = field(default_factory=TrainConfig)
    method: dict[str, dict[str, Any]] = field(default_factory=dict)
    teacher_weights: str | None = None
    init_weights: str | None = None
    loss_weights: dict[str, float] | Literal["fixed", "auto"] = "fixed"
    views: int | None = None
    ignored: Literal["skip", "distil"] = "skip"
    teacher_cache: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as a recipe writes them."""
        values: dict[str, Any] = plain(asdict(self), "")
        return values

    def spec(self, method: str) -> list[Any]:
        """A method of a comparison, such as ``"kd+brd"``, as a recipe writes it, hyper-parameters and all."""
        return [{name: self.method.get(name, {})} for name in method.split("+")]

    def cell_config(self, method: str, seed: int) -> dict[str, Any]:
        """What config.yaml of a cell holds."""
        shared = {"data": self.data, "train": asdict(self.train), "overfit": None, "seed": seed}
        if is_alone(method):
            views = {} if self.views is None else {"views": self.views}
            return plain(shared | {"network": self.student, "init_weights": self.init_weights} | views, "")  # type: ignore[no-any-return]
        own = {
            "teacher": self.teacher,
            "teacher_weights": self.teacher_weights,
            "student": self.student,
            "init_weights": self.init_weights,
            "method": build_methods(self.spec(method)),
            "loss_weights": self.loss_weights,
            "views": self.views,
            "ignored": self.ignored,
        }
        return plain(shared | own, "")  # type: ignore[no-any-return]


def is_alone(method: str) -> bool:
    """Whether a method of a comparison is the student alone."""
    return method in (BASELINE, EQUAL_TIME)


def parse_methods(methods: str | Sequence[str]) -> tuple[str, ...]:
    """The methods of a comparison, checked.

    Args:
        methods: names, or combinations of them joined by ``+``; a list, or a text with commas.

    Raises:
        UserError: for an unknown name, one that comes twice, no baseline, or nothing to hold against it.

    Example:
        >>> parse_methods("none, kd,kd+brd")
        ('none', 'kd', 'kd+brd')
    """
    names = [name.strip() for name in (methods.split(",") if isinstance(methods, str) else methods)]
    seen: dict[frozenset[str], str] = {}
    for name in names:
        parts = name.split("+")
        for part in parts:
            if not (part in METHODS or is_alone(name)):
                raise unknown_name("method", part, [BASELINE, EQUAL_TIME, *METHODS])
        if len(set(parts)) < len(parts):
            raise UserError(f"methods holds '{name}', which names a method twice")
        if frozenset(parts) in seen:
            raise UserError(f"methods holds '{seen[frozenset(parts)]}' and '{name}', which are the same")
        seen[frozenset(parts)] = name
    if BASELINE not in names:
        raise UserError(
            f"methods is {', '.join(names)}, which lacks '{BASELINE}', the same student trained alone; without it no "
            "gain can be told"
        )
    if all(is_alone(name) for name in names):
        raise UserError(f"methods is {', '.join(names)}, expected a distillation method to hold against '{BASELINE}'")
    return tuple(names)


def hyper_parameters(method: MethodSpec | None) -> dict[str, dict[str, Any]]:
    """Hyper-parameters by method, from what a recipe's ``method`` says."""
    return {} if not method else {one.name: plain(one.hyper_parameters(), "method") for one in build_methods(method)}


def train_cell(recipe: SharedRecipe, folder: Path, method: str, seed: int, *, device: str, quiet: bool) -> RunFolder:
    """Trains a cell, or goes on with it; one that is finished is left as it is.

    The student begins with the same weights, sees the same batches in the same order and, step by step, draws the same
    chance whatever the method, since all these depend on the seed alone.

    Args:
        recipe: shared by all cells.
        folder: of the comparison.
        method: of the cell.
        seed: of the cell.
        device: see `distill`.
        quiet: print nothing.

    Raises:
        UserError: as `distill`.
    """
    output = cell_folder(folder, method, seed)
    if is_alone(method):
        return _train_alone(recipe, seed, RunOptions(output, Machines(device), resume=True, quiet=quiet), method)
    cache = None if recipe.teacher_cache is None else Path(recipe.teacher_cache) / f"seed-{seed}"
    return distill(
        data=recipe.data,
        teacher=recipe.teacher,
        student=recipe.student,
        output=output,
        method=recipe.spec(method),
        train=recipe.train,
        teacher_weights=recipe.teacher_weights,
        init_weights=recipe.init_weights,
        loss_weights=recipe.loss_weights,
        views=recipe.views,
        ignored=recipe.ignored,
        teacher_cache=cache,
        seed=seed,
        device=device,
        resume=True,
        quiet=quiet,
    )


def _train_alone(recipe: SharedRecipe, seed: int, options: RunOptions, method: str) -> RunFolder:
    """The student from labels alone; like `train`, but in the views that the distilled students are shown."""
    sets = build_data(recipe.data)

    def make(_: AbsentTeacher | None) -> Supervised:
        student = load_network(recipe.student, len(sets.train.classes), sets.train.in_channels, recipe.init_weights)
        return Supervised(student, ignore_index=sets.train.ignore_index)

    return fit(
        make,
        kind="train",
        config=recipe.cell_config(method, seed),
        data=sets,
        train=recipe.train,
        seed=seed,
        options=options,
        views=recipe.views,
    )


def measure_cell(recipe: SharedRecipe, folder: Path, method: str, seed: int, *, device: str, quiet: bool) -> None:
    """Scores a trained cell on the validation split into its folder."""
    run = cell_folder(folder, method, seed)
    sets = build_data(recipe.data)
    _write_scores(load_network(str(run)).to(choose_device(device)), sets, recipe, run, str(run), quiet)


def measure_teacher(recipe: SharedRecipe, folder: Path, *, device: str, quiet: bool) -> None:
    """Scores the teacher on the validation split into ``teacher/``."""
    sets = build_data(recipe.data)
    network = load_teacher(recipe, sets).to(choose_device(device))
    _write_scores(network, sets, recipe, cell_folder(folder, "teacher", -1), recipe.teacher, quiet)


def load_teacher(recipe: SharedRecipe, sets: Data) -> Network:
    """The teacher, which must be trained and have the classes of the data.

    Raises:
        UserError: if it is not so.
    """
    is_run = Path(recipe.teacher).is_dir()
    if not is_run and ":" not in recipe.teacher:
        raise UserError(f"teacher folder '{recipe.teacher}' does not exist; expected a run folder or a network spec")
    if not is_run and recipe.teacher_weights is None:
        raise UserError(
            f"teacher '{recipe.teacher}' is no run folder, and a network spec alone has no trained weights; give a run "
            "folder, or a file as teacher_weights"
        )
    if is_run and RunFolder(recipe.teacher).config_file.exists() and RunFolder(recipe.teacher).read_metrics() is None:
        raise UserError(
            f"teacher {recipe.teacher} has no metrics.json: its training has not ended; go on with it by --resume first"
        )
    classes = len(sets.train.classes)
    network = load_network(recipe.teacher, None if is_run else classes, sets.train.in_channels, recipe.teacher_weights)
    if network.num_classes != classes:
        raise UserError(f"teacher {recipe.teacher} has {network.num_classes} classes, but the data has {classes}")
    return network


def teacher_hash(recipe: SharedRecipe) -> str | None:
    """Hash of the teacher's weights; None where they do not lie in one file."""
    file = weights_file(recipe.teacher, recipe.teacher_weights)
    if not file.is_file():
        return None
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _write_scores(network: Network, sets: Data, recipe: SharedRecipe, folder: Path, model: str, quiet: bool) -> None:
    found = measure(network, sets.val, batch_size=recipe.train.batch_size, quiet=quiet)
    longest = sets.val.evaluation_window
    size = [side if longest is None else min(side, longest) for side in sets.val.open(0).size]
    confusion = per_image(found.confusion, sets.val).to(torch.int32)  # no image has 2^31 pixels
    # The scores last: where they are, the counts are too.
    write_atomically(folder / CONFUSION_FILE, lambda file: file.write(save({"confusion": confusion.contiguous()})))
    write_json(
        folder / EVALUATION_FILE,
        {
            "model": model,
            "weights": None,
            "data": recipe.data,
            "split": "val",
            "parameters": count_parameters(network),
            "macs": count_macs(network, (size[0], size[1])),
            "size": size,
            **found.as_dict(),
        },
    )


def per_image(confusion: Tensor, dataset: SegmentationDataset) -> Tensor:
    """Confusion counts of each image from those of each window; images that go through whole are left as they are.

    Args:
        confusion: int64 (windows, K, K), in the order of `EvaluationTiles`.
        dataset: the split.
    """
    if dataset.evaluation_window is None:
        return confusion
    owners = torch.tensor([index for index, _ in EvaluationTiles(dataset, dataset.evaluation_window).tiles])
    return confusion.new_zeros(len(dataset), *confusion.shape[1:]).index_add_(0, owners, confusion)


def run_cell(recipe: SharedRecipe, folder: Path, method: str, seed: int, *, device: str, quiet: bool) -> None:
    """Trains and measures a cell; if that fails, leaves the sentence of why beside its folder.

    Ctrl-C and SIGTERM go through.
    """
    file = error_file(cell_folder(folder, method, seed))
    file.unlink(missing_ok=True)
    try:
        train_cell(recipe, folder, method, seed, device=device, quiet=quiet)
        measure_cell(recipe, folder, method, seed, device=device, quiet=quiet)
    except Exception as error:  # one cell's failure, of whatever kind, must not cost the others
        told = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {' '.join(str(error).split())}"
        write_text(file, f"{told}\n")


def equal_time_recipe(recipe: SharedRecipe, epochs: int) -> SharedRecipe:
    """The recipe of the student alone over so many epochs; its schedule is stretched over them."""
    return replace(recipe, train=replace(recipe.train, epochs=epochs))


def cell_differences(recipe: SharedRecipe, folder: Path, method: str, seed: int) -> list[str]:
    """In what the recipe of a cell that was begun differs from what it would be now, in words."""
    run = RunFolder(cell_folder(folder, method, seed))
    if not run.config_file.exists():
        return []
    theirs: Mapping[str, Any] = run.read_config()
    ours = recipe.cell_config(method, seed)
    if method == EQUAL_TIME:  # its epochs were measured
        ours["train"]["epochs"] = theirs["train"]["epochs"]
    return recipe_differences(theirs, ours)
