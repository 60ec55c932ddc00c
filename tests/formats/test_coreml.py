"""Core ML packages: made anywhere, run on Apple's systems alone; so their structure is tested, not their values."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from segdistill import UserError
from segdistill.cli.main import main
from segdistill.exporting.export import export
from segdistill.formats.about import About
from segdistill.formats.agreement import Form
from segdistill.formats.choosing import format_named
from segdistill.networks.loading import load_run
from segdistill.networks.network import Network
from tests.formats.photos import photo
from tests.prediction.networks import BUILDER, saved

needs_coremltools = pytest.mark.skipif(
    not importlib.util.find_spec("coremltools"), reason="coremltools, of the extra coreml, is missing"
)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("coreml") / "net", BUILDER + "build_padded")


def build_unusual(num_classes: int, in_channels: int) -> Network:
    """Uses an operator that converters do not know."""

    class Unusual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(in_channels, 4, 1)
            self.classifier = nn.Conv2d(4, num_classes, 1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            features = self.stem(images)
            unusual = torch.linalg.eigvals(features @ features.transpose(2, 3)).real
            return self.classifier(features + unusual[..., None])

    return Network(Unusual(), stages=["stem"], embedding="stem", logits="classifier")


@needs_coremltools
@pytest.mark.slow  # to import coremltools takes longer than most tests
def test_made_and_checked(net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import coremltools

    file = tmp_path / "net.mlpackage"
    (file / "of an earlier package").mkdir(parents=True)
    assert main(["export", str(net), "--format", "coreml", "--size", "37x48", "-o", str(file)]) == 0
    assert {path.name for path in file.iterdir()} == {"Manifest.json", "Data"}
    printed = " ".join(capsys.readouterr().out.split())
    told = "structure checked, values not compared with PyTorch: Core ML runs only on macOS and iOS"
    assert f"net.mlpackage {told}" in printed
    spec = coremltools.utils.load_spec(str(file))
    (images,), (labels, logits) = spec.description.input, spec.description.output
    image = images.type.imageType
    assert (images.name, image.height, image.width) == ("images", 37, 48)
    assert image.ColorSpace.Name(image.colorSpace) == "RGB"
    assert (labels.name, list(labels.type.multiArrayType.shape)) == ("labels", [1, 37, 48])
    assert (logits.name, list(logits.type.multiArrayType.shape)) == ("logits", [1, 5, 48, 48])
    metadata = spec.description.metadata.userDefined
    assert json.loads(metadata["classes"]) == [f"class {label}" for label in range(5)]
    assert json.loads(metadata["images"]) == {"layout": "nchw", "dtype": "uint8", "size": [37, 48], "batch": 1}
    report = json.loads((tmp_path / "net.mlpackage.json").read_text())
    assert (report["agreement"], report["compared_on"]) == (None, None)
    assert {path.name for path in tmp_path.iterdir()} == {"net.mlpackage", "net.mlpackage.json"}
    assert not any(b"networks.py" in part.read_bytes() for part in file.rglob("*") if part.is_file())
    # What does not fit is noticed.
    about = About(Form("nchw", "labels", (37, 48), 1), "uint8", load_run(net).description)
    kind = format_named("coreml")
    kind.check(file, about)
    for other, told in (
        (replace(about, form=replace(about.form, size=(48, 48))), r"input images is \('RGB', 37, 48\), expected"),
        (replace(about, form=replace(about.form, outputs="probabilities")), "output names is"),
        (replace(about, description=replace(about.description, classes=("a", "b", "c", "d", "e"))), "metadata classes"),
    ):
        with pytest.raises(ValueError, match=told):
            kind.check(file, other)
    shutil.rmtree(file / "Data/com.apple.CoreML/weights")
    with pytest.raises(ValueError, match="it lacks its weights"):
        kind.check(file, about)


@needs_coremltools
@pytest.mark.slow  # converts once more
def test_images_of_many_bands_are_arrays(tmp_path: Path) -> None:
    import coremltools

    run = saved(tmp_path / "net", BUILDER + "build_any", in_channels=4)
    file = export(run, format="coreml", size=[32, 40], outputs="probabilities", layout="nhwc", quiet=True).path
    spec = coremltools.utils.load_spec(str(file))
    (images,), (chances, _) = spec.description.input, spec.description.output
    assert list(images.type.multiArrayType.shape) == [1, 32, 40, 4]
    assert list(chances.type.multiArrayType.shape) == [1, 32, 40, 5]


@needs_coremltools
def test_what_it_cannot_hold(net: Path, tmp_path: Path) -> None:
    options = {"format": "coreml", "size": [32, 32], "output": tmp_path / "net.mlpackage", "quiet": True}
    with pytest.raises(UserError, match="layout is nhwc, but a Core ML file takes pictures, which have none"):
        export(net, layout="nhwc", **options)
    with pytest.raises(UserError, match="2 images of 3 channels of 8 bits go in; a Core ML file takes pictures of"):
        export(net, batch=2, **options)
    run = saved(tmp_path / "net", "python:tests.formats.test_coreml:build_unusual")
    with pytest.raises(UserError, match=r"cannot be exported to coreml: .*eig"):
        export(run, **options)
    assert {path.name for path in tmp_path.iterdir()} == {"net"}


def test_without_size_or_extra(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        UserError, match="format coreml makes files for one image size only; give that size, such as --size 512x512"
    ):
        export(net, format="coreml")
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(UserError, match=r"needs the package coremltools: pip install 'segdistill\[coreml\]'"):
        export(net, format="coreml", size=[32, 32])


def test_it_does_not_predict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.mlpackage").mkdir()
    image = photo(tmp_path / "photo.png", 40, 50)
    assert main(["predict", str(tmp_path / "net.mlpackage"), str(image), "-o", str(tmp_path / "maps")]) == 2
    told = capsys.readouterr().err
    assert "net.mlpackage is a Core ML package, and Core ML runs only on macOS and iOS; use the run that" in told
    assert told.count("\n") == 1
