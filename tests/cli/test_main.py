"""The command line as a user meets it."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import segdistill
from segdistill import RunFolder
from segdistill.cli.main import COMMANDS, main
from segdistill.methods import METHODS
from segdistill.methods.building import build_methods
from segdistill.training.step import Step
from tests.cli.failing import argv, fails
from tests.training.runs import FAST, SCENES, STUDENT, contents, distill_tiny, fingerprint, train_tiny

TRAIN = {"epochs": 2, "batch_size": 2, "precision": "fp32", "workers": 0, "lr": 3e-3}
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({"data": SCENES, "network": STUDENT, "train": TRAIN}))
    return file


def config(run: Path) -> dict[str, Any]:
    return RunFolder(run).read_config()


# ------------------------------------------------------------------------------------------------------------ help


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_overview(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    for command, summary in COMMANDS.items():
        assert f"  {command} " in printed
        assert summary in printed
    assert "examples:\n  segdistill demo\n" in printed


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--wrong", "1", "--help"]])
def test_help_of_every_command(command: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, *arguments])
    assert end.value.code == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.startswith(f"usage: segdistill {command}")
    assert f"examples:\n  segdistill {command}" in printed.out
    # Nothing that only those who know the parser's library understand.
    assert not re.search(
        r"--\S+\+|\x08|Union\[|Optional\[|Literal\[|Any\]|configuration file|default: (True|False)", printed.out
    )


@pytest.mark.parametrize("command", ["train", "distill", "evaluate", "demo"])
def test_help_tells_of_every_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What a Python function takes, its command takes, under the same name and with the same default."""
    import inspect

    with pytest.raises(SystemExit):
        main([command, "--help"])
    printed = capsys.readouterr().out
    for name, parameter in inspect.signature(getattr(segdistill, command)).parameters.items():
        assert f"--{name}" in printed or parameter.kind is parameter.POSITIONAL_ONLY


def test_methods_are_listed_and_shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["methods"]) == 0
    printed = capsys.readouterr().out
    for name in METHODS:
        assert f" {name} " in printed
    assert main(["methods", "brd"]) == 0
    shown = capsys.readouterr().out
    assert "Zhang" in shown
    assert re.search(r"boundary +│ 1 +│ weight of the boundary term", shown)


# --------------------------------------------------------------------------------------------------- options


def test_recipe_then_options(recipe: Path, tmp_path: Path) -> None:
    """What stands on the line wins, whatever its form, and the rest of the recipe stays."""
    options = ["--train.lr", "3e-4", "--train.epochs=1", "--data.count", "2", "--seed", "7", "--device", "cpu"]
    assert main(["train", str(recipe), "--output", str(tmp_path / "run"), *options]) == 0
    found = config(tmp_path / "run")
    assert found["train"] == found["train"] | TRAIN | {"lr": 3e-4, "epochs": 1}
    assert found["data"] == SCENES | {"count": 2}
    assert found["seed"] == 7


def test_everything_may_stand_in_the_recipe(tmp_path: Path) -> None:
    run = tmp_path / "run"
    values = {"data": SCENES, "network": STUDENT, "train": TRAIN, "output": str(run), "device": "cpu", "quiet": True}
    (tmp_path / "all.yaml").write_text(yaml.safe_dump(values))
    assert main(["train", str(tmp_path / "all.yaml")]) == 0
    assert RunFolder(run).read_metrics() is not None


