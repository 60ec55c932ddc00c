"""Class scores of networks that predict a set of masks, each with its classes: MaskFormer and its successors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

SMALLEST = 1e-6
"""Added to what the masks say of each class, so that logarithms stay finite where no mask claims a pixel."""

SEMANTIC = (49406, 518, 10549, 533, 29119, 1550, 49407)
"""OneFormer's task for semantic segmentation: what CLIP's tokenizer, which its weights were trained with, makes of "the
task is semantic"."""


def class_log_probabilities(classes: Tensor, masks: Tensor) -> Tensor:
    """Turn masks and their classes into class log-probabilities of every pixel.

    The semantic inference of Cheng et al., "Per-Pixel Classification is Not All You Need for Semantic Segmentation",
    NeurIPS 2021, arXiv 2107.06278: of every query the probability of each class times that of its mask, summed over
    queries; "no object" is left out. The sums are made probabilities, so that temperatures and divergences mean what
    they mean for any other network.

    Args:
        classes: floating (B, Q, K + 1), before softmax; the last class is "no object".
        masks: floating (B, Q, h, w), before sigmoid.

    Returns:
        float32 (B, K, h, w), in about -16..0; ``exp`` of them adds up to 1 over classes.

    Example:
        >>> scores = class_log_probabilities(torch.zeros(1, 7, 4), torch.zeros(1, 7, 2, 2))
        >>> scores.exp()[0, :, 0, 0]
        tensor([0.3333, 0.3333, 0.3333])
    """
    # Half precision would lose the small probabilities that distillation is about.
    with torch.autocast(classes.device.type, enabled=False):
        of_query = classes.float().softmax(dim=2)[..., :-1]
        claimed = torch.einsum("bqk,bqhw->bkhw", of_query, masks.float().sigmoid()) + SMALLEST
        return claimed.log() - claimed.sum(dim=1, keepdim=True).log()


class MaskScores(nn.Module):
    """Runs a universal segmenter of transformers for its class log-probabilities.

    Args:
        task: token numbers of the task, for a network that is told one.
    """

    def __init__(self, task: Sequence[float] | None = None) -> None:
        super().__init__()
        self.task = task

    def forward(self, model: nn.Module, images: Tensor) -> Tensor:
        """Class log-probabilities (B, K, h, w) of normalised images (B, C, H, W)."""
        told: dict[str, Any] = {}
        if self.task is not None:
            told["task_inputs"] = torch.tensor([self.task], device=images.device).expand(len(images), -1)
        output = model(images, **told)
        return class_log_probabilities(output.class_queries_logits, output.masks_queries_logits)
