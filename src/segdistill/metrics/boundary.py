"""Scores near object boundaries (Boundary IoU, boundary F1, trimap IoU) from counts that add up over images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segdistill.errors import UserError
from segdistill.metrics.label_maps import (
    Counts,
    LabelMap,
    check_shapes,
    comparable_maps,
    count_near,
    near_another_class,
)
from segdistill.metrics.scores import scores_from_confusion
from segdistill.metrics.strips import strips


@dataclass(frozen=True)
class BoundaryScores:
    """Scores near boundaries, in percent; None where there is no boundary to score.

    Attributes:
        boundary_iou: Boundary IoU of each class by name.
        mean_boundary_iou: its mean over the classes that have one.
        boundary_f1: by tolerance in pixels, boundary F1 of each class by name.
        mean_boundary_f1: by tolerance, its mean over the classes that have one.
        trimap_miou: by width in pixels, mIoU of the pixels that close to a reference boundary.
    """

    boundary_iou: dict[str, float | None]
    mean_boundary_iou: float | None
    boundary_f1: dict[int, dict[str, float | None]]
    mean_boundary_f1: dict[int, float | None]
    trimap_miou: dict[int, float | None]

    def as_dict(self) -> dict[str, object]:
        """Plain values, ready for JSON (which turns pixels as keys into texts)."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class BoundaryTotals:
    """What was counted on one image, or on many: totals are added with ``+``. All counts int64, in pixels.

    Attributes:
        tolerances: the T distances of boundary F1.
        widths: the B widths of the trimaps.
        shared_region: (K,) pixels in the boundary region of a class in both maps.
        reference_region: (K,) pixels in the boundary region of a class in the labels.
        predicted_region: (K,) the same in the prediction.
        reference_edge: (K,) boundary pixels of a class in the labels.
        predicted_edge: (K,) the same in the prediction.
        reference_found: (T, K) boundary pixels of the labels with a predicted one of that class near enough.
        predicted_right: (T, K) predicted boundary pixels with one of the labels of that class near enough.
        trimaps: (B, K, K) confusion counts within each width; row = true class, column = predicted class.
    """

    tolerances: tuple[int, ...]
    widths: tuple[int, ...]
    shared_region: Counts
    reference_region: Counts
    predicted_region: Counts
    reference_edge: Counts
    predicted_edge: Counts
    reference_found: Counts
    predicted_right: Counts
    trimaps: Counts

    def __add__(self, other: BoundaryTotals) -> BoundaryTotals:
        if (self.tolerances, self.widths) != (other.tolerances, other.widths):
            raise UserError(
                f"boundary totals of tolerances {self.tolerances} and widths {self.widths} cannot be added to totals "
                f"of {other.tolerances} and {other.widths}"
            )
        names = [field.name for field in fields(self) if field.name not in ("tolerances", "widths")]
        sums = {name: getattr(self, name) + getattr(other, name) for name in names}
        return BoundaryTotals(self.tolerances, self.widths, **sums)

    def scores(self, classes: Sequence[str]) -> BoundaryScores:
        """The scores of these counts.

        Args:
            classes: the K class names.

        Raises:
            UserError: if the number of names is not K.
        """
        if len(classes) != len(self.shared_region):
            raise UserError(f"boundary totals of {len(self.shared_region)} classes do not fit {len(classes)} names")
        iou = _percent(self.shared_region, self.reference_region + self.predicted_region - self.shared_region)
        f1 = {
            tolerance: _f1(found, self.reference_edge, right, self.predicted_edge)
            for tolerance, found, right in zip(self.tolerances, self.reference_found, self.predicted_right, strict=True)
        }
        return BoundaryScores(
            boundary_iou=dict(zip(classes, iou, strict=True)),
            mean_boundary_iou=_mean(iou),
            boundary_f1={tolerance: dict(zip(classes, values, strict=True)) for tolerance, values in f1.items()},
            mean_boundary_f1={tolerance: _mean(values) for tolerance, values in f1.items()},
            trimap_miou={
                width: scores_from_confusion(torch.from_numpy(counts), classes).miou if counts.any() else None
                for width, counts in zip(self.widths, self.trimaps, strict=True)
            },
        )


def _percent(part: Counts, whole: Counts) -> list[float | None]:
    return [100 * int(p) / int(w) if w else None for p, w in zip(part, whole, strict=True)]


