"""One suite over every kind of network that `load_network` builds: they all must behave alike."""

import copy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import segmentation_models_pytorch as smp
import torch
import torchvision
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

from segdistill.errors import UserError
from segdistill.networks.loading import load_network
from segdistill.networks.network import Network
from segdistill.networks.padding import pad_to_multiple

CLASSES = 5
DILATED = "smp:PSPNet:resnet18?encoder_depth=5&output_stride=8"
SEGFORMER = (
    "transformers:segformer?depths=[1,1,1,1]&hidden_sizes=[8,16,24,32]&num_attention_heads=[1,1,1,1]"
    "&decoder_hidden_size=16"
)
CONVNEXT = (
    "transformers:upernet?hidden_size=16"
    "&backbone_config={depths: [1,1,1,1], hidden_sizes: [8,16,24,32], model_type: convnext}"
)
SWIN = (
    "transformers:upernet?hidden_size=16&backbone_config="
    "{embed_dim: 16, depths: [1,1,1,1], num_heads: [1,1,2,2], window_size: 4, model_type: swin}"
)
VIT = "hidden_size=32&num_hidden_layers=4&num_attention_heads=2&intermediate_size=64&patch_size=16"
#: Nine patches a side, so that every size used here fits networks of one size.
PLAIN = f"{VIT}&image_size=144"
PYRAMID = PLAIN.replace("layers=4", "layers=5") + "&out_indices=[2,3,4,5]"
TIPS = (
    "transformers:tipsv2_dpt?neck_hidden_sizes=[8,8,16,16]&fusion_hidden_size=16&backbone_config="
    "{hidden_size: 32, num_hidden_layers: 4, num_attention_heads: 2, image_size: 56, "
    "patch_size: 14, out_indices: [1, 2, 3, 4], model_type: tipsv2_vision_model}"
)
_SWIN_BACKBONE = "{embed_dim: 16, depths: [1,1,1,1], num_heads: [1,1,2,2], window_size: 4, model_type: swin}"
_QUERIES = f"num_queries=10&num_attention_heads=2&backbone_config={_SWIN_BACKBONE}"
MASKFORMER = (
    "transformers:maskformer?fpn_feature_size=32&mask_feature_size=32&decoder_config="
    "{model_type: detr, d_model: 32, encoder_layers: 1, decoder_layers: 2, encoder_ffn_dim: 64, decoder_ffn_dim: 64, "
    f"encoder_attention_heads: 2, decoder_attention_heads: 2, num_queries: 10}}&backbone_config={_SWIN_BACKBONE}"
)
MASK2FORMER = (
    "transformers:mask2former?feature_size=32&mask_feature_size=32&hidden_dim=32&encoder_feedforward_dim=64"
    f"&dim_feedforward=64&encoder_layers=1&decoder_layers=3&{_QUERIES}"
)
ONEFORMER = (
    "transformers:oneformer?conv_dim=32&mask_dim=32&hidden_dim=32&encoder_feedforward_dim=64&dim_feedforward=64"
    f"&encoder_layers=1&decoder_layers=3&text_encoder_width=16&text_encoder_num_layers=1&{_QUERIES}"
)
EOMT = (
    "transformers:eomt?hidden_size=32&num_hidden_layers=4&num_attention_heads=2&image_size=144&patch_size=16"
    "&num_blocks=2&num_queries=10"
)
UNIVERSAL = [MASKFORMER, MASK2FORMER, ONEFORMER, EOMT, f"transformers:eomt_dinov3?{PLAIN}&num_blocks=2&num_queries=10"]
SPECS = [
    "smp:Unet:tu-mobilenetv3_small_050",
    "smp:FPN:tu-mobilenetv3_small_050",
    "smp:fpn:mit_b0",
    "smp:PSPNet:resnet18",
    DILATED,
    "smp:DeepLabV3:tu-mobilenetv3_small_050",
    "smp:DeepLabV3Plus:tu-mobilenetv3_small_050",
    "smp:Segformer:mit_b0",
    "smp:UPerNet:tu-mobilenetv3_small_050?decoder_channels=32",
    "torchvision:deeplabv3_mobilenet_v3_large",
    "torchvision:lraspp_mobilenet_v3_large",
    SEGFORMER,
    CONVNEXT,
    SWIN,
    "transformers:mobilenet_v2?depth_multiplier=0.35",
    "transformers:mobilevit?hidden_sizes=[16,24,32]&neck_hidden_sizes=[8,8,16,16,24,24,32]&aspp_out_channels=16",
    "transformers:mobilevitv2?width_multiplier=0.25&aspp_out_channels=16",
    f"transformers:beit?{PYRAMID}&pool_scales=[1,2]",
    f"transformers:data2vec-vision?{PYRAMID}&pool_scales=[1,2]",
    f"transformers:dpt?{PLAIN}&backbone_out_indices=[0,1,2,3]&neck_hidden_sizes=[8,8,16,16]&fusion_hidden_size=16",
    f"transformers:sapiens2?{VIT}&image_size=[64,64]&num_key_value_attention_heads=2"
    "&head_config={upsample_out_channels: [16,16], conv_out_channels: [16]}",
    TIPS,
    *UNIVERSAL,
]

