from __future__ import annotations

import numpy as np
import pytest

from segdistill.metrics.connectivity import ConnectivityCounts
from segdistill.metrics.labelling import label_components
from segdistill.reporting.error_map import Mistake, mistakes

IGNORED = 255


def test_a_boundary_off_by_one() -> None:
    labels = np.zeros((200, 200), dtype=np.int64)
    labels[:, 100:] = 1
    prediction = np.zeros_like(labels)
    prediction[:, 101:] = 1
    found = mistakes(prediction, labels, 2, IGNORED)
    assert (found[:, 100] == Mistake.BOUNDARY).all()
    assert (np.delete(found, 100, axis=1) == Mistake.NONE).all()


def test_far_from_any_boundary() -> None:
    labels = np.zeros((200, 200), dtype=np.int64)
    prediction = labels.copy()
    prediction[100, 100:103] = 1  # smaller than any object that counts
    found = mistakes(prediction, labels, 2, IGNORED)
    assert (found[100, 100:103] == Mistake.INNER).all()
    assert (found > 0).sum() == 3


def test_a_broken_road_is_shown_where_it_is_broken() -> None:
    labels = np.zeros((60, 200), dtype=np.int64)
    labels[30:34] = 1
    prediction = labels.copy()
    prediction[30:34, 90:110] = 0
    prediction[30, 10:15] = 0  # its edge is ragged elsewhere
    found = mistakes(prediction, labels, 2, IGNORED)
    assert (found[30:34, 90:110] == Mistake.BROKEN).all()
    assert (found[30, 10:15] == Mistake.BOUNDARY).all()
    assert (found > 0).sum() == 4 * 20 + 5


def test_merged_missed_and_invented() -> None:
    labels = np.zeros((80, 120), dtype=np.int64)
    labels[10:20, 10:30] = labels[10:20, 34:60] = 1  # two houses
    labels[60:66, 60:66] = 2  # a car
    prediction = np.zeros_like(labels)
    prediction[10:20, 10:60] = 1
    prediction[60:66, 10:16] = 2
    found = mistakes(prediction, labels, 3, IGNORED)
    assert (found[10:20, 30:34] == Mistake.MERGED).all()
    assert (found[60:66, 60:66] == Mistake.MISSED).all()
    assert (found[60:66, 10:16] == Mistake.ISLAND).all()
    assert (found > 0).sum() == 40 + 36 + 36


def test_ignored_pixels_are_no_mistakes() -> None:
    labels = np.full((20, 20), IGNORED)
    labels[:, :5] = 1
    found = mistakes(np.zeros((20, 20), dtype=np.int64), labels, 2, IGNORED)
    assert (found[:, 5:] == Mistake.NONE).all()
    assert (found[:, :5] == Mistake.MISSED).all()


@pytest.mark.parametrize("seed", range(8))
def test_agrees_with_the_connectivity_counts(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = np.kron(generator.integers(0, 3, (8, 8)), np.ones((6, 6), dtype=np.int64))
    prediction = np.where(generator.random(labels.shape) < 0.1, generator.integers(0, 3, labels.shape), labels)
    prediction[:, 20:29] = np.roll(prediction, 6, axis=1)[:, 20:29]
    labels[40:, :7] = IGNORED
    counts = ConnectivityCounts(3, IGNORED).update(prediction, labels)
    found = mistakes(prediction, labels, 3, IGNORED)
    assert ((found > 0) == ((prediction != labels) & (labels != IGNORED))).all()
    parts = label_components(np.where(labels == IGNORED, 0, labels + 1))
    missed = [
        part
        for part in range(1, parts.max() + 1)
        if (parts == part).sum() >= 16 and set(found[(parts == part) & (prediction != labels)]) == {Mistake.MISSED}
    ]
    assert len(missed) == counts.missed.sum()
    assert (found == Mistake.ISLAND).any() == bool(counts.false_islands.sum())
    assert counts.split.sum() > 0 or not (found == Mistake.BROKEN).any()
    assert counts.merged.sum() > 0 or not (found == Mistake.MERGED).any()


def test_specks_join_and_break_nothing() -> None:
    """A hole at a road's end is no break, whatever speck lies beyond it."""
    labels = np.zeros((24, 40), dtype=np.int64)
    labels[10:14] = 1
    prediction = labels.copy()
    prediction[10:14, :6] = 0
    prediction[10:14, 24:28] = 0  # the break
    alone = mistakes(prediction, labels, 2, IGNORED)
    assert (alone[10:14, 24:28] == Mistake.BROKEN).all()
    assert not (alone[10:14, :6] == Mistake.BROKEN).any()
    prediction[12, 0] = 1
    assert np.array_equal(mistakes(prediction, labels, 2, IGNORED)[10:14, 24:28], alone[10:14, 24:28])
    assert not (mistakes(prediction, labels, 2, IGNORED)[10:14, :6] == Mistake.BROKEN).any()
