"""Advice from real runs: what is written, what goes on after a kill, what is refused."""

from __future__ import annotations

import json
import math
import multiprocessing
import shlex
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segdistill import UserError
from segdistill.comparison import advise as module
from segdistill.comparison import cells
from segdistill.comparison.advise import advise
from segdistill.comparison.reading import load_comparison
from tests.comparison.tiny import TRAIN, advise_tiny
from tests.training.runs import FAST, SCENES, STUDENT, contents

pytestmark = pytest.mark.usefixtures("short_report")


@pytest.fixture(scope="module")
def advised(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Iterator[Path]:
    """Three methods over the rungs of 1, 3 and 9 epochs; not to be changed."""
    output = tmp_path_factory.mktemp("advice") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segdistill.comparison.report.write_report", lambda found, path, **_: path.write_text("page"))
        advise_tiny(output, teacher, eta=2)
    return output


# ---------------------------------------------------------------------------------------------- networks, in earnest


def test_what_is_written(advised: Path) -> None:
    values = json.loads((advised / "advice.json").read_text())
    assert [rung["epochs"] for rung in values["rungs"]] == [2, 4, 9]
    assert values["recommended"] in ("none", "kd", "cwd", "kd+cwd")
    for number, kept in ((1, 2), (2, 1), (3, 1)):
        rung = values["rungs"][number - 1]
        comparison = load_comparison(advised / f"rung-{number}")
        assert comparison.finished
        assert comparison.recipe["train"]["epochs"] == rung["epochs"]
        assert {one["method"] for one in rung["standings"]} == {row.method for row in comparison.rows}
        assert sum(one["kept"] for one in rung["standings"]) == kept + 1
        gains = [one["difference"]["difference"] for one in rung["standings"][:-1]]
        assert gains == sorted(gains, reverse=True)
        if number < 3:
            names = {one["method"] for one in rung["standings"] if one["kept"]}
            assert names == {one["method"] for one in values["rungs"][number]["standings"]}
    page = (advised / "report.html").read_text(encoding="utf-8")
    assert "Runs of 9 epochs" in page
    assert "http:" not in page
    assert "https:" not in page


def test_finished_runs_are_never_done_again(advised: Path, teacher: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(advised, tmp_path / "out"))
    before = {file: content for file, content in contents(copy).items() if "cells" in file}
    again = advise_tiny(copy, teacher, eta=2)
    assert {file: content for file, content in contents(copy).items() if "cells" in file} == before
    assert again.as_dict()["recommended"] == json.loads((advised / "advice.json").read_text())["recommended"]


def test_the_command_goes_on_with_it(
    advised: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from segdistill.cli.main import main

    argv = shlex.split(json.loads((advised / "advice.json").read_text())["command"])
    assert argv[:2] == ["segdistill", "advise"]
    before = contents(advised)
    assert main([*argv[1:], "--device", "cpu", "--dry-run"]) == 0
    assert capsys.readouterr().out.count(" 0.0 s") == 4  # three rungs and their sum
    assert contents(advised) == before


def test_dry_run_writes_nothing(tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {"data": SCENES, "teacher": teacher, "student": STUDENT, "device": "cpu", "train": TRAIN}
    methods = "kd,ka,brd,drd,cwd"
    assert advise(**options, methods=methods, output=tmp_path / "out", dry_run=True) is None
    assert list(tmp_path.iterdir()) == []
    printed = capsys.readouterr().out
    for text in (
        "student alone; kd, ka, brd, drd, cwd",
        "student alone; the best 2 of 5",
        "student alone; the best 1 of 5",
    ):
        assert text in printed


def killed_advice(output: Path, teacher: Path) -> None:
    """What a process does until it is killed: it gets no further than the second rung's second run."""
    real = cells.run_distillation

    def waiting(recipe: Any, options: Any) -> Any:
        return time.sleep(600) if "rung-2" in str(options.output) else real(recipe, options)

    cells.__dict__["run_distillation"] = waiting
    module.__dict__["_check_folder"] = lambda folder: None
    advise_tiny(output, teacher, eta=2)


@pytest.mark.slow
def test_goes_on_after_a_kill(tmp_path: Path, teacher: Path, advised: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "segdistill.training.run", "torch.utils.tensorboard"])
    output = tmp_path / "out"
    process = context.Process(target=killed_advice, args=(output, teacher))
    process.start()
    deadline = time.monotonic() + 200
    alone = output / "rung-2" / "cells" / "none" / "seed-0" / "evaluation-val.json"
    while not alone.exists() and time.monotonic() < deadline and process.is_alive():
        time.sleep(0.02)
    process.kill()
    process.join(timeout=60)
    assert process.exitcode == -signal.SIGKILL
    before = {file: content for file, content in contents(output).items() if "cells" in file and "rung-1" in file}
    assert before
    assert not (output / "advice.json").exists()

    found = advise_tiny(output, teacher, eta=2)
    after = contents(output)
    assert {file: after[file] for file in before} == before
    whole = json.loads((advised / "advice.json").read_text())
    assert found.recommended == whole["recommended"]
    for ours, theirs in zip(found.as_dict()["rungs"], whole["rungs"], strict=True):
        for one, other in zip(ours["standings"], theirs["standings"], strict=True):
            assert (one["method"], one["miou"]) == (other["method"], other["miou"])


@pytest.mark.slow
def test_a_method_that_fails_is_left_out(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = cells.run_distillation

    def failing(recipe: Any, options: Any) -> Any:
        if "cwd" in recipe.method[0]:
            raise UserError("it broke")
        return real(recipe, options)

    monkeypatch.setattr(cells, "run_distillation", failing)
    found = advise_tiny(tmp_path / "out", teacher, methods="kd,cwd", train=replace(FAST, epochs=3))
    assert [rung.length for rung in found.rungs] == [1, 3]
    assert found.rungs[0].standings[1].said == "failed: it broke"
    assert "cwd failed in the runs of 1 epoch and was left out: it broke" in found.notes

    monkeypatch.setattr(
        cells, "run_distillation", lambda recipe, options: failing(replace(recipe, method=["cwd"]), options)
    )
    with pytest.raises(UserError, match=r"every method failed in .*rung-1, .*\(kd, seed 0: it broke\)"):
        advise_tiny(tmp_path / "other", teacher, methods="kd,cwd", train=replace(FAST, epochs=3))


# --------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"methods": "none"}, "expected a distillation method to compare with 'none'"),
        ({"methods": "kd,kb"}, "unknown method 'kb'"),
        ({"methods": "kd,kd"}, "which are the same"),
        ({"rungs": 0}, "rungs is 0, expected at least 1"),
        ({"eta": 1}, "eta is 1, expected at least 2"),
        ({"budget": 0.0}, "budget is 0, expected minutes, above 0"),
        ({"budget": math.nan}, "budget is nan, expected minutes, above 0"),
        ({"seeds": 0}, "seeds is 0, expected at least 1"),
        ({"teacher": "nowhere"}, "teacher folder 'nowhere' does not exist"),
        ({"teacher_cache": "cache"}, "teacher_cache needs views"),
        ({"device": "cuda:77"}, "device 'cuda:77' is not available here"),
        ({"data": {"dataset": "folder"}}, "the key 'root' is missing"),
    ],
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_bad_input_writes_nothing(
    tmp_path: Path, teacher: Path, change: dict[str, Any], told: str, dry_run: bool
) -> None:
    with pytest.raises(UserError) as error:
        advise_tiny(tmp_path / "out", **{"teacher": teacher, "dry_run": dry_run} | change)
    assert told in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_folders_that_hold_something_else(tmp_path: Path, teacher: Path, advised: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file, expected a folder"):
        advise_tiny(tmp_path / "file", teacher)
    with pytest.raises(UserError, match="is not empty and holds no advice"):
        advise_tiny(tmp_path, teacher)
    with pytest.raises(UserError, match=r"rung-1 already holds a comparison"):
        advise_tiny(advised, teacher, eta=2, resume=False)
    with pytest.raises(UserError, match=r"train\.lr was 0\.003, now 0\.5"):
        advise_tiny(advised, teacher, eta=2, train=replace(TRAIN, lr=0.5))
