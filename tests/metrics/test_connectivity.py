from __future__ import annotations

import importlib.util
import itertools
import json
import sys
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from segdistill import UserError
from segdistill.metrics.connectivity import ConnectivityCounts, ConnectivityTotals

Map = NDArray[np.int64]

has_skeletons = pytest.mark.skipif(importlib.util.find_spec("skimage") is None, reason="scikit-image is missing")


def drawn(*rows: str) -> Map:
    """A map drawn with characters: `.` is class 0, `#` class 1, `x` the ignore label."""
    return np.array([[{".": 0, "#": 1, "x": 255}[pixel] for pixel in row] for row in rows])


def counted(prediction: Map, labels: Map, classes: int = 2, **options: Any) -> ConnectivityTotals:
    return ConnectivityCounts(classes, 255, **({"min_area": 1} | options)).update(prediction, labels)


def of_class(totals: ConnectivityTotals, index: int = 1) -> dict[str, int]:
    """What is not zero, of one class, without the numbers of components."""
    names = ("whole", "split", "merged", "missed", "false_islands", "breaks", "bridges")
    return {name: int(getattr(totals, name)[index]) for name in names if getattr(totals, name)[index]}


def error_of(totals: ConnectivityTotals, index: int = 1) -> float | None:
    return totals.scores([str(number) for number in range(len(totals.whole))]).class_error[str(index)]


# Hand-drawn maps.


def test_found_whole() -> None:
    labels = drawn("..........", ".###..###.", ".###..###.", "..........")
    totals = counted(labels, labels)
    assert of_class(totals) == {"whole": 2}
    assert error_of(totals) == 0


def test_diagonal_neighbours_hang_together() -> None:
    labels = drawn("#...", ".#..", "..#.", "...#")
    assert of_class(counted(labels, labels)) == {"whole": 1}
    assert counted(labels, labels).reference.tolist() == [1, 1]


def test_split_in_three() -> None:
    labels = drawn("...........", "###########", "...........")
    totals = counted(drawn("...........", "###.###.###", "..........."), labels)
    assert of_class(totals) == {"split": 1, "breaks": 2}
    assert error_of(totals) == pytest.approx(100 * 2 / 4)
    # The gaps join what is above and below the line.
    assert of_class(totals, 0) == {"merged": 2, "bridges": 1}


def test_merged() -> None:
    labels = drawn("###.###.###", "###.###.###")
    totals = counted(drawn("###########", "###.###.###"), labels)
    assert of_class(totals) == {"merged": 3, "bridges": 2}
    assert error_of(totals) == pytest.approx(100 * 2 / 4)


def test_split_and_merged_at_once() -> None:
    """The long line is broken, and one of its pieces is joined to another line."""
    labels = drawn("#########", ".........", "####.....")
    totals = counted(drawn("####.####", "#........", "####....."), labels)
    assert of_class(totals) == {"split": 1, "merged": 2, "breaks": 1, "bridges": 1}


def test_missed_and_false_island() -> None:
    labels = drawn("##......", "##......", "........")
    totals = counted(drawn("......##", "......##", "........"), labels)
    assert of_class(totals) == {"missed": 1, "false_islands": 1}
    assert error_of(totals) == 100


def test_half_found_is_missed() -> None:
    labels = drawn("########")
    assert of_class(counted(drawn("####...."), labels)) == {"missed": 1}
    assert of_class(counted(drawn("#####..."), labels)) == {"whole": 1}
    # In two pieces: the threshold is about all of them together.
    assert of_class(counted(drawn("##....##"), labels)) == {"missed": 1}
    assert of_class(counted(drawn("###...##"), labels)) == {"split": 1, "breaks": 1}


def test_swallowed_by_a_far_too_large_prediction() -> None:
    """The component is covered, but what covers it is mostly something else: neither whole nor missed."""
    labels = drawn("##......")
    assert of_class(counted(drawn("####...."), labels)) == {"false_islands": 1}
    assert of_class(counted(drawn("###....."), labels)) == {"whole": 1}


