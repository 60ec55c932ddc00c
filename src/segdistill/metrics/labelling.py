"""Connected components of all values of a map at once."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph


def label_components(values: NDArray[Any]) -> NDArray[np.int64]:
    """Number the connected components of a map: neighbouring pixels of one value, diagonals included.

    The package connected-components-3d (extra ``components``) does it about ten times faster. It is not required, since
    its licence is LGPL-3.0. `label_with_scipy` gives the same numbers.

    Args:
        values: integer (H, W); 0 is background.

    Returns:
        int64 (H, W), from 1 on in the order of each component's first pixel, row by row; 0 in the background.
    """
    if importlib.util.find_spec("cc3d") is None:
        return label_with_scipy(values)
    import cc3d

    return np.asarray(cc3d.connected_components(values, connectivity=8), dtype=np.int64)


def label_with_scipy(values: NDArray[Any]) -> NDArray[np.int64]:
    """Number the connected components of a map by scipy; see `label_components`.

    ``scipy.ndimage.label`` takes one value at a time; this takes all of them together, as a graph of the runs of equal
    values in each row.
    """
    height, width = values.shape
    starts = np.ones((height, width), dtype=bool)
    starts[:, 1:] = values[:, 1:] != values[:, :-1]
    runs = np.cumsum(starts.ravel()).reshape(height, width) - 1
    upper, lower = [], []
    for shift in (-1, 0, 1):
        above = (slice(0, height - 1), slice(max(0, -shift), width - max(0, shift)))
        below = (slice(1, height), slice(max(0, shift), width - max(0, -shift)))
        meet = values[above] == values[below]
        # Two runs meet in many pixels; the first says it.
        meet[:, 1:] &= (starts[above] | starts[below])[:, 1:]
        upper.append(runs[above][meet])
        lower.append(runs[below][meet])
    edges = np.concatenate(upper), np.concatenate(lower)
    count = int(runs[-1, -1]) + 1
    graph = sparse.coo_array((np.ones(len(edges[0]), dtype=bool), edges), shape=(count, count))
    components, component = csgraph.connected_components(graph, directed=False)
    counts = values.ravel()[starts.ravel()] != 0
    number = np.cumsum(np.bincount(component[counts], minlength=components) > 0)
    found: NDArray[np.int64] = np.where(counts, number[component], 0)[runs]
    return found
