"""What every task loss begins and ends with."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from segdistill.errors import UserError
from segdistill.losses import _inputs


def task_inputs(
    logits: Tensor, labels: Tensor, ignore_index: int, class_weights: Tensor | Sequence[float] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Checked logits in float32 at least, labels as int64, and the weight of each pixel (0 where ignored)."""
    _inputs.check_features("logits", logits)
    batch, classes, height, width = logits.shape
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise UserError(f"labels has dtype {labels.dtype}, expected an integer dtype")
    if labels.shape != (batch, height, width):
        raise UserError(f"labels has shape {tuple(labels.shape)}, expected {(batch, height, width)}")
    logits, labels = _inputs.at_least_float32(logits), labels.long()
    labelled = labels != ignore_index
    if class_weights is None:
        return logits, labels, labelled.to(logits.dtype)
    if not isinstance(class_weights, Tensor):
        class_weights = _as_tensor(class_weights)
    if class_weights.shape != (classes,):
        raise UserError(f"class_weights has shape {tuple(class_weights.shape)}, expected ({classes},)")
    weights = class_weights.to(logits)[labels.masked_fill(~labelled, 0)]
    return logits, labels, torch.where(labelled, weights, 0.0)


def _as_tensor(class_weights: Sequence[float]) -> Tensor:
    """Weights written in a recipe; those of a tensor are not checked, for which an accelerator would have to wait."""
    if any(weight < 0 or not math.isfinite(weight) for weight in class_weights):
        raise UserError(f"class_weights is {list(class_weights)}, expected numbers of 0 or more")
    return torch.tensor(class_weights)


def weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    """Sum of weight times loss over the sum of weights; 0 where all weights are."""
    total = weights.sum()
    return (losses * weights).sum() / torch.where(total > 0, total, 1.0)
