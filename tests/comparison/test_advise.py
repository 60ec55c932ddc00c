from __future__ import annotations

import json
import math
import multiprocessing
import shlex
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segdistill import DistillRecipe, UserError
from segdistill.comparison import advise as module
from segdistill.comparison import cells
from segdistill.comparison.advice import Advice, rung_lengths
from segdistill.comparison.advise import advise
from segdistill.comparison.cost import CellCost
from segdistill.comparison.options import CompareOptions
from segdistill.comparison.reading import load_comparison
from segdistill.comparison.results import Comparison
from segdistill.methods import METHODS
from tests.comparison.planted import plant
from tests.training.runs import FAST, SCENES, STUDENT, TEACHER, contents, train_tiny

TRAIN = replace(FAST, epochs=9)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tiny(tmp_path_factory.mktemp("teacher") / "run", TEACHER, epochs=1).path


def advise_tiny(output: Path, teacher: Path, **options: Any) -> Advice:
    given: dict[str, Any] = {"data": SCENES, "teacher": teacher, "student": STUDENT, "output": output}
    given |= {"methods": "kd,cwd,kd+cwd", "train": TRAIN, "device": "cpu", "quiet": True}
    found = advise(**given | options)
    assert found is not None
    return found


@pytest.fixture(autouse=True)
def short_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page of a comparison has tests of its own, and takes longer than all the rest."""
    monkeypatch.setattr("segdistill.comparison.report.write_report", lambda found, path, **_: path.write_text("page"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Iterator[Path]:
    """Three methods over the rungs of 1, 3 and 9 epochs; not to be changed."""
    output = tmp_path_factory.mktemp("advice") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segdistill.comparison.report.write_report", lambda found, path, **_: path.write_text("page"))
        advise_tiny(output, teacher, eta=2)
    return output


# ---------------------------------------------------------------------------------------- planted scores, no network


class Planted:
    """Stands in for `compare`: every method has its planted share of right pixels, whatever the epochs."""

    def __init__(self, rights: Mapping[str, float], seconds: Mapping[str, float], big: float, monkeypatch: Any) -> None:
        self.rights, self.seconds, self.big = rights, seconds, big
        self.calls: list[tuple[int, tuple[str, ...]]] = []
        monkeypatch.setattr(module, "compare", self)

    def __call__(self, recipe: DistillRecipe, options: CompareOptions) -> Comparison:
        names, length = options.methods, recipe.train.length
        assert isinstance(options.seeds, list)
        seeds = options.seeds
        self.calls.append((length, tuple(names)))
        # Two runs of one method differ by chance alone.
        rights = {name: [self.rights[name] + 0.002 * (seed % 2) for seed in seeds] for name in names}
        seconds = {name: length * self.seconds.get(name, 1.0) for name in names}
        folder = plant(Path(options.output), rights, teacher=self.big, seconds=seconds)
        for file in folder.glob("cells/*/*/metrics.json"):
            file.write_text(json.dumps({recipe.train.unit: length}))
        return load_comparison(folder)


def planted(
    monkeypatch: pytest.MonkeyPatch,
    output: Path,
    teacher: Path,
    rights: Mapping[str, float],
    seconds: Mapping[str, float] | None = None,
    big: float = 0.9,
    **options: Any,
) -> tuple[Advice, Planted]:
    stand_in = Planted(rights, seconds or {}, big, monkeypatch)
    monkeypatch.setattr(
        module, "cell_cost", lambda recipe, name, device: CellCost(0.0, (seconds or {}).get(name, 1.0), 1)
    )
    options = {"methods": [name for name in rights if name != "none"]} | options
    return advise_tiny(output, teacher, **options), stand_in


FIVE = {"none": 0.70, "kd": 0.70, "ka": 0.69, "brd": 0.76, "drd": 0.72, "cwd": 0.71}


def test_a_planted_gain_is_recommended(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, stand_in = planted(monkeypatch, tmp_path / "out", teacher, FIVE, seeds=3)
    # One in three goes on, rounded up; the student alone is in every rung.
    assert stand_in.calls == [
        (1, ("none", "kd", "ka", "brd", "drd", "cwd")),
        (3, ("none", "brd", "drd")),
        (9, ("none", "brd")),
    ]
    assert found.recommended == "brd"
    assert found.text.startswith("Train with brd: it is better than the same student trained alone, +")
    assert "over 3 seeds and 60 images, after 9 epochs each" in found.text
    best = found.rungs[-1].best
    assert best.difference is not None
    assert best.difference.low > 0
    assert [one.method for one in found.rungs[0].standings] == ["brd", "drd", "cwd", "kd", "ka", "none"]
    assert found.rungs[0].kept == ("brd", "drd")
    assert {one.method: one.said for one in found.rungs[0].standings}["ka"] == "left out"
    assert any("chosen on the same validation images" in note for note in found.notes)


def test_no_gain_is_recommended_where_none_was_planted(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _ = planted(monkeypatch, tmp_path / "out", teacher, {"none": 0.70, "kd": 0.701, "cwd": 0.70})
    best = found.rungs[-1].best.difference
    assert best is not None
    assert best.low < 0 < best.high
    assert found.recommended == "none"
    assert found.text.startswith("Train the student alone: no difference to ")
    assert "plain training does as well" in found.text
    assert "With one seed the intervals say nothing about other seeds" in found.text
    # The one that was left out might as well have gone on, and that is told.
    assert any("was left out, though its difference to" in note for note in found.notes)


def test_a_loss_is_not_recommended(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = planted(monkeypatch, tmp_path / "out", teacher, {"none": 0.76, "kd": 0.70}, big=0.74)
    assert found.recommended == "none"
    assert found.text.startswith("The teacher is worse than the student trained alone")
    assert "Train the student alone: kd, the best of the methods, is worse, -" in found.text


def test_equal_time_has_the_last_word(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rights = {"none": 0.70, "kd": 0.75, "cwd": 0.71, "none@time": 0.75}
    found, stand_in = planted(monkeypatch, tmp_path / "out", teacher, rights)
    assert stand_in.calls[0] == (1, ("none", "kd", "cwd"))
    assert stand_in.calls[-1] == (9, ("none", "kd", "none@time"))
    assert found.recommended == "none@time"
    assert "Train the student alone, for longer: kd is better at equal epochs, +" in found.text
    found, _ = planted(monkeypatch, tmp_path / "other", teacher, rights | {"none@time": 0.71})
    assert found.recommended == "kd"
    assert "Against the student alone trained for as long in seconds, kd is better too: +" in found.text


def test_steps_that_are_no_whole_epochs_are_kept(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Five images in batches of two: two steps an epoch."""
    rights, train = {"none": 0.70, "kd": 0.75, "cwd": 0.71}, replace(FAST, epochs=None, steps=9)
    found, stand_in = planted(monkeypatch, tmp_path / "out", teacher, rights, train=train, budget=1.0, quiet=False)
    assert [length for length, _ in stand_in.calls] == [1, 9]  # of two methods one is left after the first rung
    assert "after 9 steps each" in found.text
    assert [rung["steps"] for rung in found.as_dict()["rungs"]] == [1, 9]
    assert "Runs of 9 steps" in (tmp_path / "out" / "report.html").read_text()
    assert "kd, cwd, 1 step" in capsys.readouterr().out


