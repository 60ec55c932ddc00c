"""What an export says: metadata in the file, and how close the file is to the network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
import torch
from torch import Tensor

import segdistill
from segdistill import UserError
from segdistill.cli.main import main
from segdistill.datasets import SyntheticAerial
from segdistill.exporting.export import export
from segdistill.formats import torch_export
from segdistill.formats.agreement import Agreement, Form, compare
from tests.datasets.trees import write_image
from tests.exporting.tiny import FAST, pixels
from tests.formats.any_size import SUFFIXES
from tests.tiny import tiny_network
from tests.training.runs import train_tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on synthetic scenes of 32 x 32; not to be changed."""
    return train_tiny(tmp_path_factory.mktemp("export") / "run", epochs=1).path


# ------------------------------------------------------------------------------------------------- what it says


def test_metadata_is_in_every_file(run: Path, tmp_path: Path) -> None:
    files = {name: tmp_path / f"model{suffix}" for name, suffix in SUFFIXES.items()}
    for name, file in files.items():
        export(run=run, format=name, output=file, size="32", batch=1, quiet=True)
    of_onnx = {entry.key: entry.value for entry in onnx.load(files["onnx"]).metadata_props}
    model = openvino.Core().read_model(files["openvino"])
    of_openvino = {key: model.get_rt_info(["segdistill", key]).astype(str) for key in of_onnx}
    extra = {torch_export.METADATA_FILE: ""}
    torch.export.load(files["torch-export"], extra_files=extra)
    found = {key: json.loads(value) for key, value in of_onnx.items()}
    assert found == {
        "format": 1,
        "segdistill": segdistill.__version__,
        "spec": "python:tests.training.runs:build_student",
        "classes": list(SyntheticAerial.CLASSES),
        "palette": [list(color) for color in SyntheticAerial.PALETTE],
        "mean": None,
        "std": None,
        "images": {"layout": "nchw", "dtype": "uint8", "size": [32, 32], "batch": 1},
        "outputs": "labels",
        "in_channels": 3,
        "stride": 8,
        "pixels": "uint8",
        "value_range": None,
        "bands": None,
        "resize": None,
        "window": None,
        "ignore_index": 255,
    }
    assert {key: json.loads(value) for key, value in of_openvino.items()} == found
    of_torch = json.loads(next(iter(extra.values())))
    assert {key: json.loads(value) for key, value in of_torch.items()} == found


def test_report_beside_the_file(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "made" / "net.pt2"
    assert main(["export", str(run), "--format", FAST, "--output", str(file)]) == 0
    report = json.loads((tmp_path / "made" / "net.pt2.json").read_text())
    printed = capsys.readouterr().out
    assert "equal labels 100.0000 %, largest difference of logits " in printed
    assert report["compared_on"] == "5 validation images, 2 of them also cut to an odd size"
    assert report["agreement"]["images"] == 7
    assert report["agreement"]["sizes"] == [[29, 29], [32, 32]]
    assert report["agreement"]["equal_labels"] == 1.0
    assert report["agreement"]["largest_logit_difference"] < 1e-5
    assert report["metadata"]["classes"] == list(SyntheticAerial.CLASSES)
    assert report["form"] == {"layout": "nchw", "outputs": "labels", "size": None, "batch": None}


def test_images_of_the_user(net: Path, tmp_path: Path) -> None:
    for number in range(3):
        write_image(tmp_path / "photos" / f"{number}.png", 40, 50, seed=number)
    found = export(
        run=net, format=FAST, output=tmp_path / "net.pt2", images=tmp_path / "photos", size="24x32", quiet=True
    )
    assert found.compared_on == f"3 images of {tmp_path / 'photos'}"
    assert found.agreement.sizes == ((24, 32),)


def test_synthetic_images_are_called_so(net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(run=net, format=FAST, output=tmp_path / "net.pt2", size="32")
    printed = " ".join(capsys.readouterr().out.split())
    assert "on 8 SYNTHETIC images, for there are no real ones (its folder names no data; --images DIR" in printed


# -------------------------------------------------------------------------------------------------- the comparison


class ByHand:
    """A file that says what it is told to."""

    def __init__(self, logits: Tensor, prediction: Tensor) -> None:
        self._logits, self._prediction = logits, prediction

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return self._prediction.numpy()

    def logits(self, images: np.ndarray) -> np.ndarray:
        return self._logits.numpy()


def test_comparison_counts_and_measures() -> None:
    network = tiny_network().eval()
    image = pixels(20, 30, 1)[0]
    with torch.no_grad():
        logits = network(image[None])
    labels = logits.argmax(1).to(torch.uint8)
    other, wrong = logits.clone(), labels.clone()
    other[0, 3, 5, 7] += 0.25
    wrong[0, 0, :3] = (wrong[0, 0, :3] + 1) % 5
    found = compare(network, ByHand(other, wrong), Form("nchw", "labels", None, None), [image])
    assert found.largest_logit_difference == pytest.approx(0.25, abs=1e-6)
    assert found.equal_labels == pytest.approx(597 / 600)
    assert found.logit_deviation == pytest.approx(logits.std().item())
    assert found.largest_probability_difference is None
    chances = logits.softmax(1)
    chances[0, 1, 2, 3] += 0.5
    found = compare(network, ByHand(logits, chances), Form("nchw", "probabilities", None, None), [image])
    assert found.largest_probability_difference == pytest.approx(0.5)
    assert found.largest_logit_difference == 0


@pytest.mark.parametrize(
    ("changed", "close"),
    [
        ({}, True),
        ({"equal_labels": 0.99991}, True),
        ({"equal_labels": 0.99989}, False),
        ({"largest_logit_difference": 0.03}, False),
        ({"largest_logit_difference": float("nan")}, False),
        ({"largest_probability_difference": 0.02}, False),
        ({"largest_probability_difference": float("nan")}, False),
    ],
)
def test_what_is_close(changed: dict[str, float], close: bool) -> None:
    good: dict[str, Any] = {
        "images": 1,
        "sizes": ((8, 8),),
        "largest_logit_difference": 0.01,
        "logit_deviation": 2.0,
        "largest_probability_difference": None,
        "equal_labels": 1.0,
    }
    assert Agreement(**(good | changed)).is_close is close


def test_a_file_that_differs_is_deleted(net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter turns a class around; what was exported before stays."""
    file = tmp_path / "net.pt2"
    export(run=net, format=FAST, output=file, size="32", quiet=True)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    real = torch_export.TorchExport.convert

    def convert(self: Any, deployable: Any, *rest: Any) -> Any:
        weight = deployable.network.model.classifier.weight
        kept = weight.detach().clone()
        weight.data[1] *= -1
        program = real(self, deployable, *rest)
        program[0].state_dict["network.model.classifier.weight"] = torch.nn.Parameter(weight.detach().clone())
        weight.data.copy_(kept)
        return program

    monkeypatch.setattr(torch_export.TorchExport, "convert", convert)
    with pytest.raises(UserError, match=r"net.pt2 differs from .*expected at least 99.99 %.*it was deleted|deleted"):
        export(run=net, format=FAST, output=file, size="32", quiet=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_file_that_does_not_run_is_deleted(net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(self: Any, model: Any, path: Path) -> tuple[Path, ...]:
        path.write_bytes(b"no program")
        return (path,)

    monkeypatch.setattr(torch_export.TorchExport, "write", write)
    with pytest.raises(UserError, match=r"net.pt2 was made but does not run, so it was deleted: "):
        export(run=net, format=FAST, output=tmp_path / "net.pt2", size="32", quiet=True)
    assert list(tmp_path.iterdir()) == []
