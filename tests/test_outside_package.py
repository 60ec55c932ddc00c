"""A package outside this one adds a method, a data set, a task loss, a network and an export format: all the way."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml

import segdistill
from segdistill import RunFolder, UserError
from segdistill.cli.main import main
from segdistill.comparison.reading import load_comparison
from segdistill.formats.exported import ExportedModel
from segdistill.methods.building import build_methods
from segdistill.naming import known_names, resolve
from segdistill.plugins import entry_point_names, load_entry_point
from segdistill.recipe.data import Data
from tests.training.runs import fingerprint

CODE = '''
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from segdistill import Network
from segdistill.datasets import SegmentationDataset
from segdistill.formats import Format
from segdistill.methods import Method


class Pull(Method):
    """Mean squared difference of the embeddings, averaged over positions."""

    def __init__(self, strength: float = 1.0) -> None:
        super().__init__()
        self.strength = strength

    def build(self, student, teacher) -> None:
        self.adapter = nn.Linear(student.embedding.channels, teacher.embedding.channels)

    def teacher_outputs(self, teacher):
        return {"embedding.mean": teacher.embedding.mean((2, 3))}

    def forward(self, *, student, teacher, labels, valid):
        own = self.adapter(student.embedding.mean((2, 3)))
        return {"mean": self.strength * F.mse_loss(own, teacher["embedding.mean"])}


class Squares(SegmentationDataset):
    """Squares of three shades in noise; reading sample ``broken`` fails like a kill."""

    broken = None

    def __init__(self, split: str, count: int = 5, noise: int = 40) -> None:
        super().__init__(classes=("dark", "grey", "bright"), ids=[f"{split}{index}" for index in range(count)])
        self.noise, self.seen = noise, 0

    def __getitem__(self, index: int):
        self.seen += 1
        if self.seen == Squares.broken:
            raise KeyboardInterrupt
        chance = torch.Generator().manual_seed(sum(map(ord, self.ids[index])))
        labels = torch.randint(0, 3, (4, 4), generator=chance).repeat_interleave(8, 0).repeat_interleave(8, 1)
        shade = labels * 80 + torch.randint(0, self.noise, (32, 32), generator=chance)
        return shade.to(torch.uint8).expand(3, 32, 32).clone(), labels


class Smooth:
    """Cross-entropy with label smoothing, weighed by how rare a class is."""

    def __init__(self, pixels_per_class, by: float = 0.1) -> None:
        self.weights = 1 / (pixels_per_class + 1.0)
        self.by = by

    def __call__(self, *, logits, labels, ignore_index):
        weights = self.weights.to(logits)
        return F.cross_entropy(logits, labels, weights, ignore_index=ignore_index, label_smoothing=self.by)


def narrow(num_classes: int, in_channels: int, width: int = 4) -> Network:
    body = nn.Sequential(
        nn.Conv2d(in_channels, width, 4, 4), nn.ReLU(), nn.Conv2d(width, width, 2, 2), nn.ReLU(), nn.Dropout(0.2)
    )
    return Network(
        nn.Sequential(body, nn.Conv2d(width, num_classes, 1)),
        stages=["0.1", "0.3"], embedding="0.3", logits="1", in_channels=in_channels,
    )


class Weights(Format):
    """The weights alone; who opens them builds the network again."""

    name, suffix = "weights", ".weights"

    def convert(self, deployable, example, dynamic, metadata):
        return deployable.network.state_dict(), dict(metadata)

    def write(self, model, path):
        save_file(model[0], path, metadata=model[1])
        return (path,)

    def open(self, path):
        return WeightsFile(path)


class WeightsFile:
    def __init__(self, path) -> None:
        with safe_open(path, "pt") as file:
            self.about = file.metadata() or {}
            weights = {key: file.get_tensor(key) for key in file.keys()}
        self.network = narrow(3, 3, width=len(weights["model.0.0.bias"])).eval()
        self.network.load_state_dict(weights)

    def __call__(self, images):
        return self.logits(images).argmax(1)

    def logits(self, images):
        with torch.no_grad():
            return self.network(torch.from_numpy(images)).numpy()

    def metadata(self):
        return self.about


def no_network(num_classes: int, in_channels: int) -> str:
    return "nothing"
'''

ENTRY_POINTS = """
[segdistill.methods]
pull = squares_package:Pull
[segdistill.datasets]
squares = squares_package:Squares
[segdistill.losses]
smooth = squares_package:Smooth
lost = squares_package:Nowhere
[segdistill.networks]
narrow = squares_package:narrow
[segdistill.formats]
weights = squares_package:Weights
"""

TRAIN = {"epochs": 3, "batch_size": 2, "lr": 3e-3, "precision": "fp32", "workers": 0, "loss": "smooth"}
DATA = {"dataset": "squares", "noise": 30, "crop": [32, 32], "scale": [0.8, 1.2]}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The package, as pip would install it; no network is needed for that."""
    site = tmp_path_factory.mktemp("site")
    (site / "squares_package.py").write_text(CODE)
    about = site / "squares_package-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: squares-package\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(ENTRY_POINTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        yield importlib.import_module("squares_package")
    sys.modules.pop("squares_package", None)


