"""Which parameters of a network are its backbone's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from segdistill.errors import UserError
from segdistill.networks.features import Features
from segdistill.networks.network import Network
from segdistill.networks.size import example_images, untouched


def backbone_parameters(network: Network) -> frozenset[str]:
    """Names of the parameters that the backbone's stages depend on; all others belong to the decoder and the head.

    Found from one small forward pass and its gradients, so that it holds for a network of any library.

    Args:
        network: with stages among its `Features`.

    Raises:
        UserError: if the network has no stages.

    Example:
        >>> import segdistill
        >>> network = segdistill.load_network("smp:FPN:resnet18", num_classes=4)
        >>> sorted({name.split(".")[1] for name in backbone_parameters(network)})
        ['encoder']
    """
    if not network.info.stages:
        raise UserError("train.backbone_lr needs a network that names the stages of its backbone; leave it at 1")
    return parameters_behind(network, lambda features: features.stages)


def parameters_behind(network: Network, shown: Callable[[Features], Sequence[Tensor]]) -> frozenset[str]:
    """Names of the parameters that some of a network's `Features` depend on; see `backbone_parameters`.

    Args:
        network: any.
        shown: picks the features.
    """
    named = dict(network.named_parameters())
    frozen = [value for value in named.values() if not value.requires_grad]
    side = -(-64 // network.multiple) * network.multiple
    images = example_images(network.model, network.info.in_channels, (side, side))
    try:
        for value in frozen:
            value.requires_grad_(True)
        with untouched(network), torch.enable_grad():
            maps = shown(network.features(images))
            total = torch.stack([one.float().sum() for one in maps]).sum()
            slopes = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    finally:
        for value in frozen:
            value.requires_grad_(False)
    return frozenset(name for name, slope in zip(named, slopes, strict=True) if slope is not None)
