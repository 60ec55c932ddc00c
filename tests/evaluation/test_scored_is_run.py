"""What is scored is what is run: `evaluate` counts the label maps that `predict` writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import segdistill
from segdistill.data.describing import describe_network
from segdistill.data.evaluation import EvaluationLoader, EvaluationSamples, scored_parts
from segdistill.datasets import Folder
from segdistill.evaluation.evaluate import Evaluation, measure
from segdistill.exporting.export import export
from segdistill.files import write_yaml
from segdistill.metrics.boundary import BoundaryCounts
from segdistill.metrics.connectivity import ConnectivityCounts
from segdistill.prediction.predict import predict
from segdistill.recipe.data import build_split
from tests.datasets.trees import write_mask
from tests.prediction.networks import saved

CLASSES = ("road", "roof", "tree", "car")
SIZES = {
    "smaller than the window": [(40, 56)],
    "tiled": [(150, 210)],
    "mixed": [(40, 56), (56, 40), (40, 56), (64, 64), (90, 64), (33, 47), (40, 56)],
}
GLOBAL = "python:tests.prediction.networks:build_global"


def tree(root: Path, sizes: list[tuple[int, int]]) -> Path:
    """Images of coloured areas under noise, and masks of areas with some pixels ignored."""
    for number, (height, width) in enumerate(sizes):
        chance = np.random.default_rng(number)
        small = chance.integers(0, len(CLASSES), (height // 8 + 1, width // 8 + 1)).astype(np.uint8)
        mask = small.repeat(8, 0).repeat(8, 1)[:height, :width]
        pixels = (mask[..., None] * 60 + chance.integers(0, 60, (height, width, 3))).astype(np.uint8)
        mask[chance.random(mask.shape) < 0.1] = 255
        write_mask(root / f"images/val/{number}.png", pixels)
        write_mask(root / f"masks/val/{number}.png", mask)
    return root


def run(root: Path, data: Path, spec: str = GLOBAL, **values: Any) -> Path:
    """A run folder as training leaves it, but for the training."""
    saved(root, spec, classes=len(CLASSES))
    values = {"dataset": "folder", "root": str(data), "classes": list(CLASSES)} | values
    network = segdistill.load_run(root)
    describe_network(network, build_split(values, "val"))
    network.save(root)
    write_yaml(root / "config.yaml", {"data": values, "network": spec})
    return root


def labels_of(folder: Path, count: int) -> list[np.ndarray]:
    return [np.array(Image.open(folder / f"{number}.png")) for number in range(count)]


def counts_of(maps: list[np.ndarray], data: Path) -> torch.Tensor:
    """Confusion counts (N, K, K), by a plain formula."""
    found = np.zeros((len(maps), len(CLASSES), len(CLASSES)), dtype=np.int64)
    for number, predicted in enumerate(maps):
        truth = np.array(Image.open(data / f"masks/val/{number}.png"))
        assert predicted.shape == truth.shape
        np.add.at(found[number], (truth[truth != 255], predicted[truth != 255]), 1)
    return torch.from_numpy(found)


def scored(model: Path, **values: Any) -> Evaluation:
    return segdistill.evaluate(model=model, device="cpu", quiet=True, **values)


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("resize", [None, (48, 80), (100, 140)])
def test_evaluate_counts_what_predict_writes(tmp_path: Path, kind: str, resize: tuple[int, int] | None) -> None:
    """A resize of 100 x 140 is larger than the window itself."""
    data = tree(tmp_path / "data", SIZES[kind])
    values = {} if resize is None else {"resize": list(resize)}
    model = run(tmp_path / "run", data, evaluation_window=64, **values)
    predict(model=model, input=data / "images/val", output=tmp_path / "maps", device="cpu", quiet=True)
    maps = labels_of(tmp_path / "maps", len(SIZES[kind]))
    for batch_size in (1, 2, 3, 6) if kind == "mixed" else (2,):
        found = scored(model, batch_size=batch_size)
        assert found.confusion.equal(counts_of(maps, data))
    boundary, connectivity = BoundaryCounts(4, 255), ConnectivityCounts(4, 255)
    for number, predicted in enumerate(maps):
        truth = np.array(Image.open(data / f"masks/val/{number}.png"))
        boundary.update(predicted, truth)
        connectivity.update(predicted, truth)
    assert found.boundary == boundary.result(CLASSES)
    assert found.connectivity == connectivity.result(CLASSES)


def test_another_size_is_used_by_both_where_it_is_asked_for(tmp_path: Path) -> None:
    data = tree(tmp_path / "data", SIZES["mixed"])
    model = run(tmp_path / "run", data, resize=[48, 80])
    found = {}
    for resize in ("auto", "none", "64x64"):
        maps = tmp_path / resize
        predict(model=model, input=data / "images/val", output=maps, device="cpu", quiet=True, resize=resize)
        found[resize] = scored(model, resize=resize).confusion
        assert found[resize].equal(counts_of(labels_of(maps, len(SIZES["mixed"])), data))
    assert not found["auto"].equal(found["none"])
    assert not found["auto"].equal(found["64x64"])


@pytest.mark.parametrize("size", [None, pytest.param("64x64", marks=pytest.mark.slow)])
def test_exported_files_are_scored_as_they_predict(tmp_path: Path, size: str | None) -> None:
    pytest.importorskip("onnxruntime")
    data = tree(tmp_path / "data", SIZES["mixed"])
    model = run(tmp_path / "run", data, "python:tests.prediction.networks:build_any", evaluation_window=64)
    file = export(run=model, size=size, images=data / "images/val", quiet=True).path
    predict(model=file, input=data / "images/val", output=tmp_path / "maps", quiet=True)
    values = {"dataset": "folder", "root": str(data), "classes": list(CLASSES)}
    found = scored(file, data=values, batch_size=3, output=tmp_path / "scores.json")
    assert found.confusion.equal(counts_of(labels_of(tmp_path / "maps", len(SIZES["mixed"])), data))


@pytest.mark.parametrize("resize", [None, (48, 80)])
def test_several_processes_count_what_one_counts(tmp_path: Path, resize: tuple[int, int] | None) -> None:
    """Each has its own part of the images, so that others share its batches."""
    data = tree(tmp_path / "data", SIZES["mixed"] + SIZES["tiled"])
    network = segdistill.load_run(run(tmp_path / "run", data))
    dataset = Folder(data, CLASSES, "val", resize=resize, evaluation_window=64)
    one = measure(network, dataset, batch_size=1).confusion
    for world in (1, 2, 3):
        counts, seen = torch.zeros(4, 4, dtype=torch.int64), 0
        for rank in range(world):
            loader = EvaluationLoader(EvaluationSamples.of(dataset), 2, 0, rank=rank, world=world)
            with torch.no_grad():
                for part in scored_parts(network, loader):
                    pairs = part.labels.long() * 4 + part.scores.argmax(1)
                    counts += torch.bincount(pairs[part.labels != 255], minlength=16).view(4, 4)
                    seen += part.labels.numel()
        assert counts.equal(one.sum(0))
        assert seen == sum(height * width for height, width in SIZES["mixed"] + SIZES["tiled"])


def test_a_batch_holds_images_of_one_size_only() -> None:
    """Read in order; a batch that waits too long is run before it is full."""
    shapes: list[tuple[int, ...]] = []

    class Sizes(segdistill.datasets.SegmentationDataset):
        def __init__(self) -> None:
            super().__init__(classes=("a", "b"), ids=[str(number) for number in range(40)])

        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            size = (8, 8 + index % 5)
            return torch.full((3, *size), index, dtype=torch.uint8), torch.zeros(size, dtype=torch.int64)

    def scorer(images: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(images.shape))
        return images[:, :2].float()

    model = segdistill.data.scoring.TiledModel(scorer, 2)
    loader = EvaluationLoader(EvaluationSamples.of(Sizes()), 2, 0)
    parts = list(scored_parts(model, loader))
    assert sorted(number for part in parts for number in part.indices) == list(range(40))
    for part in parts:
        assert part.scores[:, 0, 0, 0].tolist() == list(part.indices)
        assert len({number % 5 for number in part.indices}) == 1
    assert max(shape[0] for shape in shapes) == 2
    assert len(shapes) <= 28  # 20 full batches, and few that were not