@pytest.fixture(scope="module")
def teacher(package: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("outside") / "teacher"
    return segdistill.train(
        data=DATA, network="narrow?width=8", train=TRAIN, output=output, device="cpu", quiet=True
    ).path


def options(output: Path, **more: Any) -> dict[str, Any]:
    return {"student": "narrow", "train": TRAIN, "output": output, "device": "cpu", "quiet": True, **more}


def test_a_package_that_is_installed_while_the_process_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "late" not in entry_point_names("segdistill.methods")
    about = tmp_path / "late-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: late\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[segdistill.methods]\nlate = fractions:Fraction\n")
    assert "late" in entry_point_names("segdistill.methods")
    assert load_entry_point("segdistill.methods", "late") is Fraction


def test_trained_and_written_down(package: Any, teacher: Path) -> None:
    config = RunFolder(teacher).read_config()
    assert config["data"] == DATA
    assert config["network"] == "narrow?width=8"
    assert config["train"]["loss"] == "smooth"
    assert segdistill.load_run(teacher).num_classes == 3


def test_distilled_by_the_command_with_a_teacher_cache(package: Any, teacher: Path, tmp_path: Path) -> None:
    """By entry-point names on the command line, and by python:module:Name in a recipe: one and the same run."""
    arguments = ["--data", str(DATA), "--teacher", str(teacher), "--student", "narrow", "--train", str(TRAIN)]
    arguments += ["--method", "{pull: {strength: 2.0}}", "--views", "2", "--device", "cpu", "--quiet"]
    for name in ("a", "b"):  # the second time the cache is full and the teacher is not loaded
        own = ["--teacher-cache", str(tmp_path / "cache"), "--output", str(tmp_path / name)]
        assert main(["distill", *arguments, *own]) == 0
    config = RunFolder(tmp_path / "a").read_config()
    assert config["method"] == [{"python:squares_package:Pull": {"strength": 2.0}}]
    again = segdistill.distill(tmp_path / "a" / "config.yaml", output=tmp_path / "c", device="cpu", quiet=True)
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b") == fingerprint(again)
    exported = segdistill.export(run=again.path, format="torch-export", quiet=True)
    assert exported.path.exists()


def test_objects_are_written_down_and_resumed(package: Any, teacher: Path, tmp_path: Path) -> None:
    splits = {name: package.Squares(name, noise=30) for name in ("train", "val")}
    data = Data(**splits)
    assert data.values["dataset"] == "python:squares_package:Squares"
    train = segdistill.TrainConfig(**TRAIN | {"loss": {"python:squares_package:Smooth": {"by": 0.2}}})
    given = options(tmp_path / "whole", data=data, teacher=teacher, method=package.Pull(strength=2.0))
    given |= {"train": train}
    whole = segdistill.distill(**given)
    assert whole.read_config()["method"] == [{"python:squares_package:Pull": {"strength": 2.0}}]
    given |= {"data": Data(**{name: package.Squares(name, noise=30) for name in splits}), "method": package.Pull(2.0)}
    with pytest.MonkeyPatch.context() as patch:
        # In the third epoch, the last.
        patch.setattr(package.Squares, "broken", splits["train"].seen - 1)
        with pytest.raises(KeyboardInterrupt):
            segdistill.distill(**given | {"output": tmp_path / "broken"})
    assert len(RunFolder(tmp_path / "broken").read_history()) in (1, 2)
    resumed = segdistill.distill(resume=tmp_path / "broken", device="cpu", quiet=True)
    assert fingerprint(resumed) == fingerprint(whole)


