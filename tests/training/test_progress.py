"""What is left on the screen: the progress bar must not swallow the lines of the epochs."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import rich
import torch
from rich.console import Console

import segdistill
from segdistill import UserError, progress
from segdistill.progress import Bar, Tasks, during, tracked
from segdistill.training.step import Step
from tests.training.runs import FAST, SCENES, STUDENT, distill_tiny, train_tiny


def screen(stream: str) -> list[str]:
    """The lines that a terminal shows in the end: carriage return, cursor up and erasure of a line obeyed."""
    lines, row, column = [""], 0, 0
    for move, kind, character in re.findall(r"\x1b\[([0-9;?]*)([A-Za-z])|([^\x1b])", stream):
        if kind == "A":
            row = max(0, row - int(move or 1))
        elif kind == "K":
            lines[row] = ""
        elif character == "\r":
            column = 0
        elif character == "\n":
            row, column = row + 1, 0
            lines += [""] * (row == len(lines))
        elif character:
            line = lines[row].ljust(column)
            lines[row], column = line[:column] + character + line[column + 1 :], column + 1
    return [line.rstrip() for line in lines]


def test_on_a_terminal(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Console, "is_terminal", True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    rich.reconfigure()
    try:
        segdistill.distill(
            data=SCENES,
            teacher=teacher,
            student=STUDENT,
            method=["ka", "brd"],
            train=FAST,
            device="cpu",
            output=tmp_path / "run",
        )
    finally:
        monkeypatch.undo()
        rich.reconfigure()
    stream = capsys.readouterr().out
    assert "pre-stage of the method" in stream
    assert re.search(r"epoch 2/3 .*0/2.*task \d", stream)
    assert re.search(r"\d images/s", stream)
    shown = [line for line in screen(stream) if re.match(r"epoch \d/3  task", line)]
    assert [line.split()[1] for line in shown] == ["1/3", "2/3", "3/3"]
    assert all("brd.boundary" in line and "val mIoU" in line for line in shown)


def test_through_a_pipe(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    segdistill.train(data=SCENES, network=STUDENT, train=FAST, device="cpu", output=tmp_path / "[run]")
    printed = capfd.readouterr()
    assert printed.err == ""
    *epochs, result = [line for line in printed.out.splitlines() if not line.startswith("warning: ")]
    assert [line.split()[:2] for line in epochs] == [["epoch", f"{n}/3"] for n in (1, 2, 3)]
    assert result.startswith(f"{tmp_path / '[run]'}  val mIoU ")  # brackets are not taken for markup


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines come as soon as they can."""
    monkeypatch.setattr(progress, "BETWEEN_LINES", 0.0)
    monkeypatch.setattr(progress, "BETWEEN_TRAINING_LINES", 0.0)


@pytest.mark.usefixtures("impatient")
def test_long_work_says_how_far_it_is_where_there_is_no_terminal() -> None:
    console = Console(file=io.StringIO())
    assert list(tracked("abc", "evaluating", 3, console)) == ["a", "b", "c"]
    with during("converting", console):
        pass
    with Tasks(console) as tasks:
        files = tasks.add_task("files", total=2)
        hidden = tasks.add_task("windows", total=9, visible=False)
        tasks.update(files, advance=1)
        tasks.update(hidden, visible=True, advance=4)
    bar = Bar(console, shown=True, images_per_batch=4)
    with bar:
        bar.start("epoch 1/2", 5, done=2)
        assert bar.due()
        bar.advance("task 0.5")
    assert re.sub(r"about .* left|[\d.]+ images/s", "...", console.file.getvalue()).splitlines() == [
        "evaluating: 1 of 3, ...",
        "evaluating: 2 of 3, ...",
        "converting ...",
        "files: 1 of 2",
        "files: 1 of 2, windows: 4 of 9",
        "epoch 1/2  batch 3 of 5  ...  task 0.5",
    ]


class Handle(list[dict[str, str]]):
    """What IPython's `display` returns: all that a cell showed in its place, one after another."""

    def update(self, data: dict[str, str], raw: bool) -> None:
        assert raw
        self.append(data)


