"""What is wrong with each pixel of a prediction: near a boundary, or part of a broken, merged or missing object."""

from __future__ import annotations

import math
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.metrics.components import MIN_AREA, component_overlaps, connected_components, match_components
from segdistill.metrics.label_maps import LabelMap, comparable_maps, near_another_class
from segdistill.metrics.labelling import label_components

#: The width of what counts as "near a boundary", as a share of the diagonal, as `BoundaryCounts` has it.
DIAGONAL_SHARE = 0.02


class Mistake(IntEnum):
    """The kind of one wrong pixel; where several fit, the largest one is shown.

    A component, "missed", "false island", "split" and "merged" are as in `ConnectivityCounts`.

    Attributes:
        NONE: not wrong, or ignored.
        INNER: wrong, and none of what follows.
        BOUNDARY: as near to another reference class as Boundary IoU looks.
        MERGED: in a patch of wrong pixels that joins reference components which the prediction merges.
        BROKEN: in a patch of wrong pixels that lies between the pieces of a split reference component.
        ISLAND: in a predicted component that is none.
        MISSED: in a reference component that was not found.
    """

    NONE = 0
    INNER = 1
    BOUNDARY = 2
    MERGED = 3
    BROKEN = 4
    ISLAND = 5
    MISSED = 6


def mistakes(
    prediction: LabelMap, labels: LabelMap, num_classes: int, ignore_index: int, *, min_area: int = MIN_AREA
) -> NDArray[np.uint8]:
    """The kind of mistake at each pixel.

    Args:
        prediction: integer (H, W), values 0 to K - 1.
        labels: integer (H, W), values 0 to K - 1 or the ignore label.
        num_classes: K.
        ignore_index: the label of pixels that do not count.
        min_area: the smallest component that counts, in pixels.

    Returns:
        uint8 (H, W), values of `Mistake`.

    Raises:
        UserError: if shapes differ or a value is no class.

    Example:
        >>> labels = np.array([[1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0]])
        >>> prediction = np.array([[1, 1, 1, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0]])
        >>> mistakes(prediction, labels, 2, 255, min_area=1)[0].tolist()
        [0, 0, 0, 4, 0, 0, 0]
    """
    predicted, reference = comparable_maps(prediction, labels, num_classes, ignore_index)
    wrong = predicted != reference
    depth = max(1, round(DIAGONAL_SHARE * math.hypot(*reference.shape)))
    near = near_another_class(reference, num_classes, {depth})[depth]
    found = np.where(wrong, np.where(near, Mistake.BOUNDARY, Mistake.INNER), Mistake.NONE).astype(np.uint8)

    r_parts, p_parts = connected_components(reference, num_classes), connected_components(predicted, num_classes)
    matched = match_components(component_overlaps(r_parts, p_parts, reference, predicted), min_area)
    split, merging = matched.pieces >= 2, matched.members >= 2
    # Specks count for nothing, so they join and break nothing either.
    r_pieces = np.where(matched.reference_kept[r_parts], r_parts, 0)
    p_pieces = np.where(matched.predicted_kept[p_parts], p_parts, 0)
    found[_between(np.where(wrong & merging[p_parts], p_parts, 0), predicted, r_pieces, reference)] = Mistake.MERGED
    found[_between(np.where(wrong & split[r_parts], r_parts, 0), reference, p_pieces, predicted)] = Mistake.BROKEN
    found[wrong & (matched.predicted_kept & ~matched.true)[p_parts]] = Mistake.ISLAND
    found[wrong & (matched.reference_kept & ~matched.found)[r_parts]] = Mistake.MISSED
    return found


def _between(
    patches: NDArray[np.int64], patch_class: NDArray[Any], pieces: NDArray[np.int64], piece_class: NDArray[Any]
) -> NDArray[np.bool_]:
    """The patches of wrong pixels that touch two or more pieces of their own class.

    Args:
        patches: (H, W), above 0 in wrong pixels of the component that is looked at, one number for each component.
        patch_class: (H, W), the class of that component.
        pieces: (H, W), numbers of the components of the other map; 0 for those that do not count.
        piece_class: (H, W), the class of those.
    """
    numbers = label_components(patches)
    height, width = numbers.shape
    touching = []
    for dy, dx in [(0, 1), (1, 0), (1, 1), (1, -1)]:
        here = (slice(0, height - dy), slice(max(0, -dx), width - max(0, dx)))
        there = (slice(dy, height), slice(max(0, dx), width - max(0, -dx)))
        for one, other in ((here, there), (there, here)):
            meet = (numbers[one] > 0) & (pieces[other] > 0) & (patch_class[one] == piece_class[other])
            touching.append(numbers[one][meet] * (pieces.max() + 1) + pieces[other][meet])
    patch = np.unique(np.concatenate(touching)) // (pieces.max() + 1)
    several: NDArray[np.bool_] = (np.bincount(patch, minlength=numbers.max() + 1) >= 2)[numbers]
    return several & (numbers > 0)