def test_brief_contact_is_no_bridge() -> None:
    """The prediction of one car reaches into the next one, a little or over most of it."""
    labels = drawn("####.########", "####.########")
    within = drawn("######.######", "######.######")
    beyond = drawn("########.####", "########.####")
    assert of_class(counted(within, labels)) == {"whole": 2}
    assert of_class(counted(beyond, labels)) == {"merged": 2, "split": 1, "breaks": 1, "bridges": 1}


def test_specks_are_left_out_of_both_maps() -> None:
    labels = drawn("####..#.", "####....", "........")
    prediction = drawn("####....", "####....", "#.....##")
    assert of_class(counted(prediction, labels, min_area=3)) == {"whole": 1}
    assert of_class(counted(prediction, labels, min_area=2)) == {"whole": 1, "false_islands": 1}
    assert counted(prediction, labels, min_area=9).reference.tolist() == [1, 0]


def test_ignored_pixels_cut_both_maps() -> None:
    """A car on the road that is not labelled: the road is in two parts, whatever is predicted there."""
    labels = drawn("........", "###xx###", "........")
    for at_ignored in (0, 1):
        totals = counted(np.where(labels == 255, at_ignored, labels), labels)
        assert of_class(totals) == {"whole": 2}
        assert totals.reference.tolist() == totals.predicted.tolist() == [2, 2]


def test_all_ignored() -> None:
    counts = ConnectivityCounts(2, 255)
    counts.update(np.zeros((4, 4), np.int64), np.full((4, 4), 255))
    scores = counts.result(["road", "car"])
    assert scores.error is None
    assert scores.class_error == {"road": None, "car": None}
    json.dumps(scores.as_dict(), allow_nan=False)


def test_one_pixel() -> None:
    assert of_class(counted(drawn("#"), drawn("#"))) == {"whole": 1}
    assert of_class(counted(drawn("."), drawn("#"))) == {"missed": 1}
    assert of_class(counted(drawn("#"), drawn("."))) == {"false_islands": 1}


# The definitions once more, with sets of pixels.


def plain_components(labels: Map, ignored: NDArray[np.bool_], index: int, min_area: int) -> list[set[tuple[int, int]]]:
    left = {(int(y), int(x)) for y, x in np.argwhere((labels == index) & ~ignored)}
    components = []
    while left:
        stack, component = [left.pop()], set()
        while stack:
            y, x = stack.pop()
            component.add((y, x))
            for pixel in itertools.product((y - 1, y, y + 1), (x - 1, x, x + 1)):
                if pixel in left:
                    left.remove(pixel)
                    stack.append(pixel)
        if len(component) >= min_area:
            components.append(component)
    return components


def plain_counts(prediction: Map, labels: Map, index: int, min_area: int) -> dict[str, int]:
    ignored = labels == 255
    reference = plain_components(labels, ignored, index, min_area)
    predicted = plain_components(prediction, ignored, index, min_area)
    n_reference, n_predicted = range(len(reference)), range(len(predicted))
    shared = [[len(r & p) for p in predicted] for r in reference]
    found = {i for i in n_reference if sum(shared[i]) / len(reference[i]) > 0.5}
    true = {j for j in n_predicted if sum(shared[i][j] for i in n_reference) / len(predicted[j]) > 0.5}

    def belong(i: int, j: int) -> bool:
        return i in found and j in true and shared[i][j] / min(len(reference[i]), len(predicted[j])) > 0.25

    pieces = [[j for j in n_predicted if belong(i, j)] for i in n_reference]
    members = [[i for i in n_reference if belong(i, j)] for j in n_predicted]
    merging = {j for j in n_predicted if len(members[j]) >= 2}
    return {
        "reference": len(reference),
        "predicted": len(predicted),
        "missed": len(reference) - len(found),
        "false_islands": len(predicted) - len(true),
        "split": sum(len(own) >= 2 for own in pieces),
        "merged": sum(not merging.isdisjoint(own) for own in pieces),
        "whole": sum(len(own) == 1 and merging.isdisjoint(own) for own in pieces),
        "breaks": sum(max(len(own) - 1, 0) for own in pieces),
        "bridges": sum(max(len(own) - 1, 0) for own in members),
    }


