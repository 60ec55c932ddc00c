from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from segdistill import UserError
from segdistill.metrics.boundary import BoundaryCounts, BoundaryScores, near_another_class
from segdistill.metrics.connectivity import ConnectivityCounts
from segdistill.metrics.label_maps import comparable_maps
from segdistill.metrics.scores import scores_from_confusion

Map = NDArray[np.int64]


def drawn(*rows: str) -> Map:
    """A map drawn with digits; `x` is the ignore label."""
    return np.array([[255 if pixel == "x" else int(pixel) for pixel in row] for row in rows])


def scored(
    prediction: Map, labels: Map, classes: int = 2, share: float = 0.02, **options: tuple[int, ...]
) -> BoundaryScores:
    counts = BoundaryCounts(classes, 255, diagonal_share=share, **options)
    counts.update(prediction, labels)
    return counts.result([str(index) for index in range(classes)])


def blobs(generator: np.random.Generator, classes: int, shape: tuple[int, int], ignored: float) -> tuple[Map, Map]:
    """Labels in coarse patches with holes to ignore, and a prediction that is the labels moved, with specks."""
    coarse = generator.integers(0, classes, (shape[0] // 5 + 1, shape[1] // 5 + 1))
    labels = np.kron(coarse, np.ones((5, 5), np.int64))[: shape[0], : shape[1]]
    prediction = np.roll(labels, generator.integers(-2, 3, 2), (0, 1))
    specks = generator.random(shape) < 0.05
    prediction = np.where(specks, generator.integers(0, classes, shape), prediction)
    labels[generator.random(shape) < ignored] = 255
    return prediction, labels


# The definitions once more, pixel by pixel and class by class.


def eroded_once(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    height, width = mask.shape
    inner = np.zeros_like(mask)
    for y, x in itertools.product(range(1, height - 1), range(1, width - 1)):
        inner[y, x] = mask[y - 1 : y + 2, x - 1 : x + 2].all()
    return inner


def plain_region(labels: Map, index: int, ignored: NDArray[np.bool_], depth: int) -> NDArray[np.bool_]:
    """The mask without itself after `depth` erosions by 3x3; outside the image is 0, ignored pixels erode nothing."""
    eroded = np.pad((labels == index) | ignored, depth)
    for _ in range(depth):
        eroded = eroded_once(eroded)
    return (labels == index) & ~ignored & ~eroded[depth:-depth, depth:-depth]


def plain_edge(labels: Map, index: int, ignored: NDArray[np.bool_]) -> list[tuple[int, int]]:
    height, width = labels.shape
    return [
        (y, x)
        for y, x in itertools.product(range(height), range(width))
        if labels[y, x] == index
        and not ignored[y, x]
        and any(
            labels[v, u] != index and not ignored[v, u]
            for v in range(max(0, y - 1), min(height, y + 2))
            for u in range(max(0, x - 1), min(width, x + 2))
        )
    ]


def plain_f1(prediction: Map, labels: Map, index: int, tolerance: int) -> float | None:
    ignored = labels == 255
    reference, predicted = plain_edge(labels, index, ignored), plain_edge(prediction, index, ignored)
    if not reference and not predicted:
        return None

    def share(points: list[tuple[int, int]], targets: list[tuple[int, int]]) -> float:
        near = [min((math.dist(point, target) for target in targets), default=math.inf) for point in points]
        return sum(distance <= tolerance for distance in near) / max(len(points), 1)

    recall, precision = share(reference, predicted), share(predicted, reference)
    return 200 * recall * precision / (recall + precision) if recall and precision else 0.0


def plain_boundary_iou(prediction: Map, labels: Map, index: int, share: float) -> float | None:
    ignored = labels == 255
    depth = max(1, round(share * math.sqrt(labels.shape[0] ** 2 + labels.shape[1] ** 2)))
    reference = plain_region(labels, index, ignored, depth)
    predicted = plain_region(prediction, index, ignored, depth)
    either = (reference | predicted).sum()
    return 100 * (reference & predicted).sum() / either if either else None


def plain_trimap(prediction: Map, labels: Map, classes: int, width: int) -> float | None:
    confusion = np.zeros((classes, classes), np.int64)
    valid = np.argwhere(labels != 255)
    for y, x in valid:
        others = valid[labels[valid[:, 0], valid[:, 1]] != labels[y, x]]
        if len(others) and np.abs(others - (y, x)).max(1).min() <= width:
            confusion[labels[y, x], prediction[y, x]] += 1
    names = [str(index) for index in range(classes)]
    return scores_from_confusion(torch.from_numpy(confusion), names).miou if confusion.any() else None


@pytest.mark.parametrize("ignored", [0.0, 0.1, 0.6])
@pytest.mark.parametrize(("classes", "shape"), [(2, (17, 23)), (5, (31, 14)), (3, (1, 12)), (3, (2, 2)), (4, (9, 40))])
def test_against_the_plain_definitions(classes: int, shape: tuple[int, int], ignored: float) -> None:
    prediction, labels = blobs(np.random.default_rng(classes), classes, shape, ignored)
    scores = scored(prediction, labels, classes, share=0.1, widths=(2, 4, 9))
    for index in range(classes):
        assert scores.boundary_iou[str(index)] == pytest.approx(plain_boundary_iou(prediction, labels, index, 0.1))
        for tolerance in (1, 3, 5):
            f1 = scores.boundary_f1[tolerance][str(index)]
            assert f1 == pytest.approx(plain_f1(prediction, labels, index, tolerance))
    for width in (2, 4, 9):
        assert scores.trimap_miou[width] == pytest.approx(plain_trimap(prediction, labels, classes, width))


def test_many_classes() -> None:
    """More classes than a byte can number."""
    prediction, labels = blobs(np.random.default_rng(0), 400, (20, 20), 0.0)
    labels[:3] = 999
    counts = BoundaryCounts(400, 999)
    image = counts.update(prediction, labels)
    ignored = labels == 999
    assert image.reference_edge.tolist() == [len(plain_edge(labels, index, ignored)) for index in range(400)]
    assert image.predicted_edge.tolist() == [len(plain_edge(prediction, index, ignored)) for index in range(400)]


@pytest.mark.parametrize(("classes", "dtype"), [(1, np.uint8), (255, np.uint8), (256, np.uint16)])
def test_maps_are_as_small_as_their_classes_allow(classes: int, dtype: type) -> None:
    labels = np.array([[0, 999]])
    for values in comparable_maps(np.array([[0, classes - 1]]), labels, classes, 999):
        assert values.dtype == dtype
        assert values.tolist() == [[0, classes]]


# Hand-drawn maps.


def test_square_by_hand() -> None:
    """A square of 4 x 4 in the middle of 8 x 8, predicted one column to the right; all distances are 1."""
    labels = np.zeros((8, 8), np.int64)
    labels[2:6, 2:6] = 1
    prediction = np.roll(labels, 1, 1)
    scores = scored(prediction, labels, tolerances=(1,), widths=(1,))
    # Rings of 12 pixels each; the moved one shares the top and bottom row, 3 pixels each.
    assert scores.boundary_iou["1"] == pytest.approx(100 * 6 / (12 + 12 - 6))
    assert scores.boundary_f1 == {1: {"0": pytest.approx(100), "1": pytest.approx(100)}}
    # The trimap is the ring of 12 of the square and the 20 around it; of these, 4 and 4 are wrong.
    assert scores.trimap_miou == {1: pytest.approx((100 * 8 / 16 + 100 * 16 / 24) / 2)}


def test_perfect_prediction() -> None:
    _, labels = blobs(np.random.default_rng(1), 4, (30, 30), 0.1)
    scores = scored(np.where(labels == 255, 0, labels), labels, 4)
    assert set(scores.boundary_iou.values()) == {100.0}
    assert scores.mean_boundary_f1 == {1: 100.0, 3: 100.0, 5: 100.0}
    assert set(scores.trimap_miou.values()) == {100.0}


def test_distance_of_boundary_f1_is_euclidean() -> None:
    """Single pixels apart by (3, 4) are 5 apart; by (4, 4), more."""
    for moved, expected in (((3, 4), 100.0), ((4, 4), 0.0)):
        labels, prediction = np.zeros((12, 12), np.int64), np.zeros((12, 12), np.int64)
        labels[3, 3] = 1
        prediction[3 + moved[0], 3 + moved[1]] = 1
        scores = scored(prediction, labels)
        assert scores.boundary_f1[5]["1"] == expected
        assert scores.boundary_f1[3]["1"] == 0.0


def test_one_pixel_object_is_all_boundary() -> None:
    labels = drawn("00000", "00100", "00000")
    scores = scored(labels, labels)
    assert scores.boundary_iou["1"] == 100
    assert scored(np.zeros_like(labels), labels).boundary_iou["1"] == 0
    assert scored(np.zeros_like(labels), labels).boundary_f1[5]["1"] == 0


def test_border_of_the_image() -> None:
    """For Boundary IoU it is a boundary, as in the authors' program; for the other two scores it is none."""
    labels = np.zeros((10, 10), np.int64)
    counts = BoundaryCounts(2, 255, diagonal_share=0.2)  # 0.2 x 14.1 = 3 pixels
    image = counts.update(labels, labels)
    assert image.reference_region.tolist() == [100 - 16, 0]
    scores = counts.result(["road", "car"])
    assert scores.boundary_iou == {"road": 100.0, "car": None}
    assert scores.mean_boundary_iou == 100
    assert scores.boundary_f1[1] == {"road": None, "car": None}
    assert scores.mean_boundary_f1[1] is None
    assert scores.trimap_miou[16] is None


def test_image_smaller_than_the_distances() -> None:
    labels = drawn("01")
    assert scored(labels, labels, share=5.0).boundary_iou == {"0": 100.0, "1": 100.0}
    assert scored(drawn("0"), drawn("0")).boundary_iou == {"0": 100.0, "1": None}


def test_no_boundary_along_ignored_pixels() -> None:
    """Whatever is predicted at ignored pixels, and however far they reach into an object."""
    labels = drawn("000000", "000xx0", "000xx0", "000000")
    for value in (0, 1):
        prediction = np.where(labels == 255, value, 0)
        image = BoundaryCounts(2, 255).update(prediction, labels)
        assert image.reference_edge.tolist() == image.predicted_edge.tolist() == [0, 0]
        assert image.reference_region.tolist() == image.predicted_region.tolist() == [16, 0]
        assert image.trimaps.sum() == 0


def test_classes_on_either_side_of_an_ignored_strip() -> None:
    """The strip itself does not count, but across it the other class is 4 pixels away."""
    labels = drawn("000xxx111")
    image = BoundaryCounts(2, 255, widths=(3, 4, 5)).update(np.where(labels == 255, 0, labels), labels)
    assert image.trimaps.sum((1, 2)).tolist() == [0, 2, 4]
    assert image.reference_edge.tolist() == [0, 0]


def test_all_ignored() -> None:
    scores = scored(np.zeros((6, 6), np.int64), np.full((6, 6), 255))
    assert scores.boundary_iou == {"0": None, "1": None}
    assert scores.mean_boundary_iou is None
    assert set(scores.mean_boundary_f1.values()) == set(scores.trimap_miou.values()) == {None}
    json.dumps(scores.as_dict(), allow_nan=False)


def test_invented_and_overlooked_classes_score_zero() -> None:
    labels, prediction = drawn("0011", "0011", "0011"), drawn("0022", "0022", "0022")
    scores = scored(prediction, labels, 4)
    assert scores.boundary_iou == {"0": 100.0, "1": 0.0, "2": 0.0, "3": None}
    assert scores.boundary_f1[5] == {"0": 100.0, "1": 0.0, "2": 0.0, "3": None}
    assert scores.mean_boundary_f1[5] == pytest.approx(100 / 3)


# Counts.


def test_totals_of_the_data_set() -> None:
    generator = np.random.default_rng(2)
    counts = BoundaryCounts(3, 255)
    images = [counts.update(*blobs(generator, 3, shape, 0.1)) for shape in ((20, 30), (25, 10))]
    names = ["a", "b", "c"]
    assert counts.result(names) == (images[0] + images[1]).scores(names)
    assert counts.totals.shared_region.tolist() == (images[0].shared_region + images[1].shared_region).tolist()
    shared, either = 0, 0
    for image in images:
        shared += image.shared_region[0]
        either += image.reference_region[0] + image.predicted_region[0] - image.shared_region[0]
    assert counts.result(names).boundary_iou["a"] == pytest.approx(100 * shared / either)
    counts.reset()
    assert counts.result(names).mean_boundary_iou is None


def test_tensors_and_other_integers() -> None:
    prediction, labels = blobs(np.random.default_rng(3), 3, (20, 30), 0.1)
    expected = scored(prediction, labels, 3)
    counts = BoundaryCounts(3, 255)
    before = labels.copy()
    counts.update(torch.from_numpy(prediction), torch.from_numpy(labels).to(torch.uint8))
    assert counts.result(["0", "1", "2"]) == expected
    assert np.array_equal(labels, before)


def test_ignore_label_below_zero() -> None:
    prediction, labels = blobs(np.random.default_rng(4), 3, (20, 30), 0.2)
    counts = BoundaryCounts(3, -1)
    counts.update(prediction, np.where(labels == 255, -1, labels))
    assert counts.result(["0", "1", "2"]) == scored(prediction, labels, 3)


@pytest.mark.parametrize(
    ("prediction", "labels", "message"),
    [
        (
            np.zeros((2, 3), np.int64),
            np.zeros((3, 2), np.int64),
            r"shape \(2, 3\) does not fit labels of shape \(3, 2\)",
        ),
        (np.array([[0, 1], [1, 2]]), np.zeros((2, 2), np.int64), "prediction hold the value 2, expected 0 to 1"),
        (np.zeros((2, 2), np.int64), np.array([[1, -3], [0, 1]]), "labels hold the value -3, expected 0 to 1"),
        (np.zeros((2, 2), np.int64), np.array([[1, 7], [0, 1]]), "labels hold the value 7, expected 0 to 1"),
        (np.zeros((1, 2, 2), np.int64), np.zeros((2, 2), np.int64), r"expected integers of shape \(H, W\)"),
        (np.zeros((2, 2)), np.zeros((2, 2), np.int64), "prediction are float64"),
        (np.zeros((0, 2), np.int64), np.zeros((0, 2), np.int64), r"shape \(0, 2\)"),
    ],
)
def test_maps_that_do_not_fit(prediction: Map, labels: Map, message: str) -> None:
    for counts in (BoundaryCounts(2, 255), ConnectivityCounts(2, 255)):
        with pytest.raises(UserError, match=message):
            counts.update(prediction, labels)


def test_settings_that_do_not_fit() -> None:
    with pytest.raises(UserError, match="diagonal_share is 0, expected a number above 0"):
        BoundaryCounts(2, 255, diagonal_share=0)
    for wrong in ((), (0, 1), (3, 1), (1, 1)):
        with pytest.raises(UserError, match="tolerances are"):
            BoundaryCounts(2, 255, tolerances=wrong)
        with pytest.raises(UserError, match="widths are"):
            BoundaryCounts(2, 255, widths=wrong)
    with pytest.raises(UserError, match="cannot be added"):
        BoundaryCounts(2, 255).totals + BoundaryCounts(2, 255, widths=(1,)).totals
    with pytest.raises(UserError, match="2 classes do not fit 1 names"):
        BoundaryCounts(2, 255).result(["road"])


@pytest.mark.parametrize("reaches", [*({reach} for reach in range(1, 10)), {1, 4}, {2, 3, 9}])
def test_squares_of_every_reach_are_without_gaps(reaches: set[int]) -> None:
    """One pixel of another class: near it is what lies in the square around it, whatever was asked for beside."""
    labels = np.zeros((23, 23), dtype=np.uint8)
    labels[11, 11] = 1
    y, x = np.mgrid[:23, :23]
    distance = np.maximum(abs(y - 11), abs(x - 11))
    found = near_another_class(labels, 2, reaches)
    assert set(found) == reaches
    for reach in reaches:
        assert (found[reach] == (distance <= reach)).all()
