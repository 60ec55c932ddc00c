"""`SelectedBands`: a network that sees some of the images' channels, such as a teacher of RGB beside five bands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from segdistill.errors import UserError
from segdistill.networks.wrapper import Wrapper
from segdistill.networks.wrapping import as_network


class SelectedBands(Wrapper):
    """A network that sees chosen channels of the images, with its own normalisation.

    Args:
        network: of as many channels as are chosen.
        bands: which channels of the images it sees, in its own order; 1 is the first channel, whatever its number in
            the file. A channel may come more than once: ``[1, 1, 1]`` shows a grey image to a network of RGB.
        in_channels: channels of the images.
        name: what the network is called in messages.

    Raises:
        UserError: another number of channels than the network takes, or one that the images do not have.

    Example:
        >>> import segdistill, torch
        >>> network = segdistill.load_network("smp:FPN:resnet18", num_classes=4)
        >>> network = SelectedBands(network, [3, 2, 1], in_channels=5)
        >>> network.info.in_channels, tuple(network(torch.rand(2, 5, 64, 64)).shape)
        (5, (2, 4, 64, 64))
    """

    chosen: Tensor

    def __init__(self, network: nn.Module, bands: Sequence[int], in_channels: int, name: str = "the teacher") -> None:
        network = as_network(network, name.removeprefix("the "))
        if not isinstance(bands, Sequence):
            raise UserError(f"teacher_bands of {name} is {bands!r}, expected a list of numbers of bands")
        wrong = [band for band in bands if type(band) is not int or not 1 <= band <= in_channels]
        if wrong:
            raise UserError(
                f"teacher_bands of {name} is {list(bands)}, expected numbers from 1 to {in_channels}: the images "
                f"of the data have {in_channels} channels"
            )
        if len(bands) != network.info.in_channels:
            raise UserError(
                f"teacher_bands of {name} is {list(bands)}, expected {network.info.in_channels} numbers: it takes "
                f"{network.info.in_channels} channels"
            )
        info = replace(network.info, in_channels=in_channels)
        description = replace(network.description, spec=None, in_channels=in_channels, mean=None, std=None, bands=None)
        super().__init__([network], info, description)
        self.register_buffer("chosen", torch.tensor(bands, device=self.device) - 1, persistent=False)

    def seen(self, images: Tensor) -> Tensor:
        """The chosen channels."""
        return images.index_select(1, self.chosen)
