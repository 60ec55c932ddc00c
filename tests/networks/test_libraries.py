"""What holds for networks of single libraries: dilation, dropout, channels, half precision, use without segdistill."""

import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import segmentation_models_pytorch as smp
import torch

from segdistill.networks.loading import load_network
from tests.networks.specs import CLASSES, DILATED, SEGFORMER, SWIN, calibrate, images, native_logits


@pytest.mark.slow
def test_the_libraries_load_a_student_with_segdistill_not_installed(tmp_path: Path) -> None:
    for name, spec in (
        ("smp", DILATED),
        ("vision", "torchvision:lraspp_mobilenet_v3_large"),
        ("hf", SEGFORMER),
    ):
        network = load_network(spec, num_classes=CLASSES)
        calibrate(network)
        network.eval().save(tmp_path / name)
        with torch.no_grad():
            expected = native_logits(network, network.model, images())
        batch = (images() - network.mean) / network.std
        safetensors.torch.save_file({"batch": batch, "logits": expected}, tmp_path / name / "expected.safetensors")
    script = f"""
import sys
sys.modules["segdistill"] = None  # importing it fails from here on
import safetensors.torch, torch, torchvision, transformers
import segmentation_models_pytorch as smp
vision = torchvision.models.get_model(
    "lraspp_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes={CLASSES})
vision.load_state_dict(safetensors.torch.load_file("vision/model.safetensors"))
hf = transformers.AutoModelForSemanticSegmentation.from_pretrained("hf")
for name, model in dict(smp=smp.from_pretrained("smp"), vision=vision, hf=hf).items():
    wanted = safetensors.torch.load_file(name + "/expected.safetensors")
    with torch.no_grad():
        out = model.eval()(wanted["batch"])
    logits = out["out"] if name == "vision" else out.logits if name == "hf" else out
    size = wanted["logits"].shape[-2:]
    logits = torch.nn.functional.interpolate(logits, size, mode="bilinear", align_corners=False)
    error = (logits - wanted["logits"]).abs().max() / wanted["logits"].std(dim=(2, 3)).max()
    print(name, "same" if error < 1e-4 else error)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if "same" in line] == [
        "smp same",
        "vision same",
        "hf same",
    ]


@pytest.mark.parametrize(
    "spec",
    [
        "smp:FPN:tu-mobilenetv3_small_050",
        "smp:Segformer:mit_b0",
        "torchvision:lraspp_mobilenet_v3_large",
        SEGFORMER,
        SWIN,
    ],
)
def test_training_under_bf16_autocast(spec: str) -> None:
    torch.manual_seed(0)
    network = load_network(spec, num_classes=CLASSES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, features = network.forward_with_features(images(batch=2))
    assert logits.shape == (2, CLASSES, 64, 64)
    assert features.logits.dtype == torch.bfloat16
    (logits.float().square().mean() + features.embedding.float().square().mean()).backward()
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_torchvisions_resnets_are_dilated_to_stride_8() -> None:
    info = load_network("torchvision:fcn_resnet50", num_classes=CLASSES).info
    assert [(stage.channels, stage.stride) for stage in info.stages] == [
        (256, 4),
        (512, 8),
        (1024, 8),
        (2048, 8),
    ]
    assert (info.embedding.channels, info.embedding.stride, info.logits.stride) == (512, 8, 8)


@torch.no_grad()
def test_dilation_survives_saving(tmp_path: Path) -> None:
    load_network(DILATED, num_classes=CLASSES).save(tmp_path)
    for model in (load_network(tmp_path).model, smp.from_pretrained(tmp_path)):
        features = model.eval().encoder(images())
        assert [64 // feature.shape[-1] for feature in features] == [1, 2, 4, 8, 8, 8]


@pytest.mark.parametrize(
    ("spec", "dropout"),
    [
        ("smp:FPN:resnet18", "decoder.dropout"),
        (DILATED, "decoder.dropout"),
        ("torchvision:fcn_resnet50", "classifier.3"),
        (SEGFORMER, "decode_head.dropout"),
        ("transformers:mobilenet_v2", "segmentation_head.dropout"),
        ("transformers:mobilevit", "segmentation_head.dropout"),
    ],
)
@torch.no_grad()
def test_dropout_before_the_classifier_does_not_touch_the_embedding(spec: str, dropout: str) -> None:
    network = load_network(spec, num_classes=CLASSES)
    network.model.get_submodule(dropout).p = 1.0
    features = network.features(images(batch=2))
    assert features.embedding.abs().sum() > 0
    assert features.logits.std(dim=(2, 3)).max() == 0  # the classifier itself sees nothing but zeros


@pytest.mark.parametrize("arch", ["UnetPlusPlus", "MAnet", "Linknet", "PAN"])
@torch.no_grad()
def test_the_other_smp_architectures(arch: str) -> None:
    network = load_network(f"smp:{arch}:resnet18", num_classes=CLASSES).eval()
    assert network(images(128, 160)).shape == (1, CLASSES, 128, 160)
    assert len(network.features(images(128, 160)).stages) == 4


@torch.no_grad()
@pytest.mark.parametrize("spec", ["smp:FPN:resnet18", "smp:FPN:tu-mobilenetv3_small_050", SEGFORMER])
def test_any_number_of_channels(spec: str, tmp_path: Path) -> None:
    network = load_network(spec, num_classes=CLASSES, in_channels=5).eval()
    assert network.mean is None
    network.save(tmp_path)
    batch = torch.rand(1, 5, 64, 64)
    assert torch.equal(load_network(tmp_path).eval()(batch), network(batch))
    assert load_network(tmp_path).info.in_channels == 5
