from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segdistill.datasets.isprs import Potsdam, Vaihingen
from segdistill.errors import UserError
from tests.datasets.trees import write_mask

COLORS = np.array(
    [(255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0), (0, 0, 0)], dtype=np.uint8
)
HEIGHT, WIDTH = 24, 20


def indices(seed: int, classes: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, classes, (HEIGHT, WIDTH), dtype=np.uint8)


def pixels(seed: int, bands: int = 3) -> np.ndarray:
    return np.random.default_rng([seed, bands]).integers(0, 256, (HEIGHT, WIDTH, bands), dtype=np.uint8)


def vaihingen_tree(root: Path, split: str, *, full: str, eroded: str, top: str = "top") -> Path:
    for tile in Vaihingen.TILES[split]:
        name = f"top_mosaic_09cm_area{tile}"
        write_mask(root / top / f"{name}.tif", pixels(int(tile)))
        write_mask(root / full / f"{name}.tif", COLORS[indices(int(tile))])
        write_mask(root / eroded / f"{name}_noBoundary.tif", COLORS[indices(int(tile), 7)])
        write_mask(root / "ndsm" / f"dsm_09cm_matching_area{tile}_normalized.bmp", pixels(int(tile), 1)[..., 0])
    return root


def potsdam_tree(root: Path, split: str) -> Path:
    for number, tile in enumerate(Potsdam.TILES[split]):
        name = f"top_potsdam_{tile}"
        write_mask(root / "2_Ortho_RGB/2_Ortho_RGB" / f"{name}_RGB.tif", pixels(number))
        write_mask(root / "3_Ortho_IRRG" / f"{name}_IRRG.tif", pixels(number + 100))
        write_mask(root / "4_Ortho_RGBIR" / f"{name}_RGBIR.tif", pixels(number, 4))
        write_mask(root / "5_Labels_all" / f"{name}_label.tif", COLORS[indices(number)])
        write_mask(root / "5_Labels_all_noBoundary" / f"{name}_label_noBoundary.tif", COLORS[indices(number, 7)])
        row, column = (int(part) for part in tile.split("_"))
        heights = root / "1_DSM_normalisation" / f"dsm_potsdam_{row:02d}_{column:02d}_normalized_lastools.jpg"
        write_mask(heights, np.full((HEIGHT, WIDTH - (tile == "3_13")), 10 + number, dtype=np.uint8))
    return root


def test_the_splits_are_the_contests() -> None:
    train, test = (set(map(int, Vaihingen.TILES[split])) for split in ("train", "test"))
    assert (len(train), len(test)) == (16, 17)
    # The contest leaves these five of the 38 areas out.
    assert train | test == set(range(1, 39)) - {9, 18, 19, 25, 36}
    assert not train & test
    assert (len(Potsdam.TILES["train"]), len(Potsdam.TILES["test"])) == (24, 14)
    # All of the test tiles lie east of the training tiles.
    east = {int(tile.split("_")[1]) for tile in Potsdam.TILES["test"]}
    west = {int(tile.split("_")[1]) for tile in Potsdam.TILES["train"]}
    assert (min(west), max(west), min(east), max(east)) == (7, 12, 13, 15)
    assert len(set(Potsdam.TILES["train"]) | set(Potsdam.TILES["test"])) == 38


@pytest.mark.parametrize(
    ("full", "eroded", "top"),
    [
        ("gts_for_participants", "gts_eroded_for_participants", "top"),
        (
            "ISPRS_semantic_labeling_Vaihingen_ground_truth_COMPLETE",
            "ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE",
            "ISPRS_semantic_labeling_Vaihingen/top",
        ),
    ],
)
def test_vaihingen_reads_both_layouts(tmp_path: Path, full: str, eroded: str, top: str) -> None:
    vaihingen_tree(tmp_path, "train", full=full, eroded=eroded, top=top)
    dataset = Vaihingen(tmp_path)
    assert dataset.ids[:2] == ("top_mosaic_09cm_area1", "top_mosaic_09cm_area3")
    image, labels = dataset[1]
    assert image.permute(1, 2, 0).equal(torch.from_numpy(pixels(3)))
    assert labels.equal(torch.from_numpy(indices(3)).long())
    assert labels.equal(dataset.labels(1))
    boundary = torch.from_numpy(indices(3, 7)).long()
    assert Vaihingen(tmp_path, eroded=True)[1][1].equal(torch.where(boundary == 6, 255, boundary))


def test_clutter_is_a_class_or_ignored(tmp_path: Path) -> None:
    vaihingen_tree(tmp_path, "train", full="gts_for_participants", eroded="gts_eroded_for_participants")
    counted, ignored = Vaihingen(tmp_path), Vaihingen(tmp_path, clutter=False, eroded=True)
    assert counted.classes == ("impervious surfaces", "building", "low vegetation", "tree", "car", "clutter")
    assert counted.palette[-1] == (255, 0, 0)
    assert ignored.classes == counted.classes[:5]
    boundary = torch.from_numpy(indices(1, 7)).long()
    assert ignored[0][1].equal(torch.where(boundary >= 5, 255, boundary))


