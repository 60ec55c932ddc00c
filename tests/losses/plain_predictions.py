"""More plain formulas in float64, with loops: losses on predictions, labels, patches, memories and across images."""

from __future__ import annotations

import torch
from torch import Tensor


def _kl(p: Tensor, q: Tensor) -> Tensor:
    return torch.where(p > 0, p * torch.log(p / q), 0.0).sum()


def _pixels(student: Tensor, teacher: Tensor, valid: Tensor) -> list[tuple[int, Tensor, Tensor, tuple[int, int]]]:
    return [
        (b, student[b, :, i, j].double(), teacher[b, :, i, j].double(), (i, j)) for b, i, j in valid.nonzero().tolist()
    ]


def _mean(values: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(values).mean() if values else 0.0 * like.double().sum()


def target_kl(student: Tensor, teacher: Tensor, valid: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    values = []
    for b, x, t, (i, j) in _pixels(student, teacher, valid):
        y = int(labels[b, i, j])
        if y < len(x):
            p, q = (torch.softmax(z / temperature, 0)[y] for z in (t, x))
            values.append(_kl(torch.stack([p, 1 - p]), torch.stack([q, 1 - q])))
    return temperature**2 * _mean(values, student)


def non_target_kl(student: Tensor, teacher: Tensor, valid: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    values = []
    for b, x, t, (i, j) in _pixels(student, teacher, valid):
        y = int(labels[b, i, j])
        if y < len(x):
            others = [c for c in range(len(x)) if c != y]
            values.append(_kl(*(torch.softmax(z[others] / temperature, 0) for z in (t, x))))
    return temperature**2 * _mean(values, student)


def _pearson(a: Tensor, b: Tensor) -> Tensor:
    a, b = a - a.mean(), b - b.mean()
    return (a * b).sum() / torch.sqrt((a**2).sum() * (b**2).sum())


def class_correlation(student: Tensor, teacher: Tensor, valid: Tensor, temperature: float = 1.0) -> Tensor:
    values = [
        1 - _pearson(torch.softmax(x / temperature, 0), torch.softmax(t / temperature, 0))
        for _, x, t, _ in _pixels(student, teacher, valid)
    ]
    return temperature**2 * _mean(values, student)


def position_correlation(
    student: Tensor, teacher: Tensor, valid: Tensor, temperature: float = 1.0, across: str = "image"
) -> Tensor:
    x, t = (torch.softmax(z.double() / temperature, 1).permute(0, 2, 3, 1) for z in (student, teacher))
    parts = [valid.new_ones(len(valid))] if across == "batch" else list(torch.eye(len(valid), dtype=torch.bool))
    values = []
    for part in parts:
        inside = valid & part[:, None, None]
        if inside.any():
            rows = [(x[inside][:, c], t[inside][:, c]) for c in range(x.shape[3])]
            values.append(torch.stack([1 - _pearson(a, b) if len(a) > 1 else 0 * a.sum() for a, b in rows]).mean())
    return temperature**2 * _mean(values, student)


def class_distance_mse(
    student: Tensor, teacher: Tensor, valid: Tensor, labels: Tensor, num_classes: int, relative: bool = True
) -> Tensor:
    values = []
    for x, t, inside, classes in zip(student.double(), teacher.double(), valid, labels, strict=True):
        seen = [c for c in range(num_classes) if (inside & (classes == c)).any()]
        centres = [[maps[:, inside & (classes == c)].mean(1) for c in seen] for maps in (x, t)]
        pairs = [(a, b) for a in range(len(seen)) for b in range(a)]
        if pairs:
            d_x, d_t = (torch.stack([(of[a] - of[b]).norm() for a, b in pairs]) for of in centres)
            values.append(((d_x - d_t) ** 2).mean() / ((d_t**2).mean() if relative else 1.0))
    return _mean(values, student)


def receptive_mse(student: Tensor, teacher: Tensor, valid: Tensor, tokens: Tensor) -> Tensor:
    values = []
    for maps_x, maps_t, inside in zip(student.double(), teacher.double(), valid, strict=True):
        if inside.any():
            x, t = maps_x[:, inside], maps_t[:, inside]
            fields = torch.sigmoid(tokens.double() @ t)
            terms = [((m * x - m * t) ** 2).sum(1).mean() / m.sum() for m in fields]
            values.append(torch.stack(terms).mean() / 2)
    return _mean(values, student)


def unit_map_mse(student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    values = []
    for maps_x, maps_t, inside in zip(student.double(), teacher.double(), valid, strict=True):
        if inside.any():
            x, t = maps_x[:, inside], maps_t[:, inside]
            values.append(((x / torch.sqrt((x**2).sum()) - t / torch.sqrt((t**2).sum())) ** 2).sum())
    return _mean(values, student)


def standardised_kl(student: Tensor, teacher: Tensor, valid: Tensor, temperature: float = 2.0) -> Tensor:
    values = []
    for _, x, t, _ in _pixels(student, teacher, valid):
        scores = [(z - z.mean()) / z.std(correction=0) if len(z) > 1 else 0 * z for z in (t, x)]
        values.append(_kl(*(torch.softmax(z / temperature, 0) for z in scores)))
    return temperature**2 * _mean(values, student)


def omni_contrast(
    student: Tensor, teacher: Tensor, valid: Tensor, groups: int = 16, patch: int = 4, temperature: float = 0.07
) -> Tensor:
    channels = student.shape[1]
    groups = min(groups, channels)
    size = -(-channels // groups)
    slices = [slice(start, start + size) for start in range(0, channels, size)]
    pixels = _pixels(student, teacher, valid)
    values = []
    for b, x, t, (i, j) in pixels:
        near = [of for c, _, of, (k, m) in pixels if (c, k // patch, m // patch) == (b, i // patch, j // patch)]
        for own in slices:
            piece = _padded(x[own], size)
            others = [_padded(of[part], size) for of in near for part in slices if part != own]
            positive, *negatives = (
                torch.exp(-(piece - other).abs().sum() / (temperature * size))
                for other in (_padded(t[own], size), *others)
            )
            values.append(-torch.log(positive / (positive + sum(negatives))))
    return _mean(values, student)


def _padded(vector: Tensor, size: int) -> Tensor:
    return torch.cat([vector, vector.new_zeros(size - len(vector))])


def _units(maps: Tensor, valid: Tensor) -> list[Tensor]:
    """Of each image, the unit-length vectors of its valid positions, (n, C)."""
    columns = [image[:, inside].T for image, inside in zip(maps.double(), valid, strict=True)]
    return [vectors / vectors.norm(dim=1, keepdim=True) for vectors in columns]


def cross_image_relation_kl(student: Tensor, teacher: Tensor, valid: Tensor, temperature: float = 0.1) -> Tensor:
    x, t = _units(student, valid), _units(teacher, valid)
    seen = [b for b in range(len(x)) if len(x[b])]
    values = [
        _kl(*(torch.softmax(of[b] @ of[a][i] / temperature, 0) for of in (t, x)))
        for a in seen
        for i in range(len(x[a]))
        for b in seen
    ]
    return temperature**2 * _mean(values, student)


def memory_relation_kl(
    student: Tensor, teacher: Tensor, valid: Tensor, memory: Tensor, temperature: float = 0.1
) -> Tensor:
    x, t = torch.cat(_units(student, valid)), torch.cat(_units(teacher, valid))
    values = [_kl(*(torch.softmax(memory.double() @ of[i] / temperature, 0) for of in (t, x))) for i in range(len(x))]
    return temperature**2 * _mean(values, student)
