"""Connected components of two label maps, and which of them belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.metrics.labelling import label_components

MIN_AREA = 16
"""The smallest component that counts, in pixels, where nothing else is said."""


@dataclass(frozen=True, eq=False)
class Overlaps:
    """The components of two maps, and the pixels that they share.

    Components are numbered from 1 on in each map; number 0 is what does not count.

    Attributes:
        reference_class: int64 (R,), by number.
        reference_area: int64 (R,), in pixels.
        predicted_class: int64 (P,).
        predicted_area: int64 (P,).
        pairs: numbers of the reference and the predicted component of all pairs of one class that share a pixel, int64
            (n,) each. What does not count is a pair, too: both maps have it at the same pixels.
        shared: int64 (n,), how many pixels each pair shares.
    """

    reference_class: NDArray[np.int64]
    reference_area: NDArray[np.int64]
    predicted_class: NDArray[np.int64]
    predicted_area: NDArray[np.int64]
    pairs: tuple[NDArray[np.int64], NDArray[np.int64]]
    shared: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Matching:
    """Which components of a prediction and of the labels belong together; `ConnectivityCounts` has the rules.

    Components are numbered as in `Overlaps`.

    Attributes:
        reference_class: int64 (R,), by number.
        predicted_class: int64 (P,).
        reference_kept: bool (R,), those that are not too small.
        predicted_kept: bool (P,).
        found: bool (R,), those not missed.
        true: bool (P,), those that are no false islands.
        pieces: int64 (R,), how many predicted components belong to each reference component.
        members: int64 (P,), how many reference components belong to each predicted one.
        pairs: numbers of the reference and the predicted component of all pairs that belong together, int64 (n,) each.
    """

    reference_class: NDArray[np.int64]
    predicted_class: NDArray[np.int64]
    reference_kept: NDArray[np.bool_]
    predicted_kept: NDArray[np.bool_]
    found: NDArray[np.bool_]
    true: NDArray[np.bool_]
    pieces: NDArray[np.int64]
    members: NDArray[np.int64]
    pairs: tuple[NDArray[np.int64], NDArray[np.int64]]


def connected_components(labels: NDArray[Any], num_classes: int) -> NDArray[np.int64]:
    """The number of each pixel's component, int64 (H, W), from 1 on; 0 where nothing counts.

    Args:
        labels: integer (H, W), values 0 to K - 1, and K where nothing counts.
        num_classes: K.
    """
    return label_components(np.where(labels == num_classes, 0, labels + 1))


def component_overlaps(
    reference_parts: NDArray[np.int64],
    predicted_parts: NDArray[np.int64],
    reference: NDArray[Any],
    predicted: NDArray[Any],
) -> Overlaps:
    """What the components of two maps share.

    Args:
        reference_parts, predicted_parts: from `connected_components`.
        reference, predicted: the maps that they are of.
    """
    # Both maps are constant along runs of pixels, far fewer than pixels.
    flat_reference, flat_predicted = reference_parts.ravel(), predicted_parts.ravel()
    change = (flat_reference[1:] != flat_reference[:-1]) | (flat_predicted[1:] != flat_predicted[:-1])
    starts = np.concatenate([[0], np.flatnonzero(change) + 1])
    lengths = np.diff(starts, append=flat_reference.size)
    r, p = flat_reference[starts], flat_predicted[starts]
    r_class, r_area = _classes_and_areas(r, reference.ravel()[starts], lengths)
    p_class, p_area = _classes_and_areas(p, predicted.ravel()[starts], lengths)
    alike = r_class[r] == p_class[p]
    pairs, shared = _summed_pairs(r[alike], p[alike], lengths[alike], len(p_area))
    return Overlaps(r_class, r_area, p_class, p_area, pairs, shared)


def match_components(overlaps: Overlaps, min_area: int = MIN_AREA) -> Matching:
    """Matches the components of two maps.

    Args:
        overlaps: of the maps.
        min_area: the smallest component that counts, in pixels.
    """
    r_area, p_area = overlaps.reference_area, overlaps.predicted_area
    r_kept, p_kept = r_area >= min_area, p_area >= min_area
    r_kept[0] = p_kept[0] = False  # the ignored pixels
    r, p = overlaps.pairs
    counted = r_kept[r] & p_kept[p]
    r, p, shared = r[counted], p[counted], overlaps.shared[counted]

    found = r_kept & (2 * np.bincount(r, weights=shared, minlength=len(r_area)) > r_area)
    true = p_kept & (2 * np.bincount(p, weights=shared, minlength=len(p_area)) > p_area)
    together = found[r] & true[p] & (4 * shared > np.minimum(r_area[r], p_area[p]))
    r, p = r[together], p[together]
    return Matching(
        reference_class=overlaps.reference_class,
        predicted_class=overlaps.predicted_class,
        reference_kept=r_kept,
        predicted_kept=p_kept,
        found=found,
        true=true,
        pieces=np.bincount(r, minlength=len(r_area)),
        members=np.bincount(p, minlength=len(p_area)),
        pairs=(r, p),
    )


class StripNumbers:
    """Numbers of the components of one map through its strips: which of two strips are parts of one component."""

    def __init__(self) -> None:
        self._count = 1  # 0 is what does not count, in every strip
        self._offsets: list[int] = []
        self._sizes: list[int] = []
        self._edges: list[NDArray[np.int64]] = [np.zeros((2, 0), np.int64)]
        self._last: tuple[NDArray[np.int64], NDArray[Any]] | None = None

    def append(self, parts: NDArray[np.int64], classes: NDArray[Any]) -> None:
        """The next strip: the number of each pixel's component in the strip, and its class."""
        size = int(parts.max())
        parts = parts + (parts > 0) * (self._count - 1)
        if self._last is not None:
            above, above_class = self._last
            width = len(above)
            for shift in (-1, 0, 1):  # all eight neighbours
                here = slice(max(0, shift), width + min(0, shift))
                there = slice(max(0, -shift), width + min(0, -shift))
                touching = above_class[there] == classes[0, here]
                self._edges.append(np.stack([above[there][touching], parts[0, here][touching]]))
        self._last = parts[-1], classes[-1]
        self._offsets.append(self._count - 1)
        self._sizes.append(size)
        self._count += size

    def joined(self) -> list[NDArray[np.int64]]:
        """For each strip, the number in the whole map of each of its numbers."""
        first = np.arange(self._count)
        one, other = np.unique(np.concatenate(self._edges, axis=1), axis=1)
        while True:  # each component takes the least number that it can see, and what that one has seen
            least = np.minimum(first[one], first[other])
            if (first[one] == least).all() and (first[other] == least).all():
                break
            np.minimum.at(first, first[one], least)
            np.minimum.at(first, first[other], least)
            first = first[first]
        number = np.unique(first, return_inverse=True)[1]
        return [
            np.concatenate([[0], number[offset + 1 : offset + 1 + size]])
            for offset, size in zip(self._offsets, self._sizes, strict=True)
        ]


