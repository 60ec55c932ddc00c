"""Connectivity errors: components found whole, split, merged, missed or invented, and broken lines."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.errors import UserError, missing_package
from segdistill.metrics.components import (
    MIN_AREA,
    Matching,
    Overlaps,
    StripNumbers,
    component_overlaps,
    connected_components,
    joined_overlaps,
    match_components,
)
from segdistill.metrics.label_maps import Counts, LabelMap, check_shapes, comparable_maps, count_near
from segdistill.metrics.strips import strips


@dataclass(frozen=True)
class ConnectivityScores:
    """How well the components of a prediction match those of the labels.

    `ConnectivityCounts` says what split, merged, missed and false mean.

    Attributes:
        error: connectivity error over all classes, from 0 (all match one to one); None without components.
        class_error: the same for each class by name; None for a class without components in both maps.
        reference: number of reference components of each class.
        predicted: number of predicted components of each class.
        whole: reference components found whole.
        split: reference components found in several pieces.
        merged: reference components found in one piece with others.
        missed: reference components not found.
        false_islands: predicted components that are none.
        line_length: pixels on the centre lines of the reference, of each line class.
        line_broken: percent of them without a prediction near; None where there is no line.
    """

    error: float | None
    class_error: dict[str, float | None]
    reference: dict[str, int]
    predicted: dict[str, int]
    whole: dict[str, int]
    split: dict[str, int]
    merged: dict[str, int]
    missed: dict[str, int]
    false_islands: dict[str, int]
    line_length: dict[str, int]
    line_broken: dict[str, float | None]

    def as_dict(self) -> dict[str, object]:
        """Plain values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class ConnectivityTotals:
    """What was counted on one image, or on many: totals are added with ``+``. All int64 (K,), one number a class.

    Attributes:
        reference: reference components.
        predicted: predicted components.
        whole: reference components found whole.
        split: reference components found in several pieces.
        merged: reference components found in one piece with others.
        missed: reference components not found.
        false_islands: predicted components that are none.
        breaks: surplus pieces of the split components.
        bridges: surplus reference components in the pieces that merge them.
        line_length: pixels on the reference's centre lines; 0 for a class that is no line class.
        line_broken: those without a prediction near.
    """

    reference: Counts
    predicted: Counts
    whole: Counts
    split: Counts
    merged: Counts
    missed: Counts
    false_islands: Counts
    breaks: Counts
    bridges: Counts
    line_length: Counts
    line_broken: Counts

    def __add__(self, other: ConnectivityTotals) -> ConnectivityTotals:
        names = [field.name for field in fields(self)]
        return ConnectivityTotals(**{name: getattr(self, name) + getattr(other, name) for name in names})

    def scores(self, classes: Sequence[str], line_classes: Sequence[int] = ()) -> ConnectivityScores:
        """The scores of these counts.

        Args:
            classes: the K class names.
            line_classes: the classes whose lines were counted.

        Raises:
            UserError: if the number of names is not K.
        """
        if len(classes) != len(self.reference):
            raise UserError(f"connectivity totals of {len(self.reference)} classes do not fit {len(classes)} names")
        edits = self.missed + self.false_islands + self.breaks + self.bridges
        components = self.reference + self.predicted

        def by_name(counts: Counts) -> dict[str, int]:
            return dict(zip(classes, counts.tolist(), strict=True))

        return ConnectivityScores(
            error=_percent(edits.sum(), components.sum()),
            class_error={name: _percent(edits[i], components[i]) for i, name in enumerate(classes)},
            reference=by_name(self.reference),
            predicted=by_name(self.predicted),
            whole=by_name(self.whole),
            split=by_name(self.split),
            merged=by_name(self.merged),
            missed=by_name(self.missed),
            false_islands=by_name(self.false_islands),
            line_length={classes[i]: int(self.line_length[i]) for i in line_classes},
            line_broken={classes[i]: _percent(self.line_broken[i], self.line_length[i]) for i in line_classes},
        )


def _percent(part: np.int64, whole: np.int64) -> float | None:
    return 100 * int(part) / int(whole) if whole else None


