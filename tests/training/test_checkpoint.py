"""Whatever befalls a checkpoint, the last good one is gone on from, or one sentence says why not."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from segdistill import Network, RunFolder, UserError
from segdistill.training.callbacks.checkpoints import Checkpoints
from segdistill.training.checkpoint import FORMAT, earlier, load_checkpoint, save_checkpoint
from segdistill.training.loop import Loop
from tests.tiny import TinyModel
from tests.training import runs
from tests.training.faults import Killed, disk_with_room_for, flip_a_bit, kill_after
from tests.training.runs import distill_tiny, fingerprint, train_tiny

Spoil = Callable[[Path], object]


def state_of(step: int) -> dict[str, Any]:
    """What a checkpoint must hold at least, with 40 kB of weights that tell which one it is."""
    weights = torch.full((10_000,), float(step))
    return {"epoch": 0, "batch": 0, "step": step, "learner": {"weight": weights}, "optimizer": {}}


def load(path: Path) -> tuple[int, str]:
    """The step that is gone on from, and the line that was printed."""
    printed = io.StringIO()
    state = load_checkpoint(path, Console(file=printed, width=1000))
    assert state is not None
    assert bool((state["learner"]["weight"] == state["step"]).all())
    return state["step"], printed.getvalue().strip()


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


SPOILT: dict[str, tuple[Spoil, str]] = {
    "truncated": (cut_in_half, "is damaged"),
    "empty": (lambda path: path.write_bytes(b""), "is damaged"),
    "one bit": (flip_a_bit, "is damaged"),
    "text": (lambda path: path.write_text("my notes on last.ckpt\n" * 100), "is damaged"),
    "other weights": (
        lambda path: torch.save({"weight": torch.zeros(3)}, path),
        "is no checkpoint of a segdistill run",
    ),
    "a list": (lambda path: torch.save([1, 2], path), "is no checkpoint of a segdistill run"),
}


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "last.ckpt"
    assert load_checkpoint(path, Console()) is None
    for step in (1, 2, 3):
        save_checkpoint(state_of(step), path)
        assert load(path) == (step, "")
    assert load(earlier(path)) == (2, "")
    assert sorted(file.name for file in path.parent.iterdir()) == ["last.ckpt", "previous.ckpt"]


@pytest.mark.parametrize("kind", SPOILT)
def test_the_one_before_is_gone_on_from(tmp_path: Path, kind: str) -> None:
    spoil, told = SPOILT[kind]
    path = tmp_path / "last.ckpt"
    save_checkpoint(state_of(1), path)
    save_checkpoint(state_of(2), path)
    spoil(path)
    assert load(path) == (1, f"checkpoint {path} {told}; continuing from the one before")


@pytest.mark.parametrize("kind", SPOILT)
def test_both_spoilt(tmp_path: Path, kind: str) -> None:
    spoil, told = SPOILT[kind]
    path = tmp_path / "last.ckpt"
    for step in (1, 2):
        save_checkpoint(state_of(step), path)
    spoil(path)
    spoil(earlier(path))
    with pytest.raises(UserError) as error:
        load_checkpoint(path, Console(quiet=True))
    assert str(error.value) == (
        f"checkpoint {path} {told}, and {earlier(path)} {told}: there is nothing to resume from; "
        "start over with --overwrite"
    )


def test_nothing_in_a_checkpoint_is_run(tmp_path: Path) -> None:
    """A pickle that would call a function when it is read counts as damaged."""

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path(tmp_path / "called").touch, ()

    torch.save(state_of(1) | {"format": FORMAT, "balance": Evil()}, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"last\.ckpt is damaged: there is nothing to resume from"):
        load_checkpoint(tmp_path / "last.ckpt", Console(quiet=True))
    assert not (tmp_path / "called").exists()


def test_another_format(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save(state_of(1) | {"format": FORMAT + 1}, path)
    with pytest.raises(UserError, match=rf"has format {FORMAT + 1}, and this version reads {FORMAT}; resume with the"):
        load_checkpoint(path, Console(quiet=True))


@pytest.mark.parametrize("rename", [1, 2, 3])
def test_killed_between_the_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rename: int) -> None:
    """The third state is written beside the others, the second made the one before, the third put in its place."""
    path = tmp_path / "last.ckpt"
    for step in (1, 2):
        save_checkpoint(state_of(step), path)
    replace, count = os.replace, 0

    def dying(source: Any, target: Any) -> None:
        nonlocal count
        count += 1
        if count == rename:
            raise Killed
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying)
        with pytest.raises(Killed):
            save_checkpoint(state_of(3), path)
    assert load(path) == (2, "")
    save_checkpoint(state_of(4), path)  # nothing that was left lies in the way
    assert load(path) == (4, "")
    assert load(earlier(path)) == (2, "")


@pytest.mark.parametrize("room", [0, 100, 20_000])
def test_a_full_disk_keeps_both(tmp_path: Path, room: int) -> None:
    path = tmp_path / "last.ckpt"
    for step in (1, 2):
        save_checkpoint(state_of(step), path)
    with disk_with_room_for(room), pytest.raises(UserError, match=r"^cannot write \S+next\.ckpt: (?!None)\S+"):
        save_checkpoint(state_of(3), path)
    assert load(path) == (2, "")
    assert load(earlier(path)) == (1, "")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last.ckpt", "previous.ckpt"]


def test_a_run_on_a_full_disk_goes_on_once_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fingerprint(train_tiny(tmp_path / "whole"))
    save = Checkpoints.save

    def crowded(self: Checkpoints, loop: Loop) -> None:
        with disk_with_room_for(10_000 if loop.epoch == 3 else 10**9):
            save(self, loop)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", crowded)
        with pytest.raises(UserError, match=r"^cannot write \S+next\.ckpt"):
            train_tiny(tmp_path / "run")
    assert RunFolder(tmp_path / "run").read_metrics() is None
    assert fingerprint(train_tiny(tmp_path / "run", resume=True)) == whole


def test_a_run_whose_newest_checkpoint_is_damaged_ends_as_if_unbroken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fingerprint(train_tiny(tmp_path / "whole"))
    with monkeypatch.context() as patch:
        kill_after(patch, epoch=2)
        with pytest.raises(Killed):
            train_tiny(tmp_path / "run")
    flip_a_bit(tmp_path / "run" / "checkpoints" / "last.ckpt")
    run = train_tiny(tmp_path / "run", resume=True)
    assert fingerprint(run) == whole
    assert [row["epoch"] for row in run.read_history()] == ["1", "2", "3"]


def refused(run: RunFolder, resume: Callable[[], object], told: str) -> None:
    """One sentence, and nothing in the folder changed."""
    network, kept = fingerprint(run), run.checkpoint_file.read_bytes()
    run.metrics_file.unlink(missing_ok=True)
    with pytest.raises(UserError) as error:
        resume()
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert str(run.checkpoint_file) in str(error.value)
    assert fingerprint(run) == network
    assert run.checkpoint_file.read_bytes() == kept


def test_a_checkpoint_of_another_recipe(tmp_path: Path) -> None:
    run = train_tiny(tmp_path / "run", epochs=1)
    other = train_tiny(tmp_path / "other", epochs=2, lr=0.5, seed=3)
    run.checkpoint_file.write_bytes(other.checkpoint_file.read_bytes())
    told = "is of another recipe: train.epochs was 2, now 1; train.lr was 0.5, now 0.003; seed was 3, now 0; start"
    refused(run, lambda: train_tiny(run.path, epochs=1, resume=True), told)


def test_a_checkpoint_of_another_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe names a function, and the function has changed since."""
    run = train_tiny(tmp_path / "run", epochs=1)

    def wider(num_classes: int, in_channels: int) -> Network:
        return runs._wrapped(TinyModel(6, 8, num_classes, in_channels), in_channels)

    monkeypatch.setattr(runs, "build_student", wider)
    told = "is of another network or method (Error(s) in loading state_dict for Supervised: "
    refused(run, lambda: train_tiny(run.path, epochs=1, resume=True), told)


@pytest.mark.parametrize("method", ["kd", "ka"])
def test_a_checkpoint_of_another_method(tmp_path: Path, teacher: Path, method: str) -> None:
    """KA has adapters, KD has none: one's weights are missing, or the other's unexpected."""
    run = distill_tiny(tmp_path / "run", teacher, method=method, epochs=1)
    other = distill_tiny(tmp_path / "other", teacher, method="ka" if method == "kd" else "kd", epochs=1)
    state = torch.load(other.checkpoint_file, weights_only=True)
    torch.save(state | {"recipe": run.read_config()}, run.checkpoint_file)
    fault = "Unexpected" if method == "kd" else "Missing"
    told = f"is of another network or method (Error(s) in loading state_dict for Distiller: {fault} key(s)"
    refused(run, lambda: distill_tiny(run.path, teacher, method=method, epochs=1, resume=True), told)
