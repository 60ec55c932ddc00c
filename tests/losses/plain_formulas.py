"""Every pairwise loss once more: the formula in float64 on the valid positions alone, slow and plain."""

from __future__ import annotations

import torch
from torch import Tensor


def _columns(features: Tensor, valid: Tensor) -> list[Tensor]:
    """Of each image that has a valid position, those positions' vectors, (C, n)."""
    return [image[:, mask] for image, mask in zip(features.double(), valid, strict=True) if mask.any()]


def _pairs(student: Tensor, teacher: Tensor, valid: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(_columns(student, valid), _columns(teacher, valid), strict=True))


def _kl(teacher: Tensor, student: Tensor, dim: int) -> Tensor:
    p, q = torch.softmax(teacher, dim), torch.softmax(student, dim)
    return (p * torch.log(p / q)).sum(dim)


def _cosines(columns: Tensor) -> Tensor:
    unit = columns / torch.sqrt((columns**2).sum(0))
    return unit.T @ unit


def pixel_kl(student: Tensor, teacher: Tensor, valid: Tensor, temperature: float = 1.0) -> Tensor:
    rows = [_kl(t / temperature, s / temperature, 0) for s, t in _pairs(student, teacher, valid)]
    return temperature**2 * torch.cat(rows).mean()


def channel_kl(student: Tensor, teacher: Tensor, valid: Tensor, temperature: float = 4.0) -> Tensor:
    images = [_kl(t / temperature, s / temperature, 1).sum() for s, t in _pairs(student, teacher, valid)]
    return temperature**2 / student.shape[1] * torch.stack(images).mean()


