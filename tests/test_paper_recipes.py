"""Recipes of the papers' experiments: each runs on a miniature of its data set, and says what it means to say."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from segdistill import load_network
from segdistill.cli.main import main
from segdistill.datasets import DATASETS, Potsdam, Vaihingen
from segdistill.methods.building import build_methods
from segdistill.networks.network import Network
from segdistill.recipe.train_config import TrainConfig
from tests.datasets.official_trees import (
    ade20k_tree,
    cityscapes_tree,
    coco_stuff_tree,
    codes_mask,
    context_tree,
    voc_tree,
    write_listing,
)
from tests.datasets.test_isprs import potsdam_tree, vaihingen_tree
from tests.datasets.trees import write_mask

REPOSITORY = Path(__file__).parent.parent
RECIPES = REPOSITORY / "recipes"
FAMILIES = sorted({recipe.parent for recipe in RECIPES.glob("*/*/*.yaml")})
TINY = "python:tests.tiny:build_tiny"
NAMES = {
    "train": ["aachen_000000_000019", "aachen_000001_000019", "bremen_000000_000019", "bremen_000001_000019"],
    "val": ["munster_000000_000019", "munster_000001_000019"],
}

#: By data set: images of the published training split.
TRAINING_IMAGES = {
    **{name: getattr(kind, "SPLIT_SIZES", {}).get("train") for name, kind in DATASETS.items()},
    "vaihingen": len(Vaihingen.TILES["train"]),
    "potsdam": len(Potsdam.TILES["train"]),
}


def name_of(family: Path) -> str:
    return str(family.relative_to(RECIPES))


def read(file: Path) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(file.read_text())
    return values


def comment(file: Path) -> str:
    """The comments of a recipe as one line."""
    lines = [line for line in file.read_text().splitlines() if line.startswith("#")]
    return " ".join(" ".join(line.removeprefix("#") for line in lines).split())


# ---------------------------------------------------------------------------------------------------- miniatures


def voc(root: Path) -> None:
    mask = codes_mask([*range(21), 255])
    voc_tree(root, NAMES, mask)
    write_listing(root / "ImageSets" / "Segmentation" / "trainaug.txt", NAMES["train"])
    for name in NAMES["train"]:
        write_mask(root / "SegmentationClassAug" / f"{name}.png", mask)


def cityscapes(root: Path) -> None:
    cityscapes_tree(root, NAMES, {"labelIds": codes_mask(range(34))})


def pascal_context(root: Path) -> None:
    context_tree(root, NAMES)
    for name in [*NAMES["train"], *NAMES["val"]]:
        write_mask(root / "SegmentationClassContext" / f"{name}.png", codes_mask(range(60)))


def ade20k(root: Path) -> None:
    ade20k_tree(root, {"training": 4, "validation": 2}, codes_mask(range(151)))


def coco_stuff10k(root: Path) -> None:
    coco_stuff_tree(root, {"train": NAMES["train"], "test": NAMES["val"]})
    for name in [*NAMES["train"], *NAMES["val"]]:
        write_mask(root / "annotations" / f"{name}_labelTrainIds.png", codes_mask(range(172)))


def vaihingen(root: Path) -> None:
    for split in ("train", "test"):
        vaihingen_tree(root, split, full="gts_for_participants", eroded="gts_eroded_for_participants")


def potsdam(root: Path) -> None:
    for split in ("train", "test"):
        potsdam_tree(root, split)


MINIATURES: dict[str, Callable[[Path], None]] = {
    "voc": voc,
    "cityscapes": cityscapes,
    "pascal-context": pascal_context,
    "ade20k": ade20k,
    "coco-stuff10k": coco_stuff10k,
    "vaihingen": vaihingen,
    "potsdam": potsdam,
}

# ---------------------------------------------------------------------------------------------------------- tests


def test_there_are_recipes_for_the_papers_data_sets() -> None:
    assert [name_of(family) for family in FAMILIES] == [
        "brd/ade20k",
        "brd/ade20k-segformer",
        "brd/cityscapes",
        "brd/coco-stuff10k",
        "brd/voc",
        "drd/cityscapes",
        "drd/potsdam",
        "drd/vaihingen",
        "ka/cityscapes",
        "ka/pascal-context",
        "ka/voc",
    ]


@pytest.mark.parametrize("family", FAMILIES, ids=name_of)
def test_recipes_of_a_family_run(family: Path, tmp_path: Path) -> None:
    """Two steps each, in their own words but for the networks and sizes."""
    data = read(family / "teacher.yaml")["data"]
    MINIATURES[data["dataset"]](tmp_path / "data")
    batch = 8 if "crops_per_image" in data else 2
    small = ["--data.root", str(tmp_path / "data"), "--data.crop", "[16, 16]", "--train.batch-size", str(batch)]
    small += ["--data.crops-per-image", "1"] if "crops_per_image" in data else []
    small += ["--train.epochs", "1", "--train.workers", "0", "--device", "cpu", "--quiet"]
    for name in ("teacher", "alone", "distill"):
        run = tmp_path / name
        recipe = [str(family / f"{name}.yaml"), "--output", str(run), *small]
        if name == "distill":
            networks = ["--teacher", str(tmp_path / "teacher"), "--student", TINY, "--init-weights", "null"]
            assert main(["distill", *recipe, *networks]) == 0
        else:
            assert main(["train", *recipe, "--network", TINY, "--init_weights", "null"]) == 0
        assert (run / "metrics.json").exists()
    steps = {"vaihingen": 16 // 8, "potsdam": 24 // 8}.get(data["dataset"], 4 // 2)
    assert torch.load(tmp_path / "distill/checkpoints/last.ckpt", weights_only=True)["step"] == steps


@pytest.mark.parametrize("family", FAMILIES, ids=name_of)
def test_the_three_recipes_of_a_family_agree(family: Path) -> None:
    teacher, alone, distill = (read(family / f"{name}.yaml") for name in ("teacher", "alone", "distill"))
    assert teacher["data"] == alone["data"] == distill["data"]
    assert alone["train"] == distill["train"]
    assert (alone["network"], alone["init_weights"]) == (distill["student"], distill["init_weights"])
    assert teacher["init_weights"] == "imagenet"
    assert distill["teacher"] == f"runs/{name_of(family)}/teacher"
    assert name_of(family).split("/")[0] in str(build_methods(distill["method"])[0].name)
    for name, recipe in (("teacher", teacher), ("alone", alone), ("distill", distill)):
        TrainConfig(**recipe["train"])
        command = "distill" if name == "distill" else "train"
        told = comment(family / f"{name}.yaml").replace("\\ ", "")
        assert f"segdistill {command} recipes/{name_of(family)}/{name}.yaml --data.root DATA/" in told
        assert f"--output runs/{name_of(family)}/{name}" in told


@pytest.mark.parametrize("family", FAMILIES, ids=name_of)
def test_epochs_are_the_iterations_that_are_named(family: Path) -> None:
    recipe = read(family / "teacher.yaml")
    told = re.search(r"([\d,]+) iterations = (\d+) epochs", comment(family / "teacher.yaml"))
    assert told is not None
    iterations, epochs = int(told[1].replace(",", "")), int(told[2])
    assert epochs == recipe["train"]["epochs"]
    data = recipe["data"]
    images = TRAINING_IMAGES[data["dataset"]] * data.get("crops_per_image", 1)
    steps = epochs * (images // recipe["train"]["batch_size"])
    assert steps == pytest.approx(iterations, rel=0.01)


@pytest.mark.parametrize("family", FAMILIES, ids=name_of)
def test_where_values_come_from_is_said(family: Path) -> None:
    told = comment(family / "teacher.yaml")
    paper = {"ka": "arXiv 1903.04688", "brd": "arXiv 2401.13174", "drd": "arXiv 2506.20688"}
    assert paper[name_of(family).split("/")[0]] in told
    assert re.search(r"[Cc]hoices? of this library", told)
    recipe = read(family / "teacher.yaml")
    assert "{} x {}".format(*recipe["data"]["crop"]) in told
    assert f"batch {recipe['train']['batch_size']}," in told


def networks() -> list[tuple[str, int]]:
    """Every network that a recipe names, in its keys or in its comments, with its classes."""
    classes = {"voc": 21, "cityscapes": 19, "pascal-context": 59, "ade20k": 150, "coco-stuff10k": 171}
    found = {}
    for family in FAMILIES:
        for file in sorted(family.glob("*.yaml")):
            recipe = read(file)
            for spec in re.findall(r"(?:smp|transformers):[\w:?&=]+", file.read_text()):
                found[spec] = classes.get(recipe["data"]["dataset"], 6)
    return sorted(found.items())


def built(spec: str, classes: int) -> Network:
    """Without memory for the weights, where the library lets it."""
    if "Segformer" in spec or spec.startswith("transformers:"):
        return load_network(spec, num_classes=classes)
    with torch.device("meta"):
        return load_network(spec, num_classes=classes)


#: Strides of the stages and of the embedding.
STRIDES = {
    "smp:PSPNet:resnet101?encoder_depth=5&output_stride=8": ([4, 8, 8, 8], 8),
    "smp:PSPNet:resnet18?encoder_depth=5&output_stride=8&psp_out_channels=128": ([4, 8, 8, 8], 8),
    "smp:DeepLabV3Plus:resnet50?encoder_output_stride=16": ([4, 8, 16, 16], 4),
    "smp:DeepLabV3:mobilenet_v2?encoder_output_stride=16": ([4, 8, 16, 16], 16),
    "smp:DeepLabV3Plus:resnet101?encoder_output_stride=8": ([4, 8, 8, 8], 4),
    "smp:DeepLabV3Plus:resnet18?encoder_output_stride=8": ([4, 8, 8, 8], 4),
    "smp:DeepLabV3Plus:mobilenet_v2?encoder_output_stride=16": ([4, 8, 16, 16], 4),
    "smp:Segformer:mit_b4": ([4, 8, 16, 32], 4),
    "smp:Segformer:mit_b0": ([4, 8, 16, 32], 4),
    "transformers:mobilenet_v2?output_stride=16": ([4, 8, 16, 16], 16),
}


def test_every_network_named_is_one_of_these() -> None:
    assert {spec for spec, _ in networks()} == set(STRIDES)


@pytest.mark.slow
@pytest.mark.parametrize(("spec", "classes"), networks())
def test_every_network_named_can_be_built(spec: str, classes: int) -> None:
    info = built(spec, classes).info
    assert info.num_classes == classes
    assert ([stage.stride for stage in info.stages], info.embedding.stride) == STRIDES[spec]


def test_the_iterations_of_the_published_splits_are_known() -> None:
    used = {read(family / "teacher.yaml")["data"]["dataset"] for family in FAMILIES}
    assert {name: TRAINING_IMAGES[name] for name in sorted(used)} == {
        "ade20k": 20210,
        "cityscapes": 2975,
        "coco-stuff10k": 9000,
        "pascal-context": 4998,
        "potsdam": 24,
        "vaihingen": 16,
        "voc": 10582,
    }
