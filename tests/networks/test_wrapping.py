"""Plain models and folders of other libraries, taken as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torchvision.models import get_model

import segdistill
from segdistill.errors import UserError
from segdistill.methods import KD
from segdistill.networks.loading import load_network, load_trained
from segdistill.networks.network import Network
from segdistill.networks.wrapping import as_network
from segdistill.prediction.predictor import open_predictor
from tests.datasets.trees import folder_tree
from tests.training.runs import distill_tiny

transformers = pytest.importorskip("transformers")


def segformer(classes: int = 3, **options: Any) -> nn.Module:
    config = transformers.SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 16, 24, 32],
        num_attention_heads=[1, 1, 1, 1],
        decoder_hidden_size=16,
        num_labels=classes,
        **options,
    )
    model: nn.Module = transformers.SegformerForSemanticSegmentation(config)
    return model


PLAIN = {
    "smp": lambda: smp.Unet("resnet18", encoder_weights=None, classes=3, decoder_channels=(32, 16, 16, 8, 8)),
    "smp, two outputs": lambda: smp.FPN("resnet18", encoder_weights=None, classes=3, aux_params={"classes": 2}),
    "torchvision, auxiliary head": lambda: get_model(
        "deeplabv3_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=3, aux_loss=True
    ),
    "transformers": segformer,
}


@pytest.mark.parametrize("kind", PLAIN)
def test_a_plain_model_is_wrapped_and_trains(kind: str) -> None:
    torch.manual_seed(0)
    teacher, student = PLAIN[kind](), PLAIN[kind]()
    distiller = segdistill.Distiller(teacher, student, KD())
    images, labels = torch.rand(2, 3, 64, 64), torch.randint(0, 3, (2, 64, 64))
    distiller(images, labels).loss.backward()
    assert any(parameter.grad is not None for parameter in student.parameters())
    # Its scores are the model's own.
    network = as_network(teacher.eval())
    with torch.no_grad():
        own: Any = teacher(images)
        own = own["out"] if isinstance(own, dict) and "out" in own else own[0] if isinstance(own, tuple) else own
        own = getattr(own, "logits", own)
        own = nn.functional.interpolate(own, size=(64, 64), mode="bilinear") if own.shape[-1] != 64 else own
        torch.testing.assert_close(network(images), own, rtol=0, atol=0)


@pytest.mark.parametrize("kind", PLAIN)
def test_a_wrapped_model_is_saved_and_built_again(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = as_network(PLAIN[kind]()).eval()
    network.save(tmp_path)
    again = segdistill.load_run(tmp_path)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(images), network(images))


def test_models_that_cannot_be_wrapped() -> None:
    with pytest.raises(UserError, match=r"the network is a Linear, whose inside is not known; wrap it: Network"):
        as_network(nn.Linear(2, 2))
    with pytest.raises(UserError, match="has an activation behind its logits, expected activation=None"):
        as_network(smp.FPN("resnet18", encoder_weights=None, classes=3, activation="softmax"))
    with pytest.raises(UserError, match=r"the student is a str, expected a segdistill Network or a torch module"):
        as_network("smp:FPN:resnet18", "student")  # type: ignore[arg-type]
    assert as_network(network := load_network("smp:FPN:resnet18", 3)) is network


# ---------------------------------------------------------------------------------------------- kinds of outputs


class Several(nn.Module):
    """Two heads of the same number of classes, in the shape that ``pack`` gives them."""

    def __init__(self, pack: Any, eval_pack: Any = None) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.ReLU())
        self.auxiliary, self.classifier = nn.Conv2d(8, 3, 1), nn.Conv2d(8, 3, 1)
        self.pack, self.eval_pack = pack, eval_pack or pack

    def forward(self, images: Tensor) -> Any:
        seen = self.body(images)
        pack = self.pack if self.training else self.eval_pack
        return pack(self.classifier(seen), self.auxiliary(seen))


PACKS = {
    "tuple": (lambda main, aux: (main, aux), None),
    "list, auxiliary first": (lambda main, aux: [aux, main], None),
    "logits": (lambda main, aux: {"logits": main, "aux": aux}, None),
    "other names": (lambda main, aux: {"aux": aux, "pred": main}, None),
    "nested": (lambda main, aux: ({"features": [aux]}, main), None),
    "several in training alone": (lambda main, aux: (aux, main), lambda main, aux: main),
}


@pytest.mark.parametrize("kind", PACKS)
def test_the_tap_says_which_of_several_outputs_are_the_scores(kind: str) -> None:
    torch.manual_seed(0)
    model = Several(*PACKS[kind])
    network = Network(model, stages=["body"], embedding="body", logits="classifier")
    images = torch.rand(2, 3, 32, 32)
    for training in (True, False):
        network.train(training)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        scores, features = network.forward_with_features(images)
        expected = nn.functional.interpolate(features.logits, size=(32, 32), mode="bilinear")
        torch.testing.assert_close(scores, expected, rtol=0, atol=0)
        # The look at the outputs left the batch statistics alone: one batch was counted.
        counted = model.state_dict()["body.1.num_batches_tracked"] - before["body.1.num_batches_tracked"]
        assert int(counted) == int(training)


def test_an_output_without_scores() -> None:
    with pytest.raises(UserError, match=r"the model returns a dict with keys a, expected logits \(B, K, H, W\), or a"):
        Network(Several(lambda main, aux: {"a": 3}), stages=["body"], embedding="body", logits="classifier")


# ----------------------------------------------------------------------------------------- folders of trained models


@pytest.fixture
def smp_folder(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    smp.FPN("resnet18", encoder_weights=None, classes=6, decoder_dropout=0.1).save_pretrained(tmp_path / "smp")
    return tmp_path / "smp"


@pytest.fixture
def hf_folder(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    segformer(6).save_pretrained(tmp_path / "hf")
    return tmp_path / "hf"


@pytest.mark.parametrize("library", ["smp", "transformers"])
@pytest.mark.parametrize("outright", [True, False])
def test_a_folder_of_another_library_is_trained(
    library: str, outright: bool, smp_folder: Path, hf_folder: Path, tmp_path: Path
) -> None:
    folder = smp_folder if library == "smp" else hf_folder
    name = f"{library}:{folder}" if outright else str(folder)
    network = load_trained(name, 6).eval()
    images = torch.rand(1, 3, 64, 64)
    mean, std = torch.tensor(network.description.mean), torch.tensor(network.description.std)
    scaled = (images - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    with torch.no_grad():
        if library == "smp":
            own = smp.from_pretrained(folder).eval()(scaled)
        else:
            own = transformers.AutoModelForSemanticSegmentation.from_pretrained(folder).eval()(scaled).logits
            own = nn.functional.interpolate(own, size=(64, 64), mode="bilinear")
        torch.testing.assert_close(network(images), own, rtol=1e-5, atol=1e-5)
    assert open_predictor(name, "cpu").identity == open_predictor(str(folder), "cpu").identity
    network.save(tmp_path / "again")
    assert torch.equal(segdistill.load_run(tmp_path / "again")(images), network(images))


def test_a_folder_of_another_library_teaches(smp_folder: Path, tmp_path: Path) -> None:
    run = distill_tiny(tmp_path / "run", smp_folder, epochs=1, method="kd")
    metrics = run.read_metrics()
    assert metrics is not None
    assert metrics["teacher_miou"] is not None
    with pytest.raises(UserError, match="teacher 'smp:FPN:resnet18' is a network spec, which has no trained weights"):
        distill_tiny(tmp_path / "other", Path("smp:FPN:resnet18"))


def test_a_folder_of_another_library_is_evaluated_and_predicts(smp_folder: Path, tmp_path: Path) -> None:
    root = folder_tree(tmp_path / "data", {"train": 1, "val": 2}, classes=6)
    data = {"dataset": "folder", "root": str(root), "classes": list("abcdef")}
    found = segdistill.evaluate(model=f"smp:{smp_folder}", data=data, device="cpu", quiet=True)
    assert list(found.iou) == list("abcdef")
    photo = next((root / "images" / "val").iterdir())
    maps = segdistill.predict(model=smp_folder, input=str(photo), output=tmp_path / "a.png", device="cpu", quiet=True)
    assert maps == [tmp_path / "a.png"]


# ------------------------------------------------------------------------ what a Hugging Face checkpoint does to images


@pytest.mark.parametrize(
    "settings",
    [
        {
            "do_rescale": False,
            "do_normalize": True,
            "image_mean": [123.7, 116.3, 103.5],
            "image_std": [58.4, 57.1, 57.4],
        },
        {
            "do_rescale": True,
            "rescale_factor": 1 / 127.5,
            "do_normalize": True,
            "image_mean": [1.0] * 3,
            "image_std": [0.5] * 3,
        },
        {"do_rescale": True, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.25] * 3},
        {"do_rescale": False, "do_normalize": False},
        {"do_rescale": True, "do_normalize": False},
    ],
    ids=["0..255", "another factor", "0..1", "raw", "scaled alone"],
)
def test_images_go_in_as_the_checkpoints_own_processor_makes_them(hf_folder: Path, settings: dict[str, Any]) -> None:
    whole = {"image_processor_type": "SegformerImageProcessor", "do_resize": False, "do_normalize": True, **settings}
    (hf_folder / "preprocessor_config.json").write_text(json.dumps(whole))
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    processor = transformers.AutoImageProcessor.from_pretrained(hf_folder)
    own = transformers.AutoModelForSemanticSegmentation.from_pretrained(hf_folder).eval()
    network = segdistill.load_run(hf_folder)
    with torch.no_grad():
        inputs = processor(pixels, return_tensors="pt")["pixel_values"].float()
        expected = nn.functional.interpolate(own(inputs).logits, size=(64, 64), mode="bilinear")
        found = network(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_a_checkpoint_names_its_classes(tmp_path: Path) -> None:
    names = {0: "building", 1: "road", 2: "tree"}
    segformer(3, id2label=names, label2id={name: label for label, name in names.items()}).save_pretrained(
        tmp_path / "hf"
    )
    network = load_trained(tmp_path / "hf", 3)
    assert network.description.classes == ("building", "road", "tree")
    with pytest.raises(UserError, match="has the classes in another order than the data: 'road' is class 1 of"):
        network.description.check_classes(["road", "building", "tree"], str(tmp_path))
    network.save(tmp_path / "again")
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config["id2label"] == {"0": "building", "1": "road", "2": "tree"}
