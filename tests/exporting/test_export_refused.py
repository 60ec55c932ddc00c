"""What cannot be exported is told of in one sentence, and nothing is left behind."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from segdistill import UserError
from segdistill.cli.main import main
from segdistill.exporting.export import export
from segdistill.formats import torch_export
from tests.exporting.tiny import FAST
from tests.prediction.networks import saved


def fails(capsys: pytest.CaptureFixture[str], arguments: list[str], *words: str) -> None:
    assert main(["export", *arguments]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("segdistill: ")
    assert printed.count("\n") == 1
    for word in words:
        assert word in printed


def test_bad_input(net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    model = str(net)
    fails(capsys, [str(tmp_path / "nowhere")], "run '", "does not exist")
    fails(capsys, [str(tmp_path / "empty")], "holds no saved network")
    fails(capsys, [str(tmp_path / "file")], "is a file")
    fails(capsys, [model, "--format", "onxn"], "unknown export format 'onxn': did you mean 'onnx'? Known: coreml")
    fails(capsys, [model, "--layout", "chw"], "layout: expected one of 'nchw', 'nhwc', found chw; did you mean")
    fails(capsys, [model, "--outputs", "logits"], "outputs: expected one of 'labels', 'probabilities', found logits")
    fails(capsys, [model, "--size", "512x"], "size is '512x', expected height and width")
    fails(capsys, [model, "--size", "0x32"], "size is '0x32'")
    fails(capsys, [model, "--size", "100000x100000"], "size is 100000 x 100000, 10000 million pixels at once; expected")
    fails(capsys, [model, "--batch", "0"], "batch is 0")
    fails(capsys, [model, "--calibration", "0"], "calibration is 0")
    fails(capsys, [model, "--output", str(tmp_path / "net.pt")], "net.pt ends in '.pt', expected .onnx")
    fails(capsys, [model, "--format", FAST, "--int8"], "int8 is made for onnx and openvino")
    fails(capsys, [model, "--int8"], "int8 needs the data of", "its folder names no data")
    (tmp_path / "empty" / "._a.png").write_bytes(b"what macOS leaves")
    fails(capsys, [model, "--images", str(tmp_path / "empty")], "is no image and no folder that holds any")
    fails(capsys, [model, "--output", str(tmp_path / "file" / "net.onnx")], "cannot write", "net.onnx")
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "file"}


def test_network_of_a_newer_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = saved(tmp_path / "net", "python:tests.tiny:build_tiny")
    card = json.loads((folder / "network.json").read_text())
    (folder / "network.json").write_text(json.dumps(card | {"format": 2}))
    fails(capsys, [str(folder)], "network.json has format 2, this segdistill reads format 1")


def test_no_space(
    net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [str(net), "--format", FAST, "--size", "32", "--output", str(tmp_path / "net.pt2")]
    with monkeypatch.context() as patch:
        usage = type("Usage", (), {"free": 1000})
        patch.setattr("segdistill.exporting.export.shutil.disk_usage", lambda path: usage)
        fails(capsys, arguments, "cannot write", "net.pt2: it takes 0.0 MB, but 0.0 MB are free")

    def full(self: Any, model: Any, path: Path) -> tuple[Path, ...]:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch_export.TorchExport, "write", full)
    fails(capsys, arguments, "cannot write", "net.pt2: No space left on device")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("package", "options"),
    [("onnxscript", []), ("onnxruntime", []), ("openvino", ["--format", "openvino"]), ("nncf", ["--int8"])],
)
def test_without_the_extra(
    net: Path,
    package: str,
    options: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    fails(capsys, [str(net), *options], f"needs the package {package}: pip install 'segdistill[deploy]'")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"format": "openvino"}, "half is made for onnx, not for openvino"),
        ({"int8": True}, "half and int8 are both asked for, expected one of them"),
        ({"format": "hub"}, "format hub saves the network as it is; leave half out"),
    ],
)
def test_half_precision_where_it_is_not_made(net: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        export(net, half=True, **options)
