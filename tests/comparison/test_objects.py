"""Teacher and student given as objects, and a teacher of other classes, in comparisons."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

import segdistill
from segdistill import UserError
from segdistill.comparison.compare import compare
from segdistill.comparison.methods import cell_recipe, shared_recipe
from segdistill.comparison.report_networks import look
from segdistill.comparison.results import Comparison
from segdistill.networks.identity import network_digest
from segdistill.recipe.recipes import DistillRecipe
from tests.tiny import tiny_network
from tests.training.runs import FAST, SCENES, STUDENT, fingerprint

CLASSES = 6
SHORT = replace(FAST, epochs=None, steps=3)  # 5 images in batches of 2: two epochs, the last one cut short


@pytest.fixture(autouse=True)
def short_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segdistill.comparison.report.write_report", lambda found, path, **_: path.write_text("page"))


def student() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return segdistill.load_network(STUDENT, CLASSES)


def recipe(**options: Any) -> dict[str, Any]:
    given = {"data": SCENES, "teacher": tiny_network(8, 8, CLASSES), "train": SHORT, "device": "cpu", "quiet": True}
    return given | options


def compared(output: Path, **options: Any) -> Comparison:
    found = compare(**recipe(output=output, methods="none,kd", seeds=1) | options)
    assert found is not None
    return found


def test_each_run_trains_its_own_copy(tmp_path: Path) -> None:
    given = student()
    before = copy.deepcopy(given.state_dict())
    found = compared(tmp_path / "out", student=given)
    assert found.finished
    assert found.teacher.miou is not None
    for name, values in given.state_dict().items():
        torch.testing.assert_close(values, before[name])
    alone = segdistill.distill(**recipe(student=copy.deepcopy(given), method="kd", output=tmp_path / "run", seed=0))
    assert [cell.length_in("steps") for row in found.rows for cell in row.cells] == [3, 3]
    assert fingerprint(tmp_path / "out" / "cells" / "kd" / "seed-0") == fingerprint(alone)

    shared = {"data": SCENES, "teacher": tiny_network(8, 8, CLASSES), "student": given, "train": SHORT}
    seen = look(found, "cpu", quiet=True, recipe=DistillRecipe(**shared))
    assert seen.milliseconds.keys() == {"teacher", "none", "kd"}
    assert not seen.notes
    assert look(found, "cpu", quiet=True).milliseconds.keys() == {"none", "kd"}

    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("model.safetensors")}
    compared(tmp_path / "out", student=student())  # equal weights: nothing is left to do
    assert files == {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("model.safetensors")}
    with torch.no_grad():
        next(given.parameters()).add_(1.0)
    with pytest.raises(UserError, match="the student begins with other weights than when the runs in"):
        compared(tmp_path / "out", student=given)
    with pytest.raises(UserError, match="has other weights than when the runs in"):
        compared(tmp_path / "out", student=student(), teacher=tiny_network(8, 8, CLASSES, seed=1))


@pytest.mark.slow
def test_a_teacher_of_other_classes(tmp_path: Path) -> None:
    """It is not scored, and no gap is closed; a method that compares scores is refused before anything is written."""
    given: dict[str, Any] = {"student": STUDENT, "teacher": tiny_network(8, 8, CLASSES + 3)}
    with pytest.raises(UserError, match="method kd compares class scores, but the student has 6 classes and the teach"):
        compared(tmp_path / "out", **given)
    assert list(tmp_path.iterdir()) == []
    found = compared(tmp_path / "out", methods="none,feature", **given)
    assert found.finished
    assert found.teacher.miou is None
    assert [row.gap for row in found.rows] == [None, None]
    assert found.rows[1].difference is not None
    assert (
        "the teacher has other classes than the data, or none: it has no score here, and there is no gap to close"
        in (found.warnings)
    )
    advice = segdistill.advise(**recipe(output=tmp_path / "advice", methods="feature,drd", rungs=1, **given))
    assert advice is not None


def test_a_plain_model_is_wrapped() -> None:
    plain = smp.FPN("resnet18", encoder_weights=None, classes=CLASSES)
    shared = shared_recipe(DistillRecipe(data=SCENES, teacher=plain, student=plain), SCENES, {"kd": {"kd": {}}})
    own = [cell_recipe(shared, "none", 0).network, cell_recipe(shared, "kd", 0).student]  # type: ignore[union-attr]
    assert [one.spec.partition("?")[0] for one in own] == ["smp:FPN:resnet18"] * 2
    assert len({id(one.model) for one in own} | {id(plain)}) == 3
    assert {network_digest(one) for one in own} == {network_digest(plain)}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"student": tiny_network(classes=CLASSES)},
            "the student is an object (TinyModel) wrapped by hand, which cannot be loaded again",
        ),
        (
            {"student": nn.Conv2d(3, CLASSES, 1)},
            "the student is a Conv2d, whose inside is not known; wrap it: Network(",
        ),
        (
            {"student": STUDENT, "executor": "ray"},
            "the teacher is an object (TinyModel), which executor ray cannot send to other machines",
        ),
        (
            {"student": "object:smp:FPN:resnet18"},
            "'object:smp:FPN:resnet18' was given as an object",
        ),
    ],
)
def test_what_cannot_be_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], told: str
) -> None:
    monkeypatch.setattr("segdistill.comparison.compare.find_spec", lambda name: name)
    with pytest.raises(UserError) as error:
        compared(tmp_path / "out", **change)
    assert told in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_teacher_cache_knows_a_teacher_by_its_weights(tmp_path: Path) -> None:
    given = recipe(student=STUDENT, method="kd", views=2, teacher_cache=tmp_path / "cache")
    first = segdistill.distill(**given | {"output": tmp_path / "a"})
    again = {"teacher": tiny_network(8, 8, CLASSES), "output": tmp_path / "b"}
    assert fingerprint(segdistill.distill(**given | again)) == fingerprint(first)
    other = {"teacher": tiny_network(8, 8, CLASSES, seed=1), "output": tmp_path / "c"}
    with pytest.raises(UserError, match=r"was made for something else: .*teacher"):
        segdistill.distill(**given | other)
    normalised = tiny_network(8, 8, CLASSES)
    normalised.set_normalization([0.5] * 3, [0.5] * 3)
    with pytest.raises(UserError, match=r"was made for something else: .*teacher"):
        segdistill.distill(**given | other | {"teacher": normalised})
