"""Segmentation networks of torchvision: ``torchvision:NAME``."""

from __future__ import annotations

from typing import Any

from torch import nn

from segdistill.errors import UserError, unknown_name
from segdistill.networks.encoder_weights import load_encoder
from segdistill.networks.network import Network
from segdistill.networks.request import Request
from segdistill.networks.unused import freeze_unused

NAMES = (
    "deeplabv3_resnet50",
    "deeplabv3_resnet101",
    "deeplabv3_mobilenet_v3_large",
    "fcn_resnet50",
    "fcn_resnet101",
    "lraspp_mobilenet_v3_large",
)


def load(request: Request) -> Network:
    """Build ``torchvision:NAME`` without auxiliary head; ``torchvision.models.get_model`` builds the same.

    The embedding is what the last convolution sees, but before the dropout that FCN ends in.

    Raises:
        UserError: name unknown, an option given, another number of channels than 3, or weights that cannot be fetched.
    """
    from torchvision.models import get_model

    name = request.name.lower()
    if name not in NAMES:
        raise unknown_name("torchvision network", request.name, NAMES)
    if request.options:
        raise UserError(f"network '{request.spec}' takes no options, found {', '.join(request.options)}")
    if request.in_channels != 3:
        raise UserError(
            f"network '{request.spec}' takes 3 channels, not in_channels={request.in_channels}: "
            "the networks of smp take any number"
        )
    with request.building(fetching=request.imagenet):
        model = get_model(
            name,
            weights=None,
            weights_backbone="DEFAULT" if request.imagenet else None,
            num_classes=request.classes(),
            aux_loss=False,
        )
    if not request.imagenet and request.encoder is None:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.1  # MobileNetV3 has 0.01: hundreds of steps until its statistics are the images'
    notes = [] if request.encoder is None else load_encoder(model.backbone, request.encoder, request.spec)
    mean, std = request.default_normalization()
    network = wrap(model, request.spec, mean, std)
    network.notes += notes
    return network


_TAPS = {
    "DeepLabV3": ("deeplabv3", "classifier.3", "classifier.4"),
    "FCN": ("fcn", "classifier.2", "classifier.4"),
    "LRASPP": ("lraspp", "classifier.high_classifier:input", "classifier"),
}
"""By class of torchvision: what its names begin with, the embedding and the logits."""


def wrap(model: Any, spec: str | None = None, mean: Any = None, std: Any = None) -> Network:
    """A plain segmentation model of torchvision as a `Network`; an auxiliary head stays, and is not trained.

    Args:
        model: a DeepLabV3, FCN or LRASPP.
        spec: what it can be built from again; by default found by its layers.
        mean, std: see `Network`.

    Raises:
        UserError: another class.
    """
    kind = type(model).__name__
    if kind not in _TAPS:
        raise unknown_name("torchvision network", kind, _TAPS)
    start, embedding, logits = _TAPS[kind]
    if spec is None:
        depth = len(model.backbone["layer3"]) if "layer3" in model.backbone else 0
        spec = f"torchvision:{start}_{ {0: 'mobilenet_v3_large', 6: 'resnet50', 23: 'resnet101'}.get(depth) }"
        spec = spec if spec.partition(":")[2] in NAMES else None
    network = Network(
        model,
        stages=[f"backbone.{stage}" for stage in _stages(model.backbone)],
        embedding=embedding,
        logits=logits,
        mean=mean,
        std=std,
        spec=spec,
        probe_size=64,
    )
    return network if getattr(model, "aux_classifier", None) is None else freeze_unused(network)


def _stages(backbone: nn.Module) -> list[str]:
    """Names of the last block of every stage of stride 4 and more."""
    names = [name for name, _ in backbone.named_children()]
    if "layer1" in names:
        return [name for name in names if name.startswith("layer")]
    # MobileNetV3 marks the blocks that open a stage, of stride 4 first: the block before each ends a stage.
    opening = [i for i, block in enumerate(backbone.children()) if getattr(block, "_is_cn", False)]
    return [names[i - 1] for i in opening[1:]] + [names[-1]]
