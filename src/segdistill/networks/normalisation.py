"""Normalisations of a single number, which torch refuses: its mean is the number itself."""

from __future__ import annotations

from torch import nn

from segdistill.errors import UserError
from segdistill.networks.network import Network
from segdistill.networks.size import example_images, untouched

_OF_EACH_IMAGE = (nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)


def of_one_number(error: ValueError) -> bool:
    """Whether an error is torch's refusal to normalise a single number."""
    return str(error).startswith("Expected more than 1 ")


def check_one_image(network: Network, size: tuple[int, int], role: str) -> None:
    """Refuse a network that takes images of ``size`` only several at once.

    Torch counts the images of a batch among the numbers of a group, although each image is normalised by itself: a
    network can be trained in batches, and fail at the first image that comes alone. Networks that normalise
    otherwise are not run.

    Args:
        network: on its device.
        size: (height, width) of an image in pixels.
        role: what the network is called in the message.

    Raises:
        UserError: it cannot take one image of this size.
    """
    if not any(isinstance(module, _OF_EACH_IMAGE) for module in network.modules()):
        return
    height, width = network.info.size or size
    images = example_images(network, network.info.in_channels, (height, width))
    try:
        with untouched(network):
            network(images)
    except ValueError as error:
        if not of_one_number(error):
            raise
        raise UserError(
            f"the {role} cannot take an image of {height} x {width} pixels by itself: one of its normalisations sees a "
            "single number there; expected larger images, or a network with more channels in each group"
        ) from error
