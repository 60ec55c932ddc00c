"""`Wrapper`: one network or several, seen as another `Network` that adds no weights of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from segdistill.networks import weights
from segdistill.networks.description import Description
from segdistill.networks.features import Features, NetworkInfo
from segdistill.networks.network import Network, write_state_dict
from segdistill.networks.padding import pad_to_multiple


class Wrapper(Network):
    """One network or several behind the contract of a `Network`: what they see or show is changed on the way.

    Each network inside keeps its own normalisation, padding and up-sampling. Derived classes override `seen` and
    `scores`, and keep what they were made with as buffers, so that a hash of the network knows it.

    Args:
        networks: those inside, at least one.
        info: what the outside sees of them.
        description: the same.
    """

    def __init__(self, networks: Sequence[Network], info: NetworkInfo, description: Description) -> None:
        nn.Module.__init__(self)  # nothing to wrap by taps, nor to probe: the networks inside know themselves
        self.model = nn.ModuleList(networks)
        self.multiple = math.lcm(*(network.multiple for network in networks))
        self.spec = None
        self.notes = [note for network in networks for note in network.notes]
        self.info = info
        self.size = info.size
        self.scorer = None
        self.teaches_only = "it is made of other networks"
        self._in_channels = info.in_channels
        self._write, self._read = write_state_dict, weights.load_weights
        self.set_normalization(None, None)
        self._description = description

    @property
    def networks(self) -> list[Network]:
        """Those inside."""
        return [network for network in self.model.children() if isinstance(network, Network)]

    @property
    def parts(self) -> list[Network]:
        """See `Network.parts`."""
        return [part for network in self.networks for part in network.parts]

    def seen(self, images: Tensor) -> Tensor:
        """What the networks inside see of ``images`` (B, C, H, W)."""
        return images

    def scores(self, logits: Sequence[Tensor]) -> Tensor:
        """Class scores to show, from those of each network inside, (B, K', h', w') each; of any resolution."""
        return logits[0]

    def shown(self, features: Sequence[Features]) -> Features:
        """Features to show, from those of each network inside."""
        return replace(features[0], logits=self.scores([one.logits for one in features]))

    def forward(self, images: Tensor) -> Tensor:
        """See `Network.forward`."""
        height, width = images.shape[-2:]
        images = self._padded(images)
        return self.scores([network(images) for network in self.networks])[..., :height, :width]

    def forward_with_features(self, images: Tensor) -> tuple[Tensor, Features]:
        """See `Network.forward_with_features`."""
        height, width = images.shape[-2:]
        images = self._padded(images)
        found = [network.forward_with_features(images) for network in self.networks]
        scores = self.scores([logits for logits, _ in found])
        return scores[..., :height, :width], self.shown([features for _, features in found])

    def features(self, images: Tensor) -> Features:
        """See `Network.features`; the scores at the images' size are left out."""
        images = self._padded(images)
        return self.shown([network.features(images) for network in self.networks])

    def _padded(self, images: Tensor) -> Tensor:
        """The images for all networks inside, padded for all of them, so that their features cover the same extent."""
        self._check(images)
        return self.seen(pad_to_multiple(images, self.multiple))
