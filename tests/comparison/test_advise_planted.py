"""What is advised where the scores are planted: no network is trained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segdistill import DistillRecipe, UserError
from segdistill.comparison import advise as module
from segdistill.comparison.advice import Advice, rung_lengths
from segdistill.comparison.cost import CellCost
from segdistill.comparison.options import CompareOptions
from segdistill.comparison.reading import load_comparison
from segdistill.comparison.results import Comparison
from segdistill.methods import METHODS
from tests.comparison.planted import plant
from tests.comparison.tiny import advise_tiny
from tests.training.runs import FAST

pytestmark = pytest.mark.usefixtures("short_report")


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
    assert found.text.startswith("Train with the method brd: it is better than the same student trained alone, +")
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
    assert "the labels alone do as well" in found.text
    assert "With one seed the intervals say nothing about other seeds" in found.text
    # The one that was left out might as well have gone on, and that is told.
    assert any("was left out, though its difference from" in note for note in found.notes)


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
    longer = "Against the student alone trained for as many seconds as the slowest method, kd is better too: +"
    assert longer in found.text


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
