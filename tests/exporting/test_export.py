from __future__ import annotations

import json
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
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
from segdistill.networks.loading import load_run
from segdistill.networks.network import Network
from tests.datasets.trees import write_image
from tests.formats.any_size import SUFFIXES
from tests.prediction.networks import saved
from tests.tiny import tiny_network
from tests.training.runs import train_tiny

FAST = "torch-export"  # the format that is made in a fraction of the others' time
FPN = "smp:FPN:tu-mobilenetv3_small_050?decoder_pyramid_channels=64&decoder_segmentation_channels=32"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on synthetic scenes of 32 x 32; not to be changed."""
    return train_tiny(tmp_path_factory.mktemp("export") / "run", epochs=1).path


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network without a run around it; not to be changed."""
    return saved(tmp_path_factory.mktemp("net") / "net", "python:tests.prediction.networks:build_any")


@pytest.fixture(scope="module")
def padded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that takes multiples of 16 only, without a run around it."""
    return saved(tmp_path_factory.mktemp("padded") / "net", "python:tests.prediction.networks:build_padded")


def pixels(height: int, width: int, batch: int = 2, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(height)
    return torch.randint(0, 256, (batch, channels, height, width), dtype=torch.uint8, generator=generator)


def run_plainly(path: Path, images: np.ndarray) -> np.ndarray:
    """The file run by its own library, with nothing of segdistill."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return session.run(None, {"images": images})[0]
    if path.suffix == ".xml":
        compiled = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return compiled([images])[0]
    assert path.suffix == ".pt2", f"say in run_plainly how a file that ends in {path.suffix} runs without segdistill"
    return torch.export.load(path).module()(torch.from_numpy(images)).detach().numpy()


def expected(network: Network, images: Tensor, layout: str, outputs: str) -> np.ndarray:
    """By hand: pixels over 255, normalised, through the plain model."""
    scaled = images.float() / 255
    if network.mean is not None:
        scaled = (scaled - network.mean) / network.std
    height, width = images.shape[-2:]
    if network.multiple > 1:
        below, right = -height % network.multiple, -width % network.multiple
        scaled = torch.nn.functional.pad(scaled, (0, right, 0, below), mode="replicate")
    with torch.no_grad():
        logits = network.model(scaled)
        logits = torch.nn.functional.interpolate(logits, scaled.shape[-2:], mode="bilinear", align_corners=False)
    logits = logits[..., :height, :width]
    if outputs == "labels":
        return logits.argmax(1).to(torch.uint8).numpy()
    chances = logits.exp() / logits.exp().sum(1, keepdim=True)
    return (chances.permute(0, 2, 3, 1) if layout == "nhwc" else chances).numpy()


def assert_same(found: np.ndarray, truth: np.ndarray) -> None:
    assert found.dtype == truth.dtype
    assert found.shape == truth.shape
    if truth.dtype == np.uint8:
        assert len(np.unique(truth)) > 1
        assert (found == truth).mean() >= 0.9999
    else:
        np.testing.assert_allclose(found, truth, rtol=0, atol=1e-5)


def packed(images: Tensor, layout: str) -> np.ndarray:
    return (images.permute(0, 2, 3, 1) if layout == "nhwc" else images).contiguous().numpy()


# ----------------------------------------------------------------------------------------------- every kind of file


def test_no_format_drops_out_of_these_tests() -> None:
    assert SUFFIXES.items() >= {"onnx": ".onnx", "openvino": ".xml", "torch-export": ".pt2"}.items()


#: The others are as slow as they are many.
QUICK = {("onnx", "nhwc", "probabilities"), ("torch-export", "nchw", "probabilities")}


@pytest.mark.parametrize(
    ("format", "layout", "outputs"),
    [
        pytest.param(*chosen, marks=() if chosen in QUICK else pytest.mark.slow)
        for chosen in product(SUFFIXES, ("nchw", "nhwc"), ("labels", "probabilities"))
    ],
)
def test_every_format_layout_and_output(net: Path, tmp_path: Path, format: str, layout: str, outputs: str) -> None:
    """Any size and batch, odd ones too."""
    file = tmp_path / f"net{SUFFIXES[format]}"
    found = export(run=net, format=format, output=file, layout=layout, outputs=outputs, quiet=True)
    assert found.path == file
    assert found.agreement.equal_labels >= 0.9999
    network = load_run(net)
    for height, width, batch in ((37, 51, 2), (64, 48, 1), (16, 100, 3)):
        images = pixels(height, width, batch)
        assert_same(run_plainly(file, packed(images, layout)), expected(network, images, layout, outputs))
    assert b"deployable.py" not in file.read_bytes()  # nor any other path of this machine
    written = {"net.bin"} if format == "openvino" else set()
    assert {path.name for path in tmp_path.iterdir()} == {file.name, f"{file.name}.json"} | written