def joined_overlaps(
    found: Sequence[Overlaps], reference: Sequence[NDArray[np.int64]], predicted: Sequence[NDArray[np.int64]]
) -> Overlaps:
    """The overlaps of a whole map from those of its strips, given the numbers of the components in the whole map."""
    r_count, p_count = (max(int(numbers.max()) for numbers in maps) + 1 for maps in (reference, predicted))
    r_class, r_area, p_class, p_area = (np.zeros(count, np.int64) for count in (r_count, r_count, p_count, p_count))
    for one, r, p in zip(found, reference, predicted, strict=True):
        r_class[r], p_class[p] = one.reference_class, one.predicted_class
        np.add.at(r_area, r, one.reference_area)
        np.add.at(p_area, p, one.predicted_area)
    pairs, shared = _summed_pairs(
        np.concatenate([r[one.pairs[0]] for one, r in zip(found, reference, strict=True)]),
        np.concatenate([p[one.pairs[1]] for one, p in zip(found, predicted, strict=True)]),
        np.concatenate([one.shared for one in found]),
        p_count,
    )
    return Overlaps(r_class, r_area, p_class, p_area, pairs, shared)


def _summed_pairs(
    r: NDArray[np.int64], p: NDArray[np.int64], pixels: NDArray[np.int64], p_count: int
) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], NDArray[np.int64]]:
    """Each pair of numbers once, and the sum of its pixels."""
    pairs, which = np.unique(r * p_count + p, return_inverse=True)
    shared = np.bincount(which, weights=pixels).astype(np.int64)
    return np.divmod(pairs, p_count), shared


def _classes_and_areas(
    parts: NDArray[np.int64], classes: NDArray[Any], lengths: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Class and area of components 0 (the ignored pixels), 1, 2, ... from runs of pixels."""
    area = np.bincount(parts, weights=lengths).astype(np.int64)
    part_class = np.zeros(len(area), np.int64)
    part_class[parts] = classes
    return part_class, area