def _f1(found: Counts, reference: Counts, right: Counts, predicted: Counts) -> list[float | None]:
    values: list[float | None] = []
    for f, n, r, m in zip(found.tolist(), reference.tolist(), right.tolist(), predicted.tolist(), strict=True):
        if n == m == 0:
            values.append(None)
        elif f == 0:  # boundaries on one side only, or all too far apart: then r is 0, too
            values.append(0.0)
        else:
            recall, precision = f / n, r / m
            values.append(100 * 2 * precision * recall / (precision + recall))
    return values


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None


class BoundaryCounts:
    r"""Counts boundary agreement image by image, on the CPU, for all classes in one pass.

    With G_c and P_c the pixels of class c in the labels and in the prediction:

    **Boundary IoU** (Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", arXiv
    2103.16562) of class c is :math:`|G_c^d \cap P_c^d| / |G_c^d \cup P_c^d|`, where :math:`M^d` is M minus its
    erosion by d pixels, and d is ``diagonal_share`` of the image diagonal, rounded, at least 1. As in the authors'
    program, erosion is by a square, so d is a chessboard distance, and beyond the border of the image is "not M".

    **Boundary F1** at r pixels: a boundary pixel of class c is a pixel of c with another class among its eight
    neighbours (the border of the image makes none). Precision is the share of predicted boundary pixels of c with
    one of the labels' boundary pixels of c at most r pixels away (Euclidean), recall the same the other way round.
    (Csurka et al., BMVC 2013, take the mean of F1 over images instead.)

    **Trimap IoU** at w pixels: mIoU of the pixels with a pixel of another reference class in the square of w pixels
    around them (chessboard distance, 1 = next to it), after Kohli et al., IJCV 2009.

    Pixels with the ignore label are cut out of both maps beforehand: they count nowhere, and next to them is no
    boundary. All ratios are taken from sums over the data set. A class that only one of the two maps has scores 0,
    a class that neither has is left out.

    Args:
        num_classes: K.
        ignore_index: the label of pixels that do not count.
        diagonal_share: Boundary IoU's distance as a share of the image diagonal, above 0; the paper has 0.02.
        tolerances: distances of boundary F1 in pixels, ascending.
        widths: widths of the trimaps in pixels, ascending.

    Raises:
        UserError: for values out of these ranges.

    Example:
        >>> labels = np.array([[0, 0, 0, 1, 1, 1, 1, 1]])
        >>> prediction = np.array([[0, 0, 0, 0, 0, 1, 1, 1]])
        >>> counts = BoundaryCounts(2, 255)
        >>> _ = counts.update(prediction, labels)
        >>> counts.result(["road", "car"]).mean_boundary_f1
        {1: 0.0, 3: 100.0, 5: 100.0}
    """

    def __init__(
        self,
        num_classes: int,
        ignore_index: int,
        *,
        diagonal_share: float = 0.02,
        tolerances: Sequence[int] = (1, 3, 5),
        widths: Sequence[int] = (1, 2, 4, 8, 16),
    ) -> None:
        if diagonal_share <= 0:
            raise UserError(f"diagonal_share is {diagonal_share}, expected a number above 0")
        for name, pixels in (("tolerances", tolerances), ("widths", widths)):
            if not pixels or list(pixels) != sorted(set(pixels)) or pixels[0] < 1:
                raise UserError(f"{name} are {list(pixels)}, expected ascending numbers of pixels, from 1 on")
        self.num_classes, self.ignore_index, self.diagonal_share = num_classes, ignore_index, diagonal_share
        self.tolerances, self.widths = tuple(tolerances), tuple(widths)
        self.reset()

    def reset(self) -> None:
        """Forgets all counts."""
        self.totals = self._no_counts()

    def _no_counts(self) -> BoundaryTotals:
        k, t = self.num_classes, len(self.tolerances)
        shapes: tuple[tuple[int, ...], ...] = (*5 * [(k,)], (t, k), (t, k), (len(self.widths), k, k))
        return BoundaryTotals(self.tolerances, self.widths, *(np.zeros(shape, np.int64) for shape in shapes))

    def update(self, prediction: LabelMap, labels: LabelMap) -> BoundaryTotals:
        """Counts one image.

        Args:
            prediction: integer (H, W), values 0 to K - 1.
            labels: integer (H, W), values 0 to K - 1 or the ignore label.

        Returns:
            The counts of this image alone.

        Raises:
            UserError: if shapes differ or a value is no class.
        """
        prediction, labels = check_shapes(prediction, labels)
        height, width = labels.shape
        depth = max(1, round(self.diagonal_share * math.hypot(height, width)))
        # All that is counted of a pixel depends on what lies this near.
        halo = max(depth, self.widths[-1], self.tolerances[-1] + 1)
        image = self._no_counts()
        for first, last in strips((height, width), halo):
            above, below = min(halo, first), min(halo, height - last)
            cut = slice(first - above, last + below)
            image += self._count(prediction[cut], labels[cut], depth, above, below)
        self.totals += image
        return image

    def _count(self, prediction: LabelMap, labels: LabelMap, depth: int, above: int, below: int) -> BoundaryTotals:
        """Counts a strip of an image.

        Args:
            prediction, labels: the strip with rows above and below it that belong to other strips.
            depth: Boundary IoU's distance in pixels.
            above, below: how many such rows; 0 where the image ends.
        """
        predicted, reference = comparable_maps(prediction, labels, self.num_classes, self.ignore_index)
        k, own = self.num_classes, slice(above, len(reference) - below)
        near_reference = near_another_class(reference, k, {1, depth, *self.widths})
        near_predicted = near_another_class(predicted, k, {1, depth})
        ends = (above == 0, below == 0)
        reference_region = _masked(reference, _with_frame(near_reference[depth], depth, ends), k)[own]
        predicted_region = _masked(predicted, _with_frame(near_predicted[depth], depth, ends), k)[own]
        reference_edge = _masked(reference, near_reference[1], k)
        predicted_edge = _masked(predicted, near_predicted[1], k)
        near = [near_reference[width][own] for width in self.widths]
        return BoundaryTotals(
            self.tolerances,
            self.widths,
            shared_region=_histogram(reference_region[reference_region == predicted_region], k),
            reference_region=_histogram(reference_region, k),
            predicted_region=_histogram(predicted_region, k),
            reference_edge=_histogram(reference_edge[own], k),
            predicted_edge=_histogram(predicted_edge[own], k),
            reference_found=count_near(_only(reference_edge, own, k), predicted_edge, self.tolerances, k),
            predicted_right=count_near(_only(predicted_edge, own, k), reference_edge, self.tolerances, k),
            trimaps=_trimaps(predicted[own], reference[own], near, k),
        )

    def result(self, classes: Sequence[str]) -> BoundaryScores:
        """The scores of all images so far; ``classes`` are the K class names."""
        return self.totals.scores(classes)


