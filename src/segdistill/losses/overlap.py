"""Task losses on the overlap of prediction and labels, from segmentation_models_pytorch, made safe for ignored pixels.

Each sums over all pixels of the batch, class by class. As they know no single pixel, they are often added to
cross-entropy: ``{ce: {}, dice: {}}``.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from segdistill.errors import UserError
from segdistill.losses._task_inputs import task_inputs


class Tversky:
    """Tversky loss: 1 - TP / (TP + alpha FP + beta FN), with probabilities for counts; the mean over all classes.

    Salehi et al., arXiv 1706.05721; with ``gamma`` the focal one of Abraham and Khan, arXiv 1810.07842, as
    segmentation_models_pytorch has it: the mean to the power ``gamma``. A class without a pixel in the batch adds 0.

    Args:
        alpha: weight of false positives, 0 or more.
        beta: weight of false negatives, 0 or more.
        gamma: power of the mean, 1 or more.
        smooth: added to both sides of the fraction, in pixels, 0 or more.

    Raises:
        UserError: a value out of its range.
    """

    def __init__(self, alpha: float = 0.5, beta: float = 0.5, gamma: float = 1.0, smooth: float = 0.0) -> None:
        _check("tversky", 0, alpha=alpha, beta=beta, smooth=smooth)
        _check("tversky", 1, gamma=gamma)
        self.alpha, self.beta, self.gamma, self.smooth = alpha, beta, gamma, smooth

    def __call__(self, *, logits: Tensor, labels: Tensor, ignore_index: int = 255) -> Tensor:
        """The loss of one batch, a scalar of float32 at least; see `cross_entropy` for the arguments."""
        arguments = {"alpha": self.alpha, "beta": self.beta, "gamma": self.gamma, "smooth": self.smooth}
        return _of_library("TverskyLoss", logits, labels, ignore_index, arguments)


class Dice:
    """Dice loss: 1 - 2 TP / (2 TP + FP + FN), with probabilities for counts; the mean over all classes.

    Milletari et al., "V-Net", arXiv 1606.04797. A class without a pixel in the batch adds 0.

    Args:
        smooth: added to both sides of the fraction, in pixels, 0 or more.

    Raises:
        UserError: ``smooth`` is below 0.
    """

    def __init__(self, smooth: float = 0.0) -> None:
        _check("dice", 0, smooth=smooth)
        self.smooth = smooth

    def __call__(self, *, logits: Tensor, labels: Tensor, ignore_index: int = 255) -> Tensor:
        """The loss of one batch, a scalar of float32 at least; see `cross_entropy` for the arguments."""
        return _of_library("DiceLoss", logits, labels, ignore_index, {"smooth": self.smooth})


class Jaccard:
    """Jaccard loss, or soft IoU: 1 - TP / (TP + FP + FN), with probabilities for counts; the mean over all classes.

    A class without a pixel in the batch adds 0.

    Args:
        smooth: added to both sides of the fraction, in pixels, 0 or more.

    Raises:
        UserError: ``smooth`` is below 0.
    """

    def __init__(self, smooth: float = 0.0) -> None:
        _check("jaccard", 0, smooth=smooth)
        self.smooth = smooth

    def __call__(self, *, logits: Tensor, labels: Tensor, ignore_index: int = 255) -> Tensor:
        """The loss of one batch, a scalar of float32 at least; see `cross_entropy` for the arguments."""
        return _of_library("JaccardLoss", logits, labels, ignore_index, {"smooth": self.smooth})


class Lovasz:
    """Lovász-softmax loss: the IoU's extension to probabilities, piecewise linear; the mean over the batch's classes.

    Berman et al., arXiv 1705.08790. It sorts the batch's pixels once for each class, and is slower than the others.
    """

    def __call__(self, *, logits: Tensor, labels: Tensor, ignore_index: int = 255) -> Tensor:
        """The loss of one batch, a scalar of float32 at least; see `cross_entropy` for the arguments."""
        from segmentation_models_pytorch.losses import LovaszLoss

        logits, labels, weights = task_inputs(logits, labels, ignore_index, None)
        kept = weights > 0
        scores, labels = logits.movedim(1, -1)[kept], labels[kept]
        # The library has no scalar for no pixel, and refuses a single class, whose probability is 1 everywhere.
        if len(labels) == 0 or logits.shape[1] == 1:
            return scores.sum() * 0.0
        # The library mixes single with double precision where it is given double.
        loss: Tensor = LovaszLoss("multiclass")(scores.float().T[None, :, :, None], labels[None, :, None])
        return loss.to(logits.dtype)


def _of_library(name: str, logits: Tensor, labels: Tensor, ignore_index: int, arguments: dict[str, Any]) -> Tensor:
    """A loss of segmentation_models_pytorch, which takes seconds to import."""
    from segmentation_models_pytorch import losses

    logits, labels, weights = task_inputs(logits, labels, ignore_index, None)
    # The library multiplies ignored pixels by 0, which would leave a NaN there what it is.
    logits = torch.where((weights > 0).unsqueeze(1), logits, 0.0)
    loss: Tensor = getattr(losses, name)("multiclass", ignore_index=ignore_index, **arguments)(logits, labels)
    return loss


def _check(loss: str, least: float, **values: float) -> None:
    for name, value in values.items():
        if not least <= value < math.inf:
            raise UserError(f"train.loss {loss}: {name} is {value}, expected {least} or more")
