"""ONNX files of any origin as teachers of class scores."""

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import segdistill
from segdistill import Distiller, load_network
from segdistill.errors import UserError
from segdistill.networks.identity import network_digest
from segdistill.networks.loading import files_of, has_own_weights, load_trained
from segdistill.networks.request import IMAGENET_MEAN, IMAGENET_STD
from tests.networks.tiny import tiny_network

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
CLASSES = 5


class Scores(nn.Module):
    """Logits of half the images' size, or what ``then`` makes of them."""

    def __init__(self, then: Any = None, channels: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(channels, CLASSES, 2, stride=2)
        self.then = then

    def forward(self, images: Tensor) -> Tensor:
        logits = 4 * self.layer(images)
        return logits if self.then is None else self.then(logits)


def exported(folder: Path, model: nn.Module, *, shape: tuple[int, ...] = (2, 3, 64, 64), dynamic: bool = True) -> Path:
    """A file as torch.onnx.export writes it, with no segdistill involved."""
    path = folder / "model.onnx"
    axes = {0: "batch", 2: "height", 3: "width"} if dynamic else None
    shapes = None if axes is None else (dict.fromkeys(axes, torch.export.Dim.DYNAMIC),)
    torch.onnx.export(
        model.eval(), (torch.rand(shape),), path, dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False
    )
    return path


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of `Scores`; not to be changed."""
    return exported(tmp_path_factory.mktemp("scores"), Scores())


@torch.no_grad()
def test_logits_are_those_of_the_model_with_imagenets_normalisation(scores: Path) -> None:
    model, path = Scores(), scores
    network = load_network(path)
    assert (network.num_classes, network.info.stages, network.info.embedding.channels) == (CLASSES, (), 0)
    images = torch.rand(3, 3, 64, 96)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(network.features(images).logits, model((images - mean) / std), rtol=1e-4, atol=1e-4)
    assert network(images[..., :50, :70]).shape == (3, CLASSES, 50, 70)
    plain = load_network(f"{path}?mean=null&std=null")
    torch.testing.assert_close(plain.features(images).logits, model(images), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(copy.deepcopy(plain)(images), plain(images))
    assert "its output is read as logits; images are normalised by ImageNet's" in network.notes[0]


@torch.no_grad()
def test_probabilities_become_log_probabilities(tmp_path: Path) -> None:
    model = Scores(lambda logits: logits.softmax(1))
    path = exported(tmp_path, model)
    network = load_network(f"{path}?mean=null&std=null")
    images = torch.rand(2, 3, 64, 64)
    logits = network.features(images).logits
    torch.testing.assert_close(logits.exp(), model(images), rtol=1e-4, atol=1e-5)
    assert "read as probabilities" in network.notes[0]
    assert torch.equal(load_network(f"{path}?outputs=probabilities&mean=null&std=null")(images), network(images))


@torch.no_grad()
def test_a_fixed_batch_and_size(tmp_path: Path) -> None:
    model = Scores()
    path = exported(tmp_path, model, shape=(1, 3, 48, 64), dynamic=False)
    network = load_network(f"{path}?mean=null&std=null")
    images = torch.rand(3, 3, 48, 64)
    torch.testing.assert_close(network.features(images).logits, model(images), rtol=1e-4, atol=1e-4)
    distiller = Distiller(network, tiny_network(CLASSES), "kd")
    with pytest.raises(UserError, match=r"the teacher takes only images of 48 x 64 pixels, .*give crop: \[48, 64\]"):
        distiller(torch.rand(1, 3, 64, 64))
    assert distiller(images).loss > 0


@pytest.mark.parametrize("method", ["auto", "kd", "cwd", "dkd", "dist", "lskd", "bpkd", "maskd"])
def test_methods_of_class_scores_take_it(method: str, scores: Path) -> None:
    distiller = Distiller(load_network(scores), tiny_network(CLASSES), method)
    images, labels = torch.rand(2, 3, 64, 64), torch.randint(0, CLASSES, (2, 64, 64))
    if distiller.has_pre_stage:
        distiller.prepare([images])
    out = distiller(images, labels)
    out.loss.backward()
    assert bool(torch.isfinite(out.loss))


def test_methods_of_features_and_students_are_refused(scores: Path) -> None:
    network = load_network(scores)
    told = "compares features of student and teacher, but the teacher gives only class scores; .* are auto, kd, cwd"
    for method in ("feature", "brd", "at", {"cwd": {"at": "embedding"}}):
        with pytest.raises(UserError, match=told):
            Distiller(network, tiny_network(CLASSES), method)
    with pytest.raises(UserError, match="can only teach: it is an exported file"):
        Distiller(tiny_network(CLASSES), network, "kd")


def test_what_is_no_teacher_is_told_in_one_sentence(tmp_path: Path, scores: Path) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(UserError, match=r"text.onnx cannot be read as an ONNX file"):
        load_network(tmp_path / "text.onnx")
    with pytest.raises(UserError, match=r"gone.onnx does not exist"):
        load_trained(tmp_path / "gone.onnx", CLASSES, role="teacher")
    path = exported(tmp_path, Scores(lambda logits: logits.argmax(1)))
    with pytest.raises(UserError, match=r"model.onnx returns .* int64 \(.*\), expected logits or probabilities"):
        load_network(path)
    path = exported(tmp_path, Scores(torch.sigmoid))
    with pytest.raises(UserError, match=r"returns values from .* that add up to .*: neither logits nor probabilities"):
        load_network(path)
    assert load_network(f"{path}?outputs=logits").num_classes == CLASSES
    path = scores
    with pytest.raises(UserError, match=r"expected probabilities in 0..1 that add up to 1"):
        load_network(f"{path}?outputs=probabilities")
    with pytest.raises(UserError, match=r"takes 3 channels, but the images have 4"):
        load_network(path, in_channels=4)
    with pytest.raises(
        UserError, match=r"option 'size' of .* is unknown, expected output, outputs, multiple, mean or std"
    ):
        load_network(f"{path}?size=3")


def test_the_file_is_what_the_teacher_is_known_by(tmp_path: Path, scores: Path) -> None:
    path = shutil.copy(scores, tmp_path / "model.onnx")
    assert files_of(f"{path}?outputs=logits") == (path,)
    assert has_own_weights(path)
    first = network_digest(load_network(path))
    assert network_digest(load_network(path)) == first
    model = Scores()
    nn.init.zeros_(model.layer.bias)
    exported(tmp_path, model)
    assert network_digest(load_network(path)) != first


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_a_file_of_segdistills_own_says_all_itself(layout: str, tmp_path: Path) -> None:
    network = load_network("smp:FPN:resnet18", num_classes=CLASSES).eval()
    network.save(tmp_path / "run")
    options: dict[str, Any] = {
        "run": tmp_path / "run",
        "output": tmp_path / "own.onnx",
        "layout": layout,
        "quiet": True,
    }
    segdistill.export(**options)
    teacher = load_network(tmp_path / "own.onnx")
    pixels = (255 * torch.rand(2, 3, 64, 96)).to(torch.uint8)
    torch.testing.assert_close(teacher(pixels), network(pixels), rtol=1e-3, atol=1e-3)
    assert teacher.description.classes == network.description.classes
    assert teacher.mean is None
