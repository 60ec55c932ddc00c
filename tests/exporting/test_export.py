"""Exported files of every kind, run by their own libraries, give what the network gives."""

from __future__ import annotations

import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from torch import Tensor

from segdistill import UserError
from segdistill.exporting.export import export
from segdistill.networks.loading import load_run
from segdistill.networks.network import Network
from tests.exporting.tiny import FAST, pixels
from tests.formats.any_size import SUFFIXES
from tests.prediction.networks import saved

FPN = "smp:FPN:tu-mobilenetv3_small_050?decoder_pyramid_channels=64&decoder_segmentation_channels=32"


@pytest.fixture(scope="module")
def padded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that takes multiples of 16 only, without a run around it."""
    return saved(tmp_path_factory.mktemp("padded") / "net", "python:tests.prediction.networks:build_padded")


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


@pytest.mark.slow
def test_half_precision_normalises_values_that_it_does_not_hold(tmp_path: Path) -> None:
    folder = saved(tmp_path / "net", "python:tests.prediction.networks:build_any", in_channels=4, classes=2)
    network = load_run(folder)
    network.set_normalization([5e5, 1e6, 2e6, 1e5], [1e5, 3e5, 5e5, 1e4])
    network.save(folder)
    exported = export(run=folder, half=True, quiet=True)
    assert exported.agreement.equal_labels > 0.99
    assert exported.agreement.largest_logit_difference < 0.1 * exported.agreement.logit_deviation


@pytest.mark.slow
def test_a_network_that_overflows_in_half_precision(tmp_path: Path) -> None:
    folder = saved(tmp_path / "net", "python:tests.prediction.networks:build_any")
    network = load_run(folder)
    with torch.no_grad():
        network.model.get_submodule(network.info.logits.name).weight.mul_(1e7)
    network.save(folder)
    with pytest.raises(UserError, match=r"up to 65504, and about three digits of each: leave out --half"):
        export(run=folder, half=True, quiet=True)
    assert not (folder / "exports" / "model-fp16.onnx").exists()