#: A spec of each source.
OF_SOURCES = {spec.partition(":")[0]: spec for spec in reversed(SPECS)}


@pytest.fixture(scope="module", params=SPECS, ids=lambda spec: spec.partition("?")[0] + spec[-9:] * ("?" in spec))
def network(request: pytest.FixtureRequest) -> Network:
    torch.manual_seed(0)
    network = load_network(request.param, num_classes=CLASSES)
    calibrate(network)
    sharpen(network)
    return network.eval()


def sharpen(network: Network) -> None:
    """Make queries differ in their classes: those of a new universal segmenter hardly do."""
    for name, parameter in network.named_parameters():
        if name.endswith(("class_predictor.weight", "class_embed.weight")):
            parameter.data *= 30


def calibrate(network: Network) -> None:
    """Give batch norm the statistics of a batch: with those of a new network, most outputs are constants."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    network(images(batch=2))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


@pytest.fixture
def trainee(network: Network) -> Iterator[Network]:
    """The network in training mode; whatever the test does to it, the next one does not see."""
    if network.teaches_only:
        pytest.skip(network.teaches_only)
    state = copy.deepcopy(network.state_dict())
    yield network.train()
    network.load_state_dict(state)
    network.zero_grad()
    network.eval()


def images(height: int = 64, width: int = 64, batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def fitting(network: Network, height: int = 64, width: int = 128) -> Tensor:
    """Images that the network need not pad."""
    height, width = network.size or (height + -height % network.multiple, width + -width % network.multiple)
    return images(height, width)


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def assert_same(logits: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """Equal but for a small part of what the scores differ by from pixel to pixel."""
    spread = expected.std(dim=(2, 3)).max().item()
    assert spread > 0
    # Log-probabilities of a new universal segmenter differ by little more than their rounding.
    torch.testing.assert_close(logits, expected, rtol=0, atol=tolerance * spread + 2e-6)


#: "the task is semantic" in the tokens of CLIP, and 70 zeros.
TASK = [49406.0, 518.0, 10549.0, 533.0, 29119.0, 1550.0, 49407.0, *[0.0] * 70]


def native_logits(network: Network, model: nn.Module, batch: Tensor) -> Tensor:
    """What somebody gets who normalises by hand and calls the plain model."""
    told = {} if "oneformer" not in str(network.spec) else {"task_inputs": torch.tensor([TASK])}
    output = model((batch - network.mean) / network.std, **told)
    if hasattr(output, "masks_queries_logits"):
        queries = output.class_queries_logits.softmax(-1)[..., :-1].transpose(1, 2)
        found = (queries @ output.masks_queries_logits.sigmoid().flatten(2)).unflatten(
            2, output.masks_queries_logits.shape[2:]
        )
        found = (found + 1e-6) / (found + 1e-6).sum(1, keepdim=True)
        return F.interpolate(found.log(), batch.shape[-2:], mode="bilinear", align_corners=False)
    logits = output["out"] if isinstance(output, dict) and "out" in output else getattr(output, "logits", output)
    return F.interpolate(logits, batch.shape[-2:], mode="bilinear", align_corners=False)


@pytest.mark.parametrize("spec", list(OF_SOURCES.values()))
def test_what_a_source_cannot_use_is_refused(spec: str) -> None:
    option = f"{spec}{'&' if '?' in spec else '?'}nonsense=1"
    with pytest.raises(UserError, match="nonsense"):
        load_network(option, num_classes=CLASSES)
    with pytest.raises(UserError, match=r"nowhere\.safetensors"):
        load_network(spec, num_classes=CLASSES, init_weights={"encoder": "nowhere.safetensors"})


@torch.no_grad()
def test_info_says_what_the_views_are(network: Network) -> None:
    batch = fitting(network)
    logits, features = network.forward_with_features(batch)
    taps = [*network.info.stages, network.info.embedding, network.info.logits]
    for tap, view in zip(taps, [*features.stages, features.embedding, features.logits], strict=True):
        assert view.shape[:2] == (1, tap.channels)
        strides = [side / seen for side, seen in zip(batch.shape[2:], view.shape[2:], strict=True)]
        # Those of patches of 14 pixels are fractions: 3.5, 7, 14.
        assert strides == pytest.approx([tap.stride] * 2, abs=0.5 if network.spec == TIPS else 0.0), tap
    assert network.num_classes == network.info.logits.channels == logits.shape[1] == CLASSES
    assert network.info.in_channels == 3


def test_stages_are_fine_to_coarse_from_stride_4(network: Network) -> None:
    strides = [stage.stride for stage in network.info.stages]
    assert strides == sorted(strides)
    if any(name in str(network.spec) for name in (":eomt", ":sapiens2")):
        assert strides == [16]  # one transformer, of one stride
        return
    assert strides[0] == 4
    assert len(strides) == (2 if network.spec == "smp:PSPNet:resnet18" else 4)  # its encoder has depth 3


@torch.no_grad()
def test_odd_sizes(network: Network) -> None:
    assert network(images(97, 131)).shape == (1, CLASSES, 97, 131)


@torch.no_grad()
def test_views_of_an_odd_size_are_those_of_the_padded_images(network: Network) -> None:
    padded = network.features(pad_to_multiple(images(97, 131), network.multiple))
    torch.testing.assert_close(network.features(images(97, 131)).logits, padded.logits, rtol=0, atol=0)


@torch.no_grad()
def test_forward_is_the_plain_models_forward(network: Network) -> None:
    batch = fitting(network, 64, 64)
    expected = native_logits(network, network.model, batch)
    assert_same(network(batch), expected)
    assert_same(network.forward_with_features(batch)[0], expected)


@torch.no_grad()
def test_uint8_and_float_images_agree(network: Network) -> None:
    pixels = (images() * 255).to(torch.uint8)
    assert_same(network(pixels), network(pixels.float() / 255))


def test_every_parameter_that_trains_gets_a_gradient(trainee: Network) -> None:
    trainee(images(batch=2)).square().mean().backward()
    waiting = [name for name, p in trainee.named_parameters() if p.requires_grad and p.grad is None]
    assert waiting == []
    assert any(parameter.requires_grad for parameter in trainee.parameters())


def test_every_view_carries_a_gradient_to_the_backbone(trainee: Network) -> None:
    features = trainee.features(images(batch=2))
    first = next(trainee.parameters())
    for view in [*features.stages, features.embedding, features.logits]:
        (gradient,) = torch.autograd.grad(view.square().sum(), first, retain_graph=True)
        assert gradient.abs().sum() > 0


def test_hooks_live_only_during_the_call(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    before = hooks(network)
    network.features(images())
    assert hooks(network) == before
    monkeypatch.setattr(network, "forward", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        network.features(images())
    assert hooks(network) == before


@torch.no_grad()
def test_save_and_load(network: Network, tmp_path: Path) -> None:
    network.save(tmp_path / "new" / "folder")
    state = torch.get_rng_state()
    loaded = load_network(tmp_path / "new" / "folder").eval()
    assert torch.equal(loaded(images(97, 131)), network(images(97, 131)))
    assert (loaded.info, loaded.spec) == (network.info, network.spec)
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in network.parameters()]
    assert not list((tmp_path / "new" / "folder").glob("*.md"))
    assert not list((tmp_path / "new" / "folder").glob(".*"))
    torch.set_rng_state(state)


@torch.no_grad()
def test_its_own_library_loads_what_is_saved(network: Network, tmp_path: Path) -> None:
    network.save(tmp_path)
    source, _, name = str(network.spec).partition(":")
    if source == "smp":
        model = smp.from_pretrained(tmp_path)
    elif source == "torchvision":
        model = torchvision.models.get_model(
            name, weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=False
        )
        model.load_state_dict(safetensors.torch.load_file(tmp_path / "model.safetensors"))
    else:
        assert source == "transformers", f"say here how the library of {source} loads the folder"
        universal = network.spec in UNIVERSAL
        kind = (
            transformers.AutoModelForUniversalSegmentation
            if universal
            else transformers.AutoModelForSemanticSegmentation
        )
        model = kind.from_pretrained(tmp_path)
        processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
        pixels = (images()[0] * 255).to(torch.uint8)
        values = processor(pixels, return_tensors="pt")["pixel_values"]
        expected = (pixels[None] / 255 - network.mean) / network.std
        torch.testing.assert_close(values, expected, rtol=0, atol=1e-5)
    wanted, found = network.model.state_dict(), model.state_dict()
    assert list(found) == list(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    # Not to the last bit: transformers leaves the weights in the mapped file, where they lie unaligned.
    batch = fitting(network, 64, 64)
    assert_same(native_logits(network, model.eval(), batch), native_logits(network, network.model, batch))


@torch.no_grad()
def test_a_deep_copy_is_complete_and_independent(network: Network, tmp_path: Path) -> None:
    twin = copy.deepcopy(network)
    assert torch.equal(twin(images()), network(images()))
    next(twin.parameters()).fill_(7.0)
    assert not (next(network.parameters()) == 7.0).any()
    twin.save(tmp_path)
    assert (next(load_network(tmp_path).parameters()) == 7.0).all()


def test_the_state_dict_is_the_models_alone(network: Network) -> None:
    assert [key.removeprefix("model.") for key in network.state_dict()] == list(network.model.state_dict())


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
