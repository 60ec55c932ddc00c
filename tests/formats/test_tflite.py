"""TFLite files: converted by litert-torch, run by LiteRT's interpreter."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from segdistill import UserError, benchmark, predict
from segdistill.cli.main import main
from segdistill.exporting.export import export
from segdistill.formats.exported import ExportedModel
from segdistill.networks.loading import load_run
from tests.formats.photos import labels_in, photo
from tests.prediction.networks import BUILDER, saved

SIZE = (48, 48)

needs_litert = pytest.mark.skipif(
    not (importlib.util.find_spec("litert_torch") and importlib.util.find_spec("ai_edge_litert")),
    reason="litert-torch and ai-edge-litert, of the extra tflite, are missing",
)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("tflite") / "net", BUILDER + "build_padded")


@pytest.fixture(scope="module")
def file(net: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of one size; not to be changed."""
    path = tmp_path_factory.mktemp("file") / "net.tflite"
    return export(net, format="tflite", size=list(SIZE), output=path, quiet=True).path


def test_without_size_or_extra(net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        UserError, match="format tflite makes files for one image size only; give that size, such as --size 512x512"
    ):
        export(net, format="tflite")
    monkeypatch.setitem(sys.modules, "litert_torch", None)
    with pytest.raises(UserError, match=r"needs the package litert_torch: pip install 'segdistill\[tflite\]'"):
        export(net, format="tflite", size=[32, 32])
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    (tmp_path / "net.tflite").touch()
    with pytest.raises(UserError, match=r"needs the package ai_edge_litert: pip install 'segdistill\[tflite\]'"):
        ExportedModel(tmp_path / "net.tflite")


@needs_litert
def test_the_runtime_alone_is_enough(net: Path, file: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    report = json.loads(file.with_name("net.tflite.json").read_text())
    assert report["agreement"]["equal_labels"] >= 0.9999
    assert report["form"] == {"layout": "nchw", "outputs": "labels", "size": list(SIZE), "batch": 1}
    interpreter = Interpreter(model_path=str(file))
    assert interpreter.get_signature_list() == {
        "serving_default": {"inputs": ["images"], "outputs": ["labels", "logits"]}
    }
    images = torch.randint(0, 256, (1, 3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = interpreter.get_signature_runner()(images=images.numpy())
    with torch.no_grad():
        expected = load_run(net)(images)
    assert found["labels"].dtype == np.uint8
    assert len(np.unique(found["labels"])) > 1
    assert (found["labels"] == expected.argmax(1).numpy()).mean() >= 0.9999
    assert np.abs(found["logits"] - expected.numpy()).max() < 1e-3
    assert b"deployable.py" not in file.read_bytes()  # nor any other path of this machine


@needs_litert
def test_it_predicts_what_its_run_predicts(net: Path, file: Path, tmp_path: Path) -> None:
    image = photo(tmp_path / "photo.png", *SIZE)
    predict(net, image, output=tmp_path / "run.png", device="cpu", quiet=True)
    predict(file, image, output=tmp_path / "file.png", quiet=True)
    assert len(np.unique(labels_in(tmp_path / "run.png"))) > 1
    assert (labels_in(tmp_path / "file.png") == labels_in(tmp_path / "run.png")).mean() >= 0.999
    about = ExportedModel(file).about
    assert about.description == load_run(net).description


@needs_litert
@pytest.mark.slow  # converts once more, 6 s
def test_probabilities_of_several_images_channels_last(tmp_path: Path) -> None:
    """Of a size that the network's multiple, 16, does not divide."""
    run = saved(tmp_path / "net", BUILDER + "build_padded", in_channels=4)
    options = {"outputs": "probabilities", "layout": "nhwc", "batch": 2, "size": [37, 48]}
    found = export(run, format="tflite", quiet=True, **options)
    assert found.agreement is not None
    assert (found.agreement.largest_probability_difference or 1) < 1e-3
    images = torch.rand(3, 4, 20, 30, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        truth = load_run(run)(torch.nn.functional.pad(images, (0, 18, 0, 17), mode="replicate"))[..., :20, :30]
        torch.testing.assert_close(ExportedModel(found.path)(images), truth, rtol=0, atol=1e-3)


@needs_litert
@pytest.mark.slow  # converts once more, in a process that measures
def test_benchmark(net: Path) -> None:
    found = benchmark(net, input="32x48", runtimes=["litert"], seconds=0.1, quiet=True)
    assert [(row.runtime, row.precision) for row in found.rows] == [("litert", "fp32")]
    assert "ai-edge-litert" in found.machine
    assert found.skipped == () or all("bf16" in line for line in found.skipped)


@needs_litert
def test_files_that_are_none(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = file.read_bytes()
    broken = tmp_path / "net.tflite"
    image = photo(tmp_path / "photo.png", 40, 50)
    for content in (b"", b"hello", b"\x80" * 5000, whole[: len(whole) // 2], whole[:-100]):
        broken.write_bytes(content)
        assert main(["predict", str(broken), str(image), "-o", str(tmp_path / "out.png")]) == 2
        told = capsys.readouterr().err
        assert f"model {broken} cannot be read, it is damaged or no .tflite model: " in told
        assert told.count("\n") == 1
    broken.write_bytes(whole.replace(b"segdistill\0", b"someoneels\0"))  # the name of our metadata
    with pytest.raises(UserError, match=r"net.tflite does not name its classes; expected a file made by segdistill"):
        ExportedModel(broken)


@needs_litert
def test_an_operator_that_it_does_not_know(tmp_path: Path) -> None:
    run = saved(tmp_path / "net", "python:tests.formats.test_coreml:build_unusual")
    with pytest.raises(UserError, match=r"cannot be exported to tflite: Lowering not found: aten.linalg_eig.default$"):
        export(run, format="tflite", size=[32, 32], output=tmp_path / "net.tflite", quiet=True)
    assert not (tmp_path / "net.tflite").exists()
