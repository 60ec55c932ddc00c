from __future__ import annotations

import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from segdistill import UserError
from segdistill.comparison.reading import load_comparison
from segdistill.comparison.results import Comparison, Row, Summary
from tests.comparison.planted import CLASSES, IMAGES, counts, plain_miou, plant, plant_cell

#: Shares of right pixels: some luck of the seed around 0.7, and a method that adds 0.05 to it.
ALONE = (0.700, 0.704, 0.697)
GAIN = (0.750, 0.756, 0.748)


def row(comparison: Comparison, method: str) -> Row:
    return next(row for row in comparison.rows if row.method == method)


# ------------------------------------------------------------------------------------------------ what is found


def test_planted_difference_is_found(tmp_path: Path) -> None:
    found = load_comparison(plant(tmp_path, {"none": ALONE, "kd": GAIN, "ka": (0.699, 0.702, 0.701)}))
    kd = row(found, "kd")
    alone = [plain_miou(counts(right, seed)) for seed, right in enumerate(ALONE)]
    distilled = [plain_miou(counts(right, 10 + seed)) for seed, right in enumerate(GAIN)]
    big = plain_miou(counts(0.9, 999))
    assert kd.miou is not None
    assert kd.miou.runs == pytest.approx(distilled)
    assert kd.difference is not None
    assert kd.difference.difference == pytest.approx(np.mean(distilled) - np.mean(alone))
    assert 0 < kd.difference.low < kd.difference.difference < kd.difference.high
    assert kd.gap is not None
    assert kd.gap.closed == pytest.approx(100 * (np.mean(distilled) - np.mean(alone)) / (big - np.mean(alone)))
    assert kd.verdict == "better than the student alone"
    assert row(found, "ka").verdict == "no difference seen"
    assert found.baseline.verdict == "the baseline"
    assert found.baseline.difference is None
    assert found.verdict.startswith("kd is better than the same student trained alone: +")
    assert "over 3 seeds and 60 images" in found.verdict
    assert " % (" in found.verdict
    assert "ka" not in found.verdict
    assert found.finished
    assert found.teacher.difference is not None
    assert found.teacher.difference.difference == pytest.approx(big - np.mean(alone))


def test_no_difference_is_claimed_where_none_was_planted(tmp_path: Path) -> None:
    found = load_comparison(plant(tmp_path, {"none": (0.70, 0.71), "kd": (0.71, 0.70)}))
    assert row(found, "kd").verdict == "no difference seen"
    assert found.verdict.startswith("No method is seen to be better than the same student trained alone")
    assert any("two seeds say little" in text for text in found.warnings)


def test_a_worse_method_is_called_worse(tmp_path: Path) -> None:
    found = load_comparison(plant(tmp_path, {"none": GAIN, "kd": ALONE, "ka": GAIN}))
    assert row(found, "kd").verdict == "worse than the student alone"
    assert found.verdict.endswith("Worse than the student alone: kd.")


def test_teacher_that_is_worse_is_said_first(tmp_path: Path) -> None:
    found = load_comparison(plant(tmp_path, {"none": ALONE, "kd": GAIN}, teacher=0.6))
    score = f"{plain_miou(counts(0.6, 999)):.2f}"
    assert found.verdict.startswith(f"The teacher is worse than the student trained alone (mIoU {score} against ")
    assert "kd is better" in found.verdict
    kd = row(found, "kd")
    assert kd.gap is not None
    assert kd.gap.closed is None


def test_teacher_that_is_no_better_is_said_first(tmp_path: Path) -> None:
    found = load_comparison(plant(tmp_path, {"none": ALONE, "kd": GAIN}, teacher=0.701))
    assert found.verdict.startswith("The teacher is not seen to be better than the student trained alone")


def test_one_seed_gives_no_interval_over_seeds(tmp_path: Path) -> None:
    found = load_comparison(plant(tmp_path, {"none": ALONE[:1], "kd": GAIN[:1]}))
    assert row(found, "kd").verdict == "better than the student alone; one seed, no interval over seeds"
    assert "With one seed the intervals say nothing about other seeds" in found.verdict
    assert "over 60 images" in found.verdict
    assert any("with one seed it is unknown" in text for text in found.warnings)
    assert row(found, "kd").miou == Summary((plain_miou(counts(GAIN[0], 10)),))


def test_seeds_are_those_of_the_method_that_is_told_of(tmp_path: Path) -> None:
    """Whatever others have: here ka's cells are still running."""
    found = load_comparison(plant(tmp_path, {"none": ALONE, "kd": GAIN, "ka": (0.699,)}))
    assert "over 3 seeds and 60 images" in found.verdict
    assert "With one seed" not in found.verdict


