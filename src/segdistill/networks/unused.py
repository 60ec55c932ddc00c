"""Freezing what a network never uses."""

from __future__ import annotations

import torch

from segdistill.networks.network import Network
from segdistill.networks.size import example_images, untouched


def freeze_unused(network: Network, size: int = 64) -> Network:
    """Freeze the parameters that the scores do not depend on, and return ``network``; what is frozen stays so.

    Libraries leave layers in a segmentation network that only their image classifiers run: the last
    convolution of MobileNetV2 and EfficientNet, the deep stages behind a PSPNet of depth 3. They are part of
    the file; trained they cannot be, and distributed training refuses parameters that wait for a gradient in
    vain.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not parameters:
        return network
    side = -(-size // network.multiple) * network.multiple
    images = example_images(network, network.info.in_channels, (side, side))
    with untouched(network), torch.enable_grad():
        gradients = torch.autograd.grad(network(images).sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)
    return network
