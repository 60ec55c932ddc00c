"""Segmentation networks of torchvision: ``torchvision:NAME``."""

from __future__ import annotations

from torch import nn

from segdistill.errors import UserError, unknown_name
from segdistill.networks.network import Network
from segdistill.networks.request import Request

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
        UserError: name unknown, an option given, another number of channels than 3, or weights not to be had.
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
    if not request.imagenet:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.1  # MobileNetV3 has 0.01: hundreds of steps until its statistics are the images'
    embedding, logits = {
        "deeplabv3": ("classifier.3", "classifier.4"),
        "fcn": ("classifier.2", "classifier.4"),
        "lraspp": ("classifier.high_classifier:input", "classifier"),
    }[name.partition("_")[0]]
    mean, std = request.default_normalization()
    return Network(
        model,
        stages=[f"backbone.{stage}" for stage in _stages(model.backbone)],
        embedding=embedding,
        logits=logits,
        mean=mean,
        std=std,
        spec=request.spec,
        probe_size=64,
    )


def _stages(backbone: nn.Module) -> list[str]:
    """Names of the last block of every stage of stride 4 and more."""
    names = [name for name, _ in backbone.named_children()]
    if "layer1" in names:
        return [name for name in names if name.startswith("layer")]
    # MobileNetV3 marks the blocks that open a stage, of stride 4 first: the block before each ends a stage.
    opening = [i for i, block in enumerate(backbone.children()) if getattr(block, "_is_cn", False)]
    return [names[i - 1] for i in opening[1:]] + [names[-1]]
