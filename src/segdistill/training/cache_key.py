"""What a teacher cache is made for, as hashes and plain values: anything else in one of them means other outputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from segdistill.data.augmentation import Augmentation
from segdistill.datasets.base import SegmentationDataset, Window
from segdistill.datasets.reading.checking import STRIP, in_threads
from segdistill.datasets.reading.joined import Joined
from segdistill.errors import UserError
from segdistill.files import bytes_of
from segdistill.networks.identity import network_digest
from segdistill.networks.loading import apart_from_files, files_of, has_own_weights
from segdistill.recipe.teachers import GivenTeacher


def describe(
    *,
    teachers: Sequence[GivenTeacher],
    dataset: SegmentationDataset,
    augmentation: Augmentation,
    seed: int,
    multiple: int,
    precision: str,
    teacher_scale: int = 1,
    progress: bool = False,
) -> dict[str, Any]:
    """What a cache is made for, as hashes and plain values.

    Args:
        teachers: run folders or specs, or the networks themselves. Of an object or a ``python:`` teacher only name and
            weights are known, not the code.
        dataset: train split, or a `Joined` one with unlabelled images; every image is read once.
        augmentation: what makes the views.
        seed: of the views.
        multiple: what the sides of images are padded to.
        precision: what the teacher computes in.
        teacher_scale: the teacher sees views of so many times the student's size.
        progress: show a progress bar on the standard error stream.

    Raises:
        UserError: if the teacher's weights cannot be read.
    """
    changes = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(augmentation).items()}
    crop = augmentation.crop
    return {
        "teacher": _hash_of_all(teachers, dataset.classes),
        **_data_hashes(dataset, progress),
        "fill": None if dataset.fill is None else [float(f"{level:.6g}") for level in dataset.fill],
        **changes,
        # Students that want other multiples share a cache where the padded crop is the same.
        "padded": multiple if crop is None else [side + -side % multiple for side in crop],
        "teacher_scale": teacher_scale,
        "seed": seed,
        "precision": precision,
    }


def _hash_of_all(teachers: Sequence[GivenTeacher], classes: Sequence[str]) -> str:
    """Of the teachers and of what is made of their outputs; of one that is taken as it is, the hash of itself."""
    hashes = [_teacher_hash(one.source, one.weights) for one in teachers]
    if len(teachers) == 1 and teachers[0].classes is None and teachers[0].bands is None:
        return hashes[0]
    parts = []
    for one, own in zip(teachers, hashes, strict=True):
        mapping = (
            None if one.classes is None else [{str(key): str(ours) for key, ours in one.classes.items()}, *classes]
        )
        parts.append([own, one.share, mapping, one.bands])
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _teacher_hash(teacher: str | Path | nn.Module, teacher_weights: str | Path | None) -> str:
    """Of all that makes a teacher what it is: its weights, how it is built and how it wants its images."""
    if isinstance(teacher, nn.Module):
        return network_digest(teacher)
    digest = hashlib.sha256()
    files = files_of(teacher, teacher_weights)
    if not files and not has_own_weights(teacher):
        raise UserError(f"teacher '{teacher}' is no run folder and has no teacher_weights; expected one of them")
    digest.update(bytes_of(apart_from_files(teacher)))
    for file in files:
        try:
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
        except OSError as error:
            raise UserError(f"cannot read the teacher's {file}: {error.strerror}") from error
    return digest.hexdigest()[:16]


def _data_hashes(dataset: SegmentationDataset, progress: bool) -> dict[str, Any]:
    if not isinstance(dataset, Joined):
        return {"data": _data_hash(dataset, progress)}
    return {
        "data": _data_hash(dataset.labelled, progress),
        "unlabelled images": _data_hash(dataset.unlabelled, progress),
        "the first unlabelled one": dataset.first_unlabelled,
    }


def _data_hash(dataset: SegmentationDataset, progress: bool) -> str:
    """Of every pixel of every image, in their order; labels do not matter to a teacher."""

    def one(index: int) -> bytes:
        sample = dataset.open(index)
        height, width = sample.size
        digest = hashlib.blake2b(digest_size=16)
        for top in range(0, height, STRIP):  # large images in parts
            image, _ = sample.window(Window(top, 0, min(STRIP, height - top), width))
            digest.update(f"{tuple(image.shape)} {image.dtype}".encode())
            digest.update(image.contiguous().numpy().data)
        return digest.digest()

    total = hashlib.blake2b(digest_size=8)
    for digest in in_threads(one, len(dataset), "hashing images", progress):
        total.update(digest)
    return total.hexdigest()