def affinity_mse(student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    differences = [_cosines(s) - _cosines(t) for s, t in _pairs(student, teacher, valid)]
    return torch.cat([(difference**2).flatten() for difference in differences]).mean()


def _relation_rows(columns: Tensor, temperature: float, include_self: bool) -> list[Tensor]:
    cosines = _cosines(columns) / temperature
    others = range(len(cosines))
    return [cosines[i, [j for j in others if include_self or j != i]] for i in others]


def relation_kl(
    student: Tensor, teacher: Tensor, valid: Tensor, temperature: float = 1.0, include_self: bool = False
) -> Tensor:
    rows = [
        _kl(row_t, row_s, 0)
        for s, t in _pairs(student, teacher, valid)
        for row_s, row_t in zip(
            _relation_rows(s, temperature, include_self),
            _relation_rows(t, temperature, include_self),
            strict=True,
        )
    ]
    return temperature**2 * torch.stack(rows).mean()


def relation_mse(
    student: Tensor, teacher: Tensor, valid: Tensor, temperature: float = 1.0, include_self: bool = False
) -> Tensor:
    rows = [
        ((row_s.softmax(0) - row_t.softmax(0)) ** 2).sum()
        for s, t in _pairs(student, teacher, valid)
        for row_s, row_t in zip(
            _relation_rows(s, temperature, include_self),
            _relation_rows(t, temperature, include_self),
            strict=True,
        )
    ]
    return torch.stack(rows).mean()


def channel_relation_mse(student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    images = [((_cosines(s.T) - _cosines(t.T)) ** 2).mean() for s, t in _pairs(student, teacher, valid)]
    return torch.stack(images).mean()


def boundary_mse(student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    images = [
        ((s / torch.sqrt((s**2).sum()) - t / torch.sqrt((t**2).sum())) ** 2).sum()
        for s, t in _pairs(student, teacher, valid)
    ]
    return torch.stack(images).mean()


def latent_distance(student: Tensor, teacher: Tensor, valid: Tensor, p: float = 1, q: float = 2) -> Tensor:
    rows = []
    for s, t in _pairs(student, teacher, valid):
        scaled_s, scaled_t = (x / (x.abs() ** q).sum(0) ** (1 / q) for x in (s, t))
        rows.append(((scaled_s - scaled_t).abs() ** p).sum(0))
    return torch.cat(rows).mean()


def feature_mse(student: Tensor, teacher: Tensor, valid: Tensor, standardise: str | None = None) -> Tensor:
    def scaled(columns: Tensor) -> Tensor:
        if standardise is None:
            return columns
        lines = columns if standardise == "channel" else columns.T
        rows = []
        for line in lines:
            centred = line - line.mean()
            spread = (centred**2).mean().sqrt()
            rows.append(centred / spread if spread > 1e-9 else 0 * line)
        stacked = torch.stack(rows)
        return stacked if standardise == "channel" else stacked.T

    return torch.cat([((scaled(s) - scaled(t)) ** 2).mean(0) for s, t in _pairs(student, teacher, valid)]).mean()


def feature_cosine(student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    rows = []
    for s, t in _pairs(student, teacher, valid):
        cosines = (s * t).sum(0) / torch.sqrt((s**2).sum(0) * (t**2).sum(0))
        rows.append(1 - cosines)
    return torch.cat(rows).mean()


def _unit(vector: Tensor) -> Tensor:
    return vector / torch.sqrt((vector**2).sum())


def attention_mse(student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    images = [((_unit((s**2).sum(0)) - _unit((t**2).sum(0))) ** 2).sum() for s, t in _pairs(student, teacher, valid)]
    return torch.stack(images).mean()


def residual_attention_mse(student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    terms = []
    for s, t in _pairs(student, teacher, valid):
        for n in range(len(s)):
            for m in range(n):
                residuals = [_unit(_unit(maps[n]) - _unit(maps[m])) for maps in (s, t)]
                terms.append(((residuals[0] - residuals[1]).nan_to_num() ** 2).sum())
    return torch.stack(terms).mean()


def category_similarity_mse(student: Tensor, teacher: Tensor, valid: Tensor, temperature: float = 4.0) -> Tensor:
    images = []
    for s, t in _pairs(student, teacher, valid):
        phi_s, phi_t = torch.softmax(s / temperature, 1), torch.softmax(t / temperature, 1)
        images.append(((_cosines(phi_s.T) - _cosines(phi_t.T)) ** 2).mean())
    return torch.stack(images).mean()


def class_center_mse(student: Tensor, teacher: Tensor, valid: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    squares = []
    for s, t, inside, classes in zip(student.double(), teacher.double(), valid, labels, strict=True):
        for label in range(num_classes):
            members = inside & (classes == label)
            if members.any():
                cosines = []
                for maps in (s, t):
                    columns = maps[:, members]
                    center = columns.mean(1, keepdim=True)
                    cosines.append((columns * center).sum(0) / torch.sqrt((columns**2).sum(0) * (center**2).sum()))
                squares.append((cosines[0] - cosines[1]) ** 2)
    return torch.cat(squares).mean() if squares else 0.0 * student.sum()


def pyramid_mse(student: Tensor, teacher: Tensor, valid: Tensor, levels: tuple[int, ...] = (4, 2, 1)) -> Tensor:
    difference = student.double() - teacher.double()
    batch, _, height, width = difference.shape
    squares = [(difference[b, :, y, x] ** 2).mean() for b, y, x in torch.nonzero(valid).tolist()]
    total, weight, weights = torch.stack(squares).mean(), 1.0, 1.0
    for level in levels:
        if level >= height:
            continue
        weight, cells = weight / 2, []
        weights += weight
        for b in range(batch):
            for i in range(level):
                for j in range(level):
                    rows = slice(i * height // level, -(-(i + 1) * height // level))
                    columns = slice(j * width // level, -(-(j + 1) * width // level))
                    inside = valid[b, rows, columns]
                    if 2 * inside.sum() >= inside.numel():
                        cells.append((difference[b, :, rows, columns][:, inside].mean(1) ** 2).mean())
        if cells:
            total = total + weight * torch.stack(cells).mean()
    return total / weights