def _with_frame(near: NDArray[np.bool_], depth: int, ends: tuple[bool, bool]) -> NDArray[np.bool_]:
    """``near`` with all pixels that close to the border of the image, which ``ends`` above or below or not."""
    framed = near.copy()
    if ends[0]:
        framed[:depth] = True
    if ends[1]:
        framed[-depth:] = True
    framed[:, :depth] = framed[:, -depth:] = True
    return framed


def _only(labels: NDArray[Any], rows: slice, num_classes: int) -> NDArray[Any]:
    """``labels`` in some rows, K in the others."""
    kept = np.full_like(labels, num_classes)
    kept[rows] = labels[rows]
    return kept


def _masked(labels: NDArray[Any], mask: NDArray[np.bool_], num_classes: int) -> NDArray[Any]:
    return np.where(mask, labels, labels.dtype.type(num_classes))


def _histogram(labels: NDArray[Any], num_classes: int) -> Counts:
    return np.bincount(labels[labels != num_classes], minlength=num_classes)


def _trimaps(
    predicted: NDArray[Any], reference: NDArray[Any], near: Sequence[NDArray[np.bool_]], num_classes: int
) -> Counts:
    """Confusion counts (B, K, K) within each of the B masks (H, W), each of which holds the ones before it."""
    within = near[-1]
    band = np.zeros(reference.shape, np.uint8)  # the first mask that holds the pixel
    for mask in near[:-1]:
        band += ~mask
    cells = (band[within] * np.int64(num_classes) + reference[within]) * num_classes + predicted[within]
    size = len(near) * num_classes**2
    return np.bincount(cells, minlength=size).reshape(len(near), num_classes, num_classes).cumsum(0)
