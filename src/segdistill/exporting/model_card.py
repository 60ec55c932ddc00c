"""The README of a published network: what it is, how it was made, what it is good for, and what is not known."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from segdistill import __version__
from segdistill.comparison.options import BASELINE
from segdistill.errors import UserError
from segdistill.metrics.scores import percent
from segdistill.networks.folder import read_description
from segdistill.networks.network import Network
from segdistill.networks.size import count_parameters
from segdistill.prediction.predictor import Predictor
from segdistill.recipe.data_keys import AUGMENTING, FOR_A_TEACHER
from segdistill.reporting.names import network_name
from segdistill.run_folder import RunFolder

#: By the library of a network: its name on the hub, its package, the imports of an example, and what loads a folder.
_LIBRARIES = {
    "smp": (
        "segmentation-models-pytorch",
        "segmentation_models_pytorch",
        "import segmentation_models_pytorch as smp, torch",
        "smp.from_pretrained",
    ),
    "transformers": (
        "transformers",
        "transformers",
        "import torch, transformers",
        "transformers.AutoModelForSemanticSegmentation.from_pretrained",
    ),
}

#: Keys of a recipe's data that change nothing in what is scored on it.
_NOT_OF_VALIDATION = (*AUGMENTING, *FOR_A_TEACHER, "decoded_cache", "tiled_copy", "crops_per_image", "palette")

#: What is scored, by its key in metrics.json: the hub's name of the metric, and ours.
_METRICS = {
    "miou": ("mean_iou", "mIoU, in percent"),
    "pixel_accuracy": ("accuracy", "pixel accuracy, in percent"),
    "mean_f1": ("f1", "mean F1, in percent"),
}


def model_card(run: Path, network: Network, predictor: Predictor, library: str) -> ModelCard:
    """The README of a run's network.

    Args:
        run: its folder; nothing of where it lies goes into the text.
        network: of the run.
        predictor: of the run, for the classes.
        library: smp or transformers, whose own function loads it.
    """
    folder = RunFolder.of(run)
    recipe = folder.read_config() if folder.config_file.exists() else {}
    metrics = folder.read_accuracy()
    data: Mapping[str, Any] = recipe.get("data") or {}
    _, package, imports, loader = _LIBRARIES[library]
    channels = network.info.in_channels
    scored = {name: value for name, value in (metrics.get("iou") or {}).items() if value is not None}
    template = (resources.files("segdistill.exporting") / "templates" / "model_card.md").read_text(encoding="utf-8")
    card: ModelCard = ModelCard.from_template(
        _card_data(network, library, data, metrics),
        template_str=template,
        title=network_name(str(network.spec)),
        spec=network.spec,
        version=__version__,
        parameters=f"{count_parameters(network) / 1e6:.2f}",
        library=library,
        package=package,
        imports=imports,
        loader=loader,
        channels=channels,
        multiple=network.multiple,
        mean=[0.0] * channels if network.mean is None else _rounded(network.mean.flatten().tolist()),
        std=[1.0] * channels if network.std is None else _rounded(network.std.flatten().tolist()),
        data=data,
        data_name=_data_name(data),
        recipe=recipe,
        teacher=_teacher(recipe),
        classes=predictor.classes,
        iou={name: percent(value) for name, value in (metrics.get("iou") or {}).items()},
        worst=min(scored.items(), key=lambda item: item[1]) if scored else None,
        **_training(recipe),
        **_scores(run, recipe, metrics),
    )
    return card


def _card_data(network: Network, library: str, data: Mapping[str, Any], metrics: Mapping[str, Any]) -> ModelCardData:
    """What the hub itself reads: library, task, scores."""
    name = data.get("dataset")
    results = [
        EvalResult(
            task_type="image-segmentation",
            dataset_type="custom" if name in (None, "folder") else str(name),
            dataset_name=_data_name(data),
            dataset_split="validation",
            metric_type=kind,
            metric_name=meaning,
            metric_value=round(float(metrics[key]), 2),
        )
        for key, (kind, meaning) in _METRICS.items()
        if metrics.get(key) is not None
    ]
    return ModelCardData(
        license="unknown",
        library_name=_LIBRARIES[library][0],
        pipeline_tag="image-segmentation",
        tags=["semantic-segmentation", "knowledge-distillation", "segdistill"],
        datasets=None if name in (None, "folder") else [str(name)],
        model_name=network_name(str(network.spec)) if results else None,
        eval_results=results or None,
    )


def _data_name(data: Mapping[str, Any]) -> str:
    name = data.get("dataset")
    return "images of the author's own" if name in (None, "folder") else str(name)


def _training(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """How it was trained, and from which weights on."""
    train = recipe.get("train") or {}
    keys = ("epochs", "steps", "batch_size", "optimizer", "lr", "loss")
    start = recipe.get("init_weights")
    start = start.get("encoder") if isinstance(start, Mapping) else start
    method = yaml.safe_dump(recipe.get("method"), default_flow_style=True, width=1000).replace("...", "").strip()
    return {
        "how": ", ".join(f"{key} {train[key]}" for key in keys if train.get(key) is not None),
        "start": "random weights" if start is None else f"the weights `{_last_part(start)}`",
        "method": method,
    }


def _last_part(start: Any) -> str:
    """A file's name without its folder; of weights by part of the network, each."""
    if isinstance(start, Mapping):
        return ", ".join(f"{part}: {Path(str(file)).name}" for part, file in start.items())
    return Path(str(start)).name


def _teacher(recipe: Mapping[str, Any]) -> str | None:
    """A sentence about the teacher; None where there is none."""
    teacher = recipe.get("teacher")
    if teacher is None:
        return None
    if isinstance(teacher, Mapping | list):
        return f"{len(teacher)} networks, averaged: {' '.join(str(_teacher({'teacher': one})) for one in teacher)}"
    try:
        own = "" if recipe.get("teacher_classes") else ", trained before on the same classes"
        return f"`{read_description(Path(teacher)).spec}`{own}."
    except UserError:
        return f"`{teacher}`." if ":" in teacher else "Its folder is gone; the author should name it here."


def _scores(run: Path, recipe: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """mIoU in percent on the validation split: the teacher's, the student's alone, its own; None: not measured."""
    of_teacher = metrics.get("teacher_miou")
    if of_teacher is None and isinstance(recipe.get("teacher"), str):
        of_teacher = _measured_alike(RunFolder(recipe["teacher"]), recipe).get("miou")
    # In a comparison the student alone lies beside the distilled one: cells/none/seed-0 and cells/brd/seed-0.
    run = run.resolve()
    beside = run.parent.parent / BASELINE / run.name if run.parent.parent.name == "cells" else None
    alone = None if beside is None or beside == run else RunFolder(beside).read_accuracy().get("miou")
    return {"of_teacher": of_teacher, "alone": alone, "own": metrics.get("miou")}


def _measured_alike(teacher: RunFolder, recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """The scores of a teacher's own run, unless it is known to have been validated on other data."""
    own = teacher.read_config() if teacher.config_file.exists() else {}
    ours, theirs = (
        {key: value for key, value in one["data"].items() if key not in _NOT_OF_VALIDATION and value is not None}
        for one in (recipe, own if "data" in own else recipe)
    )
    return teacher.read_accuracy() if ours == theirs else {}


def _rounded(values: list[float]) -> list[float]:
    return [float(f"{value:.7g}") for value in values]
