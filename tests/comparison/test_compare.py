from __future__ import annotations

import csv
import json
import multiprocessing
import shutil
import signal
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segdistill import RunFolder, UserError
from segdistill.comparison import cells
from segdistill.comparison import compare as module
from segdistill.comparison.compare import compare
from segdistill.comparison.methods import parse_methods
from segdistill.comparison.reading import load_comparison
from segdistill.comparison.results import Comparison, Row
from segdistill.evaluation.evaluate import measure
from segdistill.metrics.scores import scores_from_confusion
from segdistill.networks.loading import load_network
from segdistill.recipe.data import build_split
from segdistill.training.callbacks.stop_signals import Stopped
from tests.datasets.trees import folder_tree
from tests.training.runs import FAST, SCENES, STUDENT, TEACHER, contents, distill_tiny, fingerprint, train_tiny


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tiny(tmp_path_factory.mktemp("teacher") / "run", TEACHER, epochs=1).path


def compare_tiny(output: Path, teacher: Path, **options: Any) -> Comparison:
    found = compare(
        **{  # type: ignore[arg-type]
            "data": SCENES,
            "teacher": teacher,
            "student": STUDENT,
            "output": output,
            "methods": "none,kd",
            "seeds": 1,
            "train": FAST,
            "device": "cpu",
            "quiet": True,
        }
        | options
    )
    assert found is not None
    return found


@pytest.fixture(autouse=True)
def short_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page has tests of its own, and takes longer than all the rest."""

    def write(comparison: Comparison, path: Path, **_: Any) -> None:
        path.write_text(comparison.verdict)

    monkeypatch.setattr("segdistill.comparison.report.write_report", write)


def row(found: Comparison, method: str) -> Row:
    return next(row for row in found.rows if row.method == method)


def cell(output: Path, method: str, seed: int = 0) -> Path:
    return output / "cells" / method / f"seed-{seed}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Path:
    """none and kd with two seeds; not to be changed."""
    output = tmp_path_factory.mktemp("compare") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segdistill.comparison.report.write_report", lambda found, path, **_: path.write_text("page"))
        compare_tiny(output, teacher, seeds=2)
    return output


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "out"))


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
    for heading in ("mIoU", "minus none", "gap closed", "BIoU", "connect.", "train s", "verdict"):
        assert heading in printed
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


# ------------------------------------------------------------------------------------------------ going on


def test_finished_cells_are_never_done_again(copy: Path, teacher: Path) -> None:
    before = {method: contents(cell(copy, method, seed)) for method in ("none", "kd") for seed in (0, 1)}
    found = compare_tiny(copy, teacher, methods="none,kd,cwd", seeds=3)
    assert {method: contents(cell(copy, method, seed)) for method in ("none", "kd") for seed in (0, 1)} == before
    assert [len(one.finished) for one in found.rows] == [3, 3, 3]


def test_the_command_makes_it_again(finished: Path, tmp_path: Path, teacher: Path) -> None:
    import shlex

    from segdistill.cli.main import main

    argv = shlex.split(load_comparison(finished).command)
    assert argv[:2] == ["segdistill", "compare"]
    argv[argv.index("--output") + 1] = str(tmp_path / "again")
    assert main([*argv[1:], "--device", "cpu", "--quiet"]) == 0
    assert fingerprint(cell(tmp_path / "again", "kd", 1)) == fingerprint(cell(finished, "kd", 1))


def long_comparison(output: Path, teacher: Path) -> None:
    compare_tiny(output, teacher, methods="none,kd,brd", seeds=2, train=replace(FAST, epochs=10))


def killed_comparison(output: Path, teacher: Path) -> None:
    """What a process does until it is killed."""
    module.__dict__["load_comparison"] = lambda folder: time.sleep(600)  # it shall be killed, not end
    long_comparison(output, teacher)


@pytest.mark.slow
def test_goes_on_after_a_kill(tmp_path: Path, teacher: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "segdistill.training.run", "torch.utils.tensorboard"])
    output = tmp_path / "out"
    process = context.Process(target=killed_comparison, args=(output, teacher))
    process.start()
    # In the middle of the second cell, the first being finished.
    deadline = time.monotonic() + 200
    while not (cell(output, "kd") / "history.csv").exists() and time.monotonic() < deadline and process.is_alive():
        time.sleep(0.005)
    process.kill()
    process.join(timeout=60)
    assert process.exitcode == -signal.SIGKILL
    half = load_comparison(output)
    assert not half.finished
    assert [len(one.finished) for one in half.rows] == [1, 0, 0]
    first = contents(cell(output, "none"))
    begun = (cell(output, "kd") / "history.csv").read_text().count("\n") - 1
    assert 1 <= begun < 10

    long_comparison(output, teacher)
    long_comparison(tmp_path / "whole", teacher)
    assert contents(cell(output, "none")) == first
    for method in ("none", "kd", "brd"):
        for seed in (0, 1):
            assert fingerprint(cell(output, method, seed)) == fingerprint(cell(tmp_path / "whole", method, seed))


def test_a_stopped_cell_stops_the_comparison(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise Stopped(signal.SIGINT, "epoch 1")

    monkeypatch.setattr(cells, "distill", stopped)
    with pytest.raises(KeyboardInterrupt):
        compare_tiny(tmp_path / "out", teacher)
    assert load_comparison(tmp_path / "out").finished is False
    assert not list((tmp_path / "out").glob("cells/*/*.error.txt"))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (UserError("the loss became NaN"), "the loss became NaN"),
        pytest.param(ZeroDivisionError("float\ndivision"), "ZeroDivisionError: float division", marks=pytest.mark.slow),
    ],
)
def test_a_failed_cell_is_listed(
    tmp_path: Path,
    teacher: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    told: str,
) -> None:
    real = cells.distill

    def failing(recipe: Any, options: Any) -> RunFolder:
        if recipe.seed == 0 and "kd" in recipe.method[0]:
            raise error
        return real(recipe, options)

    monkeypatch.setattr(cells, "distill", failing)
    found = compare_tiny(tmp_path / "out", teacher, methods="none,kd,cwd", seeds=2, quiet=False)
    assert f"kd, seed 0 failed: {told}" in capsys.readouterr().out
    assert [one.status for one in row(found, "kd").cells] == ["failed", "finished"]
    assert row(found, "kd").cells[0].error == told
    assert len(row(found, "cwd").finished) == 2
    assert "1 run failed; what follows is about the others." in found.verdict
    assert f"kd failed with seed 0: {told}" in found.warnings
    monkeypatch.setattr(cells, "distill", real)
    found = compare_tiny(tmp_path / "out", teacher, methods="none,kd,cwd", seeds=2)
    assert found.finished
    assert not any("failed" in text for text in (*found.warnings, found.verdict))


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
    assert printed.count("finished cells") == 2
    assert printed.count("a few steps") == 1
    assert contents(finished) == before


# ------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("methods", "told"),
    [
        ("kd,brd", "lacks 'none', the same student trained alone"),
        ("none", "expected a distillation method to compare with 'none'"),
        ("none,none@time", "expected a distillation method"),
        ("none,kb", "unknown method 'kb': did you mean"),
        ("none,kd+none", "unknown method 'none'"),
        ("none,,kd", "unknown method ''"),
        ("none,kd,kd", "holds 'kd' and 'kd', which are the same"),
        ("none,kd+brd,brd+kd", "holds 'kd+brd' and 'brd+kd', which are the same"),
        ("none,kd+kd", "holds 'kd+kd', which names a method twice"),
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