def test_a_budget_ends_it_with_what_was_seen(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rungs of 6 x 60 s, 3 x 180 s and 2 x 540 s: 6, 15 and 33 minutes in all."""
    minutes = dict.fromkeys(FIVE, 60.0)
    found, stand_in = planted(monkeypatch, tmp_path / "out", teacher, FIVE, minutes, budget=32.9)
    assert [epochs for epochs, _ in stand_in.calls] == [1, 3]
    assert found.recommended == "brd"
    told = "the budget of 32.9 min ended it after 15 min: 2 runs of 9 epochs would take about 18 min more"
    assert found.notes[0] == told
    assert "The recipe has 9 epochs, which were not reached" in found.text
    found, stand_in = planted(monkeypatch, tmp_path / "more", teacher, FIVE, minutes, budget=33.1)
    assert [epochs for epochs, _ in stand_in.calls] == [1, 3, 9]
    assert "not reached" not in found.text
    with pytest.raises(UserError, match="budget is 5 min, but in the first rung 6 runs of 1 epoch would take"):
        planted(monkeypatch, tmp_path / "none", teacher, FIVE, minutes, budget=5.0)
    assert not (tmp_path / "none").exists()


def test_what_was_found_is_not_given_up_to_a_smaller_budget(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    minutes = dict.fromkeys(FIVE, 60.0)
    planted(monkeypatch, tmp_path / "out", teacher, FIVE, minutes)
    found, _ = planted(monkeypatch, tmp_path / "out", teacher, FIVE, minutes, budget=1.0)
    assert len(found.rungs) == 3


LOGIT = ("dist", "dkd", "lskd", "rdd")


@pytest.mark.parametrize(
    ("best", "kin"),
    [
        ("kd", LOGIT),
        ("cwd", LOGIT),
        ("drd", ("ifvd", "dsd", "cirkd", "idd")),
        ("feature", ("ka", "reviewkd", "mgd", "maskd", "afdcd", "attnfd")),
        ("brd", ("bpkd",)),
    ],
)
def test_the_best_family_is_looked_at_more_closely(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch, best: str, kin: tuple[str, ...]
) -> None:
    """No methods named: eight in the first rung, of which 3 stay, then 1, for which those of the family compete."""
    first = ("auto", "kd", "cwd", "feature", "at", "drd", "skd", "brd")
    rights = dict.fromkeys(("none", *METHODS), 0.70) | {best: 0.73, "kd" if best != "kd" else "cwd": 0.72, "skd": 0.71}
    rights[kin[-1]] = 0.76
    monkeypatch.setattr(module, "misfits", lambda *_: {})
    found, stand_in = planted(monkeypatch, tmp_path / "out", teacher, rights, methods=None)
    (short, *of_first), (middle, *of_second), (whole, *of_last) = ((epochs, *names) for epochs, names in stand_in.calls)
    assert (short, middle, whole) == (1, 3, 9)
    assert tuple(of_first) == ("none", *first)
    assert of_second[:4] == ["none", best, "kd" if best != "kd" else "cwd", "skd"]
    assert set(of_second[4:]) >= set(kin)
    assert {METHODS[name].family for name in of_second[4:]} == {METHODS[best].family}
    assert of_last == ["none", kin[-1]]
    assert found.recommended == kin[-1]
    assert "--methods" not in found.command


def test_methods_that_are_named_are_all_that_is_tried(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rights = {"none": 0.70, "kd": 0.74, "cwd": 0.73}
    _, stand_in = planted(monkeypatch, tmp_path / "out", teacher, rights)
    assert {name for _, names in stand_in.calls for name in names} == set(rights)
    # Two rungs: the second is the last one, whose runs are too long for newcomers.
    rights = dict.fromkeys(("none", *METHODS), 0.70) | {"brd": 0.75}
    _, stand_in = planted(monkeypatch, tmp_path / "two", teacher, rights, methods=None, rungs=2)
    assert [len(names) for _, names in stand_in.calls] == [9, 4]


def test_methods_of_the_recipe_are_tried_too(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rights = dict.fromkeys(("none", *METHODS), 0.70) | {"mgd": 0.75}
    monkeypatch.setattr(module, "misfits", lambda *_: {})
    found, stand_in = planted(monkeypatch, tmp_path / "out", teacher, rights, methods=None, method={"mgd": {}})
    assert stand_in.calls[0][1][-1] == "mgd"
    assert found.recommended == "mgd"


def test_every_method_has_a_family() -> None:
    families = {name: method.family for name, method in METHODS.items()}
    assert set(families.values()) == {"logit", "feature", "relation", "boundary"}
    assert {families[name] for name in module.REPRESENTATIVES} == set(families.values())


def test_one_method_needs_no_short_runs(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, stand_in = planted(monkeypatch, tmp_path / "out", teacher, {"none": 0.70, "kd": 0.75})
    assert stand_in.calls == [(9, ("none", "kd"))]
    assert found.recommended == "kd"
    assert not any("chosen on the same" in note for note in found.notes)


@pytest.mark.parametrize(
    ("epochs", "rungs", "eta", "expected"),
    [(90, 3, 3, (10, 30, 90)), (9, 1, 3, (9,)), (1, 3, 3, (1,)), (4, 3, 4, (1, 4)), (8, 3, 2, (2, 4, 8))],
)
def test_epochs_of_the_rungs(epochs: int, rungs: int, eta: int, expected: tuple[int, ...]) -> None:
    assert rung_lengths(epochs, rungs, eta) == expected


# ---------------------------------------------------------------------------------------------- networks, in earnest


def test_what_is_written(finished: Path) -> None:
    values = json.loads((finished / "advice.json").read_text())
    assert [rung["epochs"] for rung in values["rungs"]] == [2, 4, 9]
    assert values["recommended"] in ("none", "kd", "cwd", "kd+cwd")
    for number, kept in ((1, 2), (2, 1), (3, 1)):
        rung = values["rungs"][number - 1]
        comparison = load_comparison(finished / f"rung-{number}")
        assert comparison.finished
        assert comparison.recipe["train"]["epochs"] == rung["epochs"]
        assert {one["method"] for one in rung["standings"]} == {row.method for row in comparison.rows}
        assert sum(one["kept"] for one in rung["standings"]) == kept + 1
        gains = [one["difference"]["difference"] for one in rung["standings"][:-1]]
        assert gains == sorted(gains, reverse=True)
        if number < 3:
            names = {one["method"] for one in rung["standings"] if one["kept"]}
            assert names == {one["method"] for one in values["rungs"][number]["standings"]}
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert "Runs of 9 epochs" in page
    assert "http:" not in page
    assert "https:" not in page


def test_finished_runs_are_never_done_again(finished: Path, teacher: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(finished, tmp_path / "out"))
    before = {file: content for file, content in contents(copy).items() if "cells" in file}
    again = advise_tiny(copy, teacher, eta=2)
    assert {file: content for file, content in contents(copy).items() if "cells" in file} == before
    assert again.as_dict()["recommended"] == json.loads((finished / "advice.json").read_text())["recommended"]


def test_the_command_goes_on_with_it(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from segdistill.cli.main import main

    argv = shlex.split(json.loads((finished / "advice.json").read_text())["command"])
    assert argv[:2] == ["segdistill", "advise"]
    before = contents(finished)
    assert main([*argv[1:], "--device", "cpu", "--dry-run"]) == 0
    assert capsys.readouterr().out.count(" 0.0 s") == 4  # three rungs and their sum
    assert contents(finished) == before


def test_dry_run_writes_nothing(tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {"data": SCENES, "teacher": teacher, "student": STUDENT, "device": "cpu", "train": TRAIN}
    methods = "kd,ka,brd,drd,cwd"
    assert advise(**options, methods=methods, output=tmp_path / "out", dry_run=True) is None
    assert list(tmp_path.iterdir()) == []
    printed = capsys.readouterr().out
    for text in ("none; kd, ka, brd, drd, cwd", "none; the best 2 of 5", "none; the best 1 of 5"):
        assert text in printed


def killed_advice(output: Path, teacher: Path) -> None:
    """What a process does until it is killed: it gets no further than the second rung's second run."""
    real = cells.distill

    def waiting(recipe: Any, options: Any) -> Any:
        return time.sleep(600) if "rung-2" in str(options.output) else real(recipe, options)

    cells.__dict__["distill"] = waiting
    module.__dict__["_check_folder"] = lambda folder: None
    advise_tiny(output, teacher, eta=2)


@pytest.mark.slow
def test_goes_on_after_a_kill(tmp_path: Path, teacher: Path, finished: Path) -> None:
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
    whole = json.loads((finished / "advice.json").read_text())
    assert found.recommended == whole["recommended"]
    for ours, theirs in zip(found.as_dict()["rungs"], whole["rungs"], strict=True):
        for one, other in zip(ours["standings"], theirs["standings"], strict=True):
            assert (one["method"], one["miou"]) == (other["method"], other["miou"])


@pytest.mark.slow
def test_a_method_that_fails_is_left_out(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = cells.distill

    def failing(recipe: Any, options: Any) -> Any:
        if "cwd" in recipe.method[0]:
            raise UserError("it broke")
        return real(recipe, options)

    monkeypatch.setattr(cells, "distill", failing)
    found = advise_tiny(tmp_path / "out", teacher, methods="kd,cwd", train=replace(FAST, epochs=3))
    assert [rung.length for rung in found.rungs] == [1, 3]
    assert found.rungs[0].standings[1].said == "failed: it broke"
    assert "cwd failed in the runs of 1 epoch and was left out: it broke" in found.notes

    monkeypatch.setattr(cells, "distill", lambda recipe, options: failing(replace(recipe, method=["cwd"]), options))
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


def test_folders_that_hold_something_else(tmp_path: Path, teacher: Path, finished: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file, expected a folder"):
        advise_tiny(tmp_path / "file", teacher)
    with pytest.raises(UserError, match="is not empty and holds no advice"):
        advise_tiny(tmp_path, teacher)
    with pytest.raises(UserError, match=r"rung-1 already holds a comparison"):
        advise_tiny(finished, teacher, eta=2, resume=False)
    with pytest.raises(UserError, match=r"train\.lr was 0\.003, now 0\.5"):
        advise_tiny(finished, teacher, eta=2, train=replace(TRAIN, lr=0.5))
