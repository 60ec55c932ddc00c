"""The baseline that trains on its teacher's hard labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import segdistill
from segdistill import DistillRecipe, RunFolder, UserError
from segdistill.comparison.pseudo import PseudoLabels
from segdistill.comparison.statistics import Difference, Spread
from segdistill.comparison.verdict import recommendation
from segdistill.networks.features import Features
from tests.training.runs import FAST, SCENES, STUDENT, TEACHER, train_tiny
from tests.training.test_unlabelled import pictures


def features(logits: torch.Tensor) -> Features:
    return Features(stages=(), embedding=logits, logits=logits)


def test_sure_pixels_without_a_label_count_with_the_teachers_class() -> None:
    student = torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    teacher = 3 * torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.full((2, 6, 8), 255)
    labels[0] = 1  # labelled
    valid = torch.ones(2, 6, 8, dtype=torch.bool)
    valid[1, 0] = False  # padding
    terms = PseudoLabels(confidence=0.7)(
        student=features(student), teacher=features(teacher), labels=labels, valid=valid
    )
    losses = []
    for y in range(1, 6):
        for x in range(8):
            shares = teacher[1, :, y, x].softmax(0)
            if shares.max() >= 0.7:
                losses.append(-student[1, :, y, x].log_softmax(0)[shares.argmax()])
    assert 0 < len(losses) < 40
    assert terms["labels"].item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)
    terms["labels"].backward()
    assert not student.grad[0].any()  # type: ignore[index]
    everywhere = PseudoLabels(confidence=0.0)(
        student=features(student), teacher=features(teacher), labels=None, valid=torch.ones(2, 6, 8, dtype=torch.bool)
    )
    assert everywhere["labels"].item() == pytest.approx(F.cross_entropy(student, teacher.argmax(1)).item(), rel=1e-5)


def test_pseudo_labels_that_do_as_well_are_recommended() -> None:
    spread = Spread((70.0,), 70.0, None)
    better, same = (Difference(1.0, low, 2.0, 0.95, spread, spread, images=9) for low in (0.5, -0.5))
    common: dict[str, Any] = {"length": 1, "full": 1, "unit": "epochs", "teacher": None}
    chosen, text = recommendation("kd", better, against={"none@pseudo": same}, **common)
    assert chosen == "none@pseudo"
    assert text.startswith(
        "Train the student on labels and on its teacher's pseudo-labels of the unlabelled images: kd is"
    )
    chosen, text = recommendation("kd", better, against={"none@pseudo": better}, **common)
    assert chosen == "kd"
    assert (
        "Against the student trained on labels and on its teacher's pseudo-labels of the unlabelled images, kd is"
        in text
    )


def test_a_comparison_with_unlabelled_images_and_their_pseudo_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = train_tiny(tmp_path / "teacher", TEACHER, epochs=1).path
    data = SCENES | {"unlabelled": str(pictures(tmp_path / "more", 4))}
    recipe = DistillRecipe(
        data=data, teacher=str(teacher), student=STUDENT, train=replace(FAST, epochs=1, batch_size=4)
    )
    found = segdistill.compare(
        **{name: getattr(recipe, name) for name in ("data", "teacher", "student", "train")},
        methods="none,none@pseudo,kd",
        seeds=1,
        output=tmp_path / "compare",
        device="cpu",
        quiet=True,
    )
    assert found is not None
    assert [row.method for row in found.rows if row.finished] == ["none", "none@pseudo", "kd"]
    runs = {name: RunFolder(tmp_path / "compare/cells" / name / "seed-0") for name in ("none", "none@pseudo", "kd")}
    counts = {
        name: [run.read_metrics()[key] for key in ("labelled_images", "unlabelled_images")]  # type: ignore[index]
        for name, run in runs.items()
    }
    assert counts == {"none": [5, 0], "none@pseudo": [5, 4], "kd": [5, 4]}
    assert runs["none"].read_config()["train"]["batch_size"] == 2
    assert "loss/pseudolabels" in runs["none@pseudo"].read_numbers()[0]
    assert "pseudo-labels of the unlabelled images" in (tmp_path / "compare" / "report.html").read_text()
    advised: dict[str, Any] = {name: getattr(recipe, name) for name in ("teacher", "student", "train")} | {
        "methods": "none@pseudo,kd", "rungs": 1, "seeds": 1, "output": tmp_path / "advice", "device": "cpu",
    }  # fmt: skip
    with pytest.raises(UserError, match="none@pseudo trains on pseudo-labels of unlabelled images; name some"):
        segdistill.advise(data=SCENES, **advised, quiet=True)
    monkeypatch.setattr("segdistill.comparison.report.write_report", lambda found, path, **_: path.write_text("page"))
    (tmp_path / "advice").mkdir()
    (tmp_path / "compare").rename(tmp_path / "advice" / "rung-1")  # the same runs, which are not made again
    advice = segdistill.advise(data=data, **advised, quiet=True)
    assert advice is not None
    assert [one.method for one in advice.rungs[0].standings] == ["kd", "none", "none@pseudo"]
    [kd] = [row for row in advice.rungs[0].comparison.rows if row.method == "kd"]
    assert list(kd.against) == ["none@pseudo"]
    with pytest.raises(UserError, match="expected a distillation method to compare with 'none'"):
        segdistill.compare(
            data=data, teacher=str(teacher), student=STUDENT, methods="none,none@pseudo", output=tmp_path / "other"
        )