def test_compared_with_built_in_methods(
    package: Any, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segdistill.comparison.report.write_report", lambda found, path, **_: path.write_text("page"))
    recipe = {"data": DATA, "teacher": teacher, "method": {"pull": {"strength": 2.0}}}
    given = options(tmp_path / "compare", seeds=1, **recipe)
    assert segdistill.compare(methods=["none", "pull+kd"], **given) is not None
    found = load_comparison(tmp_path / "compare")
    assert [row.method for row in found.rows] == ["none", "pull+kd"]
    cell = RunFolder(tmp_path / "compare" / "cells" / "pull+kd" / "seed-0").read_config()
    assert cell["method"][0] == {"python:squares_package:Pull": {"strength": 2.0}}
    # Again from the recipe that was written, with the method as an object: nothing is left to do.
    before = fingerprint(tmp_path / "compare" / "cells" / "pull+kd" / "seed-0")
    stored = yaml.safe_load((tmp_path / "compare" / "recipe.yaml").read_text())
    methods = ["none", [package.Pull(2.0), "kd"]]
    given = {"methods": methods, "output": tmp_path / "compare", "seeds": 1, "device": "cpu", "quiet": True}
    assert segdistill.compare(stored, **given) is not None
    assert before == fingerprint(tmp_path / "compare" / "cells" / "pull+kd" / "seed-0")


def test_advised(package: Any, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segdistill.comparison.report.write_report", lambda found, path, **_: path.write_text("page"))
    given = options(tmp_path / "advice", data=DATA, teacher=teacher, methods="python:squares_package:Pull,kd", rungs=1)
    found = segdistill.advise(**given)
    assert found is not None
    assert {standing.method for standing in found.rungs[0].standings} >= {"pull", "kd"}


def test_exported_to_its_own_format(package: Any, teacher: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.weights"
    assert main(["export", str(teacher), "--format", "weights", "-o", str(file), "--quiet"]) == 0
    assert json.loads((tmp_path / "model.weights.json").read_text())["agreement"]["equal_labels"] == 1.0
    found = [
        segdistill.evaluate(model, data=DATA, device="cpu", quiet=True, output=tmp_path / "scores.json").confusion
        for model in (file, teacher)
    ]
    assert found[0].equal(found[1])
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=r"model.weights cannot be read, it is damaged or no .weights model"):
        ExportedModel(file)
    with pytest.raises(UserError, match=r"unknown export format 'weihgts': did you mean 'weights'"):
        segdistill.export(teacher, format="weihgts")
    with pytest.raises(UserError, match=r"int8 is made for onnx and openvino, not for weights"):
        segdistill.export(teacher, format="weights", int8=True)


def test_shown_beside_the_built_in_methods(
    package: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["methods"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "│ pull " in line)
    assert "Mean squared difference of the embeddings, averaged over positions " in row
    for name in ("pull", "python:squares_package:Pull"):
        assert main(["methods", name]) == 0
        shown = capsys.readouterr().out
        assert f"{name}: Mean squared difference" in shown
        assert re.search(r"│ strength +│ 1 ", shown)
    monkeypatch.setattr(package.Pull, "__init__", lambda self, strength: None)
    assert main(["methods", "pull"]) == 0
    assert re.search(r"│ strength +│ required ", capsys.readouterr().out)


def test_names_of_packages_are_known(package: Any) -> None:
    assert "pull" in known_names("method")
    assert resolve("dataset", "squares") is package.Squares
    with pytest.raises(UserError, match="unknown method 'pul': did you mean 'pull'"):
        build_methods("pul")
    with pytest.raises(UserError, match=r"unknown network 'narow': .* narrow"):
        segdistill.load_network("narow", num_classes=3)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            lambda: build_methods("python:squares_package:Pul"),
            "unknown name in module 'squares_package': 'Pul': did you",
        ),
        (lambda: build_methods("python:nowhere.at_all:Pull"), "module 'nowhere.at_all' cannot be imported"),
        (lambda: build_methods("python:squares_package"), "cannot be read: expected python:module:Name"),
        (lambda: build_methods("python:squares_package:narrow"), "is a function, expected a class derived from"),
        (
            lambda: build_methods("python:squares_package:Squares"),
            "is the class Squares, expected a class derived from",
        ),
        (
            lambda: build_methods({"pull": {"strenght": 1}}),
            "unknown key in method pull: 'strenght': did you mean 'stren",
        ),
        (lambda: segdistill.TrainConfig(loss="python:squares_package:ENTRY"), "unknown name in module"),
        (lambda: segdistill.TrainConfig(loss={"smooth": {"bye": 1}}), "unknown key in train.loss smooth: 'bye'"),
        (
            lambda: segdistill.TrainConfig(loss="lost"),
            "'lost' in segdistill.losses of the package squares-package cannot",
        ),
        (
            lambda: segdistill.load_network("python:squares_package:no_network", 3),
            "returned a str, expected a segdistill",
        ),
        (lambda: build_methods("object:somewhere.Mine"), "was given as an object that a recipe cannot name"),
    ],
)
def test_what_cannot_be_found_or_used(package: Any, make: Any, told: str) -> None:
    with pytest.raises(UserError) as error:
        make()
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_an_object_that_no_recipe_can_name(
    package: Any, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It runs; config.yaml says so, and whoever tries to run from it is told what to do."""

    class Local(package.Pull):  # type: ignore[misc, name-defined]
        pass

    given = options(tmp_path / "run", data=DATA, teacher=teacher, method=Local())
    run = segdistill.distill(**given | {"quiet": False})
    told = " ".join(capsys.readouterr().out.split())
    assert "note: method given as an object that config.yaml cannot write down: only Python, given the same" in told
    with pytest.raises(UserError, match="was given as an object that a recipe cannot name"):
        segdistill.distill(run.path / "config.yaml", output=tmp_path / "again", device="cpu", quiet=True)


def test_train_config_takes_a_loss_as_an_object(package: Any, tmp_path: Path) -> None:
    calls = []

    def counted(*, logits: Any, labels: Any, ignore_index: int) -> Any:
        calls.append(len(logits))
        return segdistill.losses.cross_entropy(logits=logits, labels=labels, ignore_index=ignore_index)

    train = segdistill.TrainConfig(**TRAIN | {"loss": counted, "epochs": 1})
    segdistill.train(data=DATA, network="narrow", train=train, output=tmp_path / "run", device="cpu", quiet=True)
    assert sum(calls) == 4