@pytest.mark.parametrize(
    ("format", "layout"),
    [
        pytest.param("onnx", "nhwc", marks=pytest.mark.slow),
        pytest.param("openvino", "nchw", marks=pytest.mark.slow),
        ("torch-export", "nhwc"),
    ],
)
def test_network_that_takes_multiples_takes_any_size(padded: Path, tmp_path: Path, format: str, layout: str) -> None:
    file = tmp_path / f"net{SUFFIXES[format]}"
    export(run=padded, format=format, output=file, layout=layout, quiet=True)
    network = load_run(padded)
    for height, width, batch in ((37, 51, 2), (64, 48, 1), (33, 100, 3)):
        images = pixels(height, width, batch)
        assert_same(run_plainly(file, packed(images, layout)), expected(network, images, layout, "labels"))


@pytest.mark.slow
def test_smp_network_of_any_size(tmp_path: Path) -> None:
    folder = saved(tmp_path / "net", FPN)
    found = export(run=folder, quiet=True)
    assert found.path == folder / "exports" / "model.onnx"
    network = load_run(folder)
    for height, width, batch in ((97, 131, 1), (64, 96, 2)):
        images = pixels(height, width, batch)
        assert_same(run_plainly(found.path, images.numpy()), expected(network, images, "nchw", "labels"))


@pytest.mark.parametrize("format", SUFFIXES)
def test_fixed_size_and_batch(padded: Path, tmp_path: Path, format: str) -> None:
    file = tmp_path / f"net{SUFFIXES[format]}"
    found = export(run=padded, format=format, output=file, size="37x48", batch=2, quiet=True)
    assert found.agreement.sizes == ((37, 48),)
    images = pixels(37, 48)
    assert_same(run_plainly(file, images.numpy()), expected(load_run(padded), images, "nchw", "labels"))
    if format == "onnx":
        shape = [axis.dim_value for axis in onnx.load(file).graph.input[0].type.tensor_type.shape.dim]
        assert shape == [2, 3, 37, 48]


def test_network_of_one_size(tmp_path: Path) -> None:
    folder = saved(tmp_path / "net", "python:tests.prediction.networks:build_one_size")
    with pytest.raises(UserError, match=r"cannot be exported to torch-export: .*--size 512x512"):
        export(run=folder, format=FAST, quiet=True)
    assert list((folder / "exports").iterdir()) == []
    found = export(run=folder, format=FAST, size=[32, 32], quiet=True)
    images = pixels(32, 32, 3)
    assert_same(run_plainly(found.path, images.numpy()), expected(load_run(folder), images, "nchw", "labels"))


def test_plain_onnxruntime_is_enough(net: Path, tmp_path: Path) -> None:
    """A process with nothing but onnxruntime and numpy."""
    file = tmp_path / "net.onnx"
    export(run=net, output=file, layout="nhwc", size="40x33", batch=1, quiet=True)
    images = pixels(40, 33, 1)
    np.save(tmp_path / "images.npy", packed(images, "nhwc"))
    program = (
        "import sys, numpy, onnxruntime, json\n"
        "session = onnxruntime.InferenceSession('net.onnx', providers=['CPUExecutionProvider'])\n"
        "numpy.save('labels.npy', session.run(['labels'], {'images': numpy.load('images.npy')})[0])\n"
        "print(json.loads(session.get_modelmeta().custom_metadata_map['classes']))\n"
        "assert not {'torch', 'segdistill'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-I", "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str([f"class {label}" for label in range(5)])
    assert_same(np.load(tmp_path / "labels.npy"), expected(load_run(net), images, "nhwc", "labels"))


def test_float_images_of_many_bands(tmp_path: Path) -> None:
    folder = saved(tmp_path / "net", "python:tests.prediction.networks:build_any", in_channels=4)
    found = export(run=folder, format=FAST, quiet=True)
    images = torch.rand(1, 4, 20, 30, generator=torch.Generator().manual_seed(0))
    truth = expected(load_run(folder), images * 255, "nchw", "labels")  # which by hand are divided by 255
    assert_same(run_plainly(found.path, images.numpy()), truth)


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
    assert "equal labels 100.0000 %, on 7 validation images" in printed  # 5 scenes, and 2 cut to an odd size
    assert report["compared_on"] == "7 validation images"
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


# -------------------------------------------------------------------------------------------------------- bad input


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


# ------------------------------------------------------------------------------------------------ half precision


@pytest.mark.slow
def test_onnx_in_half_precision(net: Path, tmp_path: Path) -> None:
    whole = export(net, output=tmp_path / "net.onnx", quiet=True).path
    exported = export(net, half=True, output=tmp_path / "half.onnx", quiet=True)
    assert exported.agreement.half
    assert exported.agreement.is_close
    initializers = onnx.load(exported.path).graph.initializer
    weights = {one.data_type for one in initializers if one.name.endswith("weight")}
    assert weights == {onnx.TensorProto.FLOAT16}
    images = pixels(48, 64).numpy()
    labels, expected = run_plainly(exported.path, images), run_plainly(whole, images)
    assert labels.dtype == np.uint8
    assert (labels == expected).mean() > 0.99


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
