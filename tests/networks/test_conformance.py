"""One suite over every kind of network that `load_network` builds: they all must behave alike."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import segmentation_models_pytorch as smp
import torch
import torchvision
import transformers
from torch import Tensor, nn

from segdistill.errors import UserError
from segdistill.networks.loading import load_network
from segdistill.networks.network import Network
from segdistill.networks.padding import pad_to_multiple
from tests.networks.specs import (
    CLASSES,
    OF_SOURCES,
    SPECS,
    TIPS,
    UNIVERSAL,
    calibrate,
    images,
    native_logits,
)


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
