"""A dry run: what it says is true, and it leaves nothing behind."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import segdistill
from segdistill import load_run
from segdistill.cli.main import main
from segdistill.errors import UserError
from segdistill.networks.size import count_macs, count_parameters
from segdistill.training import dry_run as module
from segdistill.training import run as fit
from segdistill.training.dry_run import DryRun
from segdistill.training.step import Step, Terms
from tests.datasets.trees import folder_tree
from tests.training.runs import FAST, SCENES, STUDENT, fingerprint, train_tiny


def everything(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[DryRun]:
    """What dry runs have found."""
    found: list[DryRun] = []

    def noted(*arguments: Any) -> DryRun:
        found.append(module.dry_run(*arguments))
        return found[-1]

    monkeypatch.setattr(fit, "dry_run", noted)
    monkeypatch.setenv("COLUMNS", "160")
    return found


def dry(output: Path, **options: Any) -> None:
    kind = segdistill.distill if "teacher" in options else segdistill.train
    common: dict[str, Any] = {"data": SCENES, "train": FAST, "device": "cpu", "dry_run": True}
    common |= {"student": STUDENT} if "teacher" in options else {"network": STUDENT}
    run = kind(output=output, **(common | options))
    assert run.path == output


def test_a_network_alone(tmp_path: Path, seen: list[DryRun], capsys: pytest.CaptureFixture[str]) -> None:
    dry(tmp_path / "run")
    assert not everything(tmp_path)
    rows = {(part, what): text for part, what, text in seen[0].rows}
    assert rows["data", "set"] == "synthetic-aerial"
    assert rows["data", "train"] == "5 images, the first 32 x 32; crops of 32 x 32"
    assert rows["data", "val"] == "5 images"
    assert rows["data", "classes"].startswith("6: impervious surfaces, building, ")
    assert rows["data", "epoch"] == "2 steps of 2 images"
    assert rows["network", "network"] == STUDENT
    network = segdistill.load_network(STUDENT, num_classes=6)
    macs = count_macs(network, (32, 32))
    assert rows["network", ""] == (
        f"{count_parameters(network) / 1e6:.2f} M parameters, {macs / 1e6:.3f} M MACs at 32 x 32"
    )
    assert set(seen[0].terms) == {"task"}
    assert seen[0].epoch_seconds == pytest.approx(2 * seen[0].step_seconds)
    printed = capsys.readouterr().out
    assert "dry run: nothing was written" in printed
    for _, what, text in seen[0].rows:
        assert what in printed
        assert text.split(",")[0] in printed


def test_its_first_step_is_the_runs(
    tmp_path: Path, teacher: Path, seen: list[DryRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss terms that are shown are those that a run with this recipe begins with."""
    options = {"teacher": teacher, "method": ["kd", {"brd": {"boundary": 2.0}}]}
    dry(tmp_path / "dry", **options)
    first: list[dict[str, float]] = []
    step = Step.__call__

    def noted(self: Step, batches: Any) -> list[Terms]:
        parts = step(self, batches)
        first.append({name: float(value) for name, value in parts[-1].items()})
        return parts

    monkeypatch.setattr(Step, "__call__", noted)
    segdistill.distill(
        data=SCENES, train=FAST, device="cpu", student=STUDENT, output=tmp_path / "run", quiet=True, **options
    )
    assert seen[0].terms == first[0]
    rows = {(part, what): text for part, what, text in seen[0].rows}
    assert set(seen[0].terms) == {"task", "kd", "brd.boundary", "brd.relation", "brd.kd"}
    assert rows["network", "teacher"] == str(teacher)
    assert rows["network", "student"] == STUDENT
    assert "boundary 2.0, relation 10.0" in rows["method", "brd"]
    assert f"{count_parameters(load_run(teacher)) / 1e6:.2f} M parameters" in " ".join(
        text for part, _, text in seen[0].rows if part == "network"
    )


