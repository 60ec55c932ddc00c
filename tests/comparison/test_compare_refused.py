"""What cannot be compared is refused, and nothing is written."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segdistill import UserError
from segdistill.comparison import compare as module
from segdistill.comparison.methods import parse_methods
from segdistill.comparison.plan import forget_other_teacher
from tests.comparison.tiny import cell, compare_tiny
from tests.datasets.trees import folder_tree, write_mask
from tests.training.runs import FAST, TEACHER, contents, train_tiny

pytestmark = pytest.mark.usefixtures("short_report")


@pytest.mark.parametrize(
    ("methods", "told"),
    [
        ("kd,brd", "lacks 'none', the same student trained alone"),
        ("none", "expected a distillation method to compare with 'none'"),
        ("none,none@time", "expected a distillation method"),
        ("none,kb", "unknown method 'kb': did you mean"),
        ("none,kd+none", "holds 'kd+none', but none is no distillation method"),
        ("none,,kd", "unknown method ''"),
        ("none,kd,kd", "holds 'kd' and 'kd', which are the same"),
        ("none,kd+brd,brd+kd", "holds 'kd+brd' and 'brd+kd', which are the same"),
        ("none,kd+kd", "holds 'kd+kd', which names a method twice"),
        ("none,kd+kd?weight=3", "which names a method twice"),
        ("none,kd?weight=3,kd?weight=3", "holds 'kd?weight=3' and 'kd?weight=3', which are the same"),
        ("none,kd?wieght=3", "unknown key in method kd: 'wieght': did you mean 'weight'"),
        ("none,kd?weight", "option 'weight' of method 'kd?weight' cannot be read: expected key=value"),
        ("none,kd?weight=heavy", "method kd: weight: expected float, found heavy"),
        ("none,kd?temperature=-1", "kd: temperature is -1"),
        ("none,none@time?weight=3,kd", "none@time is no distillation method: it has no hyper-parameters"),
    ],
)
def test_bad_methods(tmp_path: Path, teacher: Path, methods: str, told: str) -> None:
    with pytest.raises(UserError) as error:
        compare_tiny(tmp_path / "out", teacher, methods=methods)
    assert told in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_methods_as_a_list() -> None:
    assert parse_methods(["none", "kd+brd"]) == parse_methods(" none,kd+brd ")
    assert parse_methods("none,kd+brd")[0] == ("none", "kd+brd")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seeds": 0}, "seeds is 0, expected at least 1"),
        ({"seeds": [1, 1]}, "seeds is [1, 1], expected different numbers"),
        ({"seeds": [-1]}, "seeds is [-1], expected numbers from 0 to 4294967295"),
        ({"teacher": "nowhere"}, "teacher folder 'nowhere' does not exist"),
        ({"teacher": TEACHER}, "is a network spec, which has no trained weights"),
        ({"student": "smp:nothing:at"}, "nothing"),
        ({"method": {"kd": {"temperature": -1}}}, "kd: temperature is -1"),
        ({"method": {"kd": {"tau": 1}}}, "unknown key in method kd: 'tau'"),
        ({"teacher_cache": "cache"}, "teacher_cache needs views"),
        ({"teacher_cache": "cache", "views": 2, "executor": "ray"}, "teacher_cache does not go with executor ray"),
        ({"executor": "ray", "cpus_per_cell": 0}, "cpus_per_cell is 0, expected at least 1"),
        ({"executor": "ray", "gpus_per_cell": -1.0}, "gpus_per_cell is -1.0, expected 0 or more"),
        ({"device": "cuda:77"}, "device 'cuda:77' is not available here"),
        ({"data": {"dataset": "folder"}}, "the key 'root' is missing"),
    ],
)
def test_bad_input_writes_nothing(tmp_path: Path, teacher: Path, change: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as error:
        compare_tiny(tmp_path / "out", **({"teacher": teacher} | change))
    assert told in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_ray_that_is_not_installed(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"executor ray needs the package ray: pip install 'segdistill\[ray\]'"):
        compare_tiny(tmp_path / "out", teacher, executor="ray")


def test_a_teacher_whose_training_has_not_ended(tmp_path: Path, teacher: Path) -> None:
    half = Path(shutil.copytree(teacher, tmp_path / "half"))
    (half / "metrics.json").unlink()
    with pytest.raises(UserError, match=r"half has no metrics\.json: its training has not ended; continue it"):
        compare_tiny(tmp_path / "out", half)


@pytest.mark.parametrize("dry_run", [False, True])
def test_an_empty_validation_split(tmp_path: Path, teacher: Path, dry_run: bool) -> None:
    root = folder_tree(tmp_path / "data", {"train": 2, "val": 1}, classes=6)
    for file in root.glob("*/val/*"):
        file.unlink()
    data = {"dataset": "folder", "root": str(root), "classes": list("abcdef"), "crop": [12, 16]}
    with pytest.raises(UserError, match="val holds no image, so the split is empty"):
        compare_tiny(tmp_path / "out", teacher, data=data, dry_run=dry_run)
    assert not (tmp_path / "out").exists()


def test_another_recipe_is_refused_with_what_differs(copy: Path, teacher: Path) -> None:
    before = contents(copy)
    with pytest.raises(UserError) as error:
        compare_tiny(copy, teacher, seeds=2, train=replace(FAST, lr=0.5, epochs=9))
    for text in ("seed-0 was made with another recipe", "train.epochs was 3, now 9", "train.lr was 0.003, now 0.5"):
        assert text in str(error.value)
    with pytest.raises(UserError, match=r"cells/kd/seed-0 was made with another recipe: method"):
        compare_tiny(copy, teacher, seeds=2, method={"kd": {"temperature": 2.0}})
    assert contents(copy) == before


def test_other_images_are_refused(tmp_path: Path, teacher: Path) -> None:
    data = {"dataset": "folder", "root": str(tmp_path / "data"), "classes": list("abcdef"), "crop": [12, 16]}
    folder_tree(tmp_path / "data", {"train": 2, "val": 3}, classes=6)
    compare_tiny(tmp_path / "out", teacher, data=data, train=replace(FAST, epochs=1))
    for kind in ("images", "masks"):
        (tmp_path / "data" / kind / "val" / "val2.png").rename(tmp_path / "data" / kind / "val" / "val9.png")
    with pytest.raises(UserError, match=r"3 validation images, but the data has 3 \(val2 gone, val9 new\)"):
        compare_tiny(tmp_path / "out", teacher, data=data, train=replace(FAST, epochs=1))


@pytest.mark.parametrize("change", ["another", "edited"])
def test_other_training_images_or_masks_are_refused(tmp_path: Path, teacher: Path, change: str) -> None:
    """Methods that are added to a comparison would be trained on other images than those that are there."""
    data = {"dataset": "folder", "root": str(tmp_path / "data"), "classes": list("abcdef"), "crop": [12, 16]}
    root = folder_tree(tmp_path / "data", {"train": 2, "val": 2}, classes=6)
    compare_tiny(tmp_path / "out", teacher, data=data, train=replace(FAST, epochs=1))
    shutil.copytree(root, tmp_path / "elsewhere")
    compare_tiny(tmp_path / "out", teacher, data=data, train=replace(FAST, epochs=1))
    if change == "another":
        folder_tree(root, {"train": 3}, classes=6)
    else:
        write_mask(root / "masks" / "val" / "val0.png", np.zeros((12, 16), np.uint8))
    with pytest.raises(UserError, match=r"images or masks of the data have changed since the runs in .*out were made"):
        compare_tiny(tmp_path / "out", teacher, data=data, train=replace(FAST, epochs=1))


def test_other_classes_are_refused(copy: Path, teacher: Path) -> None:
    plan = json.loads((copy / "plan.json").read_text())
    plan["classes"][0] = "lava"
    (copy / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(UserError, match=r"are of the classes lava, .*, but the data has impervious surfaces"):
        compare_tiny(copy, teacher, seeds=2)


def test_another_teacher_under_the_same_name_is_refused(copy: Path, teacher: Path) -> None:
    plan = json.loads((copy / "plan.json").read_text())
    (copy / "plan.json").write_text(json.dumps(plan | {"teacher_hash": "0" * 64}))
    with pytest.raises(UserError, match="has other weights than when the runs in"):
        compare_tiny(copy, teacher, seeds=2)


@pytest.mark.slow
def test_another_teacher_is_fine_while_no_cell_is_finished(copy: Path, teacher: Path, tmp_path: Path) -> None:
    """Its scores are taken anew, not left from the one before."""
    shutil.rmtree(copy / "cells")
    other = train_tiny(tmp_path / "other", TEACHER, epochs=4, seed=5).path
    found = compare_tiny(copy, other)
    whole = compare_tiny(tmp_path / "whole", other)
    assert found.teacher.cells[0].evaluation == whole.teacher.cells[0].evaluation


@pytest.mark.parametrize("change", ["recipe", "data"])
def test_trials_of_the_plateau_of_another_recipe_or_data_are_refused(
    copy: Path, teacher: Path, tmp_path: Path, change: str
) -> None:
    """They would become cells, though all cells were removed."""
    (copy / "plateau" / "epochs-6").mkdir(parents=True)
    shutil.move(copy / "cells", copy / "plateau" / "epochs-6")
    done = copy / "plateau" / "epochs-6" / "cells"
    (done / "none").rename(done / "none@plateau")
    plan = json.loads((copy / "plan.json").read_text())
    options: dict[str, Any] = {"methods": "none,kd,none@plateau", "resume": True}
    if change == "recipe":
        told = (
            r"plateau/epochs-6/cells/none@plateau/seed-0 was made with another recipe: train\.lr was 0\.003, now 0\.001"
        )
        options["train"] = replace(FAST, lr=1e-3)
    else:
        told = "images or masks of the data have changed since the runs"
        (copy / "plan.json").write_text(json.dumps(plan | {"content_hash": "another"}))
    with pytest.raises(UserError, match=told):
        compare_tiny(copy, teacher, **options)


@pytest.mark.parametrize(("scale", "kept"), [(1, True), (2, False)])
def test_scores_of_a_teacher_that_looked_less_closely_are_forgotten(tmp_path: Path, scale: int, kept: bool) -> None:
    """The student alone has no such key, so that no run refuses another scale."""
    plan: dict[str, Any] = {"recipe": {"teacher": "t", "teacher_scale": 1}, "classes": [], "ids": []}
    plan |= dict.fromkeys(("methods", "seeds", "palette", "command", "versions", "machine"))
    (tmp_path / "teacher").mkdir()
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    (tmp_path / "teacher/evaluation-val.json").touch()
    forget_other_teacher(tmp_path, plan | {"recipe": {"teacher": "t", "teacher_scale": scale}})
    assert (tmp_path / "teacher/evaluation-val.json").exists() == kept


def test_scores_that_are_missing_are_refused(copy: Path, teacher: Path) -> None:
    file = cell(copy, "kd", 1) / "evaluation-val.json"
    values = json.loads(file.read_text())
    del values["connectivity"]
    file.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"kd/seed-1/evaluation-val\.json lacks connectivity; remove it and run"):
        compare_tiny(copy, teacher, seeds=2)
    file.unlink()
    assert compare_tiny(copy, teacher, seeds=2).finished


def test_folders_that_hold_something_else(tmp_path: Path, teacher: Path, copy: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file, expected a folder"):
        compare_tiny(tmp_path / "file", teacher)
    with pytest.raises(UserError, match="is not empty and holds no comparison"):
        compare_tiny(tmp_path, teacher)
    with pytest.raises(UserError, match="already holds a comparison"):
        compare_tiny(copy, teacher, seeds=2, resume=False)