def random_maps(seed: int) -> tuple[Map, Map]:
    """Irregular components of three classes, of which the prediction gets some right."""
    generator = np.random.default_rng(seed)
    shape = (int(generator.integers(1, 25)), int(generator.integers(1, 40)))
    size = int(generator.integers(1, 5))
    coarse = generator.choice(3, p=[0.5, 0.4, 0.1], size=(shape[0] // size + 1, shape[1] // size + 1))
    labels = np.kron(coarse, np.ones((size, size), np.int64))[: shape[0], : shape[1]]
    wrong = generator.random(shape) < generator.random() * 0.5
    prediction = np.where(wrong, generator.integers(0, 3, shape), np.roll(labels, int(generator.integers(0, 2)), 1))
    labels[generator.random(shape) < 0.1 * generator.random()] = 255
    return prediction, labels


@pytest.mark.parametrize("min_area", [1, 4])
def test_against_the_plain_definitions(min_area: int) -> None:
    for seed in range(60):
        prediction, labels = random_maps(seed)
        totals = counted(prediction, labels, 3, min_area=min_area)
        for index in range(3):
            expected = plain_counts(prediction, labels, index, min_area)
            assert {name: int(getattr(totals, name)[index]) for name in expected} == expected


def test_error_is_the_same_the_other_way_round() -> None:
    errors = []
    for seed in range(300):
        prediction, labels = random_maps(seed)
        ignored = labels == 255
        there = counted(prediction, labels, 3)
        back = counted(np.where(ignored, 0, labels), np.where(ignored, 255, prediction), 3)
        for index in range(3):
            error = error_of(there, index)
            assert error == error_of(back, index)
            if error is not None:
                errors.append(error)
        assert there.breaks.tolist() == back.bridges.tolist()
        assert there.missed.tolist() == back.false_islands.tolist()
    assert min(errors) == 0
    assert max(errors) == 100


# Counts.


def test_totals_of_the_data_set() -> None:
    labels = drawn("..........", "##########", "..........")
    counts = ConnectivityCounts(2, 255, min_area=1)
    first = counts.update(drawn("..........", "####..####", ".........."), labels)
    second = counts.update(torch.from_numpy(labels), torch.from_numpy(labels).to(torch.uint8))
    scores = counts.result(["field", "road"])
    assert scores == (first + second).scores(["field", "road"])
    assert scores.whole == {"field": 2, "road": 1}
    assert scores.split == {"field": 0, "road": 1}
    assert scores.merged == {"field": 2, "road": 0}
    assert scores.class_error == {"field": pytest.approx(100 * 1 / 7), "road": pytest.approx(100 * 1 / 5)}
    assert scores.error == pytest.approx(100 * 2 / 12)
    counts.reset()
    assert counts.result(["field", "road"]).error is None


def test_as_many_classes_as_a_byte_can_number() -> None:
    for classes in (255, 256):
        labels = np.full((3, 3), classes - 1)
        image = ConnectivityCounts(classes, -1, min_area=1).update(labels, labels)
        assert image.whole.nonzero()[0].tolist() == [classes - 1]


def test_settings_and_maps_that_do_not_fit() -> None:
    with pytest.raises(UserError, match="min_area is 0 and line_tolerance 3, expected at least 1 each"):
        ConnectivityCounts(2, 255, min_area=0)
    with pytest.raises(UserError, match=r"line_classes are \[2\], expected classes from 0 to 1"):
        ConnectivityCounts(2, 255, line_classes=[2])
    with pytest.raises(UserError, match="2 classes do not fit 1 names"):
        ConnectivityCounts(2, 255).result(["road"])
    with pytest.raises(UserError, match="labels hold the value 7, expected 0 to 1"):
        counted(np.zeros((2, 2), np.int64), np.full((2, 2), 7))


# Lines.


@has_skeletons
def test_broken_line_by_hand() -> None:
    """A road 3 pixels wide and 40 long, interrupted over 12 pixels: 6 of them are farther than 3 from what is left."""
    labels = np.zeros((9, 60), np.int64)
    labels[3:6, 10:50] = 1
    prediction = labels.copy()
    prediction[:, 24:36] = 0
    counts = ConnectivityCounts(2, 255, line_classes=[1])
    image = counts.update(prediction, labels)
    length = int(image.line_length[1])
    assert 36 <= length <= 40  # the skeleton's ends may be shorter than the road
    assert image.line_length[0] == 0
    assert image.line_broken.tolist() == [0, 6]
    assert counts.result(["field", "road"]).line_broken == {"road": pytest.approx(100 * 6 / length)}
    assert counts.result(["field", "road"]).line_length == {"road": length}


@has_skeletons
def test_line_beside_the_reference() -> None:
    """A line of one pixel is its own skeleton; a prediction 2 pixels beside it is near enough, 4 pixels is not."""
    labels = np.zeros((12, 30), np.int64)
    labels[4, 5:25] = 1
    for moved, broken in ((2, 0), (4, 20)):
        image = counted(np.roll(labels, moved, 0), labels, line_classes=[1])
        assert image.line_length.tolist() == [0, 20]
        assert image.line_broken.tolist() == [0, broken]


@has_skeletons
def test_ignored_pixels_are_no_line() -> None:
    labels = np.zeros((9, 30), np.int64)
    labels[4, 5:25] = 1
    labels[:, 10:20] = 255
    image = counted(np.where(labels == 255, 1, 0), labels, line_classes=[1], line_tolerance=1)
    assert image.line_length.tolist() == [0, 10]
    assert image.line_broken.tolist() == [0, 10]


@has_skeletons
def test_a_map_that_is_all_line() -> None:
    """Of the first class, which may be a line as well, and of a middle one."""
    for line in (0, 1):
        labels = np.full((1, 5), line)
        image = counted(labels, labels, 3, line_classes=[line])
        assert image.line_length.tolist() == [5 * (index == line) for index in range(3)]
        assert image.line_broken.tolist() == [0, 0, 0]


def test_scikit_image_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.morphology", None)
    with pytest.raises(UserError, match=r"needs the package scikit-image: pip install 'segdistill\[lines\]'"):
        ConnectivityCounts(2, 255, line_classes=[1])
    assert counted(drawn("#"), drawn("#")).line_length.tolist() == [0, 0]


@pytest.mark.parametrize(("start", "pieces"), [(12, 1), (11, 2)])
def test_a_quarter_of_the_smaller_one_is_not_enough_to_belong_together(start: int, pieces: int) -> None:
    """A predicted part of 16 pixels shares 4 with the first reference part of 16, or one more."""
    labels, prediction = np.zeros((2, 1, 34), dtype=np.int64)
    labels[0, :16] = labels[0, 18:] = 1
    prediction[0, :8] = prediction[0, start : start + 16] = 1
    counts = ConnectivityCounts(2, 255, min_area=1)
    counts.update(prediction, labels)
    scores = counts.result(["field", "road"])
    assert (scores.reference["road"], scores.predicted["road"], scores.missed["road"]) == (2, 2, 0)
    assert scores.split["road"] == pieces - 1
    assert scores.merged["road"] == (2 if pieces == 2 else 0)
    assert scores.whole["road"] == (0 if pieces == 2 else 2)