def test_estimates_add_up(tmp_path: Path, teacher: Path, seen: list[DryRun], monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that stands still but in steps, the pre-stage and the validation."""
    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])

    def taking(function: Any, seconds: list[float]) -> Any:
        def work(*arguments: Any, **named: Any) -> Any:
            now[0] += seconds.pop(0) if len(seconds) > 1 else seconds[0]
            return function(*arguments, **named)

        return work

    monkeypatch.setattr(Step, "__call__", taking(Step.__call__, [50.0, 3.0, 9.0, 4.0]))
    monkeypatch.setattr(segdistill.Distiller, "prepare", taking(segdistill.Distiller.prepare, [7.0]))
    monkeypatch.setattr("segdistill.training.dry_run._time_validation", lambda *_: 10.0)
    settings = replace(FAST, epochs=5, validate_every=2)
    dry(tmp_path / "run", teacher=teacher, method="ka", train=settings)
    # 2 steps in an epoch, the median of 3, 9 and 4 seconds each; 3 validations; 2 batches of the pre-stage.
    assert seen[0].step_seconds == 4.0
    assert seen[0].epoch_seconds == 8.0
    assert seen[0].total_seconds == 5 * 8 + 3 * 10 + 2 * 7
    rows = {(part, what): text for part, what, text in seen[0].rows}
    assert rows["time", "step"] == "4.000 s, 0.5 images/s (3.000 to 9.000 s)"
    assert rows["time", "pre-stage"] == "about 14 s"
    assert rows["time", "in all"] == "about 84 s for 5 epochs with 3 validations"


def test_peak_memory_is_that_of_the_process(tmp_path: Path, seen: list[DryRun]) -> None:
    dry(tmp_path / "run")
    peak = seen[0].peak_bytes
    assert peak is not None
    assert 100e6 < peak < 100e9  # torch alone takes more than the one, and no test the other


def test_weights_found_by_measuring(tmp_path: Path, teacher: Path, seen: list[DryRun]) -> None:
    dry(tmp_path / "run", teacher=teacher, method="kd", loss_weights="auto")
    assert set(seen[0].terms) == {"task", "kd"}
    assert not everything(tmp_path)


def test_accumulated_batches_and_averaged_weights(tmp_path: Path, seen: list[DryRun]) -> None:
    dry(tmp_path / "run", train=replace(FAST, accumulate=2, ema=0.99, batch_size=4))
    assert ("data", "epoch", "1 step of 4 images") in seen[0].rows
    assert seen[0].epoch_seconds == seen[0].step_seconds > 0


def test_folders_that_a_run_would_fill_stay_away(tmp_path: Path, teacher: Path, seen: list[DryRun]) -> None:
    root = folder_tree(tmp_path / "data", {"train": 4, "val": 2}, classes=6)
    data = {"dataset": "folder", "root": str(root), "classes": list("abcdef"), "crop": [16, 16]}
    before = everything(tmp_path)
    folders = {"decoded_cache": str(tmp_path / "kept"), "tiled_copy": str(tmp_path / "tiles")}
    dry(tmp_path / "run", data=data | folders)
    dry(tmp_path / "run", data=data | folders, teacher=teacher, views=2, teacher_cache=tmp_path / "said")
    dry(tmp_path / "run", data=data | {"decoded_cache": "ram"})
    assert len(seen) == 3
    assert everything(tmp_path) == before


def test_a_run_that_is_there_stays_as_it_is(tmp_path: Path, seen: list[DryRun]) -> None:
    run = train_tiny(tmp_path / "run", epochs=1)
    before = {path: path.stat().st_mtime_ns for path in everything(tmp_path)}, fingerprint(run)
    with pytest.raises(UserError, match="already holds a run"):
        dry(tmp_path / "run")
    dry(tmp_path / "run", overwrite=True)
    assert ({path: path.stat().st_mtime_ns for path in everything(tmp_path)}, fingerprint(run)) == before
    assert len(seen) == 1


def test_what_would_stop_the_run_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="unknown network"):
        dry(tmp_path / "run", network="nonsense")

    def full(self: Step, batches: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Step, "__call__", full)
    with pytest.raises(UserError, match=r"cpu has too little memory for batches of 2 crops of 32 x 32: try"):
        dry(tmp_path / "run")
    assert not everything(tmp_path)


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.yaml"
    train = {"epochs": 3, "batch_size": 2, "precision": "fp32", "workers": 0}
    recipe.write_text(yaml.safe_dump({"data": SCENES, "network": STUDENT, "train": train}))
    command = ["train", str(recipe), "--output", str(tmp_path / "run"), "--device", "cpu"]
    assert main([*command, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"in all\s+│ about .* for 3 epochs with 3\s", printed)
    assert everything(tmp_path) == {recipe}
    assert main([*command, "--dry-run", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert main([*command, "--dry-run", "false", "--quiet", "--train.epochs", "1"]) == 0
    assert (tmp_path / "run" / "metrics.json").is_file()