def test_equal_time(tmp_path: Path) -> None:
    """The gain over the student alone is real, and longer training brings the same."""
    planted = plant(
        tmp_path,
        {"none": ALONE, "none@time": GAIN, "kd": (0.751, 0.754, 0.749)},
        seconds={"none": 10, "none@time": 20, "kd": 20},
    )
    found = load_comparison(planted)
    kd, longer = row(found, "kd"), row(found, "none@time")
    assert kd.verdict == "better than the student alone"
    assert set(kd.against) == {"none@time"}
    assert kd.against["none@time"].verdict == "no difference seen"
    told = "Against the student alone trained for as many seconds as the slowest method, kd is not seen to be better: "
    assert told in found.verdict
    assert longer.verdict == "better than the student alone"
    assert longer.against == {}
    assert found.verdict.startswith("kd is better")  # none@time is no method to be praised
    assert (found.baseline.seconds, kd.seconds) == (10, 20)
    assert not any("none@time" in text for text in found.warnings)


def test_warnings(tmp_path: Path) -> None:
    planted = plant(tmp_path, {"none": ALONE, "kd": GAIN, "ka": GAIN}, seconds={"kd": 25.0}, images=12)
    told = " ".join(load_comparison(planted).warnings)
    assert "12 validation images are few" in told
    assert "2 methods are compared with the student alone" in told
    assert "2.5 times as long as the student alone; add none@time to --methods" in told


def test_scores_besides_miou(tmp_path: Path) -> None:
    plant(tmp_path, {"none": ALONE, "kd": GAIN})
    plant_cell(tmp_path / "cells/kd/seed-1", counts(GAIN[1], 11), connectivity=26.0)
    kd = row(load_comparison(tmp_path), "kd")
    assert kd.connectivity_error == Summary((20.0, 26.0, 20.0))
    assert kd.boundary_iou == Summary((50.0,) * 3)
    assert kd.boundary_f1 == Summary((60.0,) * 3)
    assert (kd.macs, kd.parameters) == (5678, 1234)
    total = counts(GAIN[0], 10).sum(0)
    of_class = kd.iou("roof")
    assert of_class is not None
    assert of_class.runs[0] == pytest.approx(100 * total[1, 1] / (total[1].sum() + total[:, 1].sum() - total[1, 1]))


def test_summary() -> None:
    several = Summary((3.0, 1.0, 5.0))
    assert (several.mean, several.least, several.most) == (3.0, 1.0, 5.0)
    assert several.deviation == pytest.approx(statistics.stdev([3, 1, 5]))
    assert Summary((3.0,)).deviation is None


def test_plain_values(tmp_path: Path) -> None:
    found = load_comparison(plant(tmp_path, {"none": ALONE, "kd": GAIN}))
    back = json.loads(json.dumps(found.as_dict()))
    assert back["verdict"] == found.verdict
    assert [entry["method"] for entry in back["rows"]] == ["none", "kd"]
    kd = back["rows"][1]
    assert kd["difference"]["low"] == pytest.approx(row(found, "kd").difference.low)  # type: ignore[union-attr]
    assert [cell["status"] for cell in kd["cells"]] == ["finished"] * 3
    assert "confusion" not in json.dumps(back)


# ------------------------------------------------------------------------------------------------ half of it


def test_half_finished(tmp_path: Path) -> None:
    plant(tmp_path, {"none": ALONE, "kd": GAIN, "ka": GAIN})
    (tmp_path / "cells/kd/seed-2/metrics.json").unlink()  # still in training
    (tmp_path / "cells/ka/seed-0/evaluation-val.json").unlink()  # trained, not measured
    (tmp_path / "cells/ka/seed-1/confusion-val.safetensors").unlink()
    (tmp_path / "cells/ka/seed-1.error.txt").write_text("the loss became NaN\n")
    found = load_comparison(tmp_path)
    assert not found.finished
    assert found.verdict.startswith("2 runs not finished yet and 1 run failed; what follows is about the others.")
    kd, ka = row(found, "kd"), row(found, "ka")
    assert [cell.status for cell in kd.cells] == ["finished", "finished", "not finished"]
    assert kd.difference is not None
    assert len(kd.difference.candidate.runs) == 2
    assert len(kd.difference.baseline.runs) == 3
    # One run left: it is held against that of its own seed, and no interval over seeds is claimed.
    assert [cell.status for cell in ka.cells] == ["not finished", "failed", "finished"]
    assert ka.difference is not None
    assert ka.difference.baseline.runs == pytest.approx((plain_miou(counts(ALONE[2], 2)),))
    assert ka.verdict == "better than the student alone; one seed, no interval over seeds"
    assert "ka failed with seed 1: the loss became NaN" in found.warnings


