"""Comparisons on disk with planted scores: what `segdistill.compare` leaves, without a network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

CLASSES = ("road", "roof", "tree")
IMAGES = 60


def counts(right: float, seed: int, images: int = IMAGES) -> NDArray[np.int32]:
    """(N, K, K) of a network that gets about the share ``right`` of each class's pixels right; labels are constant."""
    labels = np.random.default_rng(0).multinomial(1000, [0.5, 0.3, 0.2], size=images)
    generator = np.random.default_rng([seed, 1])
    found = np.zeros((images, 3, 3), np.int32)
    for index in range(3):
        hits = generator.binomial(labels[:, index], right)
        found[:, index, index] = hits
        found[:, index, (index + 1) % 3] = labels[:, index] - hits
    return found


def plain_miou(confusion: NDArray[Any]) -> float:
    """mIoU in percent, class by class, from the counts of all images."""
    total = confusion.sum(0)
    ious = [total[k, k] / (total[k].sum() + total[:, k].sum() - total[k, k]) for k in range(len(total))]
    return float(100 * np.mean(ious))


def evaluation(confusion: NDArray[Any], connectivity: float = 20.0) -> dict[str, Any]:
    """What evaluation-val.json holds, as far as a comparison reads it."""
    total = confusion.sum(0)
    return {
        "miou": plain_miou(confusion),
        "iou": {
            name: 100 * float(total[k, k] / (total[k].sum() + total[:, k].sum() - total[k, k]))
            for k, name in enumerate(CLASSES)
        },
        "boundary": {"mean_boundary_iou": 50.0, "mean_boundary_f1": {"1": 40.0, "3": 60.0}},
        "connectivity": {"error": connectivity},
        "parameters": 1234,
        "macs": 5678,
        "size": [32, 32],
    }


def plant_cell(run: Path, confusion: NDArray[Any], seconds: float | None = 10.0, connectivity: float = 20.0) -> None:
    """A finished cell; without ``seconds`` the teacher's."""
    run.mkdir(parents=True, exist_ok=True)
    save_file({"confusion": torch.from_numpy(confusion)}, run / "confusion-val.safetensors")
    (run / "evaluation-val.json").write_text(json.dumps(evaluation(confusion, connectivity)))
    if seconds is not None:
        (run / "metrics.json").write_text(json.dumps({"epochs": 2}))
        (run / "history.csv").write_text(f"epoch,seconds\n1,{seconds / 2}\n2,{seconds / 2}\n")


def plant(
    folder: Path,
    rights: Mapping[str, Sequence[float]],
    teacher: float | None = 0.9,
    seconds: Mapping[str, float] | None = None,
    images: int = IMAGES,
) -> Path:
    """A comparison whose methods got the shares ``rights`` right, one for each seed.

    Args:
        folder: of the comparison.
        rights: by method.
        teacher: its share; None where it is not measured yet.
        seconds: of a training by method, 10 by default.
        images: in the validation split.
    """
    folder.mkdir(parents=True, exist_ok=True)
    seeds = max(map(len, rights.values()))
    plan = {
        "methods": list(rights),
        "seeds": list(range(seeds)),
        "command": "segdistill compare recipe.yaml",
        "recipe": {"teacher": "runs/teacher", "student": "smp:FPN:resnet18", "teacher_cache": None},
        "classes": list(CLASSES),
        "palette": [[255, 0, 0], [0, 255, 0], [0, 0, 255]],
        "ids": [f"image{index}" for index in range(images)],
        "versions": {"torch": "2"},
        "machine": {"device": "cpu"},
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    if teacher is not None:
        plant_cell(folder / "teacher", counts(teacher, 999, images), None)
    for number, (method, shares) in enumerate(rights.items()):
        for seed, right in enumerate(shares):
            run = folder / "cells" / method / f"seed-{seed}"
            plant_cell(run, counts(right, 10 * number + seed, images), (seconds or {}).get(method, 10.0))
    return folder
