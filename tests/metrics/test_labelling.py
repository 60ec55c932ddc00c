"""Numbers of connected components, with and without the optional package."""

from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from segdistill.metrics.labelling import label_components, label_with_scipy


def plain(values: np.ndarray) -> np.ndarray:
    """Each value by itself, then numbered by first pixels."""
    found = np.zeros(values.shape, dtype=np.int64)
    for value in np.unique(values[values != 0]):
        parts, _ = ndimage.label(values == value, np.ones((3, 3)))
        found = np.where(parts > 0, parts + found.max(), found)
    order = list(dict.fromkeys(found[found > 0].tolist()))
    return np.array([0 if one == 0 else order.index(one) + 1 for one in found.ravel()]).reshape(found.shape)


def maps() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    random = [generator.integers(0, 3, tuple(generator.integers(1, 9, 2))) for _ in range(60)]
    smooth = ndimage.gaussian_filter(generator.normal(size=(4, 60, 80)), (0, 3, 3)).argmax(0)
    return [*random, smooth, np.zeros((5, 4), dtype=int), np.ones((1, 1), dtype=int), np.ones((1, 7), dtype=int)]


@pytest.mark.parametrize("label", [label_components, label_with_scipy])
def test_components_are_those_of_each_value_alone(label: Any) -> None:
    for values in maps():
        found = label(values)
        np.testing.assert_array_equal(found, plain(values))
        assert found.dtype == np.int64


def test_diagonal_neighbours_are_connected() -> None:
    values = np.array([[1, 0, 2], [0, 1, 0], [2, 0, 1]])
    assert label_with_scipy(values).tolist() == [[1, 0, 2], [0, 1, 0], [3, 0, 1]]


@pytest.mark.parametrize("is_there", [False, True])
def test_scipy_does_it_without_the_package_alone(monkeypatch: pytest.MonkeyPatch, is_there: bool) -> None:
    def by_package(values: np.ndarray, *, connectivity: int) -> np.ndarray:
        assert connectivity == 8
        return np.full(values.shape, 7, dtype=np.uint16)

    package = SimpleNamespace(connected_components=by_package)
    monkeypatch.setitem(sys.modules, "cc3d", package)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: package if is_there else None)
    values = maps()[-4]
    found = label_components(values)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, np.full_like(values, 7) if is_there else label_with_scipy(values))