def test_nothing_yet(tmp_path: Path) -> None:
    plant(tmp_path, {"none": ALONE, "kd": GAIN}, teacher=None)
    for file in tmp_path.glob("cells/*/*/metrics.json"):
        file.unlink()
    found = load_comparison(tmp_path)
    assert "No method can be compared with the student alone yet" in found.verdict
    assert found.teacher.miou is None
    assert row(found, "kd").verdict == "cannot be told yet"
    assert row(found, "kd").seconds is None
    json.dumps(found.as_dict())


# ------------------------------------------------------------------------------------------------ refusals


def change_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_no_comparison(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is no comparison: it has no plan\.json"):
        load_comparison(tmp_path)


def test_scores_that_are_missing(tmp_path: Path) -> None:
    plant(tmp_path, {"none": ALONE, "kd": GAIN})
    file = tmp_path / "cells/kd/seed-1/evaluation-val.json"
    values = json.loads(file.read_text())
    del values["connectivity"], values["boundary"]
    file.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"kd/seed-1/evaluation-val\.json lacks boundary, connectivity; remove it"):
        load_comparison(tmp_path)


def test_other_classes(tmp_path: Path) -> None:
    plant(tmp_path, {"none": ALONE, "kd": GAIN})
    change_json(tmp_path / "cells/kd/seed-1/evaluation-val.json", iou={"road": 1.0, "roof": 1.0, "car": 1.0})
    with pytest.raises(UserError, match=r"of the classes road, roof, car, but the comparison is of road, roof, tree$"):
        load_comparison(tmp_path)


def test_other_images(tmp_path: Path) -> None:
    plant(tmp_path, {"none": ALONE, "kd": GAIN})
    plant_cell(tmp_path / "cells/kd/seed-1", counts(0.7, 0, images=IMAGES - 1))
    with pytest.raises(UserError, match=r"shape \(59, 3, 3\), expected \(60, 3, 3\): 60 validation images"):
        load_comparison(tmp_path)


def test_other_labels(tmp_path: Path) -> None:
    plant(tmp_path, {"none": ALONE, "kd": GAIN})
    other = counts(0.7, 0)
    other[5, 0, 0] += 1
    plant_cell(tmp_path / "cells/kd/seed-1", other)
    with pytest.raises(UserError, match=r"kd \(seed 1\) was scored on other labels than teacher"):
        load_comparison(tmp_path)


@pytest.mark.parametrize("damage", [b"", b"not safetensors"])
def test_damaged_counts(tmp_path: Path, damage: bytes) -> None:
    plant(tmp_path, {"none": ALONE, "kd": GAIN})
    (tmp_path / "cells/kd/seed-1/confusion-val.safetensors").write_bytes(damage)
    with pytest.raises(UserError, match=r"cannot read .*kd/seed-1/confusion-val\.safetensors.*remove it"):
        load_comparison(tmp_path)


def test_counts_under_another_name(tmp_path: Path) -> None:
    plant(tmp_path, {"none": ALONE, "kd": GAIN})
    save_file({"other": torch.zeros(1)}, tmp_path / "cells/kd/seed-1/confusion-val.safetensors")
    with pytest.raises(UserError, match="holds nothing, expected"):
        load_comparison(tmp_path)


@pytest.mark.parametrize(
    ("text", "told"),
    [("{", "cannot read"), ("[]", "holds a list, expected a mapping"), ("{}", "lacks classes, command, ids")],
)
def test_damaged_plan(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(UserError, match=told):
        load_comparison(tmp_path)


def test_classes_are_those_of_the_plan(tmp_path: Path) -> None:
    found = load_comparison(plant(tmp_path, {"none": ALONE, "kd": GAIN}))
    assert found.classes == CLASSES
    assert found.palette == ((255, 0, 0), (0, 255, 0), (0, 0, 255))
    assert len(found.ids) == IMAGES


def test_an_interpreter_shows_folder_and_verdict(tmp_path: Path) -> None:
    found = load_comparison(plant(tmp_path, {"none": ALONE, "kd": GAIN}))
    assert repr(found) == f"Comparison(folder={str(tmp_path)!r}, verdict={found.verdict!r})"


def test_a_notebook_shows_a_comparison(tmp_path: Path) -> None:
    found = load_comparison(plant(tmp_path, {"none": ALONE, "kd": GAIN}))
    kd = row(found, "kd")
    assert kd.miou is not None
    assert kd.difference is not None
    page = replace(found, warnings=("<b>",), rows=(found.baseline, replace(kd, method="<i>")))._repr_html_()
    assert f"{kd.miou.mean:.2f} ({kd.miou.least:.2f} to {kd.miou.most:.2f})" in page
    assert f"+{kd.difference.difference:.2f} (+{kd.difference.low:.2f} to" in page
    assert "kd is better than the same student trained alone" in page
    assert [text in page for text in ("60 validation images", "&lt;b&gt;", "&lt;i&gt;", ">teacher<")] == [True] * 4
    assert "<b>" not in page
    assert "<i>" not in page
