"""Miniature trees of published data sets, laid out as their archives unpack."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from scipy import io

from tests.datasets.trees import write_image, write_mask

SIZE = (12, 16)


def codes_mask(codes: Iterable[int], seed: int = 0, dtype: type = np.uint8) -> np.ndarray:
    """A label map of ``SIZE`` in which each of the codes occurs, in a random order, and as often as the others."""
    values = np.resize(np.array(list(codes), dtype=dtype), SIZE)
    np.random.default_rng(seed).shuffle(values.reshape(-1))
    return values


def write_listing(path: Path, names: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))


def write_matlab(path: Path, content: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    io.savemat(path, content, do_compression=True)


def cityscapes_tree(root: Path, names: Mapping[str, Sequence[str]], masks: Mapping[str, np.ndarray]) -> Path:
    """``leftImg8bit`` and ``gtFine``.

    Args:
        names: per split, names as "aachen_000000_000019".
        masks: a label map for each ending as "labelIds".
    """
    for split, samples in names.items():
        for number, name in enumerate(samples):
            city = name.split("_")[0]
            write_image(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", *SIZE, seed=number)
            for ending, values in masks.items():
                write_mask(root / "gtFine" / split / city / f"{name}_gtFine_{ending}.png", values)
    return root


def voc_tree(voc: Path, splits: Mapping[str, Sequence[str]], mask: np.ndarray, more: Sequence[str] = ()) -> Path:
    """VOC2012: images, masks and lists of VOC's own splits; ``more`` names images without masks."""
    for split, names in splits.items():
        write_listing(voc / "ImageSets" / "Segmentation" / f"{split}.txt", names)
        for name in names:
            write_mask(voc / "SegmentationClass" / f"{name}.png", mask)
    for number, name in enumerate([*chain(*splits.values()), *more]):
        write_image(voc / "JPEGImages" / f"{name}.jpg", *SIZE, seed=number)
    return voc


def sbd_tree(sbd: Path, splits: Mapping[str, Sequence[str]], mask: np.ndarray) -> Path:
    """SBD's ``dataset`` folder: lists, and ``cls/*.mat`` with the struct ``GTcls``."""
    for split, names in splits.items():
        write_listing(sbd / f"{split}.txt", names)
        for name in names:
            content = {"GTcls": {"Segmentation": mask, "CategoriesPresent": np.unique(mask)}}
            write_matlab(sbd / "cls" / f"{name}.mat", content)
    return sbd


def context_tree(voc: Path, splits: Mapping[str, Sequence[str]], lists: str = "SegmentationContext") -> Path:
    """VOC2010 with images and lists, but no masks."""
    for split, names in splits.items():
        write_listing(voc / "ImageSets" / lists / f"{split}.txt", names)
        for name in names:
            write_image(voc / "JPEGImages" / f"{name}.jpg", *SIZE)
    return voc


def ade20k_tree(root: Path, counts: Mapping[str, int], mask: np.ndarray) -> Path:
    """ADEChallengeData2016; ``counts`` by folder, "training" or "validation"."""
    for folder, count in counts.items():
        kind = {"training": "train", "validation": "val"}[folder]
        for number in range(1, count + 1):
            name = f"ADE_{kind}_{number:08d}"
            write_image(root / "images" / folder / f"{name}.jpg", *SIZE, seed=number)
            write_mask(root / "annotations" / folder / f"{name}.png", mask)
    return root


def coco_stuff_tree(root: Path, splits: Mapping[str, Sequence[str]]) -> Path:
    """Images and lists of COCO-Stuff 10K, but no masks."""
    for split, names in splits.items():
        write_listing(root / "imageLists" / f"{split}.txt", names)
        for number, name in enumerate(names):
            write_image(root / "images" / f"{name}.jpg", *SIZE, seed=number)
    return root
