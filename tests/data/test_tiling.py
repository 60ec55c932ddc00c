from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from segdistill.data import (
    Augmentation,
    EvaluationLoader,
    EvaluationSamples,
    TrainingSamples,
    scored_parts,
    training_loader,
)
from segdistill.data.scoring import TiledModel
from segdistill.data.tiling import Tiling
from segdistill.datasets import Folder, SegmentationDataset
from segdistill.datasets.base import Window
from segdistill.datasets.reading import rasters
from segdistill.errors import UserError
from tests.datasets.trees import write_mask

rasterio = pytest.importorskip("rasterio")
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

CLASSES = ("road", "roof", "tree")
HEIGHT, WIDTH = 90, 140


def write_tif(path: Path, pixels: np.ndarray, block: int | None = 16, **options: object) -> Path:
    """A GeoTIFF of ``pixels`` (C, H, W), in square tiles or, without ``block``, in strips."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if block is not None:
        options |= {"tiled": True, "blockxsize": block, "blockysize": block}
    count, height, width = pixels.shape
    shape = {"height": height, "width": width, "count": count, "dtype": pixels.dtype.name}
    with rasterio.open(path, "w", driver="GTiff", **shape, **options) as file:
        file.write(pixels)
    return path


def image(bands: int = 3, dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    top = 256 if dtype == "uint8" else 10000
    return np.random.default_rng(seed).integers(0, top, (bands, HEIGHT, WIDTH)).astype(dtype)


def mask(seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, 1]).integers(0, 3, (HEIGHT, WIDTH), dtype=np.uint8)


def tile_tree(root: Path, count: int = 2, **options: object) -> Path:
    for number in range(count):
        write_tif(root / f"images/train/{number}.tif", image(seed=number), **options)  # type: ignore[arg-type]
        write_tif(root / f"masks/train/{number}.tif", mask(number)[None], **options)  # type: ignore[arg-type]
    return root


def picture_tree(root: Path, count: int = 2) -> Path:
    """The same images and masks as PNG."""
    for number in range(count):
        write_mask(root / f"images/train/{number}.png", image(seed=number).transpose(1, 2, 0))
        write_mask(root / f"masks/train/{number}.png", mask(number))
    return root


def views(dataset: SegmentationDataset, augmentation: Augmentation) -> list[tuple[Tensor, Tensor]]:
    samples = TrainingSamples(dataset, augmentation, seed=3)
    return [samples[epoch, index] for epoch in range(3) for index in range(2 * len(dataset))]


@pytest.mark.parametrize("options", [{}, {"block": None}, {"compress": "deflate"}, {"interleave": "band"}])
def test_windows_are_what_a_cut_from_the_whole_is(tmp_path: Path, options: dict[str, object]) -> None:
    """Bit for bit: PNGs are decoded whole and cut, GeoTIFFs are read by windows, and augmentation starts before."""
    augmentation = Augmentation((32, 48), scale=(0.3, 2.5), vertical_flip=True, quarter_turns=True, jitter=0.3)
    cut = Folder(picture_tree(tmp_path / "png"), CLASSES)
    read = Folder(tile_tree(tmp_path / "tif", **options), CLASSES)
    cached = Folder(tmp_path / "png", CLASSES, tiled_copy=tmp_path / "cache")
    for several in zip(*(views(dataset, augmentation) for dataset in (cut, read, cached)), strict=True):
        images, labels = zip(*several, strict=True)
        assert all(other.equal(images[0]) for other in images)
        assert all(other.equal(labels[0]) for other in labels)
    for index in range(2):
        for dataset in (cut, read, cached):
            assert dataset[index][0].equal(torch.from_numpy(image(seed=index)))
            assert dataset[index][1].equal(torch.from_numpy(mask(index)).long())
            assert dataset.labels(index).equal(dataset[index][1])


def test_training_samples_are_what_augmenting_the_whole_image_gives(tmp_path: Path) -> None:
    augmentation = Augmentation((32, 48), scale=(0.3, 2.5), quarter_turns=True)
    dataset = Folder(tile_tree(tmp_path), CLASSES)
    samples = TrainingSamples(dataset, augmentation, seed=3)
    for index in range(8):
        expected = augmentation(*dataset[index % 2], key=(3, 5, index))
        assert all(found.equal(wanted) for found, wanted in zip(samples[5, index], expected, strict=True))


def test_worker_processes_read_the_same_windows(tmp_path: Path) -> None:
    dataset = Folder(tile_tree(tmp_path), CLASSES, crops_per_image=2)
    augmentation = Augmentation((32, 48))
    alone, helped = (
        [tuple(batch) for batch in training_loader(dataset, augmentation, 2, seed=0, workers=workers)]
        for workers in (0, 1)
    )
    assert len(alone) == 2
    for one, other in zip(alone, helped, strict=True):
        assert one[0].equal(other[0])
        assert one[1].equal(other[1])


def test_training_reads_no_more_than_a_view_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Folder(tile_tree(tmp_path, 1), CLASSES)
    read: list[Window | None] = []
    for name in ("read", "read_with_valid"):
        whole = getattr(rasters.RasterFile, name)

        def spy(file: rasters.RasterFile, bands: Any, window: Window | None = None, whole: Any = whole) -> Any:
            read.append(window)
            return whole(file, bands, window)

        monkeypatch.setattr(rasters.RasterFile, name, spy)
    samples = TrainingSamples(dataset, Augmentation((20, 30), scale=(0.8, 2.0)), seed=0)
    for index in range(20):
        samples[0, index]
    assert len(read) == 40  # image and mask
    assert all(window is not None and window.height <= 25 and window.width <= 38 for window in read)


def test_an_epoch_takes_several_different_crops_of_each_image(tmp_path: Path) -> None:
    dataset = Folder(tile_tree(tmp_path), CLASSES, crops_per_image=5)
    loader = training_loader(dataset, Augmentation((16, 16), scale=(1, 1)), batch_size=5, seed=0, workers=0)
    crops = torch.cat([images for images, _ in loader])
    assert len(crops) == 10
    assert len({tuple(crop.flatten().tolist()) for crop in crops}) == 10
    of_first = sum(bool(_is_part(crop, image(seed=0))) for crop in crops)
    assert of_first == 5


def _is_part(crop: Tensor, whole: np.ndarray) -> bool:
    """Whether a 16 x 16 crop, mirrored or not, occurs in an image."""
    corners = np.lib.stride_tricks.sliding_window_view(whole[0], (16, 16))[..., ::15, ::15]
    return any((corners == way[0, ::15, ::15].numpy()).all((-2, -1)).any() for way in (crop, crop.flip(-1)))


def test_evaluation_shows_large_images_in_windows_and_counts_each_pixel_once(tmp_path: Path) -> None:
    dataset = Folder(tile_tree(tmp_path), CLASSES, evaluation_window=64)
    seen = torch.zeros(2 * 3, dtype=torch.int64)
    windows: list[tuple[int, int]] = []

    def bright(images: Tensor) -> Tensor:
        """A model that sees nothing but the pixel itself: counts must be those of whole images."""
        windows.append((images.shape[-2], images.shape[-1]))
        return torch.stack([images[:, 0] <= 127, images[:, 0] > 127], 1).float()

    loader = EvaluationLoader(EvaluationSamples.of(dataset), 4, 0)
    for part in scored_parts(TiledModel(bright, 2, Tiling(64)), loader):
        pairs = part.scores.argmax(1) * 3 + part.labels.long()
        seen += torch.bincount(pairs[part.labels != 255], minlength=6)
    assert max(max(size) for size in windows) <= 64
    expected = torch.zeros_like(seen)
    for index in range(2):
        first, labels = torch.from_numpy(image(seed=index)[0]), torch.from_numpy(mask(index)).long()
        expected += torch.bincount(((first > 127).long() * 3 + labels).flatten(), minlength=6)
    assert seen.equal(expected)


def test_images_no_larger_than_the_window_are_evaluated_whole(tmp_path: Path) -> None:
    dataset = Folder(tile_tree(tmp_path), CLASSES, evaluation_window=140)
    samples = list(EvaluationLoader(EvaluationSamples.of(dataset), 2, 0))
    assert [sample.number for sample in samples] == [0, 1]
    for index, sample in enumerate(samples):
        assert sample.image is not None
        assert sample.labels is not None
        assert sample.image.equal(dataset[index][0])
        assert sample.labels.equal(dataset[index][1].to(torch.uint8))


class Halves(SegmentationDataset):
    """A data set that knows of no windows."""

    evaluation_window = 32
    crops_per_image = 3

    def __init__(self) -> None:
        super().__init__(classes=("dark", "bright"), ids=("one",))

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        labels = (torch.arange(100) >= 50).long().expand(70, 100)
        return (labels * 200).to(torch.uint8).expand(3, -1, -1), labels


def test_a_data_set_of_ones_own_needs_no_windows_to_be_shown_in_windows() -> None:
    def constant(images: Tensor) -> Tensor:
        assert max(images.shape[-2:]) <= 32
        return torch.zeros(len(images), 2, *images.shape[-2:])

    loader = EvaluationLoader(EvaluationSamples.of(Halves()), 4, 0)
    labels = torch.cat([part.labels.flatten() for part in scored_parts(TiledModel(constant, 2, Tiling(32)), loader)])
    assert [(labels == label).sum().item() for label in (0, 1)] == [3500, 3500]
    assert len(TrainingSamples(Halves(), Augmentation((16, 16)), seed=0)) == 3


def test_files_are_converted_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, tiled_copy = picture_tree(tmp_path / "data"), tmp_path / "cache"
    Folder(root, CLASSES, tiled_copy=tiled_copy)
    assert f"converting 2 images into tiles in {tiled_copy}, once" in capsys.readouterr().err.replace("\n", "")
    made = {path: path.stat().st_mtime_ns for path in tiled_copy.iterdir()}
    assert len(made) == 4
    assert all(rasters.read_header(path).tiled for path in made)
    Folder(root, CLASSES, tiled_copy=tiled_copy)
    assert capsys.readouterr().err == ""
    assert {path: path.stat().st_mtime_ns for path in tiled_copy.iterdir()} == made
    # A changed mask, and another meaning of masks, give other files.
    write_mask(root / "masks/train/1.png", mask(7))
    assert Folder(root, CLASSES, tiled_copy=tiled_copy)[1][1].equal(torch.from_numpy(mask(7)).long())
    assert "converting 1 image into tiles" in capsys.readouterr().err
    expected = torch.from_numpy(mask(0)).long()
    ignored = Folder(root, CLASSES, tiled_copy=tiled_copy, ignore=2)[0][1]
    assert ignored.equal(torch.where(expected == 2, 255, expected))


def test_what_was_converted_by_other_rules_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, tiled_copy = picture_tree(tmp_path / "data"), tmp_path / "cache"
    Folder(root, CLASSES, tiled_copy=tiled_copy)
    made = set(tiled_copy.iterdir())
    monkeypatch.setattr("segdistill.datasets.reading.tiles.READING", "another")
    Folder(root, CLASSES, tiled_copy=tiled_copy)
    assert len(set(tiled_copy.iterdir()) - made) == len(made)


def test_a_mask_of_valid_pixels_that_comes_later_is_seen(tmp_path: Path) -> None:
    """A file .msk beside an image belongs to it: what was made without is not used, and the same process sees it."""
    pixels = image()
    write_tif(tmp_path / "images/train/x.tif", pixels, block=None)
    write_tif(tmp_path / "masks/train/x.tif", mask()[None])
    paths = {"plain": None, "copied": tmp_path / "cache"}
    before = {name: Folder(tmp_path, CLASSES, tiled_copy=path) for name, path in paths.items()}
    assert all(not (dataset[0][1] == 255).any() for dataset in before.values())
    files = before["plain"].files(0)
    valid = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    valid[5:] = 255
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(tmp_path / "images/train/x.tif", "r+") as file:
        file.write_mask(valid)
    for path in paths.values():
        dataset = Folder(tmp_path, CLASSES, tiled_copy=path)
        assert ((dataset[0][1] == 255).numpy() == (valid == 0)).all()
        assert set(dataset.files(0)) - set(files) == {tmp_path / "images/train/x.tif.msk"}


def test_what_lies_behind_a_virtual_raster_belongs_to_it(tmp_path: Path) -> None:
    (tmp_path / "masks/train").mkdir(parents=True)
    write_tif(tmp_path / "masks/train/x.tif", mask()[None])
    source = write_tif(tmp_path / "tiles/x.tif", image())
    (tmp_path / "images/train").mkdir(parents=True)
    band = (
        '<VRTRasterBand dataType="Byte" band="{0}"><SimpleSource><SourceFilename relativeToVRT="1">../../tiles/x.tif'
        "</SourceFilename><SourceBand>{0}</SourceBand></SimpleSource></VRTRasterBand>"
    )
    bands = "".join(band.format(number) for number in (1, 2, 3))
    head = f'<VRTDataset rasterXSize="{WIDTH}" rasterYSize="{HEIGHT}">'
    (tmp_path / "images/train/x.vrt").write_text(f"{head}{bands}</VRTDataset>")
    dataset = Folder(tmp_path, CLASSES, bands=[1, 2, 3])
    assert (dataset[0][0].numpy() == image()).all()
    assert source in {file.resolve() for file in dataset.files(0)}


def test_images_in_tiles_are_not_converted_but_strips_are(tmp_path: Path) -> None:
    big = np.zeros((3, 600, 700), dtype=np.uint8)
    for block, files in ((256, 1), (None, 2)):
        root = tmp_path / f"{block}"
        write_tif(root / "images/train/x.tif", big, block=block)
        write_tif(root / "masks/train/x.tif", big[:1], block=block)
        dataset = Folder(root, CLASSES, tiled_copy=root / "cache")
        assert len(list((root / "cache").iterdir())) == files
        assert dataset[0][0].equal(torch.from_numpy(big))


def test_a_broken_file_leaves_nothing_half_converted(tmp_path: Path) -> None:
    root = picture_tree(tmp_path / "data", 1)
    write_mask(root / "masks/train/0.png", np.full((HEIGHT, WIDTH), 3, dtype=np.uint8))
    with pytest.raises(UserError, match=r"0.png holds the label value 3, outside the classes 0 to 2"):
        Folder(root, CLASSES, tiled_copy=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "float64"])
@pytest.mark.parametrize("cached", [False, True])
def test_deep_images_are_float32_of_their_own_values(tmp_path: Path, dtype: str, cached: bool) -> None:
    pixels = image(12, dtype)
    write_tif(tmp_path / "images/train/x.tif", pixels)
    write_tif(tmp_path / "masks/train/x.tif", mask()[None])
    tiled_copy = tmp_path / "cache" if cached else None
    dataset = Folder(tmp_path, CLASSES, bands=[4, 12, 1], tiled_copy=tiled_copy)
    found, labels = dataset[0]
    assert dataset.in_channels == 3
    assert found.dtype == torch.float32
    assert found.equal(torch.from_numpy(pixels[[3, 11, 0]].astype(np.float32)))
    assert labels.equal(torch.from_numpy(mask()).long())
    assert Folder(tmp_path, CLASSES, bands=range(1, 13), tiled_copy=tiled_copy)[0][0].shape == (12, HEIGHT, WIDTH)


def test_one_band_of_8_bits_stays_one_channel_of_uint8(tmp_path: Path) -> None:
    for suffix in (".tif", ".png"):
        root = tmp_path / suffix
        write_mask(root / f"images/train/x{suffix}", image(1)[0])
        write_mask(root / "masks/train/x.png", mask())
        assert Folder(root, CLASSES, bands=[1])[0][0].equal(torch.from_numpy(image(1)))
        assert Folder(root, CLASSES)[0][0].equal(torch.from_numpy(image(1)).expand(3, -1, -1))


@pytest.mark.parametrize("cached", [False, True])
def test_pixels_without_data_are_zero_and_ignored(tmp_path: Path, cached: bool) -> None:
    pixels = image(2, "float32") + 1
    pixels[0, 3, 4], pixels[1, 5, 6], pixels[0, 7, 8] = -9999, np.nan, np.inf
    write_tif(tmp_path / "images/train/x.tif", pixels, nodata=-9999)
    write_tif(tmp_path / "masks/train/x.tif", mask()[None])
    found, labels = Folder(tmp_path, CLASSES, bands=[1, 2], tiled_copy=tmp_path / "cache" if cached else None)[0]
    missing = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    missing[[3, 5, 7], [4, 6, 8]] = True
    assert (labels == 255).equal(missing)
    assert (found == 0).all(0).equal(missing)
    assert found[:, ~missing].equal(torch.from_numpy(pixels)[:, ~missing])


def test_float_images_are_padded_with_what_the_data_set_says() -> None:
    pixels, labels = torch.full((2, 8, 8), 500.0), torch.zeros(8, 8, dtype=torch.int64)
    augmentation = Augmentation((16, 16), scale=(1, 1), jitter=0.5)
    for fill, expected in ((None, (0, 0)), ((30.0, 40.0), (30, 40))):
        view, marked = augmentation(pixels, labels, key=(0, 0, 0), fill=fill)
        assert view.dtype == torch.float32
        assert (view[:, marked == 0] == 500).all()
        assert all((view[band][marked == 255] == expected[band]).all() for band in range(2))


def test_resize_goes_with_bands(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.arange(WIDTH, dtype=np.uint16), (4, HEIGHT, WIDTH)) * 100
    write_tif(tmp_path / "images/train/x.tif", ramp)
    write_tif(tmp_path / "masks/train/x.tif", mask()[None])
    found, labels = Folder(tmp_path, CLASSES, bands=[1, 2, 3, 4], resize=(HEIGHT // 2, WIDTH // 2))[0]
    assert (found.shape, labels.shape) == ((4, 45, 70), (45, 70))
    # The middle of every two pixels of the ramp; the filter is cut off at the border.
    assert torch.allclose(found[0, 0, 2:-2], torch.arange(2, 68) * 200.0 + 50, rtol=1e-3)
    with pytest.raises(UserError, match="resize reads images whole and tiled_copy is for reading windows"):
        Folder(tmp_path, CLASSES, bands=[1], resize=(8, 8), tiled_copy=tmp_path / "cache")


def test_bands_that_are_not_there_or_not_alike_are_told(tmp_path: Path) -> None:
    tile_tree(tmp_path)
    with pytest.raises(UserError, match=r"0.tif has 3 bands; expected band 4, named in bands"):
        Folder(tmp_path, CLASSES, bands=[1, 4])
    for bands in ([], [0, 1], [2, 2]):
        with pytest.raises(
            UserError, match=r"bands is \[.*\]; expected numbers of bands, the first being 1, each once"
        ):
            Folder(tmp_path, CLASSES, bands=bands)
    write_tif(tmp_path / "images/train/1.tif", image(3, "uint16"))
    dataset = Folder(tmp_path, CLASSES, bands=[1, 2])
    with pytest.raises(UserError, match=r"1.tif holds uint16 pixels, but .*0.tif holds uint8; expected 8 bits in all"):
        dataset[1]


@pytest.mark.parametrize(("bands", "dtype"), [(3, "uint16"), (4, "uint8"), (5, "uint8"), (1, "float32")])
def test_bands_must_be_named_where_rgb_would_lose_some(tmp_path: Path, bands: int, dtype: str) -> None:
    write_tif(tmp_path / "images/train/x.tif", image(bands, dtype), photometric="minisblack")
    write_mask(tmp_path / "masks/train/x.png", mask())
    with pytest.raises(UserError, match=rf"x.tif has {bands} bands of {dtype}, which is no RGB picture; name those"):
        Folder(tmp_path, CLASSES)[0]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "LA"])
def test_every_8_bit_tiff_becomes_rgb_as_before(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "images/train/x.tif"
    path.parent.mkdir(parents=True)
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 102, dtype=np.uint8)).convert(mode).save(path)
    write_mask(tmp_path / "masks/train/x.png", mask())
    found = Folder(tmp_path, CLASSES)[0][0]
    assert found.dtype == torch.uint8
    assert (found == 102).all()
    assert len(found) == 3


def test_sizes_must_agree(tmp_path: Path) -> None:
    tile_tree(tmp_path, 1)
    write_tif(tmp_path / "masks/train/0.tif", mask()[None, :50])
    with pytest.raises(UserError, match=r"0.tif is 140 x 50 pixels but its image .*0.tif is 140 x 90"):
        Folder(tmp_path, CLASSES)[0]


@pytest.mark.parametrize("arguments", [{"crops_per_image": 0}, {"evaluation_window": 8}])
def test_numbers_out_of_range_are_refused(tmp_path: Path, arguments: dict[str, int]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(arguments))} is {next(iter(arguments.values()))}; expected"):
        Folder(tile_tree(tmp_path), CLASSES, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.8])
@pytest.mark.parametrize("kind", ["images", "masks"])
def test_a_truncated_tile_is_told_in_one_sentence(tmp_path: Path, share: float, kind: str) -> None:
    path = tile_tree(tmp_path, 1) / kind / "train/0.tif"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UserError, match=rf"^{path} cannot be read, it is truncated or no image: [^\n]*$"):
        Folder(tmp_path, CLASSES)[0]
    path.unlink()


def test_a_file_that_vanished_is_told(tmp_path: Path) -> None:
    dataset = Folder(tile_tree(tmp_path, 1), CLASSES)
    (tmp_path / "images/train/0.tif").unlink()
    with pytest.raises(UserError, match=r"0.tif does not exist \(any more\)"):
        dataset[0]


def test_without_rasterio_rgb_still_works_and_bands_name_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tile_tree(tmp_path, 1)
    expected = Folder(tmp_path, CLASSES)[0]
    monkeypatch.setattr(rasters, "has_rasterio", lambda: False)
    assert all(one.equal(two) for one, two in zip(Folder(tmp_path, CLASSES)[0], expected, strict=True))
    for arguments in ({"bands": [1]}, {"tiled_copy": tmp_path / "cache"}):
        with pytest.raises(UserError, match=r"0.tif .*needs the package rasterio: pip install 'segdistill\[geo\]'"):
            Folder(tmp_path, CLASSES, **arguments)  # type: ignore[arg-type]
