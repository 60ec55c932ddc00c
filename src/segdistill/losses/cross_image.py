"""How pixels relate to those of other images, and to remembered ones (CIRKD, Yang et al., CVPR 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

from segdistill.errors import UserError
from segdistill.losses import _inputs
from segdistill.losses._tiled_rows import tiled_rows_kl
from segdistill.losses._unit_length import unit_length
from segdistill.losses.relation import _even_grid


def cross_image_relation_kl(
    *,
    student: Tensor,
    teacher: Tensor,
    temperature: float = 0.1,
    valid: Tensor | None = None,
    anchors: int | None = None,
    others: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Tensor:
    r"""Divergence between the relations of pixels to all pixels of each image of the batch.

    .. math:: \tau^2 \frac{1}{|V| B} \sum_{i \in V} \sum_b \sum_{j \in V_b} P^t_{ij} \log \frac{P^t_{ij}}{P^x_{ij}},
        \qquad P_{ij} = \mathrm{softmax}_{j \in V_b} (\hat f_i \cdot \hat f_j / \tau)

    with unit-length feature vectors, i over the valid pixels of all images and V_b those of image b, i's own image and
    i itself included. Yang et al., "Cross-Image Relational Knowledge Distillation for Semantic Segmentation",
    arXiv 2204.06986, eq. 4-6 (there without tau^2). Student and teacher may have different channels. Memory is bounded;
    there is no second derivative.

    Args:
        student: features (B, C_s, H, W), any floating dtype.
        teacher: features (B, C_t, H, W); receives no gradient.
        temperature: tau > 0.
        valid: bool (B, H, W), the positions that count; ``None`` for all.
        anchors: at most how many pixels i of an image, on an even grid, are related; ``None`` for all.
        others: (student, teacher, valid) of the images to relate to, where they are more than this batch, as with
            several processes; gradients flow into the student's. ``None``: the batch itself.

    Returns:
        Scalar, float32 (float64 for float64 input); 0 when no position is valid. Equal relations give 0 up to
        rounding, which may fall a hair below 0.

    Raises:
        UserError: a shape or dtype does not fit, or the temperature or ``anchors`` is not above 0.
    """
    _inputs.check_positive("temperature", temperature)
    rows_s, rows_t, counts = _rows(student, teacher, valid, anchors)
    keys = (student, teacher, valid) if others is None else others
    keys_s, keys_t, inside = _vectors(*keys)
    return temperature**2 * tiled_rows_kl((rows_s, keys_s), (rows_t, keys_t), (counts, inside), temperature)


def memory_relation_kl(
    *,
    student: Tensor,
    teacher: Tensor,
    memory: Tensor,
    remembered: Tensor | None = None,
    temperature: float = 0.1,
    valid: Tensor | None = None,
    anchors: int | None = None,
) -> Tensor:
    r"""Divergence between the relations of pixels to the vectors of a memory.

    .. math:: \tau^2 \frac{1}{|V|} \sum_{i \in V} \sum_m P^t_{im} \log \frac{P^t_{im}}{P^x_{im}}, \qquad
        P_{im} = \mathrm{softmax}_m (\hat f_i \cdot m / \tau)

    Yang et al., arXiv 2204.06986, eq. 8-12 (there without tau^2). The student's features are already adapted to the
    teacher's channels.

    Args:
        student: features (B, C, H, W), any floating dtype.
        teacher: features (B, C, H, W); receives no gradient.
        memory: unit-length vectors of the teacher, (M, C); receives no gradient.
        remembered: bool (M,), which of them count; ``None`` for all. Without any the value is 0.
        temperature: tau > 0.
        valid: bool (B, H, W), the positions that count; ``None`` for all.
        anchors: as in `cross_image_relation_kl`.

    Returns:
        Scalar, float32 (float64 for float64 input); 0 when no position is valid.

    Raises:
        UserError: a shape or dtype does not fit, or the temperature or ``anchors`` is not above 0.
    """
    _inputs.check_positive("temperature", temperature)
    if teacher.dim() == 4 and memory.shape[1:] != teacher.shape[1:2]:
        raise UserError(f"memory has shape {tuple(memory.shape)}, expected (M, {teacher.shape[1]})")
    rows_s, rows_t, counts = _rows(student, teacher, valid, anchors, same_channels=True)
    keys = memory.detach().to(rows_s.dtype).unsqueeze(0)
    inside = torch.ones_like(keys[..., 0], dtype=torch.bool) if remembered is None else remembered.unsqueeze(0)
    return temperature**2 * tiled_rows_kl((rows_s, keys), (rows_t, keys), (counts, inside), temperature)


def _vectors(
    student: Tensor, teacher: Tensor, valid: Tensor | None, *, same_channels: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Unit-length vectors of every position, (B, N, C) of both, and which count, bool (B, N)."""
    student, teacher = _inputs.pair(student, teacher, valid, same_channels=same_channels)
    x, t = (unit_length(maps.flatten(2), dim=1).mT.contiguous() for maps in (student, teacher))
    if valid is None:
        return x, t, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    return x, t, valid.flatten(1)


def _rows(
    student: Tensor, teacher: Tensor, valid: Tensor | None, anchors: int | None, *, same_channels: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The vectors of all anchors of all images, (R, C) of both, and which count, bool (R,)."""
    if anchors is not None:
        _inputs.check_positive("anchors", anchors)
        student, teacher = _inputs.checked(student, teacher, valid, same_channels=same_channels)
        grid = _even_grid(student.shape[2], student.shape[3], anchors).to(student.device, non_blocking=True)
        student, teacher = (maps.flatten(2)[:, :, grid].unsqueeze(3) for maps in (student, teacher))
        valid = None if valid is None else valid.flatten(1)[:, grid].unsqueeze(2)
    x, t, inside = _vectors(student, teacher, valid, same_channels=same_channels)
    return x.flatten(0, 1), t.flatten(0, 1), inside.flatten()