def test_rate_without_a_point_is_a_number(tmp_path: Path) -> None:
    """YAML takes 1e-3 for a text."""
    (tmp_path / "a.yaml").write_text(
        yaml.safe_dump({"data": SCENES, "network": STUDENT}) + "train: {lr: 1e-3, epochs: 1}"
    )
    assert main(["train", str(tmp_path / "a.yaml"), "--output", str(tmp_path / "run"), "--device", "cpu"]) == 0
    assert config(tmp_path / "run")["train"]["lr"] == 1e-3


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("brd", "brd"),
        ("[kd, brd]", ["kd", "brd"]),
        ("{brd: {boundary: 2.0}, kd: {}}", {"brd": {"boundary": 2.0}, "kd": {}}),
    ],
)
def test_distill_by_shell_is_distill_by_python(
    tmp_path: Path, finished: Path, method: str, expected: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = argv("distill", data=SCENES, teacher=finished, student=STUDENT, train=TRAIN, device="cpu")
    assert main([*arguments, "--output", str(tmp_path / "shell"), "--method", method, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert config(tmp_path / "shell")["method"] == [
        {made.name: made.hyper_parameters()} for made in build_methods(expected)
    ]
    run = distill_tiny(tmp_path / "python", finished, method=expected, epochs=2)
    assert fingerprint(tmp_path / "shell") == fingerprint(run)
    assert config(run.path) == config(tmp_path / "shell")


def test_switches(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", str(recipe), "--output", str(tmp_path / "run"), "--device", "cpu"]
    assert main([*arguments, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    before = contents(tmp_path / "run")
    assert main([*arguments, "--resume"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'run'} is finished already\n"
    assert contents(tmp_path / "run") == before
    fails(capsys, [*arguments, "--resume", "false"], "already holds a run")
    assert main([*arguments, "--overwrite", "--quiet", "true", "--train.epochs", "1"]) == 0
    assert config(tmp_path / "run")["train"]["epochs"] == 1


def test_evaluate(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(finished, tmp_path / "run")
    assert main(["evaluate", str(tmp_path / "run"), "--split", "test", "--device", "cpu"]) == 0
    printed = capsys.readouterr()
    assert "pixel accuracy" in printed.out
    assert printed.err == ""
    assert (tmp_path / "run" / "evaluation-test.json").is_file()


# ------------------------------------------------------------------------------------------------- what goes wrong


def test_ctrl_c(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    """A real signal in the second epoch: one sentence, 130, and --resume takes it from there."""
    step = Step.__call__

    def interrupted(self: Step, batches: Any) -> Any:
        if self.number == 2:  # two steps an epoch
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, batches)

    handler = signal.getsignal(signal.SIGINT)
    arguments = ["train", str(recipe), "--output", str(tmp_path / "run"), "--device", "cpu"]
    with monkeypatch.context() as patch:
        patch.setattr(Step, "__call__", interrupted)
        assert main(arguments) == 130
    printed = capfd.readouterr()
    assert printed.err == (
        "segdistill: interrupted in epoch 2, batch 1 of 2, all saved; the same command with --resume continues from "
        "there\n"
    )
    assert re.findall(r"^epoch (\S+)", printed.out, re.MULTILINE) == ["1/2"]
    assert signal.getsignal(signal.SIGINT) is handler  # a notebook can be interrupted again
    assert main([*arguments, "--resume"]) == 0
    assert re.findall(r"^epoch (\S+)", capfd.readouterr().out, re.MULTILINE) == ["2/2"]
    assert fingerprint(tmp_path / "run") == fingerprint(train_tiny(tmp_path / "whole", epochs=2))


def test_terminated(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    """SIGTERM, as batch systems send it before they kill: the step is saved, and it does not pass for success."""
    step = Step.__call__

    def terminated(self: Step, batches: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batches)

    arguments = ["train", str(recipe), "--output", str(tmp_path / "run"), "--device", "cpu"]
    with monkeypatch.context() as patch:
        patch.setattr(Step, "__call__", terminated)
        assert main(arguments) == 143
        assert RunFolder(tmp_path / "run").read_metrics() is None
        assert "interrupted in epoch 1, batch 1 of 2, all saved" in capfd.readouterr().err
        assert main([*arguments, "--resume"]) == 143
        assert "interrupted in epoch 1, batch 2 of 2, all saved" in capfd.readouterr().err
    assert main([*arguments, "--resume"]) == 0
    assert fingerprint(tmp_path / "run") == fingerprint(train_tiny(tmp_path / "whole", epochs=2))


@pytest.mark.parametrize(
    ("room", "told"), [(150, "cannot write"), (1_000, "cannot save a network to"), (20_000, "next.ckpt")]
)
def test_full_disk(recipe: Path, tmp_path: Path, capsys: Any, room: int, told: str) -> None:
    """The limit on a file's size stands in for a full disk: it fails the same calls, in torch and in safetensors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        arguments = argv("train", data=SCENES, network="python:tests.tiny:build_tiny", train=TRAIN, device="cpu")
        fails(capsys, [*arguments, "--output", tmp_path / "run"], told)  # capfd would need room on the disk
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.rglob(".*"))


def test_error_of_the_system(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    def run(argv: Any) -> None:
        raise PermissionError(13, "Permission denied", "/secret/images")

    monkeypatch.setattr("segdistill.cli.methods.run", run)
    fails(capfd, ["methods"], "Permission denied: /secret/images")


def test_bug_shows_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what a user can mend is told in one sentence."""

    def run(argv: Any) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("segdistill.cli.methods.run", run)
    with pytest.raises(KeyError):
        main(["methods"])


def test_a_process_of_its_own(recipe: Path, tmp_path: Path) -> None:
    """Through a pipe: the epochs' lines and the result, and nothing else on either stream."""
    command = [sys.executable, "-m", "segdistill", "train", str(recipe), "--output", str(tmp_path / "run")]
    done = subprocess.run([*command, "--device", "cpu"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr == ""
    first, second, result = [line for line in done.stdout.splitlines() if not line.startswith("warning: ")]
    assert first.startswith("epoch 1/2  task ")
    assert second.startswith("epoch 2/2  task ")
    assert result.startswith(f"{tmp_path / 'run'}  val mIoU ")
    assert fingerprint(tmp_path / "run") == fingerprint(train_tiny(tmp_path / "here", epochs=2))

    again = subprocess.run([*command, "--train.lr", "0"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr == "segdistill: train.lr is 0.0, expected a number above 0\n"


def test_fast_is_what_the_recipe_says() -> None:
    assert all(getattr(FAST, key) == value for key, value in TRAIN.items() if key != "epochs")