def test_a_notebook_shows_bars_and_removes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[Handle] = []

    def display(data: dict[str, str], **_: bool) -> Handle:
        places.append(Handle([data]))
        return places[-1]

    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    monkeypatch.setattr(progress, "BETWEEN_PICTURES", 0.0)
    console = Console(file=io.StringIO(), force_jupyter=True)
    assert list(tracked("abc", "evaluating <b>", 3, console)) == ["a", "b", "c"]
    with Tasks(console) as tasks:
        files = tasks.add_task("files", total=2)
        tasks.update(tasks.add_task("windows", total=9, visible=False), visible=True, advance=4)
        tasks.update(files, advance=1)
    with Bar(console, shown=True, images_per_batch=4) as bar:
        bar.start("epoch 1/2", 5, done=2)
        assert bar.due()
        bar.advance("task 0.5")
        assert not bar.due()
        bar.advance()
    assert [(place[0], place[-1]) for place in places] == [({"text/plain": ""}, {"text/plain": ""})] * 3
    htmls = [
        re.sub(r"about .* left|[\d.]+ images/s", "...", one.get("text/html", "")) for p in places for one in p[1:-1]
    ]
    assert htmls == [
        '<progress value="0" max="3"></progress> evaluating &lt;b&gt; ...',
        '<progress value="1" max="3"></progress> evaluating &lt;b&gt;: 1 of 3, ...',
        '<progress value="2" max="3"></progress> evaluating &lt;b&gt;: 2 of 3, ...',
        '<progress value="0" max="2"></progress> files: 0 of 2, windows: 4 of 9',
        '<progress value="1" max="2"></progress> files: 1 of 2, windows: 4 of 9',
        '<progress value="3" max="5"></progress> epoch 1/2  batch 3 of 5  ...  task 0.5',
        '<progress value="4" max="5"></progress> epoch 1/2  batch 4 of 5  ...  task 0.5',
    ]
    assert console.file.getvalue() == ""


@pytest.mark.usefixtures("impatient")
def test_quiet_work_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    console = Console(quiet=True)
    assert list(tracked(range(3), "evaluating", 3, console)) == [0, 1, 2]
    assert list(tracked(range(3), "evaluating", 3, Console(), shown=False)) == [0, 1, 2]
    with during("converting", console), Tasks(console) as tasks:
        tasks.update(tasks.add_task("files", total=2), advance=1)
    bar = Bar(console, shown=True, images_per_batch=4)
    with bar:
        bar.start("epoch 1/2", 5)
        assert not bar.due()
        bar.advance()
    assert capfd.readouterr() == ("", "")


def test_short_work_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    assert list(tracked(range(3), "evaluating", 3, Console())) == [0, 1, 2]
    assert capfd.readouterr() == ("", "")


def test_quiet_is_quiet(tmp_path: Path, teacher: Path, capfd: pytest.CaptureFixture[str]) -> None:
    distill_tiny(tmp_path / "run", teacher, method="ka", epochs=1)
    assert capfd.readouterr() == ("", "")


def test_precision_that_is_not_to_be_had_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    segdistill.train(
        data=SCENES,
        network=STUDENT,
        train=segdistill.TrainConfig(epochs=1, batch_size=2, precision="fp16"),
        device="cpu",
        output=tmp_path / "run",
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "this machine has no fast fp16; training in fp32"
    assert any(line.startswith("epoch 1/1") for line in lines)


def test_too_little_memory(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(self: Step, batches: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(Step, "__call__", exhausted)
    sentence = "^cpu has too little memory for batches of {} crops of 32 x 32{}: try {}"
    with pytest.raises(UserError, match=sentence.format(2, "", "train.accumulate 2")):
        train_tiny(tmp_path / "run")
    with pytest.raises(UserError, match=sentence.format(1, " with ka, brd", "data.crop of 16 x 16")):
        distill_tiny(tmp_path / "one", teacher, method=["ka", "brd"], batch_size=1)
    # 9 in parts of 3: halves would not be whole.
    with pytest.raises(UserError, match=sentence.format(3, "", "train.accumulate 9")):
        train_tiny(tmp_path / "nine", batch_size=9, accumulate=3)


def test_batch_of_one_number(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"one number per channel at train.batch_size 1 and this data.crop"):
        train_tiny(tmp_path / "run", "smp:DeepLabV3:tu-mobilenetv3_small_050", batch_size=1)
