"""What a network shows of a batch (`Features`), and what is known of it beforehand (`NetworkInfo`)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Features:
    """What one network shows of one batch of images.

    Attributes:
        stages: outputs of the backbone's stages, fine to coarse, each (B, C_i, H / s_i, W / s_i); none where no
            features are shown.
        embedding: the last feature map before the classifier, (B, D, h, w); D is 0 where no features are shown.
        logits: class scores before up-sampling to the image's size, (B, K, h', w'); K is 0 for a backbone without a
            classifier.
    """

    stages: tuple[Tensor, ...]
    embedding: Tensor
    logits: Tensor


@dataclass(frozen=True)
class Tap:
    """One place in a network where a view is taken.

    Attributes:
        name: dotted name of the module (with ``[i]`` for an item of its output, ``:input`` for its input).
        channels: number of channels of the tensor seen there; 0 where the network has nothing of the kind.
        stride: pixels of the image per position, e.g. 8 for a map of an eighth of the image's height.
    """

    name: str
    channels: int
    stride: int


@dataclass(frozen=True)
class NetworkInfo:
    """Channels and strides of every tap of a network: all that a method needs to size its adapters.

    Attributes:
        stages: none of a network that shows no features.
        embedding: without channels where the network shows no features.
        logits: without channels where the network has no classifier.
        num_classes: K; 0 where the network has no classifier.
        in_channels: channels of the images.
        size: (height, width) of the only images that the network takes; None: any.
    """

    stages: tuple[Tap, ...]
    embedding: Tap
    logits: Tap
    num_classes: int
    in_channels: int
    size: tuple[int, int] | None = None
