"""CamVid with fifty of its labelled images, and all others as unlabelled ones: a few steps."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from segdistill import UserError
from tests.training.runs import TEACHER, distill_tiny, train_tiny

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(
        "SEGDISTILL_DATA" not in os.environ, reason="real images: set SEGDISTILL_DATA to the folder that holds camvid"
    ),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    source, root = Path(os.environ["SEGDISTILL_DATA"]) / "camvid", tmp_path_factory.mktemp("camvid")
    train = sorted((source / "train").iterdir())
    links = {root / "train" / image.name: image for image in train[:50]}
    links |= {root / "more" / image.name: image for image in train[50:]}
    links |= {root / "val" / image.name: image for image in sorted((source / "val").iterdir())[:8]}
    masks = {
        path.parents[1] / f"{path.parent.name}annot" / f"{image.stem}.png": source / f"{image.parent.name}annot"
        for path, image in links.items()
        if path.parent.name != "more"
    }
    for path, file in (links | {mask: folder / mask.name for mask, folder in masks.items()}).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(file)
    crop = {"resize": [90, 120], "crop": [90, 120]}
    return {"dataset": "camvid", "root": str(root), "unlabelled": str(root / "more"), **crop}


def test_a_run_with_fifty_labelled_images(data: dict[str, Any], tmp_path: Path) -> None:
    labelled = {key: value for key, value in data.items() if key != "unlabelled"}
    teacher = train_tiny(tmp_path / "teacher", TEACHER, data=labelled, batch_size=8, steps=4, epochs=None)
    run = distill_tiny(tmp_path / "run", teacher.path, data=data, method=["kd", "cwd"], batch_size=8, epochs=1)
    metrics = run.read_metrics()
    assert metrics is not None
    assert (metrics["labelled_images"], metrics["unlabelled_images"]) == (50, 317)
    assert metrics["epochs"] == 1
    (Path(data["unlabelled"]) / "leak.jpg").symlink_to(next((Path(data["root"]) / "val").iterdir()).resolve())
    with pytest.raises(UserError, match=r"1 unlabelled image is also in val, pixel by pixel: \S*leak.jpg"):
        distill_tiny(tmp_path / "leak", teacher.path, data=data, method="kd", batch_size=8, epochs=1)
