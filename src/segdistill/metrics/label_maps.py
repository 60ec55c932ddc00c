"""Label maps of prediction and labels made comparable, and what lies near each of their pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from segdistill.errors import UserError

Counts = NDArray[np.int64]
LabelMap = Tensor | NDArray[np.integer[Any]]


def check_shapes(prediction: LabelMap, labels: LabelMap) -> tuple[NDArray[Any], NDArray[Any]]:
    """Prediction and labels as arrays, which share the memory of tensors on the CPU.

    Args:
        prediction: integer (H, W).
        labels: integer (H, W).

    Raises:
        UserError: if they are something else, or shapes differ.
    """
    maps = []
    for name, given in (("prediction", prediction), ("labels", labels)):
        values = given.detach().cpu().numpy() if isinstance(given, Tensor) else given
        if values.ndim != 2 or values.size == 0 or values.dtype.kind not in "iu":
            raise UserError(f"{name} are {values.dtype} of shape {values.shape}, expected integers of shape (H, W)")
        maps.append(values)
    predicted, reference = maps
    if predicted.shape != reference.shape:
        raise UserError(f"a prediction of shape {predicted.shape} does not fit labels of shape {reference.shape}")
    return predicted, reference


def comparable_maps(
    prediction: LabelMap, labels: LabelMap, num_classes: int, ignore_index: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Prediction and labels as small unsigned integers, both with the value K where the label is the ignore label.

    Args:
        prediction: integer (H, W), values 0 to K - 1.
        labels: integer (H, W), values 0 to K - 1 or the ignore label.
        num_classes: K.
        ignore_index: the label of pixels that do not count.

    Returns:
        The two maps (H, W), uint8, for more than 255 classes uint16.

    Raises:
        UserError: if shapes differ or a value is no class.
    """
    predicted, reference = check_shapes(prediction, labels)
    ignored = reference == ignore_index
    reference = np.where(ignored, 0, reference)
    for name, values in (("prediction", predicted), ("labels", reference)):
        if values.min() < 0 or values.max() >= num_classes:
            wrong = int(values.min() if values.min() < 0 else values.max())
            raise UserError(f"{name} hold the value {wrong}, expected 0 to {num_classes - 1}")
    small = np.uint8 if num_classes <= np.iinfo(np.uint8).max else np.uint16
    predicted, reference = predicted.astype(small), reference.astype(small)
    predicted[ignored] = reference[ignored] = num_classes
    return predicted, reference


def near_another_class(labels: NDArray[Any], num_classes: int, reaches: set[int]) -> dict[int, NDArray[np.bool_]]:
    """Whether a pixel of another class lies in the square around each pixel.

    Args:
        labels: unsigned integer (H, W), values 0 to K; K marks pixels that do not count.
        num_classes: K.
        reaches: half widths of the squares in pixels; 1 is the 3x3 square.

    Returns:
        For each reach (H, W), false at pixels that do not count. The border of the image is no other class.
    """
    counts = labels != num_classes
    # Two classes are in a square where its smallest class is not its largest. K is neutral for the smallest, 0 for
    # the largest. Squares of ever larger reach come out of the smaller ones, in steps that leave no gap.
    smallest, largest = labels, np.where(counts, labels, labels.dtype.type(0))
    found, reached = {}, 0
    for reach in sorted(reaches):
        while reached < reach:
            step = min(reach - reached, 2 * reached + 1)
            smallest, largest = _spread(smallest, step, np.minimum), _spread(largest, step, np.maximum)
            reached += step
        found[reach] = (smallest != largest) & counts
    return found


def _spread(values: NDArray[Any], step: int, pick: np.ufunc) -> NDArray[Any]:
    """The smallest or largest of each value and those ``step`` rows, then columns, before and after it.

    Where the map ends before that, the last row or column stands for those beyond it, which would see it.
    """
    for axis in (0, 1):
        source = values.swapaxes(0, axis)
        values = values.copy()
        found = values.swapaxes(0, axis)
        pick(found[step:], source[:-step], out=found[step:])
        pick(found[:step], source[:1], out=found[:step])
        pick(found[:-step], source[step:], out=found[:-step])
        pick(found[-step:], source[-1:], out=found[-step:])
    return values


def count_near(points: NDArray[Any], targets: NDArray[Any], distances: Sequence[int], num_classes: int) -> Counts:
    """How many points of each class have a target of that class near enough.

    Args:
        points: unsigned integer (H, W): the class of each point, K elsewhere.
        targets: unsigned integer (H, W): the class of each target, K elsewhere.
        distances: T Euclidean distances in pixels, ascending.
        num_classes: K.

    Returns:
        int64 (T, K).
    """
    reach = distances[-1]
    padded = np.pad(targets, reach, constant_values=num_classes)
    around = padded.ravel()
    where = np.flatnonzero(points != num_classes)
    corners = where + where // points.shape[1] * (padded.shape[1] - points.shape[1])  # of the square around each point
    wanted = points.ravel()[where]
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    counted = np.zeros((len(distances), num_classes), np.int64)
    smaller = -1
    for index, distance in enumerate(distances):
        ring = (dy**2 + dx**2 > smaller) & (dy**2 + dx**2 <= distance**2)
        hit = np.zeros(len(wanted), bool)
        for row, column in np.argwhere(ring):
            hit |= around[row * padded.shape[1] + column :].take(corners) == wanted
        counted[index] = np.bincount(wanted[hit], minlength=num_classes)
        corners, wanted = corners[~hit], wanted[~hit]
        smaller = distance**2
    return counted.cumsum(0)
