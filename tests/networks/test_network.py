import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segdistill.errors import UserError
from segdistill.networks.features import NetworkInfo, Tap
from segdistill.networks.network import Network
from segdistill.networks.padding import pad_to_multiple
from tests.networks.tiny import TinyModel, tiny_network


def test_channels_and_strides_are_known_without_being_typed() -> None:
    assert tiny_network().info == NetworkInfo(
        stages=(Tap("stage1", 8, 4), Tap("stage2", 16, 8)),
        embedding=Tap("stage2", 16, 8),
        logits=Tap("classifier", 5, 8),
        num_classes=5,
        in_channels=3,
    )


def test_construction_leaves_no_trace() -> None:
    model = TinyModel()
    model.stage1.eval()  # a part that its owner has frozen
    modes = [module.training for module in model.modules()]
    state = copy.deepcopy(model.state_dict())
    torch.manual_seed(0)
    before = torch.get_rng_state()
    Network(model, stages=["stage1"], embedding="stage2", logits="classifier")
    assert torch.equal(torch.get_rng_state(), before)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_models_own_dtype(dtype: torch.dtype) -> None:
    mean, std = [0.5, 0.5, 0.5], [0.2, 0.2, 0.2]
    model = TinyModel().to(dtype)
    network = Network(model, stages=["stage1"], embedding="stage2", logits="classifier", mean=mean, std=std)
    assert network(torch.rand(2, 3, 32, 32)).dtype == dtype
    assert network.to(dtype)(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).dtype == dtype


def test_images_are_normalised_by_mean_and_std() -> None:
    seen: list[Tensor] = []
    network = tiny_network(mean=[0.1, 0.2, 0.3], std=[0.5, 0.25, 0.125])
    network.model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    network(torch.full((2, 3, 8, 8), 51, dtype=torch.uint8))  # 51 / 255 = 0.2
    torch.testing.assert_close(seen[0][0, :, 0, 0], torch.tensor([0.2, 0.0, -0.8]))
    network.set_normalization(None, None)
    network(torch.full((2, 3, 8, 8), 0.2))
    torch.testing.assert_close(seen[1], torch.full((2, 3, 8, 8), 0.2))


def test_other_sizes_are_padded_for_the_model_and_cropped_back() -> None:
    seen: list[Tensor] = []
    network = tiny_network(multiple=32).eval()
    network.model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    images = torch.rand(1, 3, 33, 50)
    logits, views = network.forward_with_features(images)
    assert logits.shape == (1, 5, 33, 50)
    assert seen[0].shape == (1, 3, 64, 64)
    assert torch.equal(seen[0], pad_to_multiple(images, 32))
    assert views.logits.shape == (1, 5, 8, 8)


def test_a_model_that_upsamples_itself_is_taken_at_its_word() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 4, stride=4), nn.Upsample(scale_factor=4, mode="nearest"))
    network = Network(model, stages=["0"], embedding="0", logits="0")
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(network(images), model(images))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": ["stage2", "stage1"]}, r"have strides \[8, 4\], expected one at least, fine to coarse"),
        ({"stages": []}, r"stages \[\] have strides \[\], expected one at least"),
        ({"logits": "stage2"}, "logits tap 'stage2' has 16 channels, but the network's output has 5 classes"),
        ({"embedding": "stage9"}, "no module 'stage9'"),
        ({"mean": [0.5, 0.5, 0.5]}, "and std is None, expected 3 values each, or None for both"),
        ({"mean": [0.5], "std": [0.5]}, r"mean is \[0.5\] and std is \[0.5\], expected 3 values"),
    ],
)
def test_a_wrong_wrapping_is_refused(options: dict[str, list[str]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny_network(**options)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(1, 4, 32, 32), r"images have shape \(1, 4, 32, 32\), expected \(B, 3, H, W\)"),
        (torch.rand(3, 32, 32), r"images have shape \(3, 32, 32\)"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.int64), "images are torch.int64, expected floating in 0..1"),
    ],
)
def test_wrong_images_are_refused(images: Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny_network()(images)


def test_stages_as_one_text() -> None:
    with pytest.raises(UserError, match=r"stages is the text '0', expected a list of taps such as \['0'\]"):
        Network(nn.Sequential(nn.Conv2d(3, 4, 1)), stages="0", embedding="0", logits="0")


def identity_network(channels: int, **options: Any) -> Network:
    """Its scores are the images as the model sees them."""
    model = nn.Conv2d(channels, channels, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.eye(channels)[:, :, None, None])
    return Network(
        nn.Sequential(model, nn.Identity()),
        stages=["0"],
        embedding="0",
        logits="1",
        in_channels=channels,
        **options,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_the_model_sees_images_less_the_mean_by_the_deviation(dtype: torch.dtype) -> None:
    mean, std = (0.5, 0.25, 0.125), (0.5, 0.25, 2.0)
    network = identity_network(3, mean=mean, std=std)
    pixels = torch.tensor([0, 51, 255]).view(1, 3, 1, 1).expand(1, 3, 4, 4).to(torch.uint8)
    images = pixels if dtype == torch.uint8 else pixels.float() / 255
    # (0 - 0.5) / 0.5, (0.2 - 0.25) / 0.25, (1 - 0.125) / 2
    expected = torch.tensor([-1.0, -0.2, 0.4375]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    torch.testing.assert_close(network(images).detach(), expected, rtol=0, atol=1e-6)


def test_scores_are_enlarged_bilinearly_between_the_centres_of_positions() -> None:
    model = identity_network(3).model
    network = Network(
        nn.Sequential(nn.AvgPool2d(2), model), stages=["0"], embedding="0", logits="1", mean=[0.0] * 3, std=[1.0] * 3
    )
    images = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(1, 3, 2, 4)
    assert network(images)[0, 0].tolist() == 2 * [[0.0, 0.25, 0.75, 1.0]]
    # Normalisation is the network's, and none of the model's weights.
    assert set(network.state_dict()) == {f"model.{name}" for name in network.model.state_dict()}


def test_strides_of_a_model_that_takes_oblong_images_alone() -> None:
    body = nn.Conv2d(3, 4, 4, 4)
    network = Network(nn.Sequential(body, nn.Identity()), stages=["0"], embedding="0", logits="1", size=(32, 64))
    assert {tap.stride for tap in (*network.info.stages, network.info.embedding, network.info.logits)} == {4}
    assert network(torch.rand(1, 3, 32, 64)).shape == (1, 4, 32, 64)
    for size in ((33, 64), (32, 65)):
        with pytest.raises(UserError, match=rf"images of {size[0]} x {size[1]} pixels are too large"):
            network(torch.rand(1, 3, *size))


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(4, 4, 0), (7, 4, 3), (2, 2, 1)])
def test_strides_are_the_nearest_whole_ones(kernel: int, stride: int, padding: int) -> None:
    """Of 66 pixels a map of 16, 17 or 34 places is left: a ratio of 4.1, 3.9 or 1.9."""
    body = nn.Conv2d(3, 4, kernel, stride, padding)
    network = Network(nn.Sequential(body, nn.Identity()), stages=["0"], embedding="0", logits="1", probe_size=66)
    assert [tap.stride for tap in (*network.info.stages, network.info.embedding, network.info.logits)] == [stride] * 3
