"""Large maps are counted strip by strip: counts are those of the whole map."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from segdistill.metrics import strips as module
from segdistill.metrics.boundary import BoundaryCounts
from segdistill.metrics.components import component_overlaps, connected_components
from segdistill.metrics.connectivity import ConnectivityCounts
from segdistill.metrics.label_maps import comparable_maps, near_another_class

Map = NDArray[np.uint8]


def areas(height: int, width: int, seed: int, classes: int = 3) -> Map:
    """Snakes and areas that cross many rows, and some ignored pixels."""
    chance = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    waves = np.sin(rows / chance.uniform(2, 9)) + np.sin(columns / chance.uniform(2, 9) + rows / 5)
    labels = np.digitize(waves, [-0.6, 0.5]).astype(np.uint8) % classes
    labels[chance.random(labels.shape) < 0.03] = chance.integers(0, classes)
    return labels


def spiral(size: int) -> Map:
    """One line that enters every strip many times, and hangs together only over all of them."""
    labels = np.zeros((size, size), np.uint8)
    row, column, step, length = 0, 0, (0, 1), size - 1
    for turn in range(2 * (size // 4)):
        for _ in range(length):
            labels[row, column] = 1
            row, column = row + step[0], column + step[1]
        step = step[1], -step[0]
        length -= 2 * (turn % 2 and turn > 1)
    return labels


@pytest.mark.parametrize(
    ("size", "halo", "expected"),
    [
        ((7, 4), {}, [(0, 3), (3, 6), (6, 7)]),
        ((7, 4), {"halo": 2}, [(0, 4), (4, 7)]),  # twice the halo, where that is more
        ((3, 40), {}, [(0, 1), (1, 2), (2, 3)]),  # a row at least
        ((13, 1), {}, [(0, 12), (12, 13)]),
        ((13, 0), {}, [(0, 12), (12, 13)]),
    ],
)
def test_strips_of_twelve_pixels(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], halo: dict[str, int], expected: list[tuple[int, int]]
) -> None:
    monkeypatch.setattr(module, "STRIP_PIXELS", 12)
    assert list(module.strips(size, **halo)) == expected


@pytest.mark.parametrize("seed", range(3))
def test_components_of_strips_are_numbered_as_those_of_the_whole(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    maps = [areas(61, 40, seed), areas(61, 40, seed + 1)]
    maps[0][areas(61, 40, seed + 50) == 2] = 255
    predicted, reference = comparable_maps(maps[1], maps[0], 3, 255)
    parts = [connected_components(one, 3) for one in (reference, predicted)]
    whole = component_overlaps(*parts, reference, predicted)
    monkeypatch.setattr(module, "STRIP_PIXELS", 5 * 40)
    joined = ConnectivityCounts(3, 255)._overlaps(maps[1], maps[0])
    for name, expected in vars(whole).items():
        found = getattr(joined, name)
        # The last strip may have no ignored pixels; what class they have matters nowhere.
        first = 1 if name.endswith("class") else 0
        assert np.array_equal(found[first:], expected[first:]), name


@pytest.mark.parametrize("rows", [1, 2, 7, 30])
@pytest.mark.parametrize("seed", range(4))
def test_counts_of_strips_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch, rows: int, seed: int) -> None:
    labels, prediction = areas(61, 40, seed), areas(61, 40, seed)
    changed = np.random.default_rng(seed).random(labels.shape) < 0.1
    prediction[changed] = areas(61, 40, seed + 100)[changed]
    labels[areas(61, 40, seed + 50) == 2] = 255
    widths = (1, 2, 5) if seed % 2 else (1,)  # the widest trimap reaches farther than a boundary, or less far
    counts = [
        (BoundaryCounts(3, 255, tolerances=(1, 3), widths=widths), ConnectivityCounts(3, 255, min_area=3))
        for _ in range(2)
    ]
    for number, (boundary, connectivity) in enumerate(counts):
        if number:
            monkeypatch.setattr(module, "STRIP_PIXELS", rows * 40)
        boundary.update(prediction, labels)
        connectivity.update(prediction, labels)
    for whole, parts in zip(*counts, strict=True):
        for name, expected in vars(whole.totals).items():
            assert np.array_equal(getattr(parts.totals, name), expected), name
    assert counts[0][1].totals.reference.sum() > 3


def test_a_component_hangs_together_over_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STRIP_PIXELS", 3 * 40)
    labels = spiral(40)
    counts = ConnectivityCounts(2, 255, min_area=1)
    counts.update(labels, labels)
    assert counts.totals.reference[1] == counts.totals.whole[1] == 1
    diagonal = np.eye(40, dtype=np.uint8)
    for one in (diagonal, diagonal[:, ::-1]):  # corners touch across the strips, too
        image = ConnectivityCounts(2, 255, min_area=1).update(one, one)
        assert image.reference[1] == 1


@pytest.mark.parametrize("reaches", [{1}, {2}, {7}, {1, 5}, {1, 6, 20}, {3, 4, 13}])
@pytest.mark.parametrize("place", [(15, 17), (0, 0), (29, 3)])
def test_a_single_pixel_is_near_all_that_is_near(reaches: set[int], place: tuple[int, int]) -> None:
    """No square that is made of smaller ones may have a gap."""
    labels = np.zeros((30, 34), np.uint8)
    labels[place] = 1
    rows, columns = np.mgrid[:30, :34]
    away = np.maximum(abs(rows - place[0]), abs(columns - place[1]))
    for reach, near in near_another_class(labels, 2, reaches).items():
        expected = (away <= reach) & (away > 0)
        expected[place] = True
        assert np.array_equal(near, expected)


def test_exactly_a_quarter_does_not_belong_together() -> None:
    """Of the 8 pixels of the second piece 2 lie in the first object: no more than a quarter."""
    labels, prediction = np.zeros((2, 1, 70), np.uint8)
    labels[0, :40] = labels[0, 41:61] = 1
    prediction[0, :30] = prediction[0, 38:46] = prediction[0, 50:61] = 1
    image = ConnectivityCounts(2, 255, min_area=1).update(prediction, labels)
    assert (image.whole[1], image.split[1], image.merged[1]) == (1, 1, 0)
    labels[0, 36:40], prediction[0, 30:38] = 1, 0
    prediction[0, 37] = 1  # 3 of 9
    image = ConnectivityCounts(2, 255, min_area=1).update(prediction, labels)
    assert (image.whole[1], image.split[1], image.merged[1]) == (0, 2, 2)
