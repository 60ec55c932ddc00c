"""Runs whose training images have no labels at all."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import segdistill
from segdistill import UserError
from segdistill.data.evaluation import EvaluationLoader, EvaluationSamples, scored_parts
from segdistill.datasets import SyntheticAerial
from tests.training.runs import SCENES, STUDENT, distill_tiny, fingerprint, train_tiny
from tests.training.test_unlabelled import pictures

CLASSES = list(SyntheticAerial(count=1, size=(32, 32)).classes)


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Any]:
    root = pictures(tmp_path / "pictures", 8, (40, 48))
    return {"dataset": "images", "root": str(root), "held_out": 0.3, "crop": [32, 32]}


def test_the_student_is_compared_with_its_teacher(
    tmp_path: Path, teacher: Path, data: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run = segdistill.distill(
        data=data, teacher=teacher, student=STUDENT, method="kd", output=tmp_path / "run", device="cpu",
        train={"epochs": 2, "batch_size": 2, "workers": 0, "precision": "fp32"},
    )  # fmt: skip
    said = " ".join(capsys.readouterr().out.split())
    assert "scores are agreement with the teacher, not accuracy" in said
    assert "val agreement with the teacher (not accuracy): mIoU" in said
    assert re.search(r"epoch 2/2 .* val agreement \d", said)
    assert "val mIoU" not in said
    metrics = run.read_metrics()
    assert metrics is not None
    assert metrics["scores"] == "agreement with the teacher, not accuracy"
    assert (metrics["labelled_images"], metrics["teacher_miou"]) == (0, None)
    assert run.read_config()["data"]["classes"] == CLASSES
    assert run.read_numbers()[0]["loss/task"] == 0
    assert run.read_numbers()[0]["loss/kd"] > 0
    assert "agreement with its teacher, which is not accuracy" in run.report_file.read_text()
    val = segdistill.datasets.Images(data["root"], "val", classes=CLASSES, held_out=0.3)
    assert metrics["unlabelled_images"] == 8 - len(val)
    loaded = [segdistill.load_network(str(folder)).eval() for folder in (teacher, run.path)]
    loader = EvaluationLoader(EvaluationSamples.of(val), 1, 0)
    with torch.inference_mode():
        theirs, ours = ([part.scores.argmax(1) for part in scored_parts(network, loader)] for network in loaded)
    same = torch.cat([(one == other).flatten() for one, other in zip(theirs, ours, strict=True)])
    assert metrics["pixel_accuracy"] == pytest.approx(100 * same.float().mean().item(), abs=1e-3)
    with pytest.raises(UserError, match="have no labels, so nothing can be scored on them"):
        segdistill.evaluate(model=run.path, device="cpu", quiet=True, output=tmp_path / "scores.json")


def test_a_cache_and_resized_images(tmp_path: Path, teacher: Path, data: dict[str, Any]) -> None:
    options: dict[str, Any] = {"data": data | {"resize": [36, 36]}, "method": "cwd", "views": 1, "epochs": 1}
    live = distill_tiny(tmp_path / "live", teacher, **options)
    cached = distill_tiny(tmp_path / "cached", teacher, teacher_cache=str(tmp_path / "cache"), **options)
    scores = [run.read_metrics()["miou"] for run in (live, cached)]  # type: ignore[index]
    assert scores[0] == pytest.approx(scores[1], abs=5)
    again = distill_tiny(tmp_path / "again", teacher, teacher_cache=str(tmp_path / "cache"), **options)
    assert fingerprint(again) == fingerprint(cached)


def test_a_labelled_validation_split_gives_real_scores(tmp_path: Path, teacher: Path, data: dict[str, Any]) -> None:
    scenes = {key: value for key, value in SCENES.items() if key in ("dataset", "size", "count")}
    splits = {"train": {"dataset": "images", "root": data["root"]}, "val": scenes, "crop": [32, 32]}
    run = distill_tiny(tmp_path / "run", teacher, data=splits, method="kd", epochs=1)
    metrics = run.read_metrics()
    assert metrics is not None
    assert (metrics["scores"], metrics["labelled_images"], metrics["unlabelled_images"]) == ("accuracy", 0, 8)
    assert metrics["teacher_miou"] is not None
    assert run.read_config()["data"]["train"]["classes"] == CLASSES


def test_what_needs_labels_is_refused(tmp_path: Path, teacher: Path, data: dict[str, Any]) -> None:
    for change, message in (
        ({"method": "ifvd"}, "method ifvd needs labels, and the training images have none"),
        ({"loss_weights": "auto"}, "loss_weights: auto measures terms against the loss on labels"),
        ({"data": data | {"unlabelled": data["root"]}}, "data: unlabelled needs a data set with labels beside it"),
        ({"data": data | {"classes": ["a", "b"]}}, "classes"),
    ):
        with pytest.raises(UserError, match=message):
            distill_tiny(tmp_path / "run", teacher, **({"data": data} | change))
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=r"^data names images without labels, but train learns only from labels"):
        train_tiny(tmp_path / "run", data=data)
    with pytest.raises(UserError, match="the training images have no labels, but the student alone learns from labels"):
        segdistill.compare(
            data=data | {"classes": CLASSES}, teacher=str(teacher), student=STUDENT, output=tmp_path / "compare"
        )
