"""A network as it is deployed: raw images in, class ids or probabilities out."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from segdistill.formats.pooling import with_matrix_pooling
from segdistill.networks.network import Network

Layout = Literal["nchw", "nhwc"]
Outputs = Literal["labels", "probabilities"]

LAYOUTS: tuple[Layout, ...] = ("nchw", "nhwc")
OUTPUTS: tuple[Outputs, ...] = ("labels", "probabilities")


class Deployable(nn.Module):
    """A network with all its preprocessing inside and a prediction, not scores, as its result.

    Written without a branch on the images' size, so that exporters make one graph of it that takes any size.

    Args:
        network: the network; it is put into eval mode.
        layout: ``"nchw"`` for images (B, C, H, W), ``"nhwc"`` for (B, H, W, C).
        outputs: ``"labels"`` for class ids, ``"probabilities"`` for the softmax over classes.
        size: (height, width) of all images to come; None for any.
        with_logits: return the class scores beside the prediction, for comparisons.

    Example:
        >>> from segdistill import load_network
        >>> deployable = Deployable(load_network("smp:FPN:resnet18", num_classes=4), layout="nhwc")
        >>> labels = deployable(torch.zeros(1, 50, 70, 3, dtype=torch.uint8))
        >>> labels.shape, labels.dtype
        (torch.Size([1, 50, 70]), torch.uint8)
    """

    rows: Tensor
    columns: Tensor

    def __init__(
        self,
        network: Network,
        *,
        layout: Layout = "nchw",
        outputs: Outputs = "labels",
        size: tuple[int, int] | None = None,
        with_logits: bool = False,
    ) -> None:
        super().__init__()
        self.network = with_matrix_pooling(network)
        self.layout = layout
        self.outputs = outputs
        self.with_logits = with_logits
        self.multiple = multiple = network.multiple
        self._pads = multiple > 1 and (size is None or any(side % multiple for side in size))
        self._fixed = size is not None
        if self._pads and size is not None:  # constants, for not every converter computes with whole numbers
            for axis, side in zip(("rows", "columns"), size, strict=True):
                self.register_buffer(axis, self._padded(side, torch.device("cpu")), persistent=False)
        self.eval()

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """The prediction.

        Args:
            images: as ``layout`` says, uint8 in 0..255 or floating as `Network.forward` takes them.

        Returns:
            Class ids, uint8 (B, H, W); or probabilities, float32 (B, K, H, W) or (B, H, W, K) as ``layout`` says. With
            logits: also these, float32 (B, K, H', W'), which cover the images at their upper left and may be larger.
        """
        if self.layout == "nhwc":
            images = images.permute(0, 3, 1, 2)
        height, width = images.shape[-2:]
        # As pad_to_multiple does, and cut off again; by index, for a slice that may or may not be the whole makes
        # torch.export ask, and fix, whether it is.
        if self._pads:
            rows = self.rows if self._fixed else self._padded(height, images.device)
            columns = self.columns if self._fixed else self._padded(width, images.device)
            images = images.index_select(2, rows).index_select(3, columns)
        logits = self.network(images).float()  # of a network in half precision too
        # A data set has 255 classes at most.
        prediction = logits.argmax(1, keepdim=True).to(torch.uint8) if self.outputs == "labels" else logits.softmax(1)
        if self._pads and self._fixed:
            prediction = prediction[:, :, :height, :width]
        elif self._pads:
            rows, columns = (torch.arange(side, device=images.device) for side in (height, width))
            prediction = prediction.index_select(2, rows).index_select(3, columns)
        if self.outputs == "labels":
            prediction = prediction.squeeze(1)
        elif self.layout == "nhwc":
            prediction = prediction.permute(0, 2, 3, 1)
        return (prediction, logits) if self.with_logits else prediction

    def _padded(self, side: int, device: torch.device) -> Tensor:
        """The index of each row or column after padding: the last one again and again."""
        multiple = self.multiple
        return torch.arange((side + multiple - 1) // multiple * multiple, device=device).clamp(max=side - 1)
