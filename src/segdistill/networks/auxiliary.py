"""`AuxiliaryHead`: a second classifier inside the backbone, for training alone."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from segdistill.errors import UserError
from segdistill.networks.features import Features, NetworkInfo


class AuxiliaryHead(nn.Module):
    """A small fully convolutional head on the last backbone stage but one, whose loss helps the backbone to learn.

    Zhao et al., "Pyramid Scene Parsing Network", arXiv 1612.01105; the layers are torchvision's (3x3 convolution to a
    quarter of the channels, batch normalisation, ReLU, dropout 0.1, 1x1 convolution). It is a network of its own, so
    that the student is saved, scored and exported without it.

    Args:
        info: of the network whose features it reads.

    Raises:
        UserError: the network names fewer than two stages.
    """

    def __init__(self, info: NetworkInfo) -> None:
        super().__init__()
        if len(info.stages) < 2:
            raise UserError(
                f"train.aux reads the last backbone stage but one, but the network names {len(info.stages)} stages, "
                "expected 2 or more; leave train.aux at 0"
            )
        from torchvision.models.segmentation.fcn import FCNHead

        self.head = FCNHead(info.stages[-2].channels, info.num_classes)

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        """Class scores (B, K, H, W) at the size of the images that ``features`` are of."""
        scores: Tensor = self.head(features.stages[-2])
        return F.interpolate(scores, size=size, mode="bilinear", align_corners=False)
