from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import segdistill
from segdistill.cli.main import main
from segdistill.files import write_yaml
from tests.training.runs import SCENES, STUDENT


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder as training leaves it, but for the training."""
    folder = tmp_path_factory.mktemp("predict") / "run"
    torch.manual_seed(0)
    segdistill.load_network(STUDENT, num_classes=6).save(folder)
    write_yaml(folder / "config.yaml", {"data": SCENES, "network": STUDENT})
    (folder / "metrics.json").write_text("{}")
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.png", "c.jpg"):
        noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_one_image(run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.png"
    assert main(["predict", str(run), str(photos / "a.png"), "-o", str(out), "--overlay", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.startswith(f"{out}: 2000 pixels in ")
    assert names(tmp_path) == ["out-overlay.png", "out.png", "photos"]
    assert main(["predict", str(run), str(photos / "a.png"), f"-o={out}"]) == 0
    assert capsys.readouterr().out == f"{out}: there already\n"


@pytest.mark.parametrize("given", ["folder", "pattern", "list"])
def test_many_images(run: Path, photos: Path, tmp_path: Path, given: str, capsys: pytest.CaptureFixture[str]) -> None:
    entries = {
        "folder": [photos],
        "pattern": [f"{photos}/*"],
        "list": [photos / name for name in names(photos)],  # as a shell makes it of a pattern
    }[given]
    arguments = ["predict", run, *entries, "--output", tmp_path / "out", "--flips", "horizontal", "--window", "128"]
    assert main([str(argument) for argument in arguments]) == 0
    assert names(tmp_path / "out") == ["a.png", "b.png", "c.png"]
    assert "3 label maps: " in capsys.readouterr().out


def test_quiet_says_nothing(run: Path, photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(run), str(photos), "-o", str(tmp_path / "out"), "--quiet"]) == 0
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "model, input, output missing; expected segdistill predict MODEL INPUT... --output OUTPUT;"),
        (["RUN"], "input, output missing"),
        (["RUN", "PHOTOS"], "output missing"),
        (["RUN", "PHOTOS", "-o", ""], "output is empty; expected a file or a folder"),
        (["nowhere", "PHOTOS", "-o", "OUT"], "model 'nowhere' does not exist; expected a run folder"),
        (["PHOTOS", "PHOTOS", "-o", "OUT"], "holds no saved network: network.json is missing"),
        (["PHOTOS/a.png", "PHOTOS", "-o", "OUT"], "a.png is a file that ends in '.png'; expected the folder of a run"),
        (["RUN", "nowhere.png", "-o", "OUT"], "nowhere.png does not exist"),
        (["RUN", "PHOTOS", "-o", "OUT", "--flips", "up"], "flips"),
        (["RUN", "PHOTOS", "-o", "OUT", "--windows", "512"], "unknown key 'windows': did you mean 'window'?"),
        (["RUN", "PHOTOS", "-o", "OUT", "--window", "16"], "window is 16; expected at least 32 pixels"),
        (["RUN", "PHOTOS", "-o", "OUT", "--device", "tpu"], "device 'tpu' is not available here"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    run: Path, photos: Path, tmp_path: Path, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"RUN": run, "PHOTOS": photos, "OUT": tmp_path / "out"}
    for name, path in places.items():
        arguments = [argument.replace(name, str(path)) for argument in arguments]
    assert main(["predict", *arguments]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("segdistill: ")
    assert printed.count("\n") == 1
    assert told in printed
    assert not (tmp_path / "out").exists()


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["predict", "--help"])
    printed = capsys.readouterr().out
    assert "segdistill predict MODEL INPUT" in printed
    for option in ("--window", "--flips", "--probabilities", "--vector", "--overlay", "examples:"):
        assert option in printed


INTERRUPTED = """
import os, signal, sys
import segdistill.prediction.prediction as prediction
from segdistill.cli.main import main
ordinary, seen = prediction.piece_labels, []
def labels(piece):
    seen.append(piece)
    if len(seen) == 3:
        os.kill(os.getpid(), signal.SIGINT)
    return ordinary(piece)
prediction.piece_labels = labels
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_ctrl_c_tells_how_to_go_on(run: Path, photos: Path, tmp_path: Path) -> None:
    arguments = ["predict", str(run), str(photos), "-o", str(tmp_path / "out"), "--device", "cpu"]
    stopped = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, *arguments], capture_output=True, text=True, check=False
    )
    assert stopped.returncode == 128 + signal.SIGINT
    assert stopped.stderr.splitlines() == [
        "what is finished is kept; the same command continues from there",
        "segdistill: interrupted",
    ]
    assert names(tmp_path / "out") == ["a.png", "b.png"]
    assert main(arguments) == 0
    assert names(tmp_path / "out") == ["a.png", "b.png", "c.png"]
