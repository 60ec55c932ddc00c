"""A comparison: its cells are runs of train and distill, its table, its plateau, its dry run."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segdistill import RunFolder, UserError
from segdistill.comparison.compare import compare
from segdistill.comparison.reading import load_comparison
from segdistill.evaluation.evaluate import measure
from segdistill.metrics.scores import scores_from_confusion
from segdistill.networks.loading import load_network
from segdistill.recipe.data import build_split
from tests.comparison.tiny import cell, compare_tiny, row
from tests.training.runs import FAST, SCENES, STUDENT, contents, distill_tiny, fingerprint, train_tiny

pytestmark = pytest.mark.usefixtures("short_report")

# ------------------------------------------------------------------------------------------------ one experiment


def test_cells_are_the_runs_of_train_and_distill(finished: Path, teacher: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        alone = train_tiny(tmp_path / f"alone{seed}", seed=seed)
        distilled = distill_tiny(tmp_path / f"kd{seed}", teacher, seed=seed, method="kd")
        assert fingerprint(cell(finished, "none", seed)) == fingerprint(alone)
        assert fingerprint(cell(finished, "kd", seed)) == fingerprint(distilled)
        assert RunFolder(cell(finished, "none", seed)).read_config() == alone.read_config()
        assert RunFolder(cell(finished, "kd", seed)).read_config() == distilled.read_config()


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"views": 2}, marks=pytest.mark.slow),
        {"views": 2, "teacher_cache": "cache"},
    ],
)
def test_only_the_method_differs(tmp_path: Path, teacher: Path, options: dict[str, Any]) -> None:
    """Distillation of weight 0 is the student alone, bit by bit: same start, same batches, same chance."""
    if "teacher_cache" in options:
        options = options | {"teacher_cache": tmp_path / "cache"}
    found = compare_tiny(tmp_path / "out", teacher, seeds=2, method={"kd": {"weight": 0.0}}, **options)
    for seed in (0, 1):
        assert fingerprint(cell(tmp_path / "out", "kd", seed)) == fingerprint(cell(tmp_path / "out", "none", seed))
    kd = row(found, "kd")
    assert kd.difference is not None
    assert kd.difference.difference == 0
    assert kd.verdict == "no difference seen"
    if "teacher_cache" in options:
        assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["seed-0", "seed-1"]
        assert any("teacher cache" in text for text in found.warnings)


def test_views_change_the_student_alone(tmp_path: Path, teacher: Path, finished: Path) -> None:
    """The guard of the test above: in other views the student would have become another one."""
    compare_tiny(tmp_path / "out", teacher, views=1)
    assert fingerprint(cell(tmp_path / "out", "none")) != fingerprint(cell(finished, "none"))


def test_hyper_parameters_and_combinations(tmp_path: Path, teacher: Path) -> None:
    compare_tiny(tmp_path / "out", teacher, methods="none,kd+cwd", method={"kd": {"temperature": 3.0}, "brd": {}})
    distilled = distill_tiny(tmp_path / "run", teacher, method={"kd": {"temperature": 3.0}, "cwd": {}})
    assert fingerprint(cell(tmp_path / "out", "kd+cwd")) == fingerprint(distilled)


def test_one_method_with_several_hyper_parameters(tmp_path: Path, teacher: Path) -> None:
    """Those behind a name are put on those of the recipe, and are part of the name everywhere."""
    out, given = tmp_path / "out", {"kd": {"temperature": 3.0}}
    compare_tiny(out, teacher, methods="none,kd,kd?weight=2&temperature=1.5+cwd", method=given)
    found = compare_tiny(out, teacher, methods="none,kd,kd?weight=2&temperature=1.5+cwd", method=given)
    assert [row.method for row in found.rows] == ["none", "kd", "kd?weight=2&temperature=1.5+cwd"]
    assert sorted(path.name for path in (out / "cells").iterdir()) == ["kd", "kd,weight=2,temperature=1.5+cwd", "none"]
    method = {"kd": {"weight": 2.0, "temperature": 1.5}, "cwd": {}}
    distilled = distill_tiny(tmp_path / "run", teacher, method=method)
    assert fingerprint(cell(out, "kd,weight=2,temperature=1.5+cwd")) == fingerprint(distilled)
    of_recipe = distill_tiny(tmp_path / "other", teacher, method=given)
    assert fingerprint(cell(out, "kd")) == fingerprint(of_recipe)


def test_what_is_written(finished: Path, teacher: Path) -> None:
    found = load_comparison(finished)
    assert found.finished
    saved = json.loads((finished / "comparison.json").read_text())
    assert saved == json.loads(json.dumps(found.as_dict()))
    assert (finished / "report.html").exists()
    for folder, network in (
        (cell(finished, "kd", 1), load_network(str(cell(finished, "kd", 1)))),
        (finished / "teacher", load_network(str(teacher))),
    ):
        scores = measure(network, build_split(SCENES, "val"))
        evaluation = json.loads((folder / "evaluation-val.json").read_text())
        assert evaluation["miou"] == pytest.approx(scores.miou)
        assert evaluation["connectivity"]["error"] == pytest.approx(scores.connectivity.error)
        assert evaluation["boundary"]["mean_boundary_iou"] == pytest.approx(scores.boundary.mean_boundary_iou)
    kd = row(found, "kd")
    counts = kd.cells[1].confusion
    assert counts is not None
    assert counts.shape == (5, 6, 6)
    assert kd.miou is not None
    assert kd.miou.runs[1] == pytest.approx(scores_from_confusion(counts.sum(0), found.classes).miou)
    assert kd.seconds == pytest.approx(np.mean([seconds(cell(finished, "kd", seed)) for seed in (0, 1)]))
    assert kd.parameters == sum(p.numel() for p in load_network(str(cell(finished, "kd"))).parameters())


def seconds(run: Path) -> float:
    with (run / "history.csv").open(newline="") as file:
        return sum(float(line["seconds"]) for line in csv.DictReader(file))


def test_table(finished: Path, teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = compare_tiny(finished, teacher, seeds=2, quiet=False)
    printed = capsys.readouterr().out
    for heading in ("mIoU", "gain over", "gap closed", "boundary IoU", "connectivity", "training s", "verdict"):
        assert heading in printed
    assert "in commands: none = student alone" in printed
    assert re.search(r"^ student alone +\d", printed, re.MULTILINE)
    assert "no difference seen" in printed
    assert " ".join(found.verdict.split()) in " ".join(printed.split())
    for warning in found.warnings:
        assert f"note: {' '.join(warning.split())}" in " ".join(printed.split())


# ------------------------------------------------------------------------------------------------ equal time


def test_equal_time(copy: Path, teacher: Path) -> None:
    """kd took four times as long, so the student alone gets four times the epochs, its schedule stretched over them."""
    for seed in (0, 1):
        for method, each in (("none", 0.5), ("kd", 2.0)):
            file = cell(copy, method, seed) / "history.csv"
            with file.open(newline="") as opened:
                lines = list(csv.DictReader(opened))
            with file.open("w", newline="") as opened:
                writer = csv.DictWriter(opened, list(lines[0]))
                writer.writeheader()
                writer.writerows(line | {"seconds": str(each)} for line in lines)
    found = compare_tiny(copy, teacher, methods="none,none@time,kd", seeds=2)
    longer = row(found, "none@time")
    assert [one.epochs for one in longer.cells] == [12, 12]
    assert RunFolder(cell(copy, "none@time")).read_config()["train"] == asdict(replace(FAST, epochs=12))
    assert found.baseline.seconds == pytest.approx(1.5)
    assert longer.difference is not None
    kd = row(found, "kd")
    assert kd.against["none@time"]
    # It is left as it is, whatever takes how long now.
    before = contents(cell(copy, "none@time"))
    compare_tiny(copy, teacher, methods="none,none@time,kd", seeds=2)
    assert contents(cell(copy, "none@time")) == before


def test_the_plateau_of_the_student_alone(tmp_path: Path, teacher: Path) -> None:
    """Real runs: their epochs, schedules and scores are those of plateau.json, and each method is held against them."""
    short = replace(FAST, epochs=1)
    found = compare_tiny(tmp_path / "out", teacher, methods="none,kd,none@plateau", train=short)
    kept = json.loads((tmp_path / "out" / "plateau.json").read_text())
    assert row(found, "none@plateau").cells[0].epochs == kept["epochs"]
    assert row(found, "none@plateau").miou.mean == pytest.approx(max(kept["miou"].values()))
    assert set(row(found, "kd").against) == {"none@plateau"}


# ------------------------------------------------------------------------------------------------ dry run


def test_dry_run_writes_nothing(tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {"data": SCENES, "teacher": teacher, "student": STUDENT, "train": FAST, "device": "cpu"}
    methods = "none,none@time,ka,kd+brd"
    assert compare(**options, output=tmp_path / "out", methods=methods, dry_run=True) is None
    assert list(tmp_path.iterdir()) == []
    printed = capsys.readouterr().out
    for method in methods.split(","):
        assert method in printed
    assert printed.count("a few steps") == 3
    assert "the slowest method" in printed


def test_dry_run_of_what_is_half_done(finished: Path, teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(finished)
    options: dict[str, Any] = {"data": SCENES, "teacher": teacher, "student": STUDENT, "train": FAST, "device": "cpu"}
    compare(**options, output=finished, methods="none,kd,cwd", seeds=3, dry_run=True)
    printed = capsys.readouterr().out
    assert printed.count("finished runs") == 2
    assert printed.count("a few steps") == 1
    assert contents(finished) == before


# ------------------------------------------------------------------------------------------------ ray


@pytest.mark.slow
def test_on_ray(tmp_path: Path, teacher: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers at once, and the cells are those of one after another."""
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        found = compare_tiny(tmp_path / "out", teacher, seeds=2, executor="ray")
        with pytest.raises(UserError, match="one cell takes 3 CPUs, but the Ray cluster has 2 in all"):
            compare_tiny(tmp_path / "other", teacher, seeds=2, executor="ray", cpus_per_cell=3)
    finally:
        ray.shutdown()
    assert found.finished
    for method in ("none", "kd"):
        for seed in (0, 1):
            assert fingerprint(cell(tmp_path / "out", method, seed)) == fingerprint(cell(finished, method, seed))