class ConnectivityCounts:
    """Counts connectivity errors image by image, on the CPU, for all classes in one pass.

    A component is a set of pixels of one class that hang together over their eight neighbours. Pixels with the ignore
    label are cut out of both maps beforehand. Components smaller than ``min_area`` are then left out of both maps.

    * A reference component is **missed** unless more than half of it lies in predicted components of its class.
    * A predicted component is a **false island** unless more than half of it lies in reference components of its class.
    * A reference component that is not missed and a predicted one that is no false island *belong together* if they
      have the same class and share more than a quarter of the pixels of the smaller of the two.
    * A reference component is **split** if n >= 2 predicted ones belong to it: n - 1 breaks.
    * Reference components are **merged** if m >= 2 of them belong to the same predicted one: m - 1 bridges. A
      component may be split and merged.
    * A reference component is found **whole** if one predicted one belongs to it, and that one belongs to no other.

    What is none of these lies in false islands (a car in a far too large blob of "car"), or in pieces that share too
    little.

    The connectivity error is (missed + false islands + breaks + bridges) / (reference + predicted components): the
    edits that mend the prediction, per component. It is 0 if all components match one to one, 100 % if none is found,
    above 100 % only where many pieces lie criss-cross, and the same if the two maps change places. Counts are summed
    over the data set first.

    For line-like classes such as roads, the length of a line is the number of pixels of the skeleton of the reference
    (Zhang and Suen 1984), and the part of it is broken that has no pixel predicted as this class at most
    ``line_tolerance`` pixels away (Euclidean). Not counted are the ignored pixels, and no component is left out.

    Args:
        num_classes: K.
        ignore_index: the label of pixels that do not count.
        min_area: the smallest component that counts, in pixels.
        line_classes: the classes, from 0 on, whose lines are counted; this needs the package scikit-image.
        line_tolerance: in pixels, at least 1.

    Raises:
        UserError: for values out of these ranges, or if scikit-image is needed and missing.

    Example:
        >>> labels = np.array([[1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0]])
        >>> prediction = np.array([[1, 1, 1, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0]])
        >>> counts = ConnectivityCounts(2, 255, min_area=1)
        >>> _ = counts.update(prediction, labels)
        >>> scores = counts.result(["field", "road"])
        >>> scores.split["road"], scores.whole["field"], round(scores.class_error["road"], 1)
        (1, 1, 33.3)
    """

    def __init__(
        self,
        num_classes: int,
        ignore_index: int,
        *,
        min_area: int = MIN_AREA,
        line_classes: Sequence[int] = (),
        line_tolerance: int = 3,
    ) -> None:
        if min_area < 1 or line_tolerance < 1:
            raise UserError(f"min_area is {min_area} and line_tolerance {line_tolerance}, expected at least 1 each")
        if not all(0 <= line < num_classes for line in line_classes):
            raise UserError(f"line_classes are {list(line_classes)}, expected classes from 0 to {num_classes - 1}")
        if line_classes:
            _import_skeletonize()
        self.num_classes, self.ignore_index, self.min_area = num_classes, ignore_index, min_area
        self.line_classes, self.line_tolerance = tuple(line_classes), line_tolerance
        self.reset()

    def reset(self) -> None:
        """Forgets all counts."""
        names = [field.name for field in fields(ConnectivityTotals)]
        self.totals = ConnectivityTotals(**{name: np.zeros(self.num_classes, np.int64) for name in names})

    def update(self, prediction: LabelMap, labels: LabelMap) -> ConnectivityTotals:
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
        overlaps = self._overlaps(prediction, labels)
        components = _component_counts(match_components(overlaps, self.min_area), self.num_classes)
        line_length, line_broken = self._lines(prediction, labels)
        image = ConnectivityTotals(**components, line_length=line_length, line_broken=line_broken)
        self.totals += image
        return image

    def result(self, classes: Sequence[str]) -> ConnectivityScores:
        """The scores of all images so far; ``classes`` are the K class names."""
        return self.totals.scores(classes, self.line_classes)

    def _overlaps(self, prediction: LabelMap, labels: LabelMap) -> Overlaps:
        """The components of an image and what they share, strip by strip."""
        numbers = StripNumbers(), StripNumbers()
        found: list[Overlaps] = []
        for first, last in strips(labels.shape):
            predicted, reference = comparable_maps(
                prediction[first:last], labels[first:last], self.num_classes, self.ignore_index
            )
            r_parts, p_parts = (connected_components(one, self.num_classes) for one in (reference, predicted))
            found.append(component_overlaps(r_parts, p_parts, reference, predicted))
            numbers[0].append(r_parts, reference)
            numbers[1].append(p_parts, predicted)
        return joined_overlaps(found, numbers[0].joined(), numbers[1].joined())

    def _lines(self, prediction: LabelMap, labels: LabelMap) -> tuple[Counts, Counts]:
        """Length of the reference's centre lines, and how much of it is broken, int64 (K,) each."""
        if not self.line_classes:
            return np.zeros(self.num_classes, np.int64), np.zeros(self.num_classes, np.int64)
        predicted, reference = comparable_maps(prediction, labels, self.num_classes, self.ignore_index)
        skeletonize = _import_skeletonize()
        lines = np.full_like(reference, self.num_classes)
        for line in self.line_classes:
            lines[skeletonize(reference == line)] = line
        length = np.bincount(lines.ravel(), minlength=self.num_classes)[: self.num_classes]
        return length, length - count_near(lines, predicted, (self.line_tolerance,), self.num_classes)[0]


def _import_skeletonize() -> Any:
    try:
        return importlib.import_module("skimage.morphology").skeletonize
    except ImportError as error:
        raise missing_package("the connectivity of lines", "scikit-image", "lines") from error


def _component_counts(matching: Matching, num_classes: int) -> dict[str, Counts]:
    """Everything about components in `ConnectivityTotals`."""
    r, p = matching.pairs
    pieces, members = matching.pieces, matching.members
    merged, whole = np.zeros_like(matching.found), np.zeros_like(matching.found)
    merged[r[members[p] >= 2]] = True
    whole[r[(members[p] == 1) & (pieces[r] == 1)]] = True

    def of_reference(values: NDArray[Any]) -> Counts:
        return _sum_by_class(values, matching.reference_class, num_classes)

    def of_predicted(values: NDArray[Any]) -> Counts:
        return _sum_by_class(values, matching.predicted_class, num_classes)

    return {
        "reference": of_reference(matching.reference_kept),
        "predicted": of_predicted(matching.predicted_kept),
        "whole": of_reference(whole),
        "split": of_reference(pieces >= 2),
        "merged": of_reference(merged),
        "missed": of_reference(matching.reference_kept & ~matching.found),
        "false_islands": of_predicted(matching.predicted_kept & ~matching.true),
        "breaks": of_reference(np.maximum(pieces - 1, 0)),
        "bridges": of_predicted(np.maximum(members - 1, 0)),
    }


def _sum_by_class(values: NDArray[Any], classes: NDArray[np.int64], num_classes: int) -> Counts:
    # The ignored pixels have class K, whose sum is dropped.
    return np.bincount(classes, weights=values, minlength=num_classes)[:num_classes].astype(np.int64)
