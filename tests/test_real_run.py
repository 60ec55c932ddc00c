"""The main job on real road scenes: a few dozen of them, a few steps."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch

import segdistill

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(
        "SEGDISTILL_DATA" not in os.environ, reason="real images: set SEGDISTILL_DATA to the folder that holds idd_lite"
    ),
]

CLASSES = ["drivable", "non_drivable", "living_things", "vehicles", "roadside_objects", "far_objects", "sky"]
RECIPE = segdistill.TrainConfig(precision="fp32", epochs=2, batch_size=8, lr=2e-3, loss="balanced", workers=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Forty training and eight validation scenes of IDD-Lite, linked."""
    source, root = Path(os.environ["SEGDISTILL_DATA"]) / "idd_lite", tmp_path_factory.mktemp("idd")
    for split, count in (("train", 40), ("val", 8)):
        for image in sorted((source / "images" / split).iterdir())[:count]:
            for kind, name in (("images", image.name), ("masks", f"{image.stem}.png")):
                link = root / kind / split / name
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(source / kind / split / name)
    return {"dataset": "folder", "root": str(root), "classes": CLASSES, "resize": [64, 96], "crop": [64, 96]}


@pytest.fixture(scope="module")
def teacher(data: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = segdistill.train(
        data=data,
        network="smp:FPN:resnet18",
        train=segdistill.TrainConfig(epochs=6, batch_size=8, lr=2e-3, loss="balanced", workers=0),
        output=tmp_path_factory.mktemp("runs") / "teacher",
        quiet=True,
    )
    return run.path


def test_teacher_learns(teacher: Path) -> None:
    losses = [float(row["loss/task"]) for row in segdistill.RunFolder(teacher).read_history()]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("method", ["kd", "ka", "brd", "drd", ["cwd", "drd"]])
def test_student_is_distilled_scored_and_loads_alone(
    data: dict[str, object], teacher: Path, tmp_path: Path, method: str | list[str]
) -> None:
    run = segdistill.distill(
        data=data,
        teacher=str(teacher),
        student="smp:DeepLabV3Plus:mobilenet_v2",
        method=method,
        train=RECIPE,
        output=tmp_path / "run",
        quiet=True,
    )
    metrics = run.read_metrics()
    assert metrics is not None
    assert set(metrics["iou"]) == set(CLASSES)
    scores = segdistill.evaluate(model=run.path, quiet=True)
    assert scores.miou == pytest.approx(metrics["miou"], abs=1e-6)
    image = torch.rand(1, 3, 64, 96)
    network = segdistill.load_run(run.path)
    plain = smp.from_pretrained(str(run.path)).eval()
    assert torch.equal(network(image), plain((image - network.mean) / network.std))
