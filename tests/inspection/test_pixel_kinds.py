"""What the check says of images, masks and lists whose numbers mean something else than expected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from segdistill.datasets import Folder
from segdistill.errors import UserError
from segdistill.inspection.before_run import check_before_run
from segdistill.inspection.check import check_data
from segdistill.inspection.findings import Finding
from segdistill.recipe.data import build_data

rasterio = pytest.importorskip("rasterio")
Affine = pytest.importorskip("affine").Affine
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

SIZE = 24, 32


def noise(high: int, dtype: str, bands: int = 3) -> np.ndarray:
    return np.random.default_rng(high).integers(1, high, (bands, *SIZE)).astype(dtype)


def write(path: Path, pixels: np.ndarray, **profile: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = {"count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2], "dtype": pixels.dtype}
    scales = profile.pop("scales", None)
    with rasterio.open(path, "w", **({"driver": "GTiff"} | shape | profile)) as file:
        file.write(pixels)
        if scales is not None:
            file.scales = scales


def mask(path: Path, labels: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((np.indices(SIZE).sum(0) // 9 % 2 if labels is None else labels).astype(np.uint8)).save(path)


def tree(root: Path, train: np.ndarray, val: np.ndarray, **of_val: Any) -> dict[str, Any]:
    for split, pixels in (("train", train), ("val", val)):
        write(root / "images" / split / f"{split}.tif", pixels, **(of_val if split == "val" else {}))
        mask(root / "masks" / split / f"{split}.png")
    return {"dataset": "folder", "root": str(root), "classes": ["no", "yes"], "crop": [16, 16]}


def findings(data: dict[str, Any], kind: str) -> list[Finding]:
    report = check_data(data=data, quiet=True)
    return [finding for finding in report.findings if finding.kind == kind]


@pytest.mark.parametrize(
    ("train", "val", "of_val", "told"),
    [
        (noise(255, "uint8"), noise(4000, "uint16"), {}, "1 of uint8 in train; 1 of uint16 in val"),
        (noise(4000, "uint16"), noise(255, "uint8"), {}, "1 of uint16 in train; 1 of uint8 in val"),
        (
            noise(4000, "uint16"),
            noise(4001, "uint16"),
            {"scales": (1e-4,) * 3},
            "1 of uint16 in train; 1 of uint16 to be scaled by 0.0001 and shifted by 0 in val",
        ),
    ],
)
def test_splits_of_different_pixels_stop_a_run(
    train: np.ndarray, val: np.ndarray, of_val: dict[str, Any], told: str, tmp_path: Path
) -> None:
    data = tree(tmp_path, train, val, **of_val) | {"bands": [1, 2, 3]}
    [finding] = findings(data, "pixel-kind")
    assert finding.severity == "error"
    assert finding.what == f"images hold numbers of different kinds: {told}"
    with pytest.raises(UserError, match="images hold numbers of different kinds"):
        check_before_run(build_data(data), Console(quiet=True))


def test_another_type_or_range_is_a_warning(tmp_path: Path) -> None:
    data = tree(tmp_path, noise(4000, "uint16"), noise(4001, "int16")) | {"bands": [1, 2, 3]}
    assert [finding.severity for finding in findings(data, "pixel-kind")] == ["warning"]
    data = tree(tmp_path / "b", noise(4000, "uint16"), noise(150, "uint16")) | {"bands": [1, 2, 3]}
    [finding] = findings(data, "value-range")
    assert (finding.severity, finding.split) == ("warning", "val")
    top = noise(4000, "uint16").max()
    assert finding.what == f"the largest value in any image is 149, and in train {top}"


def test_equal_kinds_are_not_mentioned(tmp_path: Path) -> None:
    data = tree(tmp_path, noise(4000, "uint16"), noise(3000, "uint16")) | {"bands": [1, 2, 3]}
    assert not findings(data, "pixel-kind")
    assert not findings(data, "value-range")


def test_what_is_said_of_a_band_called_alpha(tmp_path: Path) -> None:
    infrared = noise(200, "uint8", 4)
    infrared[3, :10] = 0
    data = tree(tmp_path, infrared, infrared[:, ::-1])
    assert [finding.severity for finding in findings(data, "no-alpha")] == ["note", "note"]
    assert not findings(data, "alpha")
    assert not findings(data | {"bands": [1, 2, 3, 4]}, "no-alpha")


def test_a_val_split_of_class_0_alone_is_accepted(tmp_path: Path) -> None:
    data = tree(tmp_path, noise(255, "uint8"), noise(254, "uint8"))
    mask(tmp_path / "masks/val/val.png", np.where(np.indices(SIZE)[1] < 8, 255, 0))
    [finding] = findings(data, "two-values")
    assert (finding.severity, finding.split) == ("warning", "val")
    check_before_run(build_data(data), Console(quiet=True))
    mask(tmp_path / "masks/train/train.png", np.where(np.indices(SIZE)[1] < 8, 255, 0))
    assert {finding.severity for finding in findings(data, "two-values")} == {"error"}
    with pytest.raises(UserError, match=r"as if written as 0/255 .* set mask_values: \{255: 1\}"):
        check_before_run(build_data(data), Console(quiet=True))


def test_a_mask_that_shows_0_as_white_is_told_of_and_can_be_swapped(tmp_path: Path) -> None:
    data = tree(tmp_path, noise(255, "uint8"), noise(254, "uint8"))
    white = np.zeros(SIZE, dtype=np.uint8)
    white[3:9, 4:20] = 1
    (tmp_path / "masks/train/train.png").unlink()
    write(tmp_path / "masks/train/train.tif", white[None], nbits=1, photometric="MINISWHITE")
    told = [finding.advice for finding in findings(data, "white-is-zero")]
    assert told == ["look at `segdistill data preview`; to make white class 1, set mask_values: {0: 1, 1: 0}"]
    values = {key: value for key, value in data.items() if key not in ("dataset", "crop")}
    for more in ({}, {"resize": SIZE}, {"tiled_copy": tmp_path / "copy"}):
        assert (Folder(**values, **more)[0][1].numpy() == white).all()
        assert (Folder(**values, **more, mask_values={0: 1, 1: 0})[0][1].numpy() == 1 - white).all()


@pytest.mark.parametrize(("nodata", "mapped", "told"), [(0, {}, 1), (0, {0: 255, 1: 0, 2: 1}, 0), (9, {}, 0)])
def test_masks_whose_no_data_value_is_a_class_are_told_of(
    tmp_path: Path, nodata: int, mapped: dict[int, int], told: int
) -> None:
    data = tree(tmp_path, noise(255, "uint8"), noise(254, "uint8"))
    labels = np.where(np.indices(SIZE)[0] < 4, nodata, 1 + np.indices(SIZE)[1] % 2 if mapped else 1)
    (tmp_path / "masks/train/train.png").unlink()
    write(tmp_path / "masks/train/train.tif", labels[None].astype(np.uint8), nodata=nodata)
    if mapped:
        mask(tmp_path / "masks/val/val.png", labels)
    found = findings(data | {"mask_values": mapped}, "nodata-class")
    assert [finding.severity for finding in found] == ["note"] * told
    assert all(finding.what.startswith("1 mask whose no-data value") for finding in found)


@pytest.mark.parametrize(
    ("of_mask", "apart"),
    [
        (Affine(10, 0, 500, 0, -10, 900), None),
        (Affine(10, 0, 502, 0, -10, 900), None),  # less than half a pixel
        (None, None),  # many masks have no place
        (Affine(10, 0, 500, 0, 10, 900 - 10 * SIZE[0]), SIZE[0]),  # south up: its first row is the image's last
        (Affine(10, 0, 530, 0, -10, 900), 3),
        (Affine(10.5, 0, 500, 0, -10, 900), 0.05 * SIZE[1]),
        (Affine(1e-4, 0, 9, 0, -1e-4, 50), 85),  # degrees
    ],
)
def test_masks_in_another_place_than_their_images_are_told_of(
    tmp_path: Path, of_mask: Any, apart: float | None
) -> None:
    data = tree(tmp_path, noise(255, "uint8"), noise(254, "uint8"))
    place = {"transform": Affine(10, 0, 500, 0, -10, 900), "crs": "EPSG:32632"}
    write(tmp_path / "images/train/train.tif", noise(255, "uint8"), **place)
    (tmp_path / "masks/train/train.png").unlink()
    labels = (np.indices(SIZE).sum(0) // 9 % 2).astype(np.uint8)[None]
    write(tmp_path / "masks/train/train.tif", labels, **({} if of_mask is None else place | {"transform": of_mask}))
    found = findings(data, "other-place")
    assert len(found) == (apart is not None)
    if apart is not None:
        pixels = int(found[0].files[0].split(" up to ")[1].split()[0])
        assert pixels == round(apart)


def test_what_files_have_in_common_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tree(tmp_path, noise(255, "uint8"), noise(254, "uint8"))
    for name in "abc":
        write(tmp_path / f"images/train/{name}.png", noise(4000, "uint16"), driver="PNG")
        (tmp_path / f"images/train/{name}.tif").unlink(missing_ok=True)
        mask(tmp_path / f"masks/train/{name}.png")
    check_data(data=data)
    told = capsys.readouterr().out
    assert told.count("has pixels of 16 bits per channel; expected 8 bits per channel, or the argument bands") == 1
    assert all(f"images/train/{name}.png" in told for name in "abc")
