"""Every method on pairs of networks as people use them: two steps, live, and from kept outputs with a stop between."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segdistill import Distiller, TrainConfig, load_network
from segdistill.methods import METHODS
from segdistill.networks.network import Network
from segdistill.training.step import Step, Terms
from segdistill.training.strategies import launch
from segdistill.training.teacher_outputs import outputs_in_half

pytestmark = pytest.mark.slow

SEGFORMER = "transformers:segformer?hidden_sizes=[64,128,320,512]&decoder_hidden_size=768&depths="
PAIRS = {
    "deeplabv3": ("smp:DeepLabV3:resnet101", "smp:DeepLabV3:resnet18"),
    "unet-fpn": ("smp:Unet:resnet50", "smp:FPN:tu-mobilenetv3_large_100"),
    "segformer-b4-b0": (f"{SEGFORMER}[3,8,27,3]", "transformers:segformer"),
    "segformer-b2-cnn": (f"{SEGFORMER}[3,4,6,3]", "smp:DeepLabV3Plus:mobilenet_v2"),
    "torchvision": ("torchvision:deeplabv3_resnet50", "torchvision:lraspp_mobilenet_v3_large"),
}
CONFIG = TrainConfig(batch_size=2, lr=1e-3, ema=0, precision="fp32", workers=0)


def networks_of(specs: tuple[str, str]) -> tuple[Network, Network]:
    """Teacher and student with random weights; the teacher has its images' batch statistics, as a trained one has."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        teacher, student = load_network(specs[0], num_classes=4), load_network(specs[1], num_classes=4)
        for module in teacher.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
        teacher.train()(images_and_labels()[0])
        return teacher, student


def images_and_labels() -> tuple[Tensor, Tensor]:
    chance = torch.Generator().manual_seed(1)
    images = torch.rand(2, 3, 64, 96, generator=chance)
    labels = torch.randint(0, 4, (2, 4, 6), generator=chance).repeat_interleave(16, 1).repeat_interleave(16, 2)
    labels[:, :8, :8] = 255
    return images, labels


def step_of(networks: tuple[Network, Network]) -> Step:
    """All methods together, whose terms are apart; the same weights, in adapters too, at each call."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        distiller = Distiller(networks[0], copy.deepcopy(networks[1]), [kind() for kind in METHODS.values()])
        return Step(distiller.train(), CONFIG, 2, fabric=launch("cpu", "fp32"))


def prepared(step: Step, batch: Any) -> Step:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        step.learner.prepare([batch])
    return step


def values(terms: list[Terms]) -> dict[str, float]:
    return {name: value.item() for name, value in terms[0].items()}


@pytest.mark.parametrize("specs", PAIRS.values(), ids=PAIRS)
def test_two_steps(specs: tuple[str, str]) -> None:
    networks = networks_of(specs)
    images, labels = images_and_labels()
    live = step_of(networks)
    outputs = live.learner.teacher_outputs(images)
    prepared(live, (images, labels))
    found = [values(live(iter([(images, labels)]))) for _ in range(2)]
    assert all(torch.isfinite(torch.tensor(list(terms.values()))).all() for terms in found)
    assert {part.partition(".")[0] for part in found[0]} == {"task", *METHODS}
    assert found[1] != found[0]

    # The same outputs come with the batch; between the steps the run is stopped and continued.
    batch = (images, labels, outputs)
    before = prepared(step_of(networks), batch)
    assert values(before(iter([batch]))) == pytest.approx(found[0], rel=1e-5)
    after = step_of(networks)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    assert values(after(iter([batch]))) == pytest.approx(found[1], rel=1e-4)
    for (key, ours), theirs in zip(after.network.state_dict().items(), live.network.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4, msg=key)

    # As a cache keeps them, in half precision.
    rounded = step_of(networks)
    halves = (images, labels, outputs_in_half(rounded.learner, images, list(outputs), rounded.fabric))
    prepared(rounded, halves)
    assert values(rounded(iter([halves]))) == pytest.approx(found[0], rel=0.02, abs=1e-4)
