"""Task losses by name: cross-entropy of class scores with labels, plain, of the hardest pixels, focal, balanced."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from segdistill.errors import UserError
from segdistill.losses._class_weights import enet_weights
from segdistill.losses._task_inputs import task_inputs, weighted_mean


def cross_entropy(
    *, logits: Tensor, labels: Tensor, ignore_index: int = 255, class_weights: Tensor | Sequence[float] | None = None
) -> Tensor:
    """Mean cross-entropy over the pixels whose label is not ``ignore_index``.

    With ``class_weights`` it is the weighted mean: the sum of weight times loss over the sum of weights.

    Args:
        logits: class scores (B, K, H, W), any floating dtype.
        labels: (B, H, W), any integer dtype, classes 0 .. K - 1 or ``ignore_index``.
        ignore_index: the label of the pixels that do not count.
        class_weights: (K,), >= 0, one for each class, or ``None`` for equal weights.

    Returns:
        Scalar >= 0, float32 (float64 for float64 logits); 0 when no pixel counts.

    Raises:
        UserError: a shape or dtype does not fit.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]]).reshape(1, 2, 1, 2)
        >>> round(cross_entropy(logits=logits, labels=torch.tensor([[[0, 255]]])).item(), 4)
        0.1269
    """
    logits, labels, weights = task_inputs(logits, labels, ignore_index, class_weights)
    losses = F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="none")
    return weighted_mean(losses, weights)


def ohem_cross_entropy(
    *,
    logits: Tensor,
    labels: Tensor,
    ignore_index: int = 255,
    threshold: float = 0.7,
    min_kept: float = 1 / 16,
    class_weights: Tensor | Sequence[float] | None = None,
) -> Tensor:
    """Cross-entropy on hard pixels only: those to whose true class the network gives less than ``threshold``.

    At least the hardest ``min_kept`` of the batch's labelled pixels are kept, whatever their probability.
    Shrivastava et al., "Training Region-based Object Detectors with Online Hard Example Mining", arXiv
    1604.03540, in the form usual for segmentation. ``threshold=1`` keeps every pixel.

    Args:
        logits: class scores (B, K, H, W), any floating dtype.
        labels: (B, H, W), any integer dtype, classes 0 .. K - 1 or ``ignore_index``.
        ignore_index: the label of the pixels that do not count.
        threshold: probability in (0, 1].
        min_kept: share of the labelled pixels, in [0, 1].
        class_weights: (K,), >= 0, for the mean over the kept pixels; they do not change which are kept.

    Returns:
        Scalar >= 0, float32 (float64 for float64 logits); 0 when no pixel counts.

    Raises:
        UserError: a shape or dtype does not fit, or ``threshold`` or ``min_kept`` is out of its range.
    """
    if not 0 < threshold <= 1:
        raise UserError(f"threshold is {threshold}, expected a probability above 0 and at most 1")
    if not 0 <= min_kept <= 1:
        raise UserError(f"min_kept is {min_kept}, expected a share between 0 and 1")
    logits, labels, weights = task_inputs(logits, labels, ignore_index, class_weights)
    losses = F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="none")
    hardness = losses.detach().masked_fill(labels == ignore_index, -1.0)
    easiest_kept = torch.full_like(hardness[0, 0, 0], -math.log(threshold))
    most = math.ceil(min_kept * hardness.numel())
    if most > 0:
        # How many pixels are labelled is known on the device alone, and stays there.
        kept = torch.ceil(min_kept * (hardness >= 0).sum().double()).long()
        hardest = hardness.flatten().topk(most).values
        easiest_kept = torch.minimum(easiest_kept, hardest.gather(0, (kept - 1).clamp(min=0, max=most - 1).view(1))[0])
    return weighted_mean(losses, torch.where(hardness >= easiest_kept, weights, 0.0))


def focal_cross_entropy(
    *,
    logits: Tensor,
    labels: Tensor,
    ignore_index: int = 255,
    gamma: float = 2.0,
    class_weights: Tensor | Sequence[float] | None = None,
) -> Tensor:
    """Focal loss: cross-entropy that weighs a pixel by (1 - p)^gamma, p the probability of its true class.

    Lin et al., "Focal Loss for Dense Object Detection", arXiv 1708.02002, for exclusive classes: p is of the softmax,
    as in every other loss here. (In segmentation_models_pytorch each class has a sigmoid of its own, whose scores are
    not those that a softmax, and so distillation, reads.) ``gamma=0`` is `cross_entropy`.

    Args:
        logits: class scores (B, K, H, W), any floating dtype.
        labels: (B, H, W), any integer dtype, classes 0 .. K - 1 or ``ignore_index``.
        ignore_index: the label of the pixels that do not count.
        gamma: 0 or more; the higher, the less easy pixels count.
        class_weights: (K,), >= 0, for the mean over the pixels that count.

    Returns:
        Scalar >= 0, float32 (float64 for float64 logits); 0 when no pixel counts.

    Raises:
        UserError: a shape or dtype does not fit, or ``gamma`` is below 0.
    """
    if not 0 <= gamma < math.inf:
        raise UserError(f"gamma is {gamma}, expected 0 or more")
    logits, labels, weights = task_inputs(logits, labels, ignore_index, class_weights)
    losses = F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="none")
    # 1 - p from the loss -ln p. A pixel without doubt has 0, where a power below 1 has no finite slope.
    doubt = -torch.expm1(-losses)
    smallest = torch.finfo(losses.dtype).tiny
    return weighted_mean(losses * doubt.clamp(min=smallest).pow(gamma), weights)


def balanced_weights(counts: Tensor | Sequence[float]) -> Tensor:
    """Class weights 1 / ln(1.02 + share of pixels), scaled to a mean of 1 over the classes that occur.

    Paszke et al., "ENet", arXiv 1606.02147. A class without a pixel has no share to be balanced by:
    its weight is 0, so that a class which never occurs does not scale down all the others.

    Args:
        counts: number of pixels of each class, (K,), >= 0, at least one above 0.

    Returns:
        (K,) float32.

    Raises:
        UserError: ``counts`` is not such a list.

    Example:
        >>> [round(weight, 2) for weight in balanced_weights([90, 10, 0]).tolist()]
        [0.3, 1.7, 0.0]
    """
    device = counts.device if isinstance(counts, Tensor) else torch.device("cpu")
    pixels = torch.as_tensor(counts, device="cpu").double()  # Apple's GPUs have no float64
    if pixels.dim() != 1 or not bool((pixels >= 0).all()) or not bool(pixels.sum() > 0):
        raise UserError(f"counts is {pixels.tolist()}, expected one number of pixels per class, at least one above 0")
    return enet_weights(pixels).float().to(device)


class BalancedCrossEntropy:
    """Cross-entropy with the class weights of `balanced_weights`, which adjusts the scores to the true shares again.

    The weights w make rare classes worth learning, and by themselves also have them named where they are not: a network
    then learns the probabilities w p / sum(w p). So the loss sees the scores plus ``adjust`` times log w, and the
    network learns them without that part: those of p at 1, of w p at 0. In between lies what is best for IoU, whose
    threshold for a class is half of its F1 score. Logit adjustment: Menon et al., ICLR 2021, arXiv
    2007.07314, with the weights in place of the shares of the classes.

    The sum of weight times loss is divided by the number of labelled pixels, and the weights have a mean of 1 over the
    training pixels: a batch gives the same gradient when it is split among devices, which the usual division by the sum
    of weights in each part does not.

    Args:
        pixels_per_class: training pixels of each class, (K,), >= 0, at least one above 0.
        power: power of the weights, 0 to 1. 1 is strongest: rare classes are learnt best; 0.5 takes square roots; 0 is
            plain cross-entropy.
        adjust: 0 to 1, see above.

    Raises:
        UserError: ``power`` or ``adjust`` is out of its range.
    """

    def __init__(self, pixels_per_class: Tensor, power: float = 1.0, adjust: float = 0.5) -> None:
        for name, value in (("power", power), ("adjust", adjust)):
            if not 0 <= value <= 1:
                raise UserError(f"balanced: {name} is {value}, expected 0 to 1")
        weights = balanced_weights(pixels_per_class)
        weights = torch.where(weights > 0, weights.pow(power), 0.0)
        self.class_weights = weights * pixels_per_class.sum() / (weights * pixels_per_class).sum()
        self.shift = adjust * torch.where(weights > 0, self.class_weights.log(), 0.0)

    def __call__(self, *, logits: Tensor, labels: Tensor, ignore_index: int = 255) -> Tensor:
        """See `cross_entropy`."""
        logits, labels, weights = task_inputs(logits, labels, ignore_index, self.class_weights)
        shifted = logits + self.shift.to(logits)[:, None, None]
        losses = F.cross_entropy(shifted, labels, ignore_index=ignore_index, reduction="none")
        return (losses * weights).sum() / (weights > 0).sum().clamp(min=1)
