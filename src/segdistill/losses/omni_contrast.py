"""Contrast over channel groups and small patches (Af-DCD, Fan et al., NeurIPS 2023)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from segdistill.errors import UserError
from segdistill.losses import _inputs

# Stands for minus infinity in a softmax: no probability is left there, and differences of two of them stay
# finite.
_OUT = -1e30


def omni_contrast(
    *,
    student: Tensor,
    teacher: Tensor,
    groups: int = 16,
    patch: int = 4,
    temperature: float = 0.07,
    valid: Tensor | None = None,
) -> Tensor:
    r"""Contrast of each piece of the student's features with the teacher's pieces of the same patch.

    Maps are cut into patches of ``patch`` x ``patch`` positions and G groups of channels; a piece f_ig is what one
    position i has in one group g. Its positive is the teacher's piece of the same position and group, its negatives the
    teacher's pieces of all other groups in the patch:

    .. math:: -\frac{1}{|V| G} \sum_{i, g} \log \frac{e^{s(x_{ig}, t_{ig})}}
        {e^{s(x_{ig}, t_{ig})} + \sum_{j, h \ne g} e^{s(x_{ig}, t_{jh})}}, \qquad
        s(x, t) = - \frac{1}{\tau d} \|x - t\|_1

    with d channels in a group. Fan et al., "Augmentation-Free Dense Contrastive Knowledge Distillation for Efficient
    Semantic Segmentation", arXiv 2312.04168, eq. 7; there the distance is the sum over a group's channels, which is
    ``temperature=tau / d`` here. The last patch of a row or column may be smaller, and so may the last group.
    There is no tau^2 in front: the positive term's slope does not shrink with it.

    Args:
        student: features (B, C, H, W), any floating dtype, already adapted to the teacher's channels.
        teacher: features (B, C, H, W); receives no gradient.
        groups: G, from 1 (without negatives, hence 0) to C; at most C are made.
        patch: side of a patch in positions, 1 or more.
        temperature: tau > 0.
        valid: bool (B, H, W), the positions that count; ``None`` for all.

    Returns:
        Scalar >= 0, float32 (float64 for float64 input); 0 when no position is valid.

    Raises:
        UserError: a shape or dtype does not fit, or a number is out of range.
    """
    _inputs.check_positive("temperature", temperature)
    for name, value in (("groups", groups), ("patch", patch)):
        if value < 1:
            raise UserError(f"{name} is {value}, expected 1 or more")
    student, teacher = _inputs.pair(student, teacher, valid, same_channels=True)
    batch, channels, height, width = student.shape
    groups = min(groups, channels)
    size = -(-channels // groups)
    groups = -(-channels // size)
    inside = torch.ones((batch, height, width), dtype=torch.bool, device=student.device) if valid is None else valid
    x, t = (_pieces(maps, groups, size, patch) for maps in (student, teacher))
    counts = _pieces(inside.unsqueeze(1).to(x.dtype), 1, 1, patch).squeeze(2) > 0  # (patches, positions)
    similarity = torch.cdist(x, t, p=1).mul(-1 / (temperature * size))
    group = torch.arange(x.shape[1], device=x.device) % groups
    negative = (group.unsqueeze(1) != group) & counts.repeat_interleave(groups, 1).unsqueeze(1)
    positive = similarity.diagonal(dim1=1, dim2=2)
    against = torch.where(negative, similarity, _OUT).logsumexp(dim=2)
    # -log(e^p / (e^p + sum of negatives)) = log(1 + e^(negatives - p))
    losses = F.softplus(against - positive).view(*counts.shape, groups).mean(dim=2)
    return torch.where(counts, losses, 0.0).sum() / counts.sum().clamp(min=1)


def _pieces(maps: Tensor, groups: int, size: int, patch: int) -> Tensor:
    """(B, C, H, W) -> (patches, positions * groups, size); what is missing at the ends is 0."""
    batch, channels, height, width = maps.shape
    down, right = -height % patch, -width % patch
    maps = F.pad(maps, (0, right, 0, down, 0, groups * size - channels))
    rows, columns = (height + down) // patch, (width + right) // patch
    maps = maps.view(batch, groups, size, rows, patch, columns, patch)
    return maps.permute(0, 3, 5, 4, 6, 1, 2).reshape(batch * rows * columns, patch * patch * groups, size)