def test_val_is_test_by_another_name(tmp_path: Path) -> None:
    vaihingen_tree(tmp_path, "test", full="gts_for_participants", eroded="gts_eroded_for_participants")
    assert Vaihingen(tmp_path, "val").ids == Vaihingen(tmp_path, "test").ids
    assert len(Vaihingen(tmp_path, "test")) == 17
    with pytest.raises(UserError, match="has no split 'tests'; it has test, train, val"):
        Vaihingen(tmp_path, "tests")


def test_normalised_heights_are_one_more_channel(tmp_path: Path) -> None:
    vaihingen_tree(tmp_path, "train", full="gts_for_participants", eroded="gts_eroded_for_participants")
    dataset = Vaihingen(tmp_path, ndsm=True)
    image, _ = dataset[2]
    assert dataset.in_channels == 4
    assert image[:3].permute(1, 2, 0).equal(torch.from_numpy(pixels(5)))
    assert image[3].equal(torch.from_numpy(pixels(5, 1)[..., 0]))


@pytest.mark.parametrize("cached", [False, True])
def test_potsdam_reads_the_bands_asked_for(tmp_path: Path, cached: bool) -> None:
    potsdam_tree(tmp_path, "train")
    tiled_copy = tmp_path / "cache" if cached else None
    for bands, expected in (("RGB", pixels(0)), ("IRRG", pixels(100)), ("RGBIR", pixels(0, 4))):
        dataset = Potsdam(tmp_path, bands=bands, tiled_copy=tiled_copy)  # type: ignore[arg-type]
        image, labels = dataset[0]
        assert image.shape[0] == dataset.in_channels == expected.shape[2]
        assert image.permute(1, 2, 0).equal(torch.from_numpy(expected))
        assert labels.equal(torch.from_numpy(indices(0)).long())
    eroded = torch.from_numpy(indices(0, 7)).long()
    assert Potsdam(tmp_path, eroded=True, tiled_copy=tiled_copy)[0][1].equal(torch.where(eroded == 6, 255, eroded))
    without = Potsdam(tmp_path, eroded=True, clutter=False, tiled_copy=tiled_copy)[0][1]
    assert without.equal(torch.where(eroded >= 5, 255, eroded))


@pytest.mark.parametrize("cached", [False, True])
def test_the_column_that_one_height_map_lacks_is_its_last_repeated(tmp_path: Path, cached: bool) -> None:
    potsdam_tree(tmp_path, "test")
    number = Potsdam.TILES["test"].index("3_13")
    path = tmp_path / "1_DSM_normalisation" / "dsm_potsdam_03_13_normalized_lastools.jpg"
    heights = np.asarray(Image.open(path))
    assert heights.shape == (HEIGHT, WIDTH - 1)
    dataset = Potsdam(tmp_path, "test", ndsm=True, tiled_copy=tmp_path / "cache" if cached else None)
    channel = dataset[number][0][3]
    assert channel[:, :-1].equal(torch.from_numpy(heights.copy()))
    assert channel[:, -1].equal(channel[:, -2])
    Image.fromarray(heights[:, :-3]).save(path)
    with pytest.raises(UserError, match=r"03_13_normalized_lastools.jpg is 16 x 24 pixels but its image is 20 x 24"):
        Potsdam(tmp_path, "test", ndsm=True)[number]


def test_the_two_masks_off_the_palette_are_rounded_and_others_refused(tmp_path: Path) -> None:
    potsdam_tree(tmp_path, "train")
    noise = np.random.default_rng(0).integers(-40, 41, (HEIGHT, WIDTH, 3))
    expected = indices(5)
    blurred = (COLORS[expected].astype(int) + noise).clip(0, 255).astype(np.uint8)
    folder = tmp_path / "5_Labels_all"
    for tile in ("4_12", "6_7"):
        write_mask(folder / f"top_potsdam_{tile}_label.tif", blurred)
        labels = Potsdam(tmp_path)[Potsdam.TILES["train"].index(tile)][1]
        assert labels.equal(torch.from_numpy(expected).long())
    write_mask(folder / "top_potsdam_2_10_label.tif", blurred)
    with pytest.raises(UserError, match=r"top_potsdam_2_10_label.tif holds the colours #.*, not in the palette"):
        Potsdam(tmp_path)[0]


def test_a_tile_that_is_missing_is_named(tmp_path: Path) -> None:
    potsdam_tree(tmp_path, "train")
    (tmp_path / "5_Labels_all" / "top_potsdam_7_7_label.tif").unlink()
    with pytest.raises(UserError, match=r"1 mask of the split 'train' not in .*: .*top_potsdam_7_7_label.tif$"):
        Potsdam(tmp_path)
    with pytest.raises(UserError, match=r"14 images of the split 'val' not in .*: .*_RGB.tif, \.\.\.$"):
        Potsdam(tmp_path, "val")
    with pytest.raises(UserError, match="nowhere does not exist; expected the folder of Vaihingen that holds top/"):
        Vaihingen(tmp_path / "nowhere")
