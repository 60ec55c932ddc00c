"""The page of a run: what a reader must find on it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import segdistill
from segdistill.recipe.data import build_split
from segdistill.reporting.picture import colourise
from tests.reporting.test_report import Page, pixels
from tests.training.runs import FAST, SCENES, STUDENT


def read(run: Path) -> Page:
    return Page((run / "report.html").read_text(encoding="utf-8"))


def check_pictures(page: Page, run: segdistill.RunFolder) -> None:
    """Each picture is in the page itself, with its name as text below it."""
    scenes = build_split(SCENES, "val")
    assert page.pictures[:4] == ["image", "truth", "teacher", "student"]
    assert len(page.pictures) == 4 * len(scenes)
    assert page.text.count("truththe labels") == len(scenes)
    found = [pixels(address) for address in page.addresses if address.startswith("data:image")]
    student = segdistill.load_run(run.path)
    for index, (image, labels) in enumerate(scenes[number] for number in range(len(scenes))):
        assert f"Validation image {scenes.ids[index]}" in page.text
        assert np.abs(found[4 * index].astype(int) - image.permute(1, 2, 0).numpy()).mean() < 20  # a JPEG
        assert np.array_equal(found[4 * index + 1], colourise(labels, scenes.palette))
        with torch.inference_mode():
            prediction = student.eval()(image[None]).argmax(1)[0]
        assert np.array_equal(found[4 * index + 3], colourise(prediction, scenes.palette))


def test_of_a_distilled_run(tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scores beside the teacher's, speed, size, curves, and the weights that were found instead of "auto"."""
    run = segdistill.distill(
        data=SCENES,
        teacher=teacher,
        student=STUDENT,
        method="kd",
        train=replace(FAST, epochs=12),  # of 2 steps each: "auto" measures over 20
        loss_weights="auto",
        device="cpu",
        output=tmp_path / "a<b>",
    )
    page = read(run.path)
    check_pictures(page, run)
    metrics = run.read_metrics()
    assert metrics is not None
    miou, of_teacher = metrics["miou"], metrics["teacher_miou"]
    assert page.headings == ["In short", "Images", "Next steps", "Classes", "Training", "Recipe"]
    assert "build_student: a<b>" in page.text
    assert f"reaches an mIoU of {miou:.2f} %, {100 * miou / of_teacher:.0f} % of its teacher's {of_teacher:.2f} %." in (
        page.text
    )
    assert re.search(r"time for an image\s*[\d.]+ msteacher [\d.]+ ms; 32 x 32 pixels, on cpu", page.text)
    assert re.search(r"parameters\s*[\d.]+ Mteacher [\d.]+ M", page.text)
    assert {"mIoU by epoch", "loss by epoch", "IoU by class"} <= set(page.labels)
    compare = f"segdistill compare {run.path}/config.yaml --methods none,none@time,kd --seeds 3 --output comparison"
    assert compare in page.text
    assert capsys.readouterr().out.endswith(f"  teacher's mIoU {of_teacher:.2f} %  more in report.html\n")
    assert "loss_weights: auto" not in page.text
    assert re.search(r"loss_weights:\n  [\w.]+: [\d.]+", page.text)
    assert page.row("mean")[1] == f"{miou:.2f}"
    assert all(address.startswith(("#", "data:")) for address in page.addresses)


def test_of_a_run_of_one_epoch(tmp_path: Path) -> None:
    train = segdistill.TrainConfig(epochs=1, batch_size=2, precision="fp32", workers=0)
    run = segdistill.train(data=SCENES, network=STUDENT, train=train, device="cpu", output=tmp_path / "r", quiet=True)
    page = read(run.path)
    assert "Trained on labels alone in 1 epoch" in page.text
    assert "One epoch makes no curve" in page.text
    assert "teacher" not in page.text.partition("mIoU, mean intersection")[0]
