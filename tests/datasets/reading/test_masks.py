from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdistill.colors import parse_palette
from segdistill.datasets.base import Window
from segdistill.datasets.reading.file_samples import WindowedMask
from segdistill.datasets.reading.masks import MaskReader
from segdistill.errors import UserError
from segdistill.inspection.mask_values import examine
from tests.datasets.trees import write_mask

VALUES = np.array([[0, 1, 1], [2, 255, 0]], dtype=np.uint8)


@pytest.mark.parametrize("kind", ["L", "P", "I", "I;16"])
def test_index_masks_of_every_kind_read_alike(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "mask.tif"
    mask = Image.fromarray(VALUES.astype(np.uint16) if kind == "I;16" else VALUES)
    if kind == "P":
        # The colours of a palette file are for the eye: both labels 0 and 1 are black here.
        mask.putpalette([0, 0, 0, 0, 0, 0, 255, 0, 0])
    elif kind == "I":
        mask = mask.convert("I")
    mask.save(path)
    assert Image.open(path).mode == kind
    assert MaskReader(3).read(path).tolist() == VALUES.tolist()


def test_black_and_white_masks_are_two_classes(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    Image.fromarray(np.array([[0, 255], [255, 0]], dtype=np.uint8)).convert("1").save(path)
    assert MaskReader(2).read(path).tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("kind", ["uint8", "uint16", "int32"])
def test_values_outside_the_classes_are_listed_with_the_usual_cause(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "mask.tif"
    write_mask(path, np.array([[0, 3, 200], [3, 1, 255]], dtype=kind))
    sentence = r"mask.tif holds the label values 3, 200, outside the classes 0 to 2 .*0/255, or from an RGB palette"
    with pytest.raises(UserError, match=sentence):
        MaskReader(3).read(path)


def test_values_beyond_16_bits_are_listed_too(tmp_path: Path) -> None:
    path = tmp_path / "mask.tif"
    write_mask(path, np.array([[0, 70000, -1]], dtype=np.int32))
    with pytest.raises(UserError, match="holds the label values -1, 70000, outside"):
        MaskReader(3).read(path)


def test_a_mask_of_0_and_255_under_another_ignore_label_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    write_mask(path, np.array([[0, 255]], dtype=np.uint8))
    with pytest.raises(UserError, match="holds the label value 255, outside the classes 0 to 1 and the ignore label 9"):
        MaskReader(2, ignore=9).read(path)


def test_many_wrong_values_are_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    write_mask(path, np.arange(256, dtype=np.uint8)[None])
    with pytest.raises(UserError, match=r"values 2, 3, 4, 5, 6, 7, 8, 9, \.\.\., outside"):
        MaskReader(2).read(path)


def test_an_rgb_mask_needs_a_palette_that_has_its_colours(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    write_mask(path, np.array([[[255, 0, 0], [0, 0, 16]]], dtype=np.uint8))
    with pytest.raises(UserError, match=r"mask.png is an RGB mask, and no palette says which colour is which class"):
        MaskReader(2).read(path)
    palette = ((255, 0, 0), (0, 255, 0))
    with pytest.raises(UserError, match=r"mask.png holds the colour #000010, not in the palette .*ignore_color"):
        MaskReader(2, palette=palette).read(path)
    assert MaskReader(2, palette=palette, ignore_color=(0, 0, 16)).read(path).tolist() == [[0, 255]]


def test_other_kinds_of_pixels_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mask.tif"
    write_mask(path, np.zeros((2, 2), dtype=np.float32))
    with pytest.raises(UserError, match="has 1 band of float32; expected an index mask or an RGB mask"):
        MaskReader(2).read(path)


def write_numbers(path: Path, values: np.ndarray, **profile: object) -> None:
    rasterio = pytest.importorskip("rasterio")
    height, width = values.shape
    with rasterio.open(
        path, "w", width=width, height=height, count=1, dtype=values.dtype, **({"driver": "GTiff"} | profile)
    ) as file:
        file.write(values[None])


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize("with_rasterio", [True, False])
@pytest.mark.parametrize(
    ("suffix", "profile", "highest"),
    [
        (".tif", {"nbits": 1}, 1),
        (".tif", {"nbits": 1, "photometric": "MINISWHITE"}, 1),
        (".tif", {"nbits": 1, "photometric": "MINISWHITE", "compress": "CCITTFAX4"}, 1),
        (".tif", {"nbits": 4}, 15),
        (".tif", {"nbits": 4, "photometric": "MINISWHITE"}, 15),
        (".tif", {"photometric": "MINISWHITE"}, 40),
        (".tif", {"ENDIANNESS": "BIG"}, 40),
        (".png", {"driver": "PNG", "nbits": 1}, 1),
        (".png", {"driver": "PNG", "nbits": 2}, 3),
        (".png", {"driver": "PNG", "nbits": 4}, 15),
    ],
)
def test_the_numbers_are_those_in_the_file(
    tmp_path: Path,
    suffix: str,
    profile: dict[str, object],
    highest: int,
    with_rasterio: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever they are shown as: PIL spreads few bits over 0..255, and turns those that show 0 as white."""
    values = np.random.default_rng(0).integers(0, highest + 1, (9, 21)).astype(np.uint8)
    path = tmp_path / f"a{suffix}"
    write_numbers(path, values, **profile)
    if not with_rasterio:
        monkeypatch.setattr("segdistill.datasets.reading.rasters.has_rasterio", lambda: False)
    assert (MaskReader(highest + 1).read(path).numpy() == values).all()


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_signed_numbers_are_told_as_they_are_and_can_be_mapped(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write_numbers(path, np.array([[-1, 0, 1]], dtype=np.int8))
    with pytest.raises(UserError, match="holds the label value -1, outside the classes 0 to 1"):
        MaskReader(2).read(path)
    assert MaskReader(2, values={-1: 255}).read(path).tolist() == [[255, 0, 1]]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_transparent_pixels_of_a_colour_mask_have_no_label(tmp_path: Path, suffix: str) -> None:
    """Black is a class, and what a map of a geographic information system holds where nobody has drawn anything."""
    black, red, green = [0, 0, 0, 255], [255, 0, 0, 255], [0, 255, 0, 0]
    path = tmp_path / f"mask{suffix}"
    write_mask(path, np.array([[black, [0, 0, 0, 0]], [red, green]], dtype=np.uint8))
    reader = MaskReader(2, palette=((0, 0, 0), (255, 0, 0)))
    assert reader.read(path).tolist() == [[0, 255], [1, 255]]
    window = WindowedMask(path, reader).read(Window(0, 1, 2, 1))
    assert window.tolist() == [[255], [255]]


def test_a_fourth_channel_that_is_0_everywhere_hides_nothing(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    write_mask(path, np.array([[[0, 0, 0, 0], [255, 0, 0, 0]]], dtype=np.uint8))
    assert MaskReader(2, palette=((0, 0, 0), (255, 0, 0))).read(path).tolist() == [[0, 1]]


def test_the_check_does_not_report_transparent_colours(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    write_mask(path, np.array([[[0, 0, 0, 255], [9, 9, 9, 0], [7, 7, 7, 255]]], dtype=np.uint8))
    reader = MaskReader(2, palette=((0, 0, 0), (255, 0, 0)))
    with pytest.raises(UserError, match="holds the colour #070707, not in the palette") as refused:
        reader.read(path)
    assert examine(path, str(refused.value), reader).unknown == {0x070707}


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize(
    ("nodata", "dtype", "options", "expected"),
    [
        (99, "uint8", {}, [[255, 0, 1], [2, 255, 255]]),
        (-9999, "int16", {}, [[255, 0, 1], [2, 255, 255]]),
        (2**16 - 1, "uint16", {}, [[255, 0, 1], [2, 255, 255]]),
        (2, "uint8", {}, [[2, 0, 1], [2, 2, 2]]),  # which is a class
        (2, "uint8", {"values": {2: 255}}, [[255, 0, 1], [255, 255, 255]]),
        (99, "uint8", {"values": {99: 1}}, [[1, 0, 1], [2, 1, 1]]),
    ],
)
def test_the_no_data_value_of_a_mask_is_ignored_unless_it_is_a_class(
    tmp_path: Path, nodata: int, dtype: str, options: dict[str, dict[int, int]], expected: list[list[int]]
) -> None:
    path = tmp_path / "mask.tif"
    write_numbers(path, np.array([[nodata, 0, 1], [2, nodata, nodata]], dtype=dtype), nodata=nodata)
    reader = MaskReader(3, **options)  # type: ignore[arg-type]
    assert reader.read(path).tolist() == expected
    assert WindowedMask(path, reader).read(Window(1, 0, 1, 2)).tolist() == [expected[1][:2]]


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_other_values_beside_the_no_data_value_are_still_refused(tmp_path: Path) -> None:
    path = tmp_path / "mask.tif"
    write_numbers(path, np.array([[99, 0, 7]], dtype=np.uint8), nodata=99)
    with pytest.raises(UserError, match=r"holds the label value 7, outside") as refused:
        MaskReader(3).read(path)
    assert examine(path, str(refused.value), MaskReader(3)).unknown == {7}


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_what_a_mask_hides_has_no_label_even_where_it_holds_a_class(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    path = tmp_path / "mask.tif"
    write_numbers(path, np.array([[0, 1, 9]], dtype=np.uint8))
    with rasterio.open(path, "r+") as file:
        file.write_mask(np.array([[True, False, False]]))
    assert MaskReader(2).read(path).tolist() == [[0, 255, 255]]


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize(("palette", "expected"), [("#ffffff #ff0000", 255), ("#000000 #ff0000", 0)])
def test_the_no_data_colour_of_a_mask_is_ignored_unless_it_is_a_class(
    tmp_path: Path, palette: str, expected: int
) -> None:
    rasterio = pytest.importorskip("rasterio")
    path = tmp_path / "mask.tif"
    colors = np.array([[[0, 255]], [[0, 0]], [[0, 0]]], dtype=np.uint8)
    with rasterio.open(path, "w", driver="GTiff", width=2, height=1, count=3, dtype="uint8", nodata=0) as file:
        file.write(colors)
    reader = MaskReader(2, palette=parse_palette(palette.split(), ["a", "b"]))
    assert reader.read(path).tolist() == [[expected, 1]]
