"""Every kind of image file: training, statistics and prediction see the same pixels and the same valid ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, TiffImagePlugin, TiffTags
from torch import Tensor

from segdistill.datasets import Folder
from segdistill.datasets.base import Window
from segdistill.datasets.reading.images import is_turned, open_image
from segdistill.errors import UserError
from segdistill.networks.description import Description
from segdistill.prediction.geotiff import Raster
from segdistill.prediction.images_in import read_picture

rasterio = pytest.importorskip("rasterio")

SIZE = 12, 20
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda shown: shown,
    2: np.fliplr,
    3: lambda shown: np.rot90(shown, 2),
    4: np.flipud,
    5: lambda shown: shown.swapaxes(0, 1),
    6: lambda shown: np.rot90(shown, 1),  # shown turned clockwise, so stored turned back
    7: lambda shown: np.rot90(shown.swapaxes(0, 1), 2),
    8: lambda shown: np.rot90(shown, -1),
}
"""From what is shown to what is stored, by orientation (EXIF 2.3, tag 274)."""


def scene(bands: int = 3, dtype: str = "uint8") -> np.ndarray:
    """(H, W, bands), no value 0 and none twice in a pixel's neighbourhood."""
    high = {"uint8": 255, "uint16": 4000, "int8": 120, "int16": 4000, "float32": 4000}[dtype]
    return np.random.default_rng(bands).integers(1, high, (*SIZE, bands)).astype(dtype)


@dataclass
class Kind:
    """A file, and what is to be seen of it.

    Attributes:
        suffix: of the file.
        write: writes it.
        shown: (H, W, C) as any program shows it.
        valid: bool (H, W).
        bands: of the recipe.
    """

    suffix: str
    write: Callable[[Path], None]
    shown: np.ndarray
    valid: np.ndarray | None = None
    bands: tuple[int, ...] | None = None


def tiff(path: Path, pixels: np.ndarray, *, mask: np.ndarray | None = None, **profile: Any) -> None:
    height, width, bands = pixels.shape
    with warnings.catch_warnings(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=profile.pop("internal", True)):
        warnings.simplefilter("ignore")
        described = {"driver": "GTiff", "height": height, "width": width, "count": bands, "dtype": pixels.dtype}
        table = profile.pop("table", None)
        with rasterio.open(path, "w", **described | profile) as file:
            file.write(pixels.transpose(2, 0, 1))
            if table is not None:
                file.write_colormap(1, table)
            if mask is not None:
                file.write_mask(mask)


def exif(orientation: int) -> Image.Exif:
    told = Image.Exif()
    told[274] = orientation
    return told


