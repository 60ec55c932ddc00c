"""The folder of one training run: what lies in it, and when it may be written to."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from segdistill.errors import UserError, reason
from segdistill.files import UNFINISHED, as_path, read_yaml, write_json, write_text, write_yaml
from segdistill.locks import is_free
from segdistill.metrics.scores import percent
from segdistill.networks.loading import load_run
from segdistill.networks.network import Network
from segdistill.progress import counted, duration
from segdistill.recipe.data import build_split
from segdistill.reporting.curves import RunCurves, curve_figures
from segdistill.reporting.page import Block, Paragraph, Table, fragment
from segdistill.reporting.picture import side_by_side

BEST = "best"
"""The folder in a run that holds the network of the epoch with the best mIoU."""


class RunFolder:
    """One run on disk.

    ``config.yaml`` (the complete recipe) · the network in its own library's format (``model.safetensors`` and its
    configuration), so that the folder itself loads with that library · ``network.json`` · ``metrics.json`` ·
    ``history.csv`` · ``report.html`` · ``checkpoints/last.ckpt`` and the one before (for ``--resume``) · ``best/``, the
    network of the epoch with the best mIoU · ``tensorboard/``. Every file is written atomically.

    Args:
        path: the folder; it need not exist yet.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = as_path(path, "path")

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @classmethod
    def of(cls, path: str | Path) -> RunFolder:
        """The run that ``path`` is, or whose ``best/`` it is.

        Example:
            >>> str(RunFolder.of("runs/camvid").path)
            'runs/camvid'
        """
        folder = as_path(path, "path")
        own = cls(folder)
        if not own.config_file.exists() and folder.resolve().name == BEST:
            outer = cls(folder.resolve().parent)
            return outer if outer.config_file.exists() else own
        return own

    @property
    def config_file(self) -> Path:
        """The complete recipe; its presence makes a folder a run."""
        return self.path / "config.yaml"

    @property
    def checkpoint_file(self) -> Path:
        """The newest state to resume from."""
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def metrics_file(self) -> Path:
        """The final scores; its presence makes a run finished."""
        return self.path / "metrics.json"

    @property
    def report_file(self) -> Path:
        """The run as a page for people."""
        return self.path / "report.html"

    @property
    def history_file(self) -> Path:
        """One row of numbers for every epoch."""
        return self.path / "history.csv"

    def check_free(self, config: Mapping[str, Any], *, resume: bool, overwrite: bool) -> None:
        """Checks, before anything is written, that a run with ``config`` may go here.

        Raises:
            UserError: if the folder holds a run and neither ``resume`` nor ``overwrite`` is asked for, if it holds
                something else, or if the run to resume was made with another recipe.
        """
        if resume and overwrite:
            raise UserError("resume and overwrite exclude each other: one continues the run, the other replaces it")
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"output {self.path} is a file, expected a folder")
        if not self.config_file.exists():
            if not is_free(self.path):
                raise UserError(f"output folder {self.path} is not empty and holds no run; choose a new folder")
            return
        if resume:
            differences = recipe_differences(self.read_config(), config)
            if differences:
                raise UserError(
                    f"cannot resume {self.path} with another recipe: {'; '.join(differences)}; "
                    "use its own recipe, or another output folder"
                )
        elif not overwrite:
            raise UserError(
                f"output folder {self.path} already holds a run; continue it with --resume, replace it with "
                "--overwrite, or choose another folder"
            )

    def start(self, config: Mapping[str, Any], *, resume: bool) -> None:
        """Makes the folder and writes the recipe; without ``resume`` removes what an earlier run left here.

        Raises:
            UserError: if the folder cannot be written to.
        """
        # The scores first: a folder that lost more than its checkpoint must not look like a finished run. The recipe
        # is replaced last: without one the folder would not even be a run to overwrite.
        mine = (
            "metrics.json",
            "evaluation-*.json",
            "confusion-*.safetensors",
            "exports",  # files of the old network, which nothing would tell from those of the new one
            "checkpoints",
            "tensorboard",
            "history.csv",
            "report.html",
            BEST,
            "bands.json",
        )
        network = (
            "pretrained.safetensors",
            "model.safetensors",
            "network.json",
            "config.json",
            "preprocessor_config.json",
        )
        of_a_kill = (f".*{UNFINISHED}", f"checkpoints/.*{UNFINISHED}", ".saving-*")
        try:
            for pattern in of_a_kill if resume else (*mine, *network, *of_a_kill):
                for path in self.path.glob(pattern):
                    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"cannot replace the run in {self.path}: {error.strerror}: {error.filename}") from error
        write_yaml(self.config_file, dict(config))

    def read_config(self) -> dict[str, Any]:
        """The recipe of the run.

        Raises:
            UserError: if the folder holds no run, or its config.yaml is damaged.
        """
        if not self.config_file.exists():
            raise UserError(f"{self.path} is not a run folder: it has no config.yaml")
        return read_yaml(self.config_file)

    def read_metrics(self) -> dict[str, Any] | None:
        """The final scores, or None while the run is not finished."""
        if not self.metrics_file.exists():
            return None
        try:
            metrics: dict[str, Any] = json.loads(self.metrics_file.read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {self.metrics_file}: {reason(error)}") from error
        return metrics

    def read_accuracy(self) -> dict[str, Any]:
        """The final scores, where they are of people's labels and of images that were not trained on; else nothing."""
        metrics = self.read_metrics() or {}
        overfitted = self.config_file.exists() and self.read_config().get("overfit") is not None
        return {} if overfitted or _is_agreement(metrics) else metrics

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Writes the final scores."""
        write_json(self.metrics_file, dict(metrics))

    def save_network(self, network: Network) -> None:
        """Writes the network in its own library's format into the folder."""
        network.save(self.path)

    def save_best(self, network: Network) -> None:
        """Writes the network of the best epoch so far into ``best/``."""
        network.save(self.path / BEST)

    def read_history(self) -> list[dict[str, str]]:
        """The rows of history.csv so far."""
        if not self.history_file.exists():
            return []
        with self.history_file.open(newline="") as file:
            return list(csv.DictReader(file))

    def read_numbers(self) -> list[dict[str, float]]:
        """The numbers of each epoch so far, by column of history.csv; what is empty is left out."""
        return [{key: float(text) for key, text in line.items() if text} for line in self.read_history()]

    def write_history(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Writes history.csv; columns are all keys in the order in which they first appear."""
        columns = list(dict.fromkeys(key for row in rows for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.history_file, text.getvalue())

    def curves(self) -> RunCurves:
        """Return the run's curves so far, for the last line of a notebook's cell: mIoU and loss terms by epoch."""
        teacher = (self.read_metrics() or {}).get("teacher_miou")
        return RunCurves(tuple(curve_figures(self.read_numbers(), teacher)))

    def predictions(self, count: int = 4) -> Image.Image:
        """Draw validation images beside their labels and what the run's network predicts, on one sheet.

        Args:
            count: how many images, at least 1, spread over the split.

        Returns:
            An RGB picture, which shows itself as the last line of a notebook's cell. Where the images have no labels,
            their column is left out.

        Raises:
            UserError: the folder holds no trained network, or the validation images cannot be read.
        """
        if count < 1:
            raise UserError(f"count is {count}, expected at least 1")
        images = build_split(self.read_config()["data"], "val")
        count = min(count, len(images))
        network = load_run(self.path)
        return side_by_side(images, {"prediction": network}, [index * len(images) // count for index in range(count)])

    def _repr_html_(self) -> str:
        """Return what a notebook shows: epochs so far, and the scores on the validation images."""
        if not self.config_file.exists():
            return fragment([Paragraph(f"{self.path}: no run yet")])
        history, metrics = self.read_numbers(), self.read_metrics()
        return fragment(_unfinished(self.path, history) if metrics is None else _finished(self.path, history, metrics))


def unfinished_note(model: str | Path) -> list[str]:
    """Return a line where a model is a run whose training has not ended, so that its network may still change; or none.

    Args:
        model: the folder of a run or another model.
    """
    run = RunFolder.of(model)
    if not run.config_file.exists() or run.metrics_file.exists():
        return []
    return [f"the training of {run.path} has not ended: this is its network so far"]


def _unfinished(path: Path, history: Sequence[Mapping[str, float]]) -> list[Block]:
    text = f"{path}: not finished, {counted(len(history), 'epoch')} so far"
    scored = [row for row in history if "val/miou" in row]
    if scored:
        text += f"; mIoU {scored[-1]['val/miou']:.2f} % on the validation images after epoch {scored[-1]['epoch']:.0f}"
    return [Paragraph(text)]


def _is_agreement(metrics: Mapping[str, Any]) -> bool:
    """Whether the scores compare a student with its teacher, since the validation images have no labels."""
    return str(metrics.get("scores", "")).startswith("agreement")


def _finished(path: Path, history: Sequence[Mapping[str, float]], metrics: Mapping[str, Any]) -> list[Block]:
    trained = f"{counted(metrics['epochs'], 'epoch')} in {duration(sum(row.get('seconds', 0.0) for row in history))}"
    if "miou" not in metrics:
        return [Paragraph(f"{path}: {trained}; loss {metrics['loss']:.4f} on the validation images")]
    teacher = metrics["teacher_miou"]
    what = "agreement with the teacher, which is not accuracy: mIoU" if _is_agreement(metrics) else "mIoU"
    beside = "" if teacher is None else f"; its teacher has {teacher:.2f} %"
    rows = [[name, percent(iou), percent(metrics["f1"][name])] for name, iou in metrics["iou"].items()]
    rows.append(["mean", percent(metrics["miou"]), percent(metrics["mean_f1"])])
    return [
        Paragraph(f"{path}: {trained}; {what} {metrics['miou']:.2f} % on the validation images{beside}"),
        Table("Scores by class on the validation images", ["class", "IoU %", "F1 %"], rows),
    ]


def recipe_differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What a recipe changes in the result of another one, key by key, in words.

    The number of workers and where decoded images and teacher outputs are kept change nothing; and loss weights and
    views that were to be found are the same recipe as those found.
    """
    found: list[str] = []
    for key in dict.fromkeys([*old, *new]):
        before, after = old.get(key), new.get(key)
        name = f"{prefix}{key}"
        found_or_to_find = {
            isinstance(before, Mapping) or before == "auto",
            isinstance(after, Mapping) or after == "auto",
        }
        measured = name == "loss_weights" and found_or_to_find == {True} and "auto" in (before, after)
        measured = measured or (name == "views" and "auto" in (before, after) and None not in (before, after))
        if measured or name in ("train.workers", "data.decoded_cache", "teacher_cache"):
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += recipe_differences(before, after, f"{name}.")
        elif before != after:
            found.append(f"{name} was {before!r}, now {after!r}")
    return found
