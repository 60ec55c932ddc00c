"""GeoTIFFs for tests; who imports this is skipped without rasterio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segdistill.prediction.job import Wanted
from segdistill.prediction.predict import predict_files
from tests.prediction.pointwise import predictor, scores

rasterio = pytest.importorskip("rasterio")

ROTATED = rasterio.transform.Affine(0.5, 0.1, 400000, 0.1, -0.5, 5000000)
PLACE = {"crs": "EPSG:32633", "transform": ROTATED}
ALL = Wanted(probabilities=True, vector=True)


def noise(bands: int = 3, height: int = 150, width: int = 201, dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (bands, height, width)).astype(dtype)


def blobs(height: int = 150, width: int = 201) -> np.ndarray:
    """Areas of some size, so that there are few polygons."""
    y, x = np.mgrid[:height, :width]
    wave = np.sin(y / 17) + np.cos(x / 23)
    return np.repeat(((wave + 2) / 4 * 255).astype(np.uint8)[None], 3, axis=0)


def write_tif(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    count, height, width = pixels.shape
    shape = {"height": height, "width": width, "count": count, "dtype": pixels.dtype.name}
    with rasterio.open(path, "w", driver="GTiff", **shape, **options) as file:
        file.write(pixels)
    return path


def labels_in(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        assert file.count == 1
        found: np.ndarray = file.read(1)
        return found


def predicted(tmp_path: Path, pixels: np.ndarray, scoring: Any = scores, **options: Any) -> np.ndarray:
    write_tif(tmp_path / "a.tif", pixels, **(PLACE | options))
    predict_files(predictor(scoring), tmp_path / "a.tif", tmp_path / "out.tif")
    return labels_in(tmp_path / "out.tif")