def kinds() -> dict[str, Kind]:
    rgb, alpha = scene(), np.full(SIZE, 255, np.uint8)
    alpha[:, :7] = 0
    seen = alpha > 0
    found: dict[str, Kind] = {}
    for turn, stored in TURNS.items():
        pixels = np.ascontiguousarray(stored(rgb))
        found[f"png orientation {turn}"] = Kind(
            ".png", lambda path, p=pixels, t=turn: Image.fromarray(p).save(path, exif=exif(t)), rgb
        )
        found[f"png orientation {turn}, bands"] = Kind(
            ".png", lambda path, p=pixels, t=turn: Image.fromarray(p).save(path, exif=exif(t)), rgb, bands=(1, 2, 3)
        )
        found[f"tiff orientation {turn}"] = Kind(
            ".tif", lambda path, p=pixels, t=turn: Image.fromarray(p).save(path, tiffinfo={274: t}), rgb
        )
    smooth = np.zeros((*SIZE, 3), np.uint8)
    smooth[:, 10:] = 200
    for turn, stored in TURNS.items():
        pixels = np.ascontiguousarray(stored(smooth))
        found[f"jpeg orientation {turn}"] = Kind(
            ".jpg",
            lambda path, p=pixels, t=turn: Image.fromarray(p).save(path, exif=exif(t), quality=100, subsampling=0),
            smooth,
        )
    near_infrared = scene(4)
    near_infrared[:, :7, 3] = 0  # water
    found |= {
        "rgb tiff": Kind(".tif", lambda path: tiff(path, rgb), rgb),
        "tiled big-endian tiff": Kind(
            ".tiff", lambda path: tiff(path, rgb, tiled=True, blockxsize=16, blockysize=16, ENDIANNESS="BIG"), rgb
        ),
        "rgb + near infrared tagged alpha": Kind(
            ".tif",
            lambda path: tiff(path, near_infrared),
            near_infrared,
            bands=(1, 2, 3, 4),
        ),
        "rgb of rgb + near infrared tagged alpha": Kind(
            ".tif", lambda path: tiff(path, near_infrared), rgb_of(near_infrared)
        ),
        "bands of rgb + near infrared tagged alpha": Kind(
            ".tif",
            lambda path: tiff(path, near_infrared),
            near_infrared[..., [2, 0]],
            bands=(3, 1),
        ),
        "rgba tiff": Kind(".tif", lambda path: tiff(path, np.dstack([rgb, alpha])), rgb, seen),
        "rgba tiff, bands": Kind(".tif", lambda path: tiff(path, np.dstack([rgb, alpha])), rgb, seen, (1, 2, 3)),
        "internal mask": Kind(".tif", lambda path: tiff(path, rgb, mask=alpha), rgb, seen),
        "mask beside the file": Kind(".tif", lambda path: tiff(path, rgb, mask=alpha, internal=False), rgb, seen),
        "internal mask, bands": Kind(".tif", lambda path: tiff(path, rgb, mask=alpha), rgb, seen, (1, 2, 3)),
        "nodata 0 in 8 bits": Kind(
            ".tif", lambda path: tiff(path, rgb * seen[..., None], nodata=0), rgb * seen[..., None], seen
        ),
        "cmyk jpeg": Kind(
            ".jpg",
            lambda path: Image.fromarray(smooth).convert("CMYK").save(path, quality=100, subsampling=0),
            smooth,
        ),
    }
    one_zero = rgb.copy()
    one_zero[..., 0] = 0
    found["nodata 0 in one band of 8 bits is data"] = Kind(
        ".tif", lambda path: tiff(path, one_zero, nodata=0), one_zero
    )
    for dtype, nodata in (("float32", -9999.0), ("uint16", 65535), ("int16", -32768)):
        values = scene(2, dtype)
        values[:, :7, 1] = nodata
        found[f"nodata {nodata} in {dtype}"] = Kind(
            ".tif", lambda path, v=values, n=nodata: tiff(path, v, nodata=n), values, seen, (1, 2)
        )
    holes = scene(2, "float32")
    holes[:, :7, 0] = np.nan
    found["nan"] = Kind(".tif", lambda path: tiff(path, holes), holes, seen, (1, 2))
    deep, signed = scene(3, "uint16"), scene(2, "int8")
    huge = scene(2, "float32").astype(np.float64)
    huge[:, :7, 1] = 1e300
    found["too large for float32"] = Kind(
        ".tif", lambda path: tiff(path, huge), np.where(seen[..., None], huge, 0), seen, (1, 2)
    )
    found["16 bits"] = Kind(".tif", lambda path: tiff(path, deep), deep, bands=(1, 2, 3))
    found["signed bytes"] = Kind(
        ".tif", lambda path: tiff(path, signed - np.int8(60)), signed - np.int8(60), bands=(1, 2)
    )
    found["erdas"] = Kind(".img", lambda path: tiff(path, rgb, driver="HFA"), rgb)
    found["jpeg 2000"] = Kind(
        ".jp2", lambda path: tiff(path, rgb, driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES"), rgb
    )
    return found | of_one_channel()


def rgb_of(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pixels[..., :3])


def of_one_channel() -> dict[str, Kind]:
    grey = scene(1)[..., 0]
    bits = grey > 127
    black_and_white = np.repeat(np.where(bits, 255, 0).astype(np.uint8)[..., None], 3, axis=2)
    greys = np.repeat(grey[..., None], 3, axis=2)
    alpha = np.full(SIZE, 255, np.uint8)
    alpha[:, :7] = 0
    seen = alpha > 0
    indices = (grey % 3).astype(np.uint8)
    colors = np.array([[10, 20, 30], [200, 100, 0], [7, 250, 90]], np.uint8)
    palette = Image.fromarray(indices)
    palette.putpalette(colors.flatten().tolist())
    table = {number: (*color, 255) for number, color in enumerate(colors.tolist())}
    nibbles = (grey // 16)[..., None]
    key = np.repeat(grey[..., None], 3, axis=2)
    key[:, :7] = (9, 8, 7)
    return {
        "bilevel white is zero": Kind(
            ".tif", lambda path: Image.fromarray(bits).save(path, tiffinfo={262: 0}), black_and_white
        ),
        "bilevel black is zero": Kind(".tif", lambda path: Image.fromarray(bits).save(path), black_and_white),
        "grey white is zero": Kind(".tif", lambda path: Image.fromarray(grey).save(path, tiffinfo={262: 0}), greys),
        "grey of 4 bits": Kind(".tif", lambda path: tiff(path, nibbles, nbits=4), np.repeat(nibbles * 17, 3, axis=2)),
        "bilevel png": Kind(".png", lambda path: Image.fromarray(bits).save(path), black_and_white),
        "grey png": Kind(".png", lambda path: Image.fromarray(grey).save(path), greys),
        "grey tiff": Kind(".tif", lambda path: Image.fromarray(grey).save(path), greys),
        "palette png": Kind(".png", palette.save, colors[indices]),
        "palette tiff": Kind(
            ".tif", lambda path: tiff(path, indices[..., None], table=table, photometric="palette"), colors[indices]
        ),
        "palette png with a transparent colour": Kind(
            ".png", lambda path: palette.save(path, transparency=bytes([255, 0, 255])), colors[indices], indices != 1
        ),
        "rgb png with a transparent colour": Kind(
            ".png", lambda path: Image.fromarray(key).save(path, transparency=(9, 8, 7)), key, seen
        ),
        "rgba png": Kind(".png", lambda path: Image.fromarray(np.dstack([greys, alpha])).save(path), greys, seen),
        "grey + alpha png": Kind(
            ".png", lambda path: Image.fromarray(np.dstack([grey, alpha]), "LA").save(path), greys, seen
        ),
        "grey + alpha tiff": Kind(".tif", lambda path: tiff(path, np.dstack([grey, alpha]), alpha="YES"), greys, seen),
    }


KINDS = kinds()


def expected_of(kind: Kind) -> tuple[Tensor, Tensor]:
    valid = np.ones(SIZE, bool) if kind.valid is None else kind.valid
    pixels = np.where(valid[..., None], kind.shown, 0)
    pixels = pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1), torch.from_numpy(valid)


def near(kind: Kind, found: Tensor, expected: Tensor) -> bool:
    return bool((found.float() - expected.float()).abs().max() <= (4 if kind.suffix == ".jpg" else 0))


@pytest.mark.parametrize("name", KINDS)
def test_training_and_prediction_see_the_same(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    images, masks = tmp_path / "images" / "train", tmp_path / "masks" / "train"
    images.mkdir(parents=True)
    masks.mkdir(parents=True)
    path = images / f"a{kind.suffix}"
    kind.write(path)
    Image.fromarray((np.indices(SIZE).sum(0) % 2).astype(np.uint8)).save(masks / "a.png")
    pixels, valid = expected_of(kind)

    dataset = Folder(tmp_path, ("no", "yes"), bands=kind.bands)
    image, labels = dataset[0]
    assert image.dtype == pixels.dtype
    assert near(kind, image, pixels)
    assert (labels == 255).equal(~valid)
    window = Window(3, 5, 8, 11)
    part, part_labels = dataset.open(0).window(window)
    assert part.equal(window.cut(image))
    assert part_labels.equal(window.cut(labels))

    described = Description.unnamed(None, num_classes=2, in_channels=len(pixels), stride=1)
    with Raster(path, described=described, bands=kind.bands, window=512) as raster:
        assert raster.size == SIZE
        for place in (Window(0, 0, *SIZE), window):
            predicted, missing = raster.read(place)
            # PIL and GDAL may decode a JPEG's colours a little differently.
            assert (
                near(kind, predicted, place.cut(image)) if kind.suffix == ".jpg" else predicted.equal(place.cut(image))
            )
            assert (torch.zeros(place[2:], dtype=torch.bool) if missing is None else missing).equal(
                place.cut(labels) == 255
            )
    if kind.bands is None:
        picture = read_picture(path)
        assert picture.pixels.equal(image)
        assert (torch.zeros(SIZE, dtype=torch.bool) if picture.missing is None else picture.missing).equal(~valid)
    if dataset.in_channels == 3:
        copied = Folder(tmp_path, ("no", "yes"), bands=kind.bands, tiled_copy=tmp_path / "copy")[0]
        assert copied[0].equal(image)
        assert copied[1].equal(labels)
        resized = Folder(tmp_path, ("no", "yes"), bands=kind.bands, resize=SIZE)[0]
        assert resized[0].equal(image)
        assert resized[1].equal(labels)
    assert is_turned(path) == ("orientation" in name and "orientation 1" not in name)


def test_a_place_on_the_map_ignores_the_orientation_tag(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[274] = 6
    for tag, numbers in ((33550, (1.0, 1.0, 0.0)), (33922, (0.0, 0.0, 0.0, 5.0, 6.0, 0.0))):  # scale, tie point
        tags.tagtype[tag] = TiffTags.DOUBLE
        tags[tag] = numbers
    Image.fromarray(scene()).save(path, tiffinfo=tags)
    assert open_image(path).size == SIZE
    assert not is_turned(path)


@pytest.mark.parametrize(
    ("write", "suffix", "told"),
    [
        (
            lambda path: tiff(path, scene(3, "uint16"), driver="PNG"),
            ".png",
            "has pixels of 16 bits per channel; expected",
        ),
        (lambda path: tiff(path, scene(1, "uint16"), driver="PNG"), ".png", "has pixels of the kind I;16; expected"),
        (lambda path: tiff(path, scene(3, "uint16")), ".tif", "has 3 bands of uint16, which is no RGB picture; name"),
        (
            lambda path: tiff(path, scene(5)),
            ".tif",
            "has 5 bands of uint8, which is no RGB picture; name those to read",
        ),
        (
            lambda path: Image.fromarray(scene()).convert("LAB").save(path),
            ".tif",
            r"is in CIE L\*a\*b\* colours; expected",
        ),
        *(
            (
                lambda path: Image.fromarray(scene()).save(
                    path, save_all=True, append_images=[Image.fromarray(255 - scene())]
                ),
                suffix,
                "holds 2 images; expected one, save each in a file of its own",
            )
            for suffix in (".tif", ".png", ".webp")
        ),
    ],
)
def test_what_is_no_picture_is_refused(write: Callable[[Path], None], suffix: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    write(path)
    with pytest.raises(UserError, match=told):
        open_image(path).whole()
    with pytest.raises(UserError, match=told):
        read_picture(path)
